/**
 * Reads positions of partitions: the first, the next, and those that groups have committed.
 */
import type { listOffsetsV9, offsetFetchV9 } from "@platformatic/kafka"
import type { Position } from "../Cluster.ts"
import { positionOf } from "../Topology.ts"
import type { Found } from "./Leaders.ts"
import { answerOf, type Connection } from "./Connection.ts"

/**
 * ListOffsets' numbers for the first and the next position; `latest` is the end of committed messages if only those are read.
 */
const words = { earliest: -2n, latest: -1n }

/** Asks the leaders of a topic's partitions for positions; -1 if there is no message at or after the given time. */
export const list = async (
  connection: Connection,
  { brokers, topics }: Found,
  topic: string,
  partitions: ReadonlyArray<number>,
  which: keyof typeof words | number,
  read: "committed" | "uncommitted"
): Promise<ReadonlyArray<Position>> => {
  const leaders = topics.get(topic)?.leaders ?? []
  const byLeader = Map.groupBy(partitions, (partition) => leaders[partition] ?? -1)
  const answers = await Promise.all(Array.from(byLeader, ([leader, partitions]) => {
    const broker = brokers.get(leader)
    if (broker === undefined) throw Object.assign(new Error("no leader"), { apiId: "LEADER_NOT_AVAILABLE" })
    const asked: listOffsetsV9.ListOffsetsRequestTopic = {
      name: topic,
      partitions: partitions.map((partitionIndex) => ({
        partitionIndex,
        currentLeaderEpoch: -1,
        timestamp: typeof which === "number" ? BigInt(which) : words[which]
      }))
    }
    return connection.ask("ListOffsets", broker, -1, read === "committed" ? 1 : 0, [asked])
  }))
  return answers.flatMap(({ topics }) => topics).flatMap(({ partitions }) => partitions)
    .map(({ offset, partitionIndex }) => ({ partition: partitionIndex, position: positionOf(offset) }))
}

/** Reads the group's committed positions in a topic; partitions without one are left out. */
export const committed = async (
  connection: Connection,
  coordinator: { readonly host: string; readonly port: number },
  group: string,
  topic: string,
  partitions: ReadonlyArray<number>
): Promise<ReadonlyArray<Position>> => {
  let answer: offsetFetchV9.OffsetFetchResponse
  try {
    answer = await connection.ask("OffsetFetch", coordinator, [{
      groupId: group,
      memberId: null,
      memberEpoch: -1,
      topics: [{ name: topic, partitionIndexes: Array.from(partitions) }]
    }], true)
  } catch (error) {
    const partly = answerOf<offsetFetchV9.OffsetFetchResponse>(error)
    // a group of the protocol "consumer" is unknown until its first member joins: 69 is GROUP_ID_NOT_FOUND
    if (partly?.groups[0]?.errorCode !== 69) throw error
    return []
  }
  return (answer.groups[0]?.topics[0]?.partitions ?? [])
    .map(({ committedOffset, metadata, partitionIndex }) => ({
      partition: partitionIndex,
      position: positionOf(committedOffset),
      metadata
    }))
    .filter(({ position }) => position >= 0)
}
