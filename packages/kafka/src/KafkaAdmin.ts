/**
 * Looking after topics and groups: what the broker's own tools do, as a service.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Context, Effect, Layer } from "effect"
import type { Admin } from "kafkajs"
import * as KafkaClient from "./KafkaClient.ts"
import type { Connection, Options } from "./KafkaOptions.ts"
import * as KafkaTopics from "./KafkaTopics.ts"

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

const make = (connection: Connection, admin: Admin): KafkaAdmin["Service"] => {
  const call = <A>(run: () => Promise<A>, where?: { readonly channel?: string; readonly group?: string }) =>
    KafkaClient.attempt(connection, "declare", run, where)
  // kafkajs takes an unknown topic for one that is about to come
  const known = (channel: string) => call(() => admin.fetchTopicMetadata({ topics: [channel] }), { channel })
  const positions: KafkaAdmin["Service"]["positions"] = (channel) =>
    Effect.andThen(known(channel), KafkaTopics.offsets(connection, admin, "declare", channel)).pipe(
      Effect.map((found) =>
        found.map(({ high, low, partition }) => ({ partition, low: Number(low), high: Number(high) })).sort((a, b) =>
          a.partition - b.partition
        )
      )
    )
  return {
    declare: (declaration) => KafkaTopics.declare(connection, admin, declaration),
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
      return make(connection, yield* KafkaTopics.connect(connection))
    })
  )
