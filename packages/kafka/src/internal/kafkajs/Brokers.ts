/**
 * Hooks into kafkajs's brokers, between their answers and kafkajs. The partition assigner is the only user code to which
 * kafkajs passes its cluster object.
 */
import type { Cluster } from "kafkajs"
import { type FetchedPartition, hide } from "./AbortedTransactions.ts"

/** The group and the member of an assignment, as kafkajs sends them. */
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

/** The methods of kafkajs's brokers; kafkajs's types omit some of them. */
export interface Broker {
  fetch(request: unknown): Promise<{
    readonly responses: ReadonlyArray<{ readonly partitions: ReadonlyArray<FetchedPartition> }>
  }>
  syncGroup(request: Sync): Promise<unknown>
  heartbeat(request: Omit<Commit, "topics">): Promise<unknown>
  offsetCommit(request: Commit): Promise<unknown>
}

/**
 * Hides aborted messages in all fetches of a cluster, and calls `synced` after each assignment, before kafkajs looks up its
 * positions. A cluster belongs to one consumer.
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
