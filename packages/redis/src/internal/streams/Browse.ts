/**
 * Reads a stream without taking messages from it.
 */
import type { BrokerError, Delivery } from "@millrace/core"
import { Effect, Option, Stream } from "effect"
import { Maker } from "./Deliveries.ts"
import type { Entry } from "./Codec.ts"
import type { Streams } from "./Streams.ts"
import { originOf } from "../client/Origin.ts"

type Failed = BrokerError.BrokerError

const page = 256

/** Reads the entries that are in the stream now, oldest first. */
export const browse = (streams: Streams, channel: string): Stream.Stream<Delivery, Failed> => {
  const { connection } = streams
  const origin = originOf(channel)
  const maker = new Maker(origin, page, Number.POSITIVE_INFINITY)
  const ask = (name: string, args: Array<string | number>) =>
    Effect.map(
      connection.attempt("browse", () => connection.send(channel, name, args), { channel }),
      // both commands return entries
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
