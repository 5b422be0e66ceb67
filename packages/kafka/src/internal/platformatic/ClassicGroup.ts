/**
 * Kafka's classic group protocol: in a rebalance all members stop and join again, and the leader among them assigns the
 * partitions.
 *
 * Before a member joins again, it finishes its running messages and commits them under the old generation, and keeps sending
 * heartbeats meanwhile. Kafka waits for that no longer than `consumer.rebalanceTimeout`. The encoding is that of kafkajs's
 * members, so members of both clients can share a group.
 */
import type { BrokerError } from "@millrace/core"
import { Effect } from "effect"
import {
  decodeConsumerProtocolAssignment,
  decodeConsumerProtocolSubscription,
  encodeConsumerProtocolAssignment,
  encodeConsumerProtocolSubscription,
  type joinGroupV9
} from "@platformatic/kafka"
import { type Assigned, assigner, deal } from "../Assigner.ts"
import * as Errors from "../Errors.ts"
import { type Coordinator, type Group, type Holder, offsetsOf } from "./Group.ts"

type Failed = BrokerError.BrokerError

const byTopic = (partitions: ReadonlyArray<Assigned>) =>
  Array.from(Map.groupBy(partitions, ({ topic }) => topic), ([topic, of]) => ({
    topic,
    partitions: of.map(({ partition }) => partition)
  }))

/** Reads the member id from Kafka's refusal. */
const nameGiven = (cause: unknown): string =>
  cause instanceof Error && "memberId" in cause && typeof cause.memberId === "string" ? cause.memberId : ""

const isRebalance = (error: Failed): boolean => Errors.typeOf(error.cause) === "REBALANCE_IN_PROGRESS"

/** Makes a member by the classic protocol; `counts` fetches the number of partitions of topics. */
export const make = (
  coordinator: Coordinator,
  topics: ReadonlyArray<string>,
  holder: Holder,
  counts: (topics: ReadonlyArray<string>) => Effect.Effect<ReadonlyMap<string, number>, Failed>
): Group => {
  const { group, settings } = coordinator
  const { heartbeatInterval, instanceId, metadataMaxAge, rebalanceTimeout, sessionTimeout } = settings.consumer
  let memberId = ""
  let generation = -1
  /** The number of partitions of each topic, if this member is the leader that assigned them. */
  let dealt: ReadonlyMap<string, number> | undefined

  const metadata = encodeConsumerProtocolSubscription({
    version: 0,
    topics: Array.from(topics),
    userData: Buffer.alloc(0)
  })

  const heartbeat = Effect.andThen(
    Effect.sleep(heartbeatInterval),
    coordinator.beat((connection, broker) =>
      connection.ask("Heartbeat", broker, group, generation, memberId, instanceId)
    )
  )
  /** Completes when the group starts a rebalance. */
  const untilRebalance = Effect.catchIf(Effect.forever(heartbeat), isRebalance, () => Effect.void)
  /** Sends heartbeats while running messages finish, ignoring the pending rebalance. */
  const meanwhile = Effect.forever(Effect.catchIf(Effect.asVoid(heartbeat), isRebalance, () => Effect.void))

  const isSame = (found: ReadonlyMap<string, number>) =>
    dealt === undefined || Array.from(found).every(([topic, count]) => dealt?.get(topic) === count)
  /** Completes when a topic's number of partitions differs from the assigned one: the leader must assign again. */
  const untilGrown = Effect.andThen(Effect.sleep(metadataMaxAge), Effect.suspend(() => counts(topics))).pipe(
    Effect.repeat({ until: (found) => !isSame(found) }),
    Effect.asVoid
  )

  const encode = (partitions: ReadonlyArray<Assigned>) =>
    encodeConsumerProtocolAssignment({ version: 0, assignedPartitions: byTopic(partitions), userData: Buffer.alloc(0) })

  const assignments = (members: ReadonlyArray<joinGroupV9.JoinGroupResponseMember>) =>
    Effect.gen(function*() {
      const readers = members.map(({ memberId, metadata }) => ({
        memberId,
        topics: decodeConsumerProtocolSubscription(metadata).topics
      }))
      dealt = yield* counts(Array.from(new Set(readers.flatMap(({ topics }) => topics))))
      return Array.from(
        deal(readers, dealt),
        ([memberId, partitions]) => ({ memberId, assignment: encode(partitions) })
      )
    })

  const joinOnce = coordinator.ask(
    "consume",
    (connection, broker) =>
      connection.ask("JoinGroup", broker, group, sessionTimeout, rebalanceTimeout, memberId, instanceId, "consumer", [
        { name: assigner, metadata }
      ], null)
  )

  const join: Effect.Effect<ReadonlyArray<Assigned>, Failed> = Effect.gen(function*() {
    const joined = yield* joinOnce
    memberId = joined.memberId
    generation = joined.generationId
    dealt = undefined
    const leads = joined.leader === memberId
    const all = leads ? yield* assignments(joined.members) : []
    const { assignment } = yield* coordinator.ask(
      "consume",
      (connection, broker) =>
        connection.ask(
          "SyncGroup",
          broker,
          group,
          generation,
          memberId,
          instanceId,
          "consumer",
          joined.protocolName,
          all
        )
    )
    // some leaders assign without looking at subscriptions, so drop topics this member did not subscribe to
    return decodeConsumerProtocolAssignment(assignment).assignedPartitions
      .filter(({ topic }) => topics.includes(topic))
      .flatMap(({ partitions, topic }) => partitions.map((partition) => ({ topic, partition })))
  }).pipe(
    Effect.catch((error): Effect.Effect<ReadonlyArray<Assigned>, Failed> => {
      switch (Errors.typeOf(error.cause)) {
        // Kafka has assigned a member id, and expects a second request with it
        case "MEMBER_ID_REQUIRED":
          memberId = nameGiven(error.cause)
          return memberId === "" ? Effect.fail(error) : join
        case "UNKNOWN_MEMBER_ID":
          if (memberId === "") return Effect.fail(error)
          memberId = ""
          return join
        case "REBALANCE_IN_PROGRESS":
        case "ILLEGAL_GENERATION":
          return join
        default:
          return Effect.fail(error)
      }
    })
  )

  return {
    stay: Effect.gen(function*() {
      while (true) {
        yield* holder.assign(yield* join)
        yield* Effect.raceFirst(untilRebalance, untilGrown)
        yield* Effect.raceFirst(holder.revoke(holder.held()), meanwhile)
        // a draining consumer has no partitions left, and needs no assignment
        if (holder.stopped()) return yield* Effect.never
      }
    }),
    commit: (places) =>
      Effect.suspend(() =>
        coordinator.ask(
          "settle",
          (connection, broker) =>
            connection.ask("OffsetCommit", broker, group, generation, memberId, instanceId, offsetsOf(places))
        )
      ),
    member: () => ({ generation, memberId }),
    // a member that must join again still is a member
    confirm: Effect.suspend(() =>
      Effect.catchIf(
        coordinator.ask(
          "publish",
          (connection, broker) => connection.ask("Heartbeat", broker, group, generation, memberId, instanceId)
        ),
        isRebalance,
        () => Effect.void
      )
    ),
    leave: Effect.suspend(() =>
      // a static member keeps its assignment until its session times out
      memberId === "" || instanceId !== null
        ? Effect.void
        : coordinator.ask(
          "consume",
          (connection, broker) => connection.ask("LeaveGroup", broker, group, [{ memberId }])
        )
    ).pipe(Effect.ignore)
  }
}
