/**
 * Looking after topics and groups: what the broker's own tools do, as a service.
 */
import { BrokerError, type Driver } from "@millrace/core"
import { Context, Effect, Layer, Schedule, type Scope } from "effect"
import kafkajs, { type Admin } from "kafkajs"
import type { Connection, Options } from "./KafkaClient.ts"
import * as KafkaClient from "./KafkaClient.ts"
import * as KafkaError from "./KafkaError.ts"

type Failed = BrokerError.BrokerError

/** How far a group is in one partition; positions are those of the next message. */
export interface Progress {
  readonly partition: number
  /** What the group has committed, or undefined where it has not yet. */
  readonly committed: number | undefined
  readonly low: number
  readonly high: number
  /** Messages that are left to it: from `low` on where it has committed nothing. */
  readonly lag: number
}

/** A group and what it does. */
export interface Group {
  readonly group: string
  /** Kafka's word: `Stable`, `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Dead` or `Unknown`. */
  readonly state: string
  readonly members: ReadonlyArray<{ readonly clientId: string; readonly host: string }>
}

/** Topics, groups and positions of a Kafka. Every operation fails with a `BrokerError`, most of operation `declare`. */
export class KafkaAdmin extends Context.Service<KafkaAdmin, {
  /** Creates a topic, or fails with `Conflict` where it exists and differs; `settings` are Kafka's own topic configs. */
  readonly declare: (declaration: Driver.Declaration) => Effect.Effect<void, Failed>
  /** Names of all topics, without Kafka's own. */
  readonly topics: Effect.Effect<ReadonlyArray<string>, Failed>
  /** Deletes a topic and all that is in it; `NotFound` where there is none. */
  readonly deleteTopic: (channel: string) => Effect.Effect<void, Failed>
  /** Lowest and next position of each partition, in order. */
  readonly positions: (
    channel: string
  ) => Effect.Effect<ReadonlyArray<{ readonly partition: number; readonly low: number; readonly high: number }>, Failed>
  /** Names of all groups. */
  readonly groups: Effect.Effect<ReadonlyArray<string>, Failed>
  readonly describeGroup: (group: string) => Effect.Effect<Group, Failed>
  /** How far a group is, and how much is left to it, in order of partition. */
  readonly lag: (group: string, channel: string) => Effect.Effect<ReadonlyArray<Progress>, Failed>
  /** Moves a group that nobody is a member of: to the start, to the end, or each partition to a position. */
  readonly move: (
    group: string,
    channel: string,
    to: "earliest" | "latest" | ReadonlyArray<{ readonly partition: number; readonly position: number }>
  ) => Effect.Effect<void, Failed>
  /** Forgets a group that nobody is a member of, and its positions. */
  readonly deleteGroup: (group: string) => Effect.Effect<void, Failed>
}>()("@millrace/kafka/KafkaAdmin/KafkaAdmin") {}

/** kafkajs's admin, connected as long as the scope is open: a wrong address or password fails here. */
export const connect = (connection: Connection): Effect.Effect<Admin, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const log = yield* KafkaClient.logger(connection)
    const admin = yield* Effect.acquireRelease(
      Effect.sync(() =>
        connection.client(log).admin({ retry: { initialRetryTime: 100, maxRetryTime: 1000, retries: 4 } })
      ),
      KafkaClient.disconnect
    )
    // asked for what only a user may who has logged in, so that all that can be wrong is wrong here
    yield* KafkaClient.attempt(connection, "connect", () => admin.connect().then(() => admin.describeCluster())).pipe(
      Effect.timeoutOrElse({
        duration: connection.connectTimeout * 4,
        orElse: () =>
          Effect.fail(KafkaError.fromUnknown(
            Object.assign(new Error("Connection timeout"), { name: "KafkaJSConnectionError" }),
            "connect",
            connection.place
          ))
      })
    )
    return inTurn(admin)
  })

/**
 * Asks for topics one after another: to answer for a topic that it does not know, kafkajs replaces its books by those of that
 * topic alone, under a call that looks for the leaders of another.
 */
const inTurn = (admin: Admin): Admin => {
  let last: Promise<unknown> = Promise.resolve()
  const next = <A>(ask: () => Promise<A>): Promise<A> => {
    const answer = last.then(ask, ask)
    last = answer
    return answer
  }
  return {
    ...admin,
    fetchTopicMetadata: (options) => next(() => admin.fetchTopicMetadata(options)),
    fetchTopicOffsets: (topic) => next(() => admin.fetchTopicOffsets(topic)),
    deleteTopics: (options) => next(() => admin.deleteTopics(options))
  }
}

