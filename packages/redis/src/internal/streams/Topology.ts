/**
 * Declares streams, and computes the lag of their groups.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect } from "effect"
import * as Errors from "../client/Errors.ts"
import * as Keys from "../client/Keys.ts"
import { keeping, lifetime, refuse } from "../client/Topology.ts"
import * as Scripts from "./Scripts.ts"
import type { Streams } from "./Streams.ts"

type Failed = BrokerError.BrokerError

/** Makes an empty stream; fails with `Conflict` if the key holds another type. */
export const declare = (streams: Streams, declaration: Driver.Declaration): Effect.Effect<void, Failed> => {
  const refused = refuse(declaration)
  if (refused !== undefined) return Effect.fail(refused)
  const { channel } = declaration
  const { connection } = streams
  const isTemporary = declaration.temporary === true
  return Effect.flatMap(streams.token, (token) =>
    Effect.map(
      isTemporary
        ? connection.perform("declare", Scripts.declareTemporary, [channel], [`millrace:${token}`, lifetime], {
          channel
        })
        : connection.perform("declare", Scripts.declare, [channel], [`millrace:${token}`], { channel }),
      (made) => {
        if (isTemporary && made === 1) streams.temporary.add(channel)
      }
    ))
}

/** Computes the lag of a group: undelivered, pending and delayed messages. */
export const lag = (
  streams: Streams,
  channel: string,
  group: string
): Effect.Effect<ReadonlyArray<Driver.Lag>, Failed> => {
  const { connection } = streams
  return Effect.flatMap(
    connection.perform("lag", Scripts.lag, [channel, Keys.beside(channel, group, "delayed")], [group], {
      channel,
      group
    }),
    (reply) => {
      // a list of at most one number
      const [messages] = reply as ReadonlyArray<number>
      if (messages === undefined) return Effect.succeed([])
      return messages < 0
        ? Effect.fail(Errors.unsupported(
          "lag",
          `Redis cannot tell how far ${group} is behind in ${channel}: entries were deleted by hand (XDEL).`
        ))
        : Effect.succeed([{ partition: 0, messages }])
    }
  )
}

/** Extends the expiry of a temporary stream until interrupted; ignores failures: the next attempt may succeed. */
export const keep = (streams: Streams, channel: string): Effect.Effect<never> =>
  keeping(
    Effect.suspend(() =>
      streams.connection.attempt("consume", () => streams.connection.send(channel, "PEXPIRE", [channel, lifetime]))
    )
  )

/** Removes a temporary group, and with it the messages of a channel that this process has declared temporary. */
export const end = (streams: Streams, channel: string, group: string): Effect.Effect<void> => {
  const keys = [channel, Keys.beside(channel, group, "delayed"), Keys.beside(channel, group, "lock")]
  const isTemporary = streams.temporary.delete(channel)
  return Effect.ignore(
    streams.connection.perform("settle", Scripts.end, keys, [group, isTemporary ? lifetime : ""], { channel, group })
  )
}
