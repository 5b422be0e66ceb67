/**
 * Names the keys of a list, declares it, and computes its lag.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect } from "effect"
import type * as Client from "../client/Client.ts"
import * as Keys from "../client/Keys.ts"
import { keeping, lifetime, refuse } from "../client/Topology.ts"
import * as Scripts from "./Scripts.ts"

type Failed = BrokerError.BrokerError

/** The keys of a channel. */
export const keysOf = (channel: string) => ({
  alive: Keys.beside(channel, "alive"),
  first: Keys.beside(channel, "first"),
  group: Keys.beside(channel, "group"),
  /** The prefix of every consumer's hash. */
  taken: Keys.beside(channel, "taken", "")
})

const all = (channel: string): ReadonlyArray<string> => {
  const { alive, first, group } = keysOf(channel)
  return [alive, group, channel, first]
}

/** Fails with `Conflict` if the key holds another type than a list; Redis has no empty lists. */
export const declare = (
  connection: Client.Client,
  temporary: Set<string>,
  declaration: Driver.Declaration
): Effect.Effect<void, Failed> => {
  const refused = refuse(declaration)
  if (refused !== undefined) return Effect.fail(refused)
  const { channel } = declaration
  // Redis deletes empty lists, so only a key of another type can conflict
  return Effect.map(
    connection.attempt("declare", () => connection.send(channel, "LLEN", [channel]), { channel }),
    (length) => {
      if (declaration.temporary === true && length === 0) temporary.add(channel)
    }
  )
}

/** Counts a group's waiting and unsettled messages; empty if the channel belongs to another group. */
export const lag = (
  connection: Client.Client,
  channel: string,
  group: string
): Effect.Effect<ReadonlyArray<Driver.Lag>, Failed> => {
  return Effect.map(
    connection.perform("lag", Scripts.lag, all(channel), [group, keysOf(channel).taken], { channel, group }),
    // a list of at most one number
    (reply) => (reply as ReadonlyArray<number>).map((messages) => ({ partition: 0, messages }))
  )
}

/** Extends the expiry of the keys of a temporary list until interrupted; ignores failures: the next attempt may succeed. */
export const keep = (connection: Client.Client, channel: string): Effect.Effect<never> =>
  keeping(
    Effect.suspend(() => connection.perform("consume", Scripts.keep, all(channel), [lifetime, keysOf(channel).taken]))
  )

/** Ends a temporary group, and removes the messages of a channel that this process has declared temporary. */
export const end = (connection: Client.Client, temporary: Set<string>, channel: string): Effect.Effect<void> =>
  Effect.suspend(() =>
    Effect.ignore(connection.perform("settle", Scripts.finish, all(channel), [temporary.delete(channel) ? "1" : "0"]))
  )
