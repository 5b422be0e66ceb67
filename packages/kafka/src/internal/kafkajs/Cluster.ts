/**
 * A cluster, by kafkajs's admin.
 */
import type { BrokerError } from "@millrace/core"
import { Effect, type Scope } from "effect"
import kafkajs, { type Admin } from "kafkajs"
import type { Cluster } from "../Cluster.ts"
import * as Errors from "../Errors.ts"
import type { ResolvedOptions } from "../Options.ts"
import * as Connection from "./Connection.ts"

const { MemberMetadata } = kafkajs.AssignerProtocol

/** Connects kafkajs's admin until the scope closes; fails if the address or the password is wrong. */
export const connect = (settings: ResolvedOptions): Effect.Effect<Cluster, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const log = yield* Connection.logger(settings)
    const open = () =>
      Connection.make(settings, log).admin({ retry: { initialRetryTime: 100, maxRetryTime: 1000, retries: 4 } })
    const client = yield* Effect.acquireRelease(
      Effect.sync(() => new AdminClient(open)),
      (client) => Effect.suspend(() => Connection.disconnect(client.admin))
    )
    const { admin } = client
    // this request needs authentication, so every connection problem shows here
    yield* Errors.attempt(settings.place, "connect", () => admin.connect().then(() => admin.describeCluster())).pipe(
      Effect.timeoutOrElse({
        duration: settings.connectTimeout * 4,
        orElse: () => Effect.fail(Errors.silent(settings.place))
      })
    )
    return clusterOf(client)
  })

/**
 * Runs kafkajs's admin calls one after another: when kafkajs is asked about an unknown topic, it replaces its metadata by
 * that topic's alone, even while another call uses it to find leaders.
 */
class AdminClient {
  admin: Admin
  private readonly open: () => Admin
  private last: Promise<unknown> = Promise.resolve()
  /** Whether the admin has metadata of topics. */
  private knows = false

  constructor(open: () => Admin) {
    this.open = open
    this.admin = open()
  }

  /** Runs a call about a topic; undefined for a topic that does not exist yet. */
  ask<A>(topic: string | undefined, call: (admin: Admin) => Promise<A>): Promise<A> {
    const answer = this.last.then(() => this.once(topic, call), () => this.once(topic, call))
    this.last = answer
    return answer
  }

  private async once<A>(topic: string | undefined, call: (admin: Admin) => Promise<A>): Promise<A> {
    const { admin } = this
    try {
      const answer = await call(admin)
      this.knows = true
      return answer
    } catch (error) {
      if (!this.knows || Errors.typeOf(error) !== "UNKNOWN_TOPIC_OR_PARTITION") throw error
      if (topic !== undefined && !(await admin.listTopics()).includes(topic)) throw error
      // Another topic is missing: kafkajs refreshes all topics that it has ever fetched, and fails when one of them was
      // deleted. A new admin knows none.
      const next = this.open()
      await next.connect()
      this.admin = next
      this.knows = false
      admin.disconnect().catch(() => {})
      return await call(next)
    }
  }
}

const clusterOf = (client: AdminClient): Cluster => {
  return {
    describe: () => client.admin.describeCluster(),
    topics: () => client.admin.listTopics(),
    leaders: async (topic) => {
      const { topics } = await client.ask(topic, (admin) => admin.fetchTopicMetadata({ topics: [topic] }))
      return topics.find(({ name }) => name === topic)?.partitions.map(({ leader }) => leader) ?? []
    },
    // kafkajs's own wait for leaders fails if it asks a broker too early
    create: (topic, partitions, settings) =>
      client.ask(undefined, (admin) =>
        admin.createTopics({
          topics: [{
            topic,
            configEntries: Object.entries(settings).map(([name, value]) => ({ name, value })),
            ...(partitions === undefined ? {} : { numPartitions: partitions })
          }],
          waitForLeaders: false
        })),
    deleteTopic: (topic) => client.ask(topic, (admin) => admin.deleteTopics({ topics: [topic] })),
    settings: async (topic, names) => {
      const { resources } = await client.admin.describeConfigs({
        includeSynonyms: false,
        resources: [{ type: kafkajs.ConfigResourceTypes.TOPIC, name: topic, configNames: Array.from(names) }]
      })
      return new Map(resources[0]?.configEntries.map(({ configName, configValue }) => [configName, configValue]))
    },
    bounds: async (topic) => {
      const found = await client.ask(topic, (admin) => admin.fetchTopicOffsets(topic))
      return found.map(({ high, low, partition }) => ({ partition, low: Number(low), high: Number(high) }))
    },
    at: async (topic, time) => {
      const found = await client.ask(topic, (admin) => admin.fetchTopicOffsetsByTimestamp(topic, time))
      return found.map(({ offset, partition }) => ({ partition, position: Number(offset) }))
    },
    // kafkajs refreshes its leaders only when it lists groups
    refresh: () => client.admin.listGroups(),
    committed: async (group, topic) => {
      const found = await client.ask(topic, (admin) => admin.fetchOffsets({ groupId: group, topics: [topic] }))
      return found.flatMap(({ partitions }) => partitions)
        .map(({ offset, partition }) => ({ partition, position: Number(offset) }))
        .filter(({ position }) => position >= 0)
    },
    commit: (group, topic, positions) =>
      client.ask(topic, (admin) =>
        admin.setOffsets({
          groupId: group,
          topic,
          partitions: positions.map(({ partition, position }) => ({ partition, offset: String(position) }))
        })),
    groups: async () => (await client.admin.listGroups()).groups.map(({ groupId }) => groupId),
    describeGroup: async (group) => {
      const { groups: [found] } = await client.admin.describeGroups([group])
      return {
        state: found?.state ?? "Unknown",
        members: (found?.members ?? []).map(({ clientHost, clientId }) => ({ clientId, host: clientHost }))
      }
    },
    readBy: async (group) => {
      const { groups: [found] } = await client.admin.describeGroups([group])
      return (found?.members ?? []).flatMap(({ memberMetadata }) =>
        // empty during a rebalance
        memberMetadata.length === 0 ? [] : MemberMetadata.decode(memberMetadata)?.topics ?? []
      )
    },
    deleteGroup: (group) => client.admin.deleteGroups([group])
  }
}
