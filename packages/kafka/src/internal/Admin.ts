/**
 * The service that manages topics and groups, over either client.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Context, Effect } from "effect"
import type { Cluster } from "./Cluster.ts"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"
import * as Topology from "./Topology.ts"

type Failed = BrokerError.BrokerError

/** The progress of a group in one partition; positions are those of the next message. */
export interface Progress {
  readonly partition: number
  /** The committed position of the group; undefined if it has committed none. */
  readonly committed: number | undefined
  readonly low: number
  readonly high: number
  /** The messages left to the group; counted from `low` if it has committed nothing. */
  readonly lag: number
}

/** A group: its state and its members. */
export interface Group {
  readonly group: string
  /** Kafka's name of the state: `Stable`, `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Dead` or `Unknown`. */
  readonly state: string
  readonly members: ReadonlyArray<{ readonly clientId: string; readonly host: string }>
}

/** Topics, groups and positions of a Kafka. Every operation fails with a `BrokerError`, most of operation `declare`. */
export class KafkaAdmin extends Context.Service<KafkaAdmin, {
  /** Creates a topic; fails with `Conflict` if it exists and differs. `settings` are Kafka's own topic configs. */
  readonly declare: (declaration: Driver.Declaration) => Effect.Effect<void, Failed>
  /** Lists the names of all topics, without Kafka's internal ones. */
  readonly topics: Effect.Effect<ReadonlyArray<string>, Failed>
  /** Deletes a topic and its messages; fails with `NotFound` if it does not exist. */
  readonly deleteTopic: (channel: string) => Effect.Effect<void, Failed>
  /** Reads the lowest and the next position of each partition, in order. */
  readonly positions: (
    channel: string
  ) => Effect.Effect<ReadonlyArray<{ readonly partition: number; readonly low: number; readonly high: number }>, Failed>
  /** Lists the names of all groups. */
  readonly groups: Effect.Effect<ReadonlyArray<string>, Failed>
  readonly describeGroup: (group: string) => Effect.Effect<Group, Failed>
  /** Reads the progress and the lag of a group, in order of partition. */
  readonly lag: (group: string, channel: string) => Effect.Effect<ReadonlyArray<Progress>, Failed>
  /**
   * Sets the offsets of a group without members: to the start, to the end, to the first messages at or after a time, or each
   * partition to a position.
   */
  readonly move: (
    group: string,
    channel: string,
    to: "earliest" | "latest" | Date | ReadonlyArray<{ readonly partition: number; readonly position: number }>
  ) => Effect.Effect<void, Failed>
  /** Deletes a group without members, and its offsets. */
  readonly deleteGroup: (group: string) => Effect.Effect<void, Failed>
}>()("@millrace/kafka/KafkaAdmin/KafkaAdmin") {}

/** Makes the service of a connection. */
export const make = (settings: ResolvedOptions, cluster: Cluster): KafkaAdmin["Service"] => {
  const call = <A>(run: () => Promise<A>, where?: { readonly channel: string }) =>
    Errors.attempt(settings.place, "declare", run, where)
  const callGroup = <A>(run: () => Promise<A>, where: { readonly channel?: string; readonly group: string }) =>
    Errors.attemptGroup(settings, "declare", run, where)
  // clients assume that an unknown topic is being created
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
