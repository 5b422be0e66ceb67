/**
 * Streams: finds the stream of a channel, creates and compares streams, and measures the lag of a group.
 *
 * A channel is a subject, and its stream is the one that holds this subject: an existing stream, perhaps with many subjects,
 * or the one that `declare` creates for this channel alone.
 */
import { Address, type BrokerError, type Driver } from "@millrace/core"
import {
  type ConsumerInfo,
  JetStreamApiError,
  type JetStreamManager,
  jetstreamManager,
  type StreamConfig
} from "@nats-io/jetstream"
import { Clock, Effect, Exit } from "effect"
import type { ResolvedOptions } from "./Options.ts"
import * as StreamSettings from "./StreamSettings.ts"
import type { Client, Connection } from "../Connection.ts"
import * as Errors from "../Errors.ts"
import * as Names from "../Names.ts"

type Failed = BrokerError.BrokerError
type Operation = Failed["operation"]

const managers = new WeakMap<Connection, Promise<JetStreamManager>>()

/** The JetStream manager of a connection. */
export const managerOf = (
  client: Client,
  settings: ResolvedOptions,
  connection: Connection
): Promise<JetStreamManager> => {
  const known = managers.get(connection)
  if (known !== undefined) return known
  const made = jetstreamManager(connection.nc, {
    checkAPI: false,
    timeout: client.options.requestTimeout,
    ...(settings.domain === undefined ? {} : { domain: settings.domain })
  })
  managers.set(connection, made)
  return made
}

/** Calls the JetStream API on a connection. */
export const ask = <A>(
  client: Client,
  settings: ResolvedOptions,
  connection: Connection,
  operation: Operation,
  call: (manager: JetStreamManager) => Promise<A>,
  where?: { readonly channel?: string | undefined; readonly group?: string | undefined }
): Effect.Effect<A, Failed> =>
  connection.attempt(operation, async () => call(await managerOf(client, settings, connection)), where)

/** Whether JetStream answers that the object does not exist. */
export const isMissing = (error: unknown): boolean => error instanceof JetStreamApiError && error.status === 404

/** The part of a stream that a channel or a pattern reads. */
export interface Source {
  readonly stream: string
  readonly replicas: number
  /** The subject to read, undefined for the whole stream. */
  readonly filter: string | undefined
  /** The stream's only channel, or else the requested channel or pattern. */
  readonly channel: string
  /** The stream's creation time: a stream of the same name created later is a different one. */
  readonly created: string
}

const sourceOf = (config: StreamConfig, created: string, filter: string): Source | undefined => {
  const overlaps = (config.subjects ?? []).flatMap((subject) => Names.both(subject, filter) ?? [])
  const [first] = overlaps
  if (first === undefined) return undefined
  const whole = config.subjects?.length === 1 && first === config.subjects[0]
  return {
    stream: config.name,
    replicas: config.num_replicas,
    // a consumer has one filter, so for several subjects it reads the whole stream, and the reader skips messages that do
    // not match
    filter: whole ? undefined : overlaps.length === 1 ? first : undefined,
    channel: whole && !/[*>]/.test(first) ? first : filter,
    created
  }
}

/** The streams that hold subjects covered by a subject, which may have wildcards. */
export const sourcesOf = (
  client: Client,
  settings: ResolvedOptions,
  connection: Connection,
  operation: Operation,
  filter: string
): Effect.Effect<ReadonlyArray<Source>, Failed> =>
  ask(client, settings, connection, operation, async (manager) => {
    const names: Array<string> = []
    for await (const name of manager.streams.names(filter)) names.push(name)
    const sources: Array<Source> = []
    for (const name of names.sort()) {
      // a bucket is a stream, too
      if (name.startsWith("KV_") || name.startsWith("OBJ_")) continue
      try {
        const { config, created } = await manager.streams.info(name)
        const source = sourceOf(config, created, filter)
        if (source !== undefined) sources.push(source)
      } catch (error) {
        // deleted since it was listed
        if (!isMissing(error)) throw error
      }
    }
    return sources
  }, { channel: filter })

const notFound = (operation: Operation, channel: string): Failed =>
  Errors.make(
    operation,
    "NotFound",
    `No stream of JetStream holds ${channel}: declare it, or set missingStreams to "create".`
  )

/** The stream of a channel; creates it if it is missing and `missingStreams` allows. */
export const sourceFor = (
  client: Client,
  settings: ResolvedOptions,
  connection: Connection,
  operation: Operation,
  channel: string
): Effect.Effect<Source, Failed> => {
  const find = sourcesOf(client, settings, connection, operation, channel)
  return Effect.flatMap(find, ([source]) => {
    if (source !== undefined) return Exit.succeed(source)
    if (settings.missing === "refuse") return Exit.fail(notFound(operation, channel))
    return Effect.flatMap(
      Effect.andThen(declare(client, settings, { channel }), find),
      ([made]) => made === undefined ? Exit.fail(notFound(operation, channel)) : Exit.succeed(made)
    )
  })
}

