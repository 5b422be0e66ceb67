/**
 * Looking after topics and groups: what the broker's own tools do, as a service over any client.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Context, Effect } from "effect"
import type { Cluster } from "./Cluster.ts"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"
import * as Topology from "./Topology.ts"

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
  /**
   * Moves a group without members: to the start, to the end, to the first messages of a time or later, or each partition to a
   * position.
   */
  readonly move: (
    group: string,
    channel: string,
    to: "earliest" | "latest" | Date | ReadonlyArray<{ readonly partition: number; readonly position: number }>
  ) => Effect.Effect<void, Failed>
  /** Forgets a group that nobody is a member of, and its positions. */
  readonly deleteGroup: (group: string) => Effect.Effect<void, Failed>
}>()("@millrace/kafka/KafkaAdmin/KafkaAdmin") {}

/** The service of a connection. */
export const make = (settings: ResolvedOptions, cluster: Cluster): KafkaAdmin["Service"] => {
  const call = <A>(run: () => Promise<A>, where?: { readonly channel: string }) =>
    Errors.attempt(settings.place, "declare", run, where)
  const callGroup = <A>(run: () => Promise<A>, where: { readonly channel?: string; readonly group: string }) =>
    Errors.attemptGroup(settings, "declare", run, where)
  // clients take an unknown topic for one that is about to come
  const known = (channel: string) => call(() => cluster.leaders(channel), { channel })
  const positions: KafkaAdmin["Service"]["positions"] = (channel) =>
    Effect.andThen(known(channel), Topology.bounds(settings, cluster, "declare", channel))
  return {
    declare: (declaration) => Topology.declare(settings, cluster, declaration),
    topics: Effect.map(
      call(() => cluster.topics()),
      (names) => names.filter((name) => !name.startsWith("__")).sort()
    ),
    deleteTopic: (channel) =>
      Effect.asVoid(Effect.andThen(known(channel), call(() => cluster.deleteTopic(channel), { channel }))),
    positions,
    groups: Effect.map(call(() => cluster.groups()), (names) => Array.from(names).sort()),
    describeGroup: (group) =>
      Effect.map(callGroup(() => cluster.describeGroup(group), { group }), (found) => ({ group, ...found })),
    lag: (group, channel) =>
      Effect.gen(function*() {
        const ends = yield* positions(channel)
        const fetched = yield* callGroup(() => cluster.committed(group, channel), { channel, group })
        const committed = new Map(fetched.map(({ partition, position }) => [partition, position]))
        return ends.map(({ high, low, partition }) => {
          const at = committed.get(partition)
          return { partition, committed: at, low, high, lag: high - Math.max(at ?? -1, low) }
        })
      }),
    move: (group, channel, to) => {
      const places = to instanceof Date
        ? Effect.andThen(known(channel), call(() => cluster.at(channel, to.getTime()), { channel }))
        : Effect.map(positions(channel), (ends) =>
          typeof to === "string"
            ? ends.map(({ high, low, partition }) => ({ partition, position: to === "earliest" ? low : high }))
            : to)
      return Effect.flatMap(
        places,
        (found) => Effect.asVoid(callGroup(() => cluster.commit(group, channel, found), { channel, group }))
      )
    },
    deleteGroup: (group) => Effect.asVoid(callGroup(() => cluster.deleteGroup(group), { group }))
  }
}
