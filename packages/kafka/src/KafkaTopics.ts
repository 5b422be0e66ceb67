/**
 * What every part of this package asks of kafkajs's admin: topics, made or compared, and their offsets.
 */
import { BrokerError, type Driver } from "@millrace/core"
import { Effect, Schedule, type Scope } from "effect"
import kafkajs, { type Admin } from "kafkajs"
import * as KafkaClient from "./KafkaClient.ts"
import * as KafkaError from "./KafkaError.ts"
import type { Connection } from "./KafkaOptions.ts"

type Failed = BrokerError.BrokerError

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
