import { type Duration, Effect, type Scope } from "effect"
import { OptionCheck } from "@millrace/core"
import * as Kafka from "./Kafka.ts"
import { freePorts } from "./process.ts"
import { ServerFailed, type ServerUnavailable } from "./Server.ts"

/** A Kafka cluster of own servers; each node is a broker and a controller. */
export interface KafkaCluster {
  /** The nodes; the node at index 0 has Kafka's `node.id` 1. */
  readonly nodes: ReadonlyArray<Kafka.KafkaServer>
  /** `host:port` of each node. */
  readonly brokers: ReadonlyArray<string>
}

/** Options of a cluster; each is optional. */
export interface Options {
  /** The number of nodes; default 3. Topics have a replica on each, and a write needs all of them but one. */
  readonly nodes?: number
  /** The version to download; default {@link Kafka.version}. */
  readonly version?: string
  /** Server properties of each node beside those of {@link Kafka.own}, by its index. */
  readonly properties?: (index: number) => Readonly<Record<string, string>>
  /** The longest time until each node answers; default 2 minutes. */
  readonly startTimeout?: Duration.Input
}

/** The defaults of the options. */
export const defaults = { nodes: 3, startTimeout: "2 minutes" } as const satisfies Options

const check = OptionCheck.make("KafkaCluster")

/**
 * Starts a Kafka cluster of its own, each node as {@link Kafka.own} starts it. A killed broker loses its leaderships after
 * two seconds. Closing the scope kills the nodes and removes their data.
 *
 * Fails with `ServerUnavailable` if Java, Maven or the download is missing, and with `ServerFailed` if a node does not
 * answer in time.
 */
export const own = (
  options: Options = {}
): Effect.Effect<KafkaCluster, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const count = check.count("nodes", options.nodes ?? defaults.nodes)
    const startTimeout = options.startTimeout ?? defaults.startTimeout
    const ports = yield* Effect.tryPromise({
      try: () => freePorts(2 * count),
      catch: (cause) => new ServerFailed({ server: "Kafka", logs: "", message: `No ports are free: ${String(cause)}` })
    })
    const places = Array.from({ length: count }, (_, index) => [ports[2 * index]!, ports[2 * index + 1]!] as const)
    const voters = places.map(([, controller], index) => `${index + 1}@127.0.0.1:${controller}`).join(",")
    const replicas = String(count)
    const inSync = String(Math.max(1, count - 1))
    const properties = {
      "default.replication.factor": replicas,
      "min.insync.replicas": inSync,
      "offsets.topic.replication.factor": replicas,
      "transaction.state.log.replication.factor": replicas,
      "transaction.state.log.min.isr": inSync,
      "share.coordinator.state.topic.replication.factor": replicas,
      "share.coordinator.state.topic.min.isr": inSync,
      "broker.session.timeout.ms": "2000",
      "broker.heartbeat.interval.ms": "300",
      "controller.quorum.election.timeout.ms": "500",
      "controller.quorum.fetch.timeout.ms": "1000"
    }
    const nodes = yield* Effect.all(
      places.map((ports, index) =>
        Kafka.own({
          ...(options.version === undefined ? {} : { version: options.version }),
          node: { id: index + 1, voters, ports },
          properties: { ...properties, ...options.properties?.(index) },
          startTimeout
        })
      ),
      // a node answers once a majority has elected a controller
      { concurrency: "unbounded" }
    )
    return { nodes, brokers: nodes.map(({ address }) => address) }
  })
