/**
 * Reads the messages of a list without taking them.
 */
import { type BrokerError, type Delivery, delivery } from "@millrace/core"
import { Effect, Option, Stream } from "effect"
import type * as Client from "../client/Client.ts"
import * as Codec from "../client/Codec.ts"
import { originOf } from "../client/Origin.ts"
import { keysOf } from "./Topology.ts"

const page = 256

/** Reads the messages in the list now, oldest first. */
export const browse = (
  connection: Client.Client,
  channel: string
): Stream.Stream<Delivery, BrokerError.BrokerError> => {
  const origin = originOf(channel)
  const range = (key: string, from: number) =>
    Effect.map(
      connection.attempt("browse", () => connection.send(key, "LRANGE", [key, from, from + page - 1]), { channel }),
      // LRANGE returns a list of values
      (reply) => reply as ReadonlyArray<Buffer>
    )
  const pages = (key: string) =>
    Stream.paginate(
      0,
      (from) =>
        Effect.map(range(key, from), (found) =>
          [found, found.length < page ? Option.none() : Option.some(from + page)] as const)
    )
  // skip messages published meanwhile: a reader that publishes to the list would never end
  const values = (key: string) =>
    Stream.unwrap(
      Effect.map(
        connection.attempt("browse", () => connection.send(key, "LLEN", [key]), { channel }),
        (length) => Stream.take(pages(key), Number(length))
      )
    )
  return Stream.concat(values(keysOf(channel).first), values(channel)).pipe(
    Stream.map((value) => Codec.open(value)),
    Stream.zipWithIndex,
    Stream.map(([envelope, i]) => delivery(origin, Codec.reader, envelope, i + 1, Codec.bodyOf(envelope), 1))
  )
}
