/**
 * kafkajs's brokers, with what must be known or done between their answers and kafkajs. The partition assigner is the one part of
 * a user that kafkajs hands its cluster object to.
 */
import type { Cluster } from "kafkajs"
import { type FetchedPartition, hide } from "./AbortedTransactions.ts"

/** The questions of kafkajs after it was assigned partitions. */
export interface Sync {
  readonly groupId: string
  readonly generationId: number
  readonly memberId: string
}

interface Commit {
  readonly groupId: string
  readonly groupGenerationId: number
  readonly memberId: string
  readonly topics: ReadonlyArray<{
    readonly topic: string
    readonly partitions: ReadonlyArray<{ readonly partition: number; readonly offset: string }>
  }>
}

/** The methods of kafkajs's brokers, of which its types leave out a part. */
export interface Broker {
  fetch(request: unknown): Promise<{
    readonly responses: ReadonlyArray<{ readonly partitions: ReadonlyArray<FetchedPartition> }>
  }>
  syncGroup(request: Sync): Promise<unknown>
  heartbeat(request: Omit<Commit, "topics">): Promise<unknown>
  offsetCommit(request: Commit): Promise<unknown>
}

/**
 * Hides aborted messages in all that a cluster fetches, and tells of each assignment before kafkajs looks for its positions. A
 * cluster belongs to one consumer.
 */
export const tap = (
  cluster: Cluster,
  synced: (coordinator: Broker, sync: Sync) => Promise<unknown> = () => Promise.resolve()
): void => {
  const find = cluster.findBroker
  const known = new WeakSet<object>()
  cluster.findBroker = async (node) => {
    const found = await find.call(cluster, node)
    if (known.has(found)) return found
    known.add(found)
    const broker = found as unknown as Broker
    const { fetch, syncGroup } = broker
    broker.fetch = async (request) => {
      const answer = await fetch.call(broker, request)
      for (const { partitions } of answer.responses) partitions.forEach(hide)
      return answer
    }
    broker.syncGroup = async (request) => {
      const answer = await syncGroup.call(broker, request)
      await synced(broker, request)
      return answer
    }
    return found
  }
}
