/**
 * Topics, made or compared, their positions, and how far groups are behind: for whichever client asks.
 */
import { BrokerError, type Driver, type Origin } from "@millrace/core"
import { Effect, Schedule } from "effect"
import type { Bounds, Cluster } from "./Cluster.ts"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError

/** A position as a number; larger ones would lose their last digits. */
export const positionOf = (offset: string | bigint): number => {
  const position = Number(offset)
  if (Number.isSafeInteger(position)) return position
  throw Errors.invalid(
    "consume",
    `The offset ${offset} is beyond 2^53, which no number here holds: recreate the topic.`
  )
}

// a new partition, or one whose leader has just died, has none for a moment; kafkajs has an older name for the first
const leaderless = new Set([
  "NOT_LEADER_OR_FOLLOWER",
  "NOT_LEADER_FOR_PARTITION",
  "LEADER_NOT_AVAILABLE",
  "REPLICA_NOT_AVAILABLE"
])

/** The first and the next position of each partition of a topic, in order; waits up to 5 seconds for its leaders. */
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

/** Where a message comes from that is browsed. */
export const browsed = (channel: string, partition: number): Origin => ({
  system: "kafka",
  channel,
  group: "",
  partition,
  handler: "",
  holdLimit: Number.POSITIVE_INFINITY
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

/** Waits until a new topic is known and each partition has a leader: the controller has it before the brokers do. */
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

/** Creates a topic, or compares it with what was declared. */
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
      // Kafka does not say which
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

/** Asks Kafka who leads the cluster. */
export const check = (settings: ResolvedOptions, cluster: Cluster): Effect.Effect<void, Failed> =>
  Effect.asVoid(Errors.attempt(settings.place, "check", () => cluster.describe()))

/**
 * How far a group is behind in each partition; empty where the topic has no such group. A partition without a position is
 * counted from its first message, which is where the group begins it. What retention has taken away is not counted; marks of
 * transactions and gaps of compaction are, until the group is behind them.
 */
export const lag = (
  settings: ResolvedOptions,
  cluster: Cluster,
  channel: string,
  group: string
): Effect.Effect<ReadonlyArray<Driver.Lag>, Failed> =>
  Effect.gen(function*() {
    const call = <A>(run: () => Promise<A>) => Errors.attempt(settings.place, "lag", run, { channel, group })
    // clients take an unknown topic for one that is about to come
    yield* call(() => cluster.leaders(channel))
    const positions = new Map(
      (yield* Errors.attemptGroup(settings, "lag", () => cluster.committed(group, channel), { channel, group }))
        .map(({ partition, position }) => [partition, position])
    )
    if (positions.size === 0) {
      // a group that has not done its first message yet has no position, but members
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
 * Names of the topics that fit a pattern, in order; Kafka's own are left out. An empty list is no error: such topics may come.
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
