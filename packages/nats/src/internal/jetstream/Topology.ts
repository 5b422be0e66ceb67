/**
 * Streams: which one holds a channel, making one, comparing one, and how far a group is behind in it.
 *
 * A channel is a subject, and whatever stream holds that subject is its stream: one that is there already, for many subjects
 * perhaps, or the one that `declare` makes for it alone.
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

/** The administration of a connection's JetStream. */
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

/** Asks JetStream, on the connection that is open. */
export const ask = <A>(
  client: Client,
  settings: ResolvedOptions,
  connection: Connection,
  operation: Operation,
  call: (manager: JetStreamManager) => Promise<A>,
  where?: { readonly channel?: string | undefined; readonly group?: string | undefined }
): Effect.Effect<A, Failed> =>
  connection.attempt(operation, async () => call(await managerOf(client, settings, connection)), where)

/** Whether JetStream says that there is no such thing. */
export const isMissing = (error: unknown): boolean => error instanceof JetStreamApiError && error.status === 404

/** A part of a stream: all that a channel or a pattern reads of it. */
export interface Source {
  readonly stream: string
  readonly replicas: number
  /** The subject to read, undefined where that is the whole stream. */
  readonly filter: string | undefined
  /** The only channel in it, or what was asked for. */
  readonly channel: string
  /** When it was made: a stream of the same name made later is another. */
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
    // one consumer reads one filter, so of several subjects it reads more, and what does not fit is passed over
    filter: whole ? undefined : overlaps.length === 1 ? first : undefined,
    channel: whole && !/[*>]/.test(first) ? first : filter,
    created
  }
}

/** The streams that hold what a subject, with wildcards perhaps, covers. */
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

/** The stream of a channel; made where there is none and the options say so. */
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

/** What marks a stream whose only reader may have died: one that nobody reads is removed. */
const temporaryMark = "millrace: temporary"

/** Milliseconds that a temporary stream may have no consumer yet. */
const young = 60_000

/** Removes the temporary streams beside a channel that lost their reader: those of processes that were killed. */
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
 * Makes the stream of a channel, or compares the one that holds it with what was declared. A temporary stream that was made is
 * added to `temporary`.
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
        // a user that may only make streams makes this one all the same
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

/** How far a group is behind: what it was not given yet, and what it was given and has not settled. */
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

/** Asks JetStream how it is; answers why credentials could not be renewed, where that is so. */
export const check = (client: Client, settings: ResolvedOptions): Effect.Effect<void | Failed, Failed> =>
  Effect.flatMap(
    client.connection("check"),
    (connection) =>
      Effect.map(
        ask(client, settings, connection, "check", (manager) => manager.getAccountInfo()),
        () => client.unrenewed
      )
  )
