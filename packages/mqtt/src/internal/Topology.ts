/** Names of topics, filters and groups: converts addresses to MQTT filters and refuses invalid names. */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect } from "effect"
import { createHash } from "node:crypto"
import * as Errors from "./Errors.ts"
import * as Codec from "./Codec.ts"

type Failed = BrokerError.BrokerError

/**
 * The filter of a pattern. MQTT's wildcards match whole levels between slashes, so a parameter within a level is widened to
 * the level, and the pattern itself filters out the surplus messages.
 */
const widened = (address: string): string => {
  const levels = address.split("/")
  const rest = levels.findIndex((level) => level.includes("{+"))
  const seen = rest < 0 ? levels : levels.slice(0, rest)
  return seen.map((level) => level.includes("{") ? "+" : level).concat(rest < 0 ? [] : ["#"]).join("/")
}

/**
 * A hash of an address that ignores its parameters' names. Two addresses of one group may have the same filter; if they
 * shared a subscription, each would receive messages of the other, and drop them.
 */
const markOf = (address: string): string =>
  createHash("sha256").update(address.replace(/\{(\+?)[^}]*\}/g, "{$1}")).digest("hex").slice(0, 8)

/** The filter to subscribe with, or the error if the names are invalid. */
export const filterOf = (
  { channel, group, pattern }: Pick<Driver.ConsumeOptions, "channel" | "group" | "pattern">,
  sharing: "group" | "exclusive"
): string | Failed => {
  const name = pattern === undefined ? channel : channel.replace(/\{\+/g, "{")
  const refused = Codec.refusedName(name)
  if (refused !== undefined) {
    return Errors.invalid("consume", `The channel ${JSON.stringify(channel)} ${refused}.`)
  }
  const filter = pattern === undefined ? channel : widened(channel)
  if (sharing === "exclusive") return filter
  if (group === "" || /[/+#]/.test(group) || !Codec.isText(group)) {
    return Errors.invalid(
      "consume",
      `The group ${
        JSON.stringify(group)
      } must not be empty nor hold control characters, nor /, + or #, which MQTT keeps for itself.`
    )
  }
  return pattern === undefined ? `$share/${group}/${filter}` : `$share/${group}-${markOf(channel)}/${filter}`
}

/**
 * Checks the declaration and creates nothing, since a topic exists as soon as a client uses it. Refuses names and settings
 * that an MQTT topic cannot have.
 */
export const declare = ({ channel, partitions, settings }: Driver.Declaration): Effect.Effect<void, Failed> =>
  Effect.suspend(() => {
    const refused = Codec.refusedName(channel)
    if (refused !== undefined) {
      return Effect.fail(Errors.invalid("declare", `The channel ${JSON.stringify(channel)} ${refused}.`))
    }
    if (partitions !== undefined && !(Number.isInteger(partitions) && partitions >= 1)) {
      return Effect.fail(
        Errors.invalid("declare", `partitions of ${channel} must be an integer from 1, got ${partitions}.`)
      )
    }
    if (partitions !== undefined && partitions !== 1) {
      return Effect.fail(
        Errors.unsupported(
          "declare",
          `A topic of MQTT has one partition, and ${channel} was declared with ${partitions}.`
        )
      )
    }
    const given = Object.keys(settings ?? {})
    return given.length === 0 ? Effect.void : Effect.fail(
      Errors.unsupported(
        "declare",
        `A topic of MQTT has no settings, and ${channel} was declared with ${given.join(", ")}.`
      )
    )
  })