// a new partition, or one whose leader has just died, has none for a moment
const leaderless = new Set(["NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "REPLICA_NOT_AVAILABLE"])

/** The first and the next offset of each partition of a topic; waits up to 5 seconds for its leaders. */
export const offsets = (
  connection: Connection,
  admin: Admin,
  operation: Failed["operation"],
  channel: string
): Effect.Effect<Awaited<ReturnType<Admin["fetchTopicOffsets"]>>, Failed> => {
  const isLeaderless = (error: Failed) => leaderless.has(KafkaError.typeOf(error.cause) ?? "")
  return KafkaClient.attempt(connection, operation, () => admin.fetchTopicOffsets(channel), { channel }).pipe(
    // kafkajs gives up at once, and asks again who leads only on its way to the groups
    Effect.tapError((error) =>
      isLeaderless(error) ? Effect.ignore(Effect.tryPromise(() => admin.listGroups())) : Effect.void
    ),
    Effect.retry({ while: isLeaderless, schedule: Schedule.spaced("50 millis"), times: 100 })
  )
}

const conflict = (channel: string, differences: ReadonlyArray<string>): Failed =>
  BrokerError.make({
    system: "kafka",
    operation: "declare",
    reason: "Conflict",
    message: `The topic ${channel} exists and differs: ${differences.join("; ")}. Declare it as it is, or change it.`
  })

const refused = (channel: string, settings: Readonly<Record<string, string>>): Failed => {
  const given = Object.entries(settings).map(([name, value]) => `${name}=${value}`).join(", ")
  return KafkaError.invalid(
    "declare",
    `Kafka makes no topic ${channel} with ${given}: correct the setting's name or value.`
  )
}

/**
 * Waits until a new topic is known and each partition has a leader. The controller has it before the brokers do, and
 * kafkajs's own wait fails when it asks a broker too early.
 */
const ready = (connection: Connection, admin: Admin, channel: string): Effect.Effect<void, Failed> =>
  KafkaClient.attempt(connection, "declare", async () => {
    const { topics } = await admin.fetchTopicMetadata({ topics: [channel] })
    return topics.some(({ partitions }) => partitions.length > 0 && partitions.every(({ leader }) => leader >= 0))
  }, { channel }).pipe(
    Effect.catch((error) => error.reason === "NotFound" ? Effect.succeed(false) : Effect.fail(error)),
    Effect.repeat({ until: (isReady) => isReady, schedule: Schedule.spaced("20 millis"), times: 500 }),
    Effect.asVoid
  )

/** Creates a topic, or compares it with what was declared. */
export const declare = (
  connection: Connection,
  admin: Admin,
  declaration: Driver.Declaration
): Effect.Effect<void, Failed> =>
  Effect.gen(function*() {
    const { channel, partitions, settings = {} } = declaration
    if (partitions !== undefined && (!Number.isInteger(partitions) || partitions < 1)) {
      return yield* Effect.fail(
        KafkaError.invalid("declare", `partitions of ${channel} must be an integer from 1, got ${partitions}.`)
      )
    }
    const where = { channel }
    const topic = {
      topic: channel,
      configEntries: Object.entries(settings).map(([name, value]) => ({ name, value })),
      ...(partitions === undefined ? {} : { numPartitions: partitions })
    }
    const created = yield* Effect.mapError(
      KafkaClient.attempt(connection, "declare", () =>
        admin.createTopics({ topics: [topic], waitForLeaders: false }), where),
      // Kafka does not say which
      (error) =>
        KafkaError.typeOf(error.cause) === "INVALID_CONFIG" ? refused(channel, settings) : error
    )
    if (created) {
      return yield* ready(connection, admin, channel)
    }
    const metadata = yield* KafkaClient.attempt(
      connection,
      "declare",
      () =>
        admin.fetchTopicMetadata({ topics: [channel] }),
      where
    )
    const differences: Array<string> = []
    const found = metadata.topics.find(({ name }) =>
      name === channel
    )?.partitions.length
    if (partitions !== undefined && found !== partitions) {
      differences.push(`it has ${found} partitions, not ${partitions}`)
    }
    const names = Object.keys(settings)
    if (names.length > 0) {
      const { resources } = yield* KafkaClient.attempt(
        connection,
        "declare",
        () =>
          admin.describeConfigs({
            includeSynonyms: false,
            resources: [{ type: kafkajs.ConfigResourceTypes.TOPIC, name: channel, configNames: names }]
          }),
        where
      )
      const values = new Map(
        resources[0]?.configEntries.map(({ configName, configValue }) => [configName, configValue])
      )
      for (const name of names) {
        if (!values.has(name)) {
          return yield* Effect.fail(KafkaError.invalid("declare", `A topic of Kafka has no setting ${name}.`))
        }
        if (values.get(name) !== settings[name]) {
          differences.push(`${name} is ${values.get(name)}, not ${settings[name]}`)
        }
      }
    }
    if (differences.length > 0) return yield* Effect.fail(conflict(channel, differences))
  })

const make = (connection: Connection, admin: Admin): KafkaAdmin["Service"] => {
  const call = <A>(run: () => Promise<A>, where?: { readonly channel?: string; readonly group?: string }) =>
    KafkaClient.attempt(connection, "declare", run, where)
  // kafkajs takes an unknown topic for one that is about to come
  const known = (channel: string) => call(() => admin.fetchTopicMetadata({ topics: [channel] }), { channel })
  const positions: KafkaAdmin["Service"]["positions"] = (channel) =>
    Effect.andThen(known(channel), offsets(connection, admin, "declare", channel)).pipe(
      Effect.map((found) =>
        found.map(({ high, low, partition }) => ({ partition, low: Number(low), high: Number(high) })).sort((a, b) =>
          a.partition - b.partition
        )
      )
    )
  return {
    declare: (declaration) => declare(connection, admin, declaration),
    topics: Effect.map(
      call(() => admin.listTopics()),
      (names) => names.filter((name) => !name.startsWith("__")).sort()
    ),
    deleteTopic: (channel) =>
      Effect.andThen(known(channel), call(() => admin.deleteTopics({ topics: [channel] }), { channel })),
    positions,
    groups: Effect.map(call(() => admin.listGroups()), ({ groups }) => groups.map(({ groupId }) => groupId).sort()),
    describeGroup: (group) =>
      Effect.map(call(() => admin.describeGroups([group]), { group }), ({ groups }) => ({
        group,
        state: groups[0]?.state ?? "Unknown",
        members: (groups[0]?.members ?? []).map(({ clientHost, clientId }) => ({ clientId, host: clientHost }))
      })),
    lag: (group, channel) =>
      Effect.gen(function*() {
        const ends = yield* positions(channel)
        const fetched = yield* call(() => admin.fetchOffsets({ groupId: group, topics: [channel] }), { channel, group })
        const committed = new Map(
          fetched.flatMap(({ partitions }) => partitions).map(({ offset, partition }) => [partition, Number(offset)])
        )
        return ends.map(({ high, low, partition }) => {
          const at = committed.get(partition) ?? -1
          return { partition, committed: at < 0 ? undefined : at, low, high, lag: high - Math.max(at, low) }
        })
      }),
    move: (group, channel, to) =>
      Effect.flatMap(
        positions(channel),
        (ends) =>
          call(() =>
            admin.setOffsets({
              groupId: group,
              topic: channel,
              partitions: typeof to === "string"
                ? ends.map(({ high, low, partition }) => ({
                  partition,
                  offset: String(to === "earliest" ? low : high)
                }))
                : to.map(({ partition, position }) => ({ partition, offset: String(position) }))
            }), { channel, group })
      ),
    deleteGroup: (group) => Effect.asVoid(call(() => admin.deleteGroups([group]), { group }))
  }
}

/**
 * The admin of a Kafka as a layer, connected at once: a wrong address, wrong credentials or a bad option fail with a
 * `BrokerError` that says what to do.
 *
 * **Example** (a topic with what the program needs of it)
 *
 * ```ts
 * import { KafkaAdmin } from "@millrace/kafka"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const admin = yield* KafkaAdmin.KafkaAdmin
 *   yield* admin.declare({ channel: "orders", partitions: 16, settings: { "retention.ms": "86400000" } })
 *   yield* Effect.log(yield* admin.lag("billing", "orders"))
 * }).pipe(Effect.provide(KafkaAdmin.layer({ brokers: "localhost:9092" })))
 * ```
 *
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<KafkaAdmin, Failed> =>
  Layer.effect(
    KafkaAdmin,
    Effect.gen(function*() {
      const connection = yield* KafkaClient.make(options)
      return make(connection, yield* connect(connection))
    })
  )
