/**
 * The brokers that chaos comes over: a server of its own for each, how a process reaches it, and what it promises.
 */
import type { Broker, BrokerError } from "@millrace/core"
import { Kafka } from "@millrace/kafka"
import { Mqtt } from "@millrace/mqtt"
import { JetStream, Nats } from "@millrace/nats"
import { RabbitMq } from "@millrace/rabbitmq"
import { RedisLists, RedisPubSub, RedisStreams } from "@millrace/redis"
import {
  Kafka as KafkaServers,
  Mosquitto,
  Nats as NatsServers,
  RabbitMq as RabbitMqServers,
  Redis as RedisServers,
  type Server,
  type ServerFailed,
  type ServerUnavailable
} from "@millrace/testing/servers"
import { Effect, type Layer, type Redacted, type Scope } from "effect"
import type { Promises } from "./Ledger.ts"

/** A broker under chaos. */
export interface Subject extends Promises {
  readonly title: string
  readonly server: Effect.Effect<
    Server & { readonly url?: Redacted.Redacted<string> },
    ServerUnavailable | ServerFailed,
    Scope.Scope
  >
  /** How the server is taken down: as a power cut would, where it keeps what it has confirmed. */
  readonly end: "kill" | "stop"
  readonly partitions: number | undefined
  /** How many processes consume; one where consumers of a group do not share. */
  readonly members: number
  /** For the process that produces (slot 0), and for each member that consumes. */
  readonly layer: (address: string, slot: number) => Layer.Layer<Broker.Broker, BrokerError.BrokerError>
}

const redis = {
  server: RedisServers.own({ startTimeout: "1 minute" }),
  end: "kill",
  partitions: undefined,
  members: 3
} as const
const nats = { server: NatsServers.own(), end: "kill", partitions: undefined, members: 3 } as const

export const subjects: Record<string, Subject> = {
  kafka: {
    title: "Kafka",
    server: KafkaServers.own({ properties: { "group.min.session.timeout.ms": "500" } }),
    end: "kill",
    delivery: "at-least-once",
    isOrdered: true,
    partitions: 6,
    members: 3,
    layer: (address) =>
      Kafka.layer({
        brokers: address,
        consumer: { sessionTimeout: "3 seconds", heartbeatInterval: "500 millis", maximumWait: "100 millis" },
        producer: { retryFor: "2 seconds" }
      })
  },
  rabbitmq: {
    title: "RabbitMQ",
    // what the node knows of queues reaches its disk with some delay; a program finds them there for long
    server: Effect.map(
      RabbitMqServers.own(),
      (server) => ({ ...server, kill: Effect.andThen(Effect.orDie(server.sync), server.kill) })
    ),
    end: "kill",
    delivery: "at-least-once",
    isOrdered: true,
    partitions: undefined,
    members: 3,
    layer: (url) => RabbitMq.layer({ url })
  },
  redis: {
    ...redis,
    title: "Redis Streams",
    delivery: "at-least-once",
    isOrdered: true,
    layer: (url) => RedisStreams.layer({ url })
  },
  "redis-lists": {
    ...redis,
    title: "Redis Lists",
    delivery: "at-least-once",
    isOrdered: false,
    layer: (url) => RedisLists.layer({ url })
  },
  "redis-pubsub": {
    ...redis,
    title: "Redis Pub/Sub",
    members: 1,
    delivery: "at-most-once",
    isOrdered: false,
    layer: (url) => RedisPubSub.layer({ url })
  },
  jetstream: {
    ...nats,
    title: "NATS JetStream",
    delivery: "at-least-once",
    isOrdered: true,
    layer: (url) => JetStream.layer({ servers: url })
  },
  nats: {
    ...nats,
    title: "NATS core",
    delivery: "at-most-once",
    isOrdered: false,
    layer: (url) => Nats.layer({ servers: url })
  },
  mqtt: {
    title: "MQTT, QoS 1",
    server: Mosquitto.own(),
    // it acknowledges before it saves: what a power cut costs is another test's
    end: "stop",
    delivery: "at-least-once",
    isOrdered: false,
    partitions: undefined,
    members: 3,
    layer: (url, slot) => Mqtt.layer({ url, clientId: `chaos-${slot}` })
  },
  "mqtt-0": {
    title: "MQTT, QoS 0",
    server: Mosquitto.own(),
    end: "stop",
    delivery: "at-most-once",
    isOrdered: false,
    partitions: undefined,
    members: 3,
    layer: (url, slot) => Mqtt.layer({ url, clientId: `chaos-${slot}`, qos: 0 })
  }
}
