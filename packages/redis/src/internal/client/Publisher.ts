/**
 * Publishes to Redis in pipelines, one after another, none of them too long for its buffers.
 */
import { BrokerError, DriverOptions, Features, type Outgoing } from "@millrace/core"
import { type Duration, Effect, Exit, Option, Schedule } from "effect"
import type { Client, Command } from "./Client.ts"
import * as Errors from "./Errors.ts"

type Failed = BrokerError.BrokerError

// Redis closes a connection whose requests fill 1 GiB (client-query-buffer-limit)
const mostMessages = 1000
const mostBytes = 4 * 1024 * 1024
// how long the search for the cause of a refusal may take
const patience = "5 seconds"
// the smallest value of proto-max-bulk-len
const surelyTaken = 1024 * 1024

/** The optional features of a publish that Redis supports, besides body, key and headers. */
export const features: Features.Deciding = { tombstones: true, partitions: false, timestamps: "none" }

/** The replicas that a publish waits for after the primary's reply. */
export interface Wait {
  /** How many replicas must have the messages; an integer from 1. */
  readonly replicas: number
  /** How long the replicas may take; a publish with fewer replicas by then fails with `Lost`. Default: 1 second. */
  readonly timeout?: Duration.Input | undefined
}

/** Replicas to wait for, checked; the timeout in milliseconds. */
export interface Replicas {
  readonly count: number
  readonly timeout: number
}

/** Checks the replicas to wait for. */
export const replicas = (wait: Wait | undefined, requestTimeout: number): Replicas | undefined => {
  if (wait === undefined) return undefined
  const timeout = DriverOptions.millis("wait.timeout", wait.timeout, 1000)
  if (timeout >= requestTimeout) {
    DriverOptions.bad(`wait.timeout must be less than requestTimeout (${requestTimeout} ms), got ${timeout} ms`)
  }
  return { count: DriverOptions.integer("wait.replicas", wait.replicas, 1), timeout }
}

const unconfirmed = (connection: Client, channel: string, found: number, { count, timeout }: Replicas): Failed =>
  Errors.lost(
    "publish",
    `Redis at ${connection.place.address} wrote to ${channel}, and ${found} of ${count} replicas had it within ${timeout} ms: a failover may lose it. Publish it again where a copy does no harm, bring replicas back, or ask for fewer (wait.replicas).`
  )

const refuse = (connection: Client, batch: ReadonlyArray<Outgoing<Uint8Array>>): Failed | undefined => {
  for (const outgoing of batch) {
    const { channel, payload } = outgoing
    const refused = Features.refuse("redis", features, outgoing)
    if (refused !== undefined) return refused
    if (channel === "") return Errors.invalid("publish", "A message names no channel.")
    if (payload.length > connection.longest) return tooLarge(connection, channel, payload.length)
  }
  return undefined
}

const tooLarge = (connection: Client, channel: string, length: number): Failed =>
  BrokerError.make({
    system: "redis",
    operation: "publish",
    reason: "TooLarge",
    message:
      `A message for ${channel} has ${length} bytes, and Redis at ${connection.place.address} takes ${connection.longest} at the most (proto-max-bulk-len): store the body elsewhere and publish its name, or raise the limit.`
  })

const lengthOf = (command: Command): number =>
  command.reduce<number>((most, each) => typeof each === "number" ? most : Math.max(most, Buffer.byteLength(each)), 0)

/** Asks Redis for its longest value, once it is reachable again; undefined if this user may not ask. */
const askLongest = (connection: Client, channel: string): Effect.Effect<number | undefined> =>
  connection.attempt("publish", () => connection.send(channel, "CONFIG", ["GET", "proto-max-bulk-len"])).pipe(
    Effect.retry({ while: (error) => error.retriable, schedule: Schedule.spaced("100 millis"), times: 20 }),
    Effect.map((reply) => {
      const found = Array.isArray(reply) ? Number(reply[1]) : Number.NaN
      return found >= surelyTaken ? found : undefined
    }),
    Effect.timeoutOption(patience),
    Effect.map(Option.getOrUndefined),
    Effect.catch(() => Effect.succeed(undefined))
  )

/**
 * Explains a failed publish of a long value. Redis closes the connection of a client that sends a longer value than it accepts,
 * and its reply is often lost with the connection. So the value is compared with the limit that Redis reports afterwards.
 */
const explain = (
  connection: Client,
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
  return Effect.flatMap(askLongest(connection, suspects[0]!.channel), (longest) => {
    if (longest !== undefined) connection.longest = longest
    const found = suspects.find(({ length }) => length > connection.longest)
    return Exit.fail(found === undefined ? error : tooLarge(connection, found.channel, found.length))
  })
}

/** Publishes a batch, each message by the command that `of` makes of it; completes when Redis has replied to all of them. */
export const publish = (
  connection: Client,
  batch: ReadonlyArray<Outgoing<Uint8Array>>,
  of: (outgoing: Outgoing<Uint8Array>) => Command,
  wait?: Replicas
): Effect.Effect<void, Failed> => {
  if (batch.length === 0) return Exit.void
  const refused = refuse(connection, batch)
  if (refused !== undefined) return Exit.fail(refused)
  const last: Command | undefined = wait === undefined ? undefined : ["WAIT", wait.count, wait.timeout]
  const write = async (commands: ReadonlyArray<Command>) => {
    const confirmed = (await connection.pipeline(commands, last)).map(Number)
    const least = Math.min(...confirmed)
    if (wait !== undefined && least < wait.count) throw unconfirmed(connection, batch[0]!.channel, least, wait)
  }
  const send = async () => {
    let commands: Array<Command> = []
    let bytes = 0
    for (const outgoing of batch) {
      commands.push(of(outgoing))
      bytes += outgoing.payload.length
      if (commands.length < mostMessages && bytes < mostBytes) continue
      await write(commands)
      commands = []
      bytes = 0
    }
    if (commands.length > 0) await write(commands)
  }
  return Effect.catch(
    connection.attempt("publish", send, { channel: batch[0]!.channel }),
    (error) => explain(connection, batch, of, error)
  )
}
