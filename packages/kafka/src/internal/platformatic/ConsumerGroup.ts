/**
 * Kafka's group protocol "consumer" (KIP-848): the coordinator assigns the partitions, and a rebalance moves only those that
 * must move. In heartbeats each member reports its partitions, and the coordinator answers with the wanted ones. The member
 * gives back the others, and goes on with the rest.
 *
 * Before a member gives a partition back, it finishes and commits the running messages, and keeps sending heartbeats
 * meanwhile. Kafka waits for that no longer than `consumer.rebalanceTimeout`.
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

// the epochs with which a member leaves, and with which a static member announces that it may come back
const leaving = -1
const away = -2

// heartbeats without an assignment, 100 ms apart, until the member counts as a standby
const longestWait = 10

// a commit with a stale epoch is retried at this interval, up to 50 times, until the heartbeat in flight is answered
const staleness = Schedule.spaced("20 millis")

/** Makes a member by the protocol "consumer"; `memberId` is the member's own name, `ids` has the id of each topic. */
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
  /** The partitions that the coordinator wants this member to hold; undefined until the first assignment. */
  let target: Partitions | undefined
  /** Whether the next heartbeat must report the held partitions. */
  let untold = true
  /** Whether the holder knows that it is a member. */
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

  /** Gives back partitions that have left the target, then takes the new ones. */
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
      // report revoked partitions first: the new ones may belong to another member until then
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
          // the coordinator may not know a new topic yet
          waits++
          yield* Effect.sleep("100 millis")
          continue
        }
        if (!told) {
          // the holder is a member, though maybe without a partition
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
      // a heartbeat in flight has advanced the epoch: its answer brings the new one, and the member may still hold the
      // partition
      return Effect.retry(once, {
        while: (error) => Errors.typeOf(error.cause) === "STALE_MEMBER_EPOCH",
        schedule: staleness,
        times: 50
      })
    },
    member: () => ({ generation: epoch, memberId }),
    // extra heartbeats would confuse the membership's epoch; the regular ones detect a lost membership soon enough
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
