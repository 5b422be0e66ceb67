/**
 * Where groups begin. A partition without a position tells of a new group only where the group has no position in anything
 * that its subscription reads: else the partition, or its topic, was added since, and is read from its first message.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect } from "effect"
import type { Cluster } from "./Cluster.ts"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError

/** A position in a partition of a topic: of the next message. */
export interface Place {
  readonly topic: string
  readonly partition: number
  readonly position: number
  /** What the broker keeps beside the position. */
  readonly metadata?: string | null | undefined
}

/**
 * The subscriptions of a driver whose group is known to have begun. Kafka forgets positions with their topic, so a topic that
 * was made anew would else be one that the group has yet to begin.
 */
export class Begun {
  private readonly names = new Set<string>()

  has(options: Driver.ConsumeOptions): boolean {
    return this.names.has(nameOf(options))
  }

  add(options: Driver.ConsumeOptions): void {
    this.names.add(nameOf(options))
  }
}

const nameOf = ({ channel, group }: Driver.ConsumeOptions): string => JSON.stringify([group, channel])

// a topic has an answer of its own from each of its leaders
const atOnce = { concurrency: 8 }

/**
 * Gives a group that begins `latest`, or at a time, its place in every partition of the topics, those of other members too, in
 * one commit. Does nothing where the group has begun before.
 *
 * `ends` is asked before the positions of the group. So a member that finds none, while another one commits, has ends from
 * before that commit, and passes over nothing that was published since the other one was ready.
 */
export const begin = (
  parts: {
    readonly settings: ResolvedOptions
    readonly cluster: Cluster
    readonly begun: Begun
    readonly options: Driver.ConsumeOptions
    readonly topics: ReadonlyArray<string>
  },
  ends: (topic: string) => Effect.Effect<ReadonlyArray<Place>, Failed>,
  commit: (places: ReadonlyArray<Place>) => Effect.Effect<unknown, Failed>
): Effect.Effect<void, Failed> =>
  Effect.suspend(() => {
    const { begun, cluster, options, settings, topics } = parts
    const { from, group } = options
    const { fromTime } = settings.consumer
    if ((from === "earliest" && fromTime === undefined) || begun.has(options)) return Effect.void
    const at = (topic: string, time: number) =>
      Effect.map(
        Errors.attempt(settings.place, "consume", () => cluster.at(topic, time), { channel: topic, group }),
        (found) => found.map((place): Place => ({ topic, ...place }))
      )
    const committed = (channel: string) =>
      Errors.attemptGroup(settings, "consume", () => cluster.committed(group, channel), { channel, group })
    return Effect.gen(function*() {
      const places = yield* Effect.forEach(topics, (topic) =>
        fromTime === undefined ? ends(topic) : at(topic, fromTime), atOnce)
      const positions = yield* Effect.forEach(topics, committed, atOnce)
      if (
        positions.every((found) =>
          found.length === 0
        )
      ) yield* commit(places.flat())
      begun.add(options)
    })
  })
