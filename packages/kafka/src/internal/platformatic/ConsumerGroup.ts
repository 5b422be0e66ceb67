/**
 * Kafka's group protocol "consumer" (KIP-848): the coordinator divides the partitions, and only those move that must. Each
 * member tells at its signs of life what it holds, gives back what is no longer its own, and goes on with the rest.
 *
 * What is given back is finished and committed first, with signs of life meanwhile; Kafka waits for that no longer than
 * `consumer.rebalanceTimeout`.
 */
import type { BrokerError } from "@millrace/core"
import { Effect, Schedule } from "effect"
import type { consumerGroupHeartbeatV1 } from "@platformatic/kafka"
import type { Assigned } from "../Assigner.ts"
import * as Errors from "../Errors.ts"
import { type Coordinator, type Group, type Holder, offsetsOf } from "./Group.ts"
import { keyOf } from "./Partition.ts"

type Failed = BrokerError.BrokerError
type Partitions = ReadonlyArray<consumerGroupHeartbeatV1.ConsumerGroupHeartbeatRequestTopicPartition>

// the epoch of a member that leaves, and of a static one that may come back
const leaving = -1
const away = -2

// signs of life without an assignment, 100 ms apart, until a member counts as one that stands by
const longestWait = 10

// a sign of life that is on its way is answered within
const staleness = Schedule.spaced("20 millis")

/** A member by the protocol "consumer", under a name of its own; `ids` has the id of each topic. */
export const make = (
  coordinator: Coordinator,
  memberId: string,
  topics: ReadonlyArray<string>,
  holder: Holder,
  ids: Effect.Effect<ReadonlyMap<string, string>, Failed>
): Group => {
  const { group, settings } = coordinator
  const { instanceId, rebalanceTimeout } = settings.consumer
  let epoch = 0
  let interval = 0
  /** What the coordinator wants this member to hold; undefined until it has said. */
  let target: Partitions | undefined
  /** Whether the coordinator is still to be told who this is, or what it holds. */
  let untold = true
  /** Whether the holder was told that it is a member. */
  let told = false
  let waits = 0

  const heartbeat = (owned: ReadonlyArray<Assigned>): Effect.Effect<void, Failed> =>
    Effect.flatMap(ids, (ids) => {
      const held = Array.from(Map.groupBy(owned, ({ topic }) => topic), ([topic, of]) => ({
        topicId: ids.get(topic) ?? "",
        partitions: of.map(({ partition }) => partition)
      })).filter(({ topicId }) => topicId !== "")
      const first = epoch === 0
      return Effect.map(
        coordinator.beat((connection, broker) =>
          connection.ask(
            "ConsumerGroupHeartbeat",
            broker,
            group,
            memberId,
            epoch,
            instanceId,
            null,
            first ? rebalanceTimeout : -1,
            first ? Array.from(topics) : null,
            null,
            null,
            untold ? held : null
          )
        ),
        (answer) => {
          epoch = answer.memberEpoch
          interval = answer.heartbeatIntervalMs
          untold = false
          if (answer.assignment !== null) target = answer.assignment.topicPartitions
        }
      )
    })

  const meanwhile = Effect.forever(Effect.andThen(
    Effect.suspend(() => Effect.sleep(interval)),
    Effect.suspend(() => heartbeat([]))
  ))

  /** Gives back what is not in the target any more, then takes what is new in it. */
  const reconcile = (target: Partitions): Effect.Effect<void, Failed> =>
    Effect.gen(function*() {
      const named = new Map(Array.from(yield* ids, ([topic, id]) => [id, topic]))
      const wanted = target.flatMap(({ partitions, topicId }) => {
        const topic = named.get(topicId)
        return topic === undefined ? [] : partitions.map((partition): Assigned => ({ topic, partition }))
      })
      const keys = new Set(wanted.map(({ partition, topic }) => keyOf(topic, partition)))
      const before = holder.held()
      const gone = before.filter(({ partition, topic }) => !keys.has(keyOf(topic, partition)))
      if (gone.length > 0) {
        yield* Effect.raceFirst(holder.revoke(gone), meanwhile)
        untold = true
      }
      const kept = new Set(before.map(({ partition, topic }) => keyOf(topic, partition)))
      const more = wanted.filter(({ partition, topic }) => !kept.has(keyOf(topic, partition)))
      // what is given back is told first: what is new may be somebody else's until then
      if (gone.length === 0 && more.length > 0 && !holder.stopped()) {
        yield* holder.assign(more)
        untold = true
      }
    })

  return {
    stay: Effect.gen(function*() {
      while (true) {
        yield* heartbeat(holder.held())
        if (target !== undefined) yield* reconcile(target)
        if (target === undefined || (holder.held().length === 0 && waits < longestWait)) {
          // the coordinator may not have heard yet of a topic that is new
          waits++
          yield* Effect.sleep("100 millis")
          continue
        }
        if (!told) {
          // it is a member, though maybe without a partition
          told = true
          yield* holder.assign([])
        }
        if (!untold) yield* Effect.sleep(interval)
      }
    }),
    commit: (places) => {
      const once = Effect.suspend(() =>
        coordinator.ask(
          "settle",
          (connection, broker) =>
            connection.ask("OffsetCommit", broker, group, epoch, memberId, instanceId, offsetsOf(places))
        )
      )
      // a sign of life on its way has moved the epoch on: the next one tells, and the partition may still be ours
      return Effect.retry(once, {
        while: (error) => Errors.typeOf(error.cause) === "STALE_MEMBER_EPOCH",
        schedule: staleness,
        times: 50
      })
    },
    member: () => ({ generation: epoch, memberId }),
    // signs of life beside those of the membership would confuse its epoch; those tell soon enough
    confirm: Effect.void,
    leave: Effect.suspend(() =>
      epoch === 0
        ? Effect.void
        : coordinator.ask("consume", (connection, broker) =>
          connection.ask(
            "ConsumerGroupHeartbeat",
            broker,
            group,
            memberId,
            instanceId === null ? leaving : away,
            instanceId,
            null,
            -1,
            null,
            null,
            null,
            []
          ))
    ).pipe(Effect.ignore)
  }
}
