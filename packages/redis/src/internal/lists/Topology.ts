/**
 * The keys of a list, and its declaration and lag.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect } from "effect"
import type * as Client from "../client/Client.ts"
import * as Keys from "../client/Keys.ts"
import * as Topology from "../client/Topology.ts"
import * as Scripts from "./Scripts.ts"

type Failed = BrokerError.BrokerError

/** The keys of a channel. */
export const keysOf = (channel: string) => ({
  alive: Keys.beside(channel, "alive"),
  first: Keys.beside(channel, "first"),
  group: Keys.beside(channel, "group"),
  /** What every consumer's hash begins with. */
  taken: Keys.beside(channel, "taken", "")
})

/** Fails with `Conflict` where the key holds something else than a list; Redis has no empty lists. */
export const declare = (connection: Client.Client, declaration: Driver.Declaration): Effect.Effect<void, Failed> => {
  const refused = Topology.refuse(declaration)
  if (refused !== undefined) return Effect.fail(refused)
  const { channel } = declaration
  // an empty list is no key at all, so all there is to see is whether something else is there
  return Effect.asVoid(connection.attempt("declare", () => connection.send(channel, "LLEN", [channel]), { channel }))
}

/** Counts what waits for a group and what its consumers have; nothing where the channel belongs to another group. */
export const lag = (
  connection: Client.Client,
  channel: string,
  group: string
): Effect.Effect<ReadonlyArray<Driver.Lag>, Failed> => {
  const keys = keysOf(channel)
  const all = [keys.alive, keys.group, channel, keys.first]
  return Effect.map(
    connection.perform("lag", Scripts.lag, all, [group, keys.taken], { channel, group }),
    // a list of at most one number
    (reply) => (reply as ReadonlyArray<number>).map((messages) => ({ partition: 0, messages }))
  )
}
