/**
 * Topics (created or compared), their positions, and the lag of groups, over either client.
 */
import { BrokerError, type Driver, type Origin } from "@millrace/core"
import { Effect, Schedule } from "effect"
import type { Bounds, Cluster } from "./Cluster.ts"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError

/** Converts an offset to a number; throws for offsets beyond 2^53, which would lose their last digits. */
export const positionOf = (offset: string | bigint): number => {
  const position = Number(offset)
  if (Number.isSafeInteger(position)) return position
  throw Errors.invalid(
    "consume",
    `The offset ${offset} is beyond 2^53, which no number here holds: recreate the topic.`
  )
}

// a new partition, or one whose leader has just died, has no leader for a moment; kafkajs's first code has an older name
const leaderless = new Set([
  "NOT_LEADER_OR_FOLLOWER",
  "NOT_LEADER_FOR_PARTITION",
  "LEADER_NOT_AVAILABLE",
  "REPLICA_NOT_AVAILABLE"
])

/** Reads the first and the next position of each partition of a topic, in order; waits up to 5 seconds for leaders. */
export const bounds = (
  settings: ResolvedOptions,
  cluster: Cluster,
  operation: Failed["operation"],
  channel: string
): Effect.Effect<ReadonlyArray<Bounds>, Failed> => {
  const isLeaderless = (error: Failed) => leaderless.has(Errors.typeOf(error.cause) ?? "")
  return Errors.attempt(settings.place, operation, () => cluster.bounds(channel), { channel }).pipe(
    Effect.tapError((error) =>
      isLeaderless(error) ? Effect.ignore(Effect.tryPromise(() => cluster.refresh())) : Effect.void
    ),
    Effect.retry({ while: isLeaderless, schedule: Schedule.spaced("50 millis"), times: 100 }),
    Effect.map((found) => Array.from(found).sort((a, b) => a.partition - b.partition))
  )
}

/** The origin of a browsed message. */
export const browsed = (channel: string, partition: number): Origin => ({
  system: "kafka",
  channel,
  group: "",
  partition,
  handler: "",
  holdLimit: Number.POSITIVE_INFINITY,
  lasting: true
})

const conflict = (channel: string, differences: ReadonlyArray<string>): Failed =>
  BrokerError.make({
    system: "kafka",
    operation: "declare",
    reason: "Conflict",
    message: `The topic ${channel} exists and differs: ${differences.join("; ")}. Declare it as it is, or change it.`
  })

const refused = (channel: string, settings: Readonly<Record<string, string>>): Failed => {
  const given = Object.entries(settings).map(([name, value]) => `${name}=${value}`).join(", ")
  return Errors.invalid(
    "declare",
    `Kafka makes no topic ${channel} with ${given}: correct the setting's name or value.`
  )
}

/**
 * Waits until the brokers know a new topic and each partition has a leader, for about 10 seconds: the controller knows the
 * topic before the brokers do.
 */
const ready = (settings: ResolvedOptions, cluster: Cluster, channel: string): Effect.Effect<void, Failed> =>
  Errors.attempt(settings.place, "declare", async () => {
    const leaders = await cluster.leaders(channel)
    return leaders.length > 0 && leaders.every((leader) => leader >= 0)
  }, { channel }).pipe(
    Effect.catch((error) =>
      error.reason === "NotFound" || leaderless.has(Errors.typeOf(error.cause) ?? "")
        ? Effect.succeed(false)
        : Effect.fail(error)
    ),
    Effect.repeat({ until: (isReady) => isReady, schedule: Schedule.spaced("20 millis"), times: 500 }),
    Effect.asVoid
  )

/** Creates a topic, or compares an existing one with the declaration. */
export const declare = (
  { place, ...settings }: ResolvedOptions,
  cluster: Cluster,
  declaration: Driver.Declaration
): Effect.Effect<void, Failed> =>
  Effect.gen(function*() {
    const { channel, partitions, settings: wanted = {} } = declaration
    if (partitions !== undefined && (!Number.isInteger(partitions) || partitions < 1)) {
      return yield* Effect.fail(
        Errors.invalid("declare", `partitions of ${channel} must be an integer from 1, got ${partitions}.`)
      )
    }
    const call = <A>(run: () => Promise<A>) => Errors.attempt(place, "declare", run, { channel })
    const created = yield* Effect.mapError(
      call(() => cluster.create(channel, partitions, wanted)),
      // Kafka does not say which setting is invalid
      (error) => Errors.typeOf(error.cause) === "INVALID_CONFIG" ? refused(channel, wanted) : error
    )
    if (created) return yield* ready({ place, ...settings }, cluster, channel)
    const differences: Array<string> = []
    const found = (yield* call(() => cluster.leaders(channel))).length
    if (partitions !== undefined && found !== partitions) {
      differences.push(`it has ${found} partitions, not ${partitions}`)
    }
    const names = Object.keys(wanted)
    if (names.length > 0) {
      const values = yield* call(() => cluster.settings(channel, names))
      for (const name of names) {
        if (!values.has(name)) {
          return yield* Effect.fail(Errors.invalid("declare", `A topic of Kafka has no setting ${name}.`))
        }
        if (values.get(name) !== wanted[name]) {
          differences.push(`${name} is ${values.get(name)}, not ${wanted[name]}`)
        }
      }
    }
    if (differences.length > 0) return yield* Effect.fail(conflict(channel, differences))
  })

/** Checks the connection by asking Kafka for a description of the cluster. */
export const check = (settings: ResolvedOptions, cluster: Cluster): Effect.Effect<void, Failed> =>
  Effect.asVoid(Errors.attempt(settings.place, "check", () => cluster.describe()))

/**
 * Reads the lag of a group in each partition; empty if the topic has no such group. A partition without a committed position
 * is counted from its first message, where the group will begin. Messages that retention has deleted do not count;
 * transaction markers and gaps of compaction count until the group has passed them.
 */
export const lag = (
  settings: ResolvedOptions,
  cluster: Cluster,
  channel: string,
  group: string
): Effect.Effect<ReadonlyArray<Driver.Lag>, Failed> =>
  Effect.gen(function*() {
    const call = <A>(run: () => Promise<A>) => Errors.attempt(settings.place, "lag", run, { channel, group })
    // clients assume that an unknown topic is being created
    yield* call(() => cluster.leaders(channel))
    const positions = new Map(
      (yield* Errors.attemptGroup(settings, "lag", () => cluster.committed(group, channel), { channel, group }))
        .map(({ partition, position }) => [partition, position])
    )
    if (positions.size === 0) {
      // a new group that has committed nothing has no position, but has members
      const read = yield* Errors.attemptGroup(settings, "lag", () => cluster.readBy(group), { channel, group })
      if (!read.includes(channel)) return []
    }
    const ends = yield* bounds(settings, cluster, "lag", channel)
    return ends.map(({ high, low, partition }) => ({
      partition,
      messages: Math.max(0, high - Math.max(positions.get(partition) ?? low, low))
    }))
  })

/**
 * Lists the names of topics that match a pattern, sorted, without Kafka's internal topics. An empty list is no error:
 * matching topics may be created later.
 */
export const fitting = (
  settings: ResolvedOptions,
  cluster: Cluster,
  pattern: NonNullable<Driver.ConsumeOptions["pattern"]>
): Effect.Effect<ReadonlyArray<string>, Failed> =>
  Effect.map(
    Errors.attempt(settings.place, "consume", () => cluster.topics(), { channel: pattern.address }),
    (names) => names.filter((name) => !name.startsWith("__") && pattern.match(name) !== undefined).sort()
  )
