/**
 * Settings of a stream in JetStream's own terms, as a declaration gives them: text.
 *
 * Source: https://docs.nats.io/nats-concepts/jetstream/streams#configuration
 */
import type { BrokerError, Driver } from "@millrace/core"
import type { StreamConfig } from "@nats-io/jetstream"
import { type Effect, Exit } from "effect"
import * as Errors from "../Errors.ts"
import * as Names from "../Names.ts"

type Failed = BrokerError.BrokerError

const nanoseconds: Readonly<Record<string, number>> = { "": 1, ms: 1e6, s: 1e9, m: 60e9, h: 3600e9, d: 86_400e9 }

const duration = (text: string): number | undefined => {
  const [, digits, unit] = /^(\d+)(|ms|s|m|h|d)$/.exec(text) ?? []
  return digits === undefined ? undefined : Number(digits) * nanoseconds[unit!]!
}
const integer = (text: string): number | undefined => /^-?\d+$/.test(text) ? Number(text) : undefined
const flag = (text: string): boolean | undefined => text === "true" ? true : text === "false" ? false : undefined
const word = (...words: ReadonlyArray<string>) => (text: string): string | undefined =>
  words.includes(text) ? text : undefined
const list = (text: string): ReadonlyArray<string> | undefined => {
  const found = text.split(",").map((each) => each.trim()).filter((each) => each !== "")
  return found.length === 0 ? undefined : found
}

interface Setting {
  readonly says: string
  readonly read: (text: string) => unknown
}

const time: Setting = { says: "nanoseconds, or a number with ms, s, m, h or d", read: duration }
const number: Setting = { says: "an integer, -1 for no bound", read: integer }
const yes: Setting = { says: "true or false", read: flag }
const one = (...words: ReadonlyArray<string>): Setting => ({ says: words.join(" or "), read: word(...words) })

/** The settings that a declaration may have. */
const known: Readonly<Record<string, Setting>> = {
  subjects: { says: "subjects with commas between", read: list },
  max_age: time,
  duplicate_window: time,
  max_bytes: number,
  max_msgs: number,
  max_msgs_per_subject: number,
  max_msg_size: number,
  num_replicas: { says: "an integer from 1", read: integer },
  storage: one("file", "memory"),
  discard: one("old", "new"),
  retention: one("limits", "interest", "workqueue"),
  allow_direct: yes,
  allow_rollup_hdrs: yes,
  deny_delete: yes,
  deny_purge: yes
}

/** The configuration that a declaration requests; fails with `Invalid` if a setting is unknown or malformed. */
export const read = ({ channel, settings = {} }: Driver.Declaration): Effect.Effect<Partial<StreamConfig>, Failed> => {
  const found: Record<string, unknown> = {}
  for (const [name, text] of Object.entries(settings)) {
    const setting = Object.hasOwn(known, name) ? known[name] : undefined
    if (setting === undefined) {
      return Exit.fail(
        Errors.invalid(
          "declare",
          `A stream of JetStream has no setting ${name}; it has ${Object.keys(known).join(", ")}.`
        )
      )
    }
    const value = setting.read(text)
    if (value === undefined) {
      return Exit.fail(
        Errors.invalid("declare", `${name} of ${channel} must be ${setting.says}, got ${JSON.stringify(text)}.`)
      )
    }
    found[name] = value
  }
  const subjects = list(settings["subjects"] ?? channel)!
  return subjects.some((subject) => Names.both(subject, channel) === channel)
    // each value was parsed as its setting requires
    ? Exit.succeed(found as Partial<StreamConfig>)
    : Exit.fail(
      Errors.invalid("declare", `subjects of ${channel} must hold the channel itself, got ${subjects.join(", ")}.`)
    )
}

const shown = (value: unknown): string => Array.isArray(value) ? value.join(",") : String(value)

const same = (wanted: unknown, found: unknown): boolean =>
  Array.isArray(wanted) && Array.isArray(found)
    ? shown(wanted.toSorted()) === shown(found.toSorted())
    // the server omits settings that are false
    : wanted === found || (wanted === false && found === undefined)

/** The settings of a stream that differ from its declaration. */
export const differences = (wanted: Partial<StreamConfig>, found: StreamConfig): ReadonlyArray<string> =>
  Object.entries(wanted).flatMap(([name, value]) => {
    // StreamConfig has these names
    const is: unknown = found[name as keyof StreamConfig]
    return same(value, is) ? [] : [`${name} is ${shown(is)}, not ${shown(value)}`]
  })
