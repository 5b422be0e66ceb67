/**
 * kafkajs's admin, as a cluster that is asked.
 */
import type { BrokerError } from "@millrace/core"
import { Effect, type Scope } from "effect"
import kafkajs, { type Admin } from "kafkajs"
import type { Cluster } from "../client/Cluster.ts"
import * as Failure from "../client/Failure.ts"
import type { Settings } from "../client/Options.ts"
import * as Client from "./Client.ts"

/** kafkajs's admin, connected as long as the scope is open: a wrong address or password fails here. */
export const connect = (settings: Settings): Effect.Effect<Cluster, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const log = yield* Client.logger(settings)
    const admin = yield* Effect.acquireRelease(
      Effect.sync(() =>
        Client.make(settings, log).admin({ retry: { initialRetryTime: 100, maxRetryTime: 1000, retries: 4 } })
      ),
      Client.disconnect
    )
    // asked for what only a user may who has logged in, so that all that can be wrong is wrong here
    yield* Failure.attempt(settings.place, "connect", () => admin.connect().then(() => admin.describeCluster())).pipe(
      Effect.timeoutOrElse({
        duration: settings.connectTimeout * 4,
        orElse: () => Effect.fail(Failure.silent(settings.place))
      })
    )
    return clusterOf(admin)
  })

const clusterOf = (admin: Admin): Cluster => {
  // One after another: to answer for a topic that it does not know, kafkajs replaces its books by those of that topic alone,
  // under a call that looks for the leaders of another.
  let last: Promise<unknown> = Promise.resolve()
  const next = <A>(ask: () => Promise<A>): Promise<A> => {
    const answer = last.then(ask, ask)
    last = answer
    return answer
  }
  return {
    describe: () => admin.describeCluster(),
    topics: () => admin.listTopics(),
    leaders: async (topic) => {
      const { topics } = await next(() => admin.fetchTopicMetadata({ topics: [topic] }))
      return topics.find(({ name }) => name === topic)?.partitions.map(({ leader }) => leader) ?? []
    },
    // kafkajs's own wait for leaders fails when it asks a broker too early
    create: (topic, partitions, settings) =>
      admin.createTopics({
        topics: [{
          topic,
          configEntries: Object.entries(settings).map(([name, value]) => ({ name, value })),
          ...(partitions === undefined ? {} : { numPartitions: partitions })
        }],
        waitForLeaders: false
      }),
    deleteTopic: (topic) => next(() => admin.deleteTopics({ topics: [topic] })),
    settings: async (topic, names) => {
      const { resources } = await admin.describeConfigs({
        includeSynonyms: false,
        resources: [{ type: kafkajs.ConfigResourceTypes.TOPIC, name: topic, configNames: Array.from(names) }]
      })
      return new Map(resources[0]?.configEntries.map(({ configName, configValue }) => [configName, configValue]))
    },
    bounds: async (topic) => {
      const found = await next(() => admin.fetchTopicOffsets(topic))
      return found.map(({ high, low, partition }) => ({ partition, low: Number(low), high: Number(high) }))
    },
    // kafkajs asks again who leads only on its way to the groups
    refresh: () => admin.listGroups(),
    committed: async (group, topic) => {
      const found = await admin.fetchOffsets({ groupId: group, topics: [topic] })
      return found.flatMap(({ partitions }) => partitions)
        .map(({ offset, partition }) => ({ partition, position: Number(offset) }))
        .filter(({ position }) => position >= 0)
    },
    commit: (group, topic, positions) =>
      admin.setOffsets({
        groupId: group,
        topic,
        partitions: positions.map(({ partition, position }) => ({ partition, offset: String(position) }))
      }),
    groups: async () => (await admin.listGroups()).groups.map(({ groupId }) => groupId),
    describeGroup: async (group) => {
      const { groups: [found] } = await admin.describeGroups([group])
      return {
        state: found?.state ?? "Unknown",
        members: (found?.members ?? []).map(({ clientHost, clientId }) => ({ clientId, host: clientHost }))
      }
    },
    deleteGroup: (group) => admin.deleteGroups([group])
  }
}