const conflict = (channel: string, stream: string, differences: ReadonlyArray<string>): Failed =>
  Errors.make(
    "declare",
    "Conflict",
    `The stream ${stream} of ${channel} exists and differs: ${
      differences.join("; ")
    }. Declare it as it is, or change it.`
  )

/** The most characters of a stream's name. */
const longestName = 255

const tooLong = (channel: string, length: number): Failed =>
  Errors.invalid(
    "declare",
    `The stream of ${channel} would have a name of ${length} characters, and ${longestName} are the most: shorten the channel, or make a stream that holds it.`
  )

/** Marks a stream whose only reader may have died: a marked stream without readers is removed. */
const temporaryMark = "millrace: temporary"

/** Milliseconds that a new temporary stream may exist without a consumer. */
const young = 60_000

/** Removes temporary streams that lost their readers (killed processes), on sibling subjects of a channel. */
const sweep = async (manager: JetStreamManager, channel: string, now: number): Promise<void> => {
  const beside = channel.replace(/[^.]+$/, "*")
  for await (const name of manager.streams.names(beside)) {
    const { config, created, state } = await manager.streams.info(name)
    const isOver = config.description === temporaryMark && state.consumer_count === 0 &&
      Date.parse(created) < now - young
    if (isOver) await manager.streams.delete(name)
  }
}

/** Removes a stream. */
export const remove = (
  client: Client,
  settings: ResolvedOptions,
  connection: Connection,
  stream: string
): Effect.Effect<unknown, Failed> =>
  ask(client, settings, connection, "declare", (manager) => manager.streams.delete(stream))

/**
 * Creates the stream of a channel, or compares the existing one with the declaration. Adds a temporary stream that it
 * creates to `temporary`.
 */
export const declare = (
  client: Client,
  settings: ResolvedOptions,
  declaration: Driver.Declaration,
  temporary?: Set<string>
): Effect.Effect<void, Failed> =>
  Effect.gen(function*() {
    const { channel, partitions } = declaration
    const refused = Names.refuse(channel)
    if (refused !== undefined) return yield* Effect.fail(Errors.invalid("declare", refused))
    if (partitions !== undefined && partitions !== 1) {
      return yield* Effect.fail(
        Errors.make(
          "declare",
          "Unsupported",
          `A stream of JetStream has no partitions, and ${channel} was declared with ${partitions}: use a channel for each.`
        )
      )
    }
    const wanted = yield* StreamSettings.read(declaration)
    const own = Names.streamOf(channel)
    const connection = yield* client.connection("declare")
    const now = yield* Clock.currentTimeMillis
    yield* ask(client, settings, connection, "declare", async (manager) => {
      const names: Array<string> = []
      for await (const name of manager.streams.names(channel)) names.push(name)
      const [name] = names
      if (name === undefined) {
        if (own.length > longestName) throw tooLong(channel, own.length)
        const config = { subjects: [channel], ...wanted, name: own }
        if (declaration.temporary !== true) {
          await manager.streams.add(config)
          return
        }
        // a user without permission for the cleanup can still create this stream
        await sweep(manager, channel, now).catch(() => {})
        await manager.streams.add({ ...config, description: temporaryMark })
        temporary?.add(config.name)
        return
      }
      const { config } = await manager.streams.info(name)
      const differences = StreamSettings.differences(wanted, config)
      if (differences.length > 0) throw conflict(channel, name, differences)
    }, { channel })
  })

/** The lag of a group: messages not delivered to it yet, and delivered, unsettled ones. */
export const lag = (
  client: Client,
  settings: ResolvedOptions,
  channel: string,
  group: string
): Effect.Effect<ReadonlyArray<Driver.Lag>, Failed> =>
  Effect.gen(function*() {
    const connection = yield* client.connection("lag")
    const pattern = Address.pattern(channel)
    const filter = pattern === undefined ? channel : Names.filterOf(pattern)
    const sources = yield* sourcesOf(client, settings, connection, "lag", filter)
    if (pattern === undefined && sources.length === 0) return yield* Effect.fail(notFound("lag", channel))
    const infos = yield* Effect.forEach(sources, (source) =>
      ask(client, settings, connection, "lag", async (manager): Promise<ConsumerInfo | undefined> => {
        try {
          return await manager.consumers.info(
            source.stream,
            Names.durableOf(group, pattern === undefined ? source.filter : filter)
          )
        } catch (error) {
          if (isMissing(error)) {
            return undefined
          }
          throw error
        }
      }, { channel, group }))
    const known = infos.filter((info) =>
      info !== undefined
    )
    return known.length === 0 ? [] : [{
      partition: 0,
      messages: known.reduce((sum, { num_ack_pending, num_pending }) => sum + num_ack_pending + num_pending, 0)
    }]
  })

/** Checks that JetStream answers; returns the last renewal error of the credentials, if there is one. */
export const check = (client: Client, settings: ResolvedOptions): Effect.Effect<void | Failed, Failed> =>
  Effect.flatMap(
    client.connection("check"),
    (connection) =>
      Effect.map(
        ask(client, settings, connection, "check", (manager) => manager.getAccountInfo()),
        () => client.unrenewed
      )
  )
