/**
 * Publishing: what goes to Redis goes in pipelines, one after another, none of them too long for its buffers.
 */
import { BrokerError, Features, type Outgoing } from "@millrace/core"
import { Effect, Exit, Schedule } from "effect"
import type { Command, Connection } from "./Client.ts"
import * as Failure from "./Failure.ts"

type Failed = BrokerError.BrokerError

// Redis closes a connection whose requests fill 1 GiB (client-query-buffer-limit)
const mostMessages = 1000
const mostBytes = 4 * 1024 * 1024
// the least that proto-max-bulk-len can be
const surelyTaken = 1024 * 1024

/** What Redis can do of what a publisher may ask beside body, key and headers. */
export const features: Features.Deciding = { tombstones: true, partitions: false, timestamps: "none" }

const refuse = (connection: Connection, batch: ReadonlyArray<Outgoing<Uint8Array>>): Failed | undefined => {
  for (const outgoing of batch) {
    const { channel, payload } = outgoing
    const refused = Features.refuse("redis", features, outgoing)
    if (refused !== undefined) return refused
    if (channel === "") return Failure.invalid("publish", "A message names no channel.")
    if (payload.length > connection.longest) return tooLarge(connection, channel, payload.length)
  }
  return undefined
}

const tooLarge = (connection: Connection, channel: string, length: number): Failed =>
  BrokerError.make({
    system: "redis",
    operation: "publish",
    reason: "TooLarge",
    message:
      `A message for ${channel} has ${length} bytes, and Redis at ${connection.place.address} takes ${connection.longest} at the most (proto-max-bulk-len): store the body elsewhere and publish its name, or raise the limit.`
  })

const lengthOf = (command: Command): number =>
  command.reduce<number>((most, each) => typeof each === "number" ? most : Math.max(most, Buffer.byteLength(each)), 0)

/** Asks Redis for the longest value that it takes, once it is there again; undefined where this user may not ask. */
const askLongest = (connection: Connection): Effect.Effect<number | undefined> =>
  connection.attempt("publish", () => connection.send("CONFIG", ["GET", "proto-max-bulk-len"])).pipe(
    Effect.retry({ while: (error) => error.retriable, schedule: Schedule.spaced("100 millis"), times: 20 }),
    Effect.map((reply) => {
      const found = Array.isArray(reply) ? Number(reply[1]) : Number.NaN
      return found >= surelyTaken ? found : undefined
    }),
    Effect.catch(() => Effect.succeed(undefined))
  )

/**
 * Redis ends the connection of a client that sends a longer value than it takes, and its reply is often lost with the
 * connection. So a long value that failed with the connection is measured by what Redis says afterwards.
 */
const explain = (
  connection: Connection,
  batch: ReadonlyArray<Outgoing<Uint8Array>>,
  of: (outgoing: Outgoing<Uint8Array>) => Command,
  error: Failed
): Effect.Effect<never, Failed> => {
  const suspects = error.retriable || error.reason === "TooLarge"
    ? batch.map((outgoing) => ({ channel: outgoing.channel, length: lengthOf(of(outgoing)) })).filter(({ length }) =>
      length > surelyTaken
    )
    : []
  if (suspects.length === 0) return Exit.fail(error)
  return Effect.flatMap(askLongest(connection), (longest) => {
    if (longest !== undefined) connection.longest = longest
    const found = suspects.find(({ length }) => length > connection.longest)
    return Exit.fail(found === undefined ? error : tooLarge(connection, found.channel, found.length))
  })
}

/** Publishes a batch, each message by the command that `of` makes of it; completes when Redis has answered all of them. */
export const publish = (
  connection: Connection,
  batch: ReadonlyArray<Outgoing<Uint8Array>>,
  of: (outgoing: Outgoing<Uint8Array>) => Command
): Effect.Effect<void, Failed> => {
  if (batch.length === 0) return Exit.void
  const refused = refuse(connection, batch)
  if (refused !== undefined) return Exit.fail(refused)
  const send = async () => {
    let commands: Array<Command> = []
    let bytes = 0
    for (const outgoing of batch) {
      commands.push(of(outgoing))
      bytes += outgoing.payload.length
      if (commands.length < mostMessages && bytes < mostBytes) continue
      await connection.pipeline(commands)
      commands = []
      bytes = 0
    }
    if (commands.length > 0) await connection.pipeline(commands)
  }
  return Effect.catch(
    connection.attempt("publish", send, { channel: batch[0]!.channel }),
    (error) => explain(connection, batch, of, error)
  )
}
