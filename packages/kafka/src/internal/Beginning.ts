/**
 * The positions at which groups begin. A partition without a committed offset indicates a new group only if the group has no
 * offset in any topic of its subscription. Otherwise the partition, or its topic, was added later, and is read from its first
 * message.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect } from "effect"
import type { Cluster } from "./Cluster.ts"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError

/** The position of the next message in a partition of a topic. */
export interface Place {
  readonly topic: string
  readonly partition: number
  readonly position: number
  /** The metadata that the broker stores with the offset. */
  readonly metadata?: string | null | undefined
}

/**
 * The subscriptions of a driver whose groups have begun. Kafka deletes offsets with their topic, so without this a recreated
 * topic would look like one of a new group.
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

// each leader of a topic answers separately
const atOnce = { concurrency: 8 }

/**
 * Commits the starting position of a group that begins at `latest` or at a time, in every partition of the topics (also in
 * those of other members), in one commit. Does nothing if the group has begun before.
 *
 * `ends` runs before the offsets of the group are read. If another member commits in between, this member's ends are older
 * than that commit, so no message that was published after the other member became ready is skipped.
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
