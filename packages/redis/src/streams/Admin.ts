/**
 * Streams from outside: made, looked into, counted.
 */
import type { BrokerError, Delivery, Driver } from "@millrace/core"
import { Effect, Option, Stream } from "effect"
import * as Declaration from "../client/Declaration.ts"
import * as Failure from "../client/Failure.ts"
import * as Keys from "../client/Keys.ts"
import { Maker } from "./Deliveries.ts"
import type { Entry } from "./Entry.ts"
import * as Scripts from "./Scripts.ts"
import type { Streams } from "./Streams.ts"
import { originOf } from "../client/Origin.ts"

type Failed = BrokerError.BrokerError

/** Makes an empty stream; fails with `Conflict` where the key holds something else. */
export const declare = (streams: Streams, declaration: Driver.Declaration): Effect.Effect<void, Failed> => {
  const refused = Declaration.refuse(declaration)
  if (refused !== undefined) return Effect.fail(refused)
  const { channel } = declaration
  const { connection } = streams
  return Effect.flatMap(
    streams.token,
    (token) =>
      Effect.asVoid(connection.perform("declare", Scripts.declare, [channel], [`millrace:${token}`], { channel }))
  )
}

const page = 256

/** What is in the stream now, oldest first. */
export const browse = (streams: Streams, channel: string): Stream.Stream<Delivery, Failed> => {
  const { connection } = streams
  const origin = originOf(channel)
  const maker = new Maker(origin, page, Number.POSITIVE_INFINITY)
  const ask = (name: string, args: Array<string | number>) =>
    Effect.map(
      connection.attempt("browse", () => connection.send(channel, name, args), { channel }),
      // both commands answer entries
      (reply) => reply as ReadonlyArray<Entry>
    )
  const from = (start: string, end: string): Stream.Stream<Delivery, Failed> =>
    Stream.paginate(start, (at) =>
      Effect.map(ask("XRANGE", [channel, at, end, "COUNT", page]), (entries) => {
        const last = entries.length < page ? undefined : entries[entries.length - 1]
        const next = last === undefined ? undefined : `(${last[0].toString()}`
        return [entries.length === 0 ? [] : maker.fresh(entries), Option.fromUndefinedOr(next)] as const
      }))
  return Stream.unwrap(
    Effect.map(
      ask("XREVRANGE", [channel, "+", "-", "COUNT", 1]),
      ([last]) => last === undefined ? Stream.empty : from("-", last[0].toString())
    )
  )
}

/** How far a group is behind: what it was not given, what is pending and what is delayed. */
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
        ? Effect.fail(Failure.unsupported(
          "lag",
          `Redis cannot tell how far ${group} is behind in ${channel}: entries were deleted by hand (XDEL).`
        ))
        : Effect.succeed([{ partition: 0, messages }])
    }
  )
}
