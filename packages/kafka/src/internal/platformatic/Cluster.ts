/**
 * A cluster, by requests of Kafka's protocol.
 */
import type { BrokerError } from "@millrace/core"
import { Effect, Schedule, type Scope } from "effect"
import {
  type consumerGroupDescribeV0,
  type createTopicsV7,
  decodeConsumerProtocolSubscription
} from "@platformatic/kafka"
import type { Cluster } from "../Cluster.ts"
import * as Errors from "../Errors.ts"
import type { ResolvedOptions } from "../Options.ts"
import { find, type Found } from "./Leaders.ts"
import * as Offsets from "./Offsets.ts"
import { answerOf, type Connection, open } from "./Connection.ts"

/**
 * Connects to the cluster until the scope closes. Fails after three attempts if Kafka cannot be reached, and at once if it
 * refuses the credentials.
 */
export const connect = (settings: ResolvedOptions): Effect.Effect<Cluster, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const connection = yield* open(settings)
    const cluster = clusterOf(settings, connection)
    yield* Effect.retry(Errors.attempt(settings.place, "connect", () => cluster.describe()), {
      while: (error) => error.reason === "Unreachable" || error.reason === "Lost",
      schedule: soon,
      times: 2
    }).pipe(
      Effect.timeoutOrElse({
        duration: settings.connectTimeout * 4,
        orElse: () => Effect.fail(Errors.silent(settings.place))
      })
    )
    return cluster
  })

const soon = Schedule.spaced("200 millis")

/** Whether Kafka knows no such group. */
const isUnknown = (error: unknown): boolean => Errors.typeOf(error) === "GROUP_ID_NOT_FOUND"

const topicResource = 2

interface Described {
  readonly state: string
  readonly members: ReadonlyArray<
    { readonly clientId: string; readonly clientHost: string; readonly topics: ReadonlyArray<string> }
  >
}

const clusterOf = (settings: ResolvedOptions, connection: Connection): Cluster => {
  const ask = (topics: ReadonlyArray<string> | null) => find(connection, topics, false)
  const controller = async () => {
    const { brokers, controller } = await ask([])
    return brokers.get(controller)
  }
  const coordinator = async (group: string) => {
    const { coordinators: [found] } = await connection.ask("FindCoordinator", undefined, 0, [group])
    return { host: found!.host, port: found!.port }
  }
  const partitionsOf = ({ topics }: Found, topic: string) =>
    (topics.get(topic)?.leaders ?? []).map((_, partition) => partition)
  const described = async (group: string): Promise<Described> => {
    const broker = await coordinator(group)
    try {
      const { groups: [found] } = await connection.ask("ConsumerGroupDescribe", broker, [group], false)
      const members = found!.members.map(({ clientHost, clientId, subscribedTopicNames }) => ({
        clientId,
        clientHost,
        topics: subscribedTopicNames
      }))
      return { state: found!.groupState, members }
    } catch (error) {
      // the group uses the classic protocol, or does not exist
      const partly = answerOf<consumerGroupDescribeV0.ConsumerGroupDescribeResponse>(error)
      if (partly === undefined && !isUnknown(error) && Errors.typeOf(error) !== undefined) throw error
    }
    try {
      const { groups: [found] } = await connection.ask("DescribeGroups", broker, [group], false)
      const members = found!.members.map(({ clientHost, clientId, memberMetadata }) => ({
        clientId,
        clientHost,
        // empty during a rebalance
        topics: memberMetadata.length === 0 ? [] : decodeConsumerProtocolSubscription(memberMetadata).topics
      }))
      return { state: found!.groupState, members }
    } catch (error) {
      if (isUnknown(error)) return { state: "Dead", members: [] }
      throw error
    }
  }
  return {
    describe: () => ask([]),
    topics: async () => Array.from((await ask(null)).topics.keys()),
    leaders: async (topic) => (await ask([topic])).topics.get(topic)?.leaders ?? [],
    create: async (topic, partitions, given) => {
      const asked: createTopicsV7.CreateTopicsRequestTopic = {
        name: topic,
        numPartitions: partitions ?? -1,
        replicationFactor: -1,
        assignments: [],
        configs: Object.entries(given).map(([name, value]) => ({ name, value }))
      }
      try {
        await connection.ask("CreateTopics", await controller(), [asked], settings.requestTimeout, false)
        return true
      } catch (error) {
        if (Errors.typeOf(error) === "TOPIC_ALREADY_EXISTS") return false
        throw error
      }
    },
    deleteTopic: async (topic) =>
      connection.ask("DeleteTopics", await controller(), [{ name: topic }], settings.requestTimeout),
    settings: async (topic, names) => {
      const { results } = await connection.ask(
        "DescribeConfigs",
        undefined,
        [{
          resourceType: topicResource,
          resourceName: topic,
          configurationKeys: Array.from(names)
        }],
        false,
        false
      )
      return new Map(results.flatMap(({ configs }) => configs).map(({ name, value }) => [name, value ?? null]))
    },
    bounds: async (topic) => {
      const found = await ask([topic])
      const partitions = partitionsOf(found, topic)
      const listed = (which: "earliest" | "latest") =>
        Offsets.list(connection, found, topic, partitions, which, "uncommitted")
      const [low, high] = await Promise.all([listed("earliest"), listed("latest")])
      const ends = new Map(high.map(({ partition, position }) => [partition, position]))
      return low.map(({ partition, position }) => ({ partition, low: position, high: ends.get(partition) ?? position }))
    },
    at: async (topic, time) => {
      const found = await ask([topic])
      const listed = (which: "latest" | number) =>
        Offsets.list(connection, found, topic, partitionsOf(found, topic), which, "uncommitted")
      const [later, next] = await Promise.all([listed(time), listed("latest")])
      const ends = new Map(next.map(({ partition, position }) => [partition, position]))
      return later.map(({ partition, position }) => ({
        partition,
        position: position < 0 ? ends.get(partition) ?? 0 : position
      }))
    },
    // each call fetches the leaders anyway
    refresh: () => Promise.resolve(),
    committed: async (group, topic) => {
      const partitions = partitionsOf(await ask([topic]), topic)
      return await Offsets.committed(connection, await coordinator(group), group, topic, partitions)
    },
    commit: async (group, topic, positions) =>
      connection.ask("OffsetCommit", await coordinator(group), group, -1, "", null, [{
        name: topic,
        partitions: positions.map(({ partition, position }) => ({
          partitionIndex: partition,
          committedOffset: BigInt(position),
          committedLeaderEpoch: -1
        }))
      }]),
    groups: async () => {
      const { brokers } = await ask([])
      const answers = await Promise.all(
        Array.from(brokers.values(), (broker) => connection.ask("ListGroups", broker, [], []))
      )
      return answers.flatMap(({ groups }) => groups).map(({ groupId }) => groupId)
    },
    describeGroup: async (group) => {
      const { members, state } = await described(group)
      return { state, members: members.map(({ clientHost, clientId }) => ({ clientId, host: clientHost })) }
    },
    readBy: async (group) => (await described(group)).members.flatMap(({ topics }) => topics),
    deleteGroup: async (group) => connection.ask("DeleteGroups", await coordinator(group), [group])
  }
}
