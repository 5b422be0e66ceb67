/**
 * Every broker as a Layer, by name. This is all that changes when a program changes its broker.
 */
import { type Broker, type BrokerError, MemoryBroker } from "@millrace/core"
import { Kafka } from "@millrace/kafka"
import { Mqtt } from "@millrace/mqtt"
import { JetStream, Nats } from "@millrace/nats"
import { RabbitMq } from "@millrace/rabbitmq"
import { RedisStreams } from "@millrace/redis"
import {
  Kafka as KafkaServer,
  Mosquitto,
  Nats as NatsServer,
  RabbitMq as RabbitMqServer,
  Redis as RedisServer,
  type ServerFailed,
  type ServerUnavailable
} from "@millrace/testing/servers"
import { Console, Effect, Layer, Redacted, type Scope } from "effect"

type Url = Redacted.Redacted

interface Kind {
  /** What stands on the other side, to be started where there is no URL; memory has nothing there. */
  readonly server: Effect.Effect<Url, ServerFailed | ServerUnavailable, Scope.Scope> | undefined
  readonly layer: (url: Url) => Layer.Layer<Broker.Broker, BrokerError.BrokerError>
}

const url = (server: { readonly url: Url }) => server.url

const nats = Effect.map(NatsServer.own(), url)

const kinds = {
  memory: { server: undefined, layer: () => MemoryBroker.layer() },
  kafka: {
    server: Effect.map(KafkaServer.own(), ({ address }) => Redacted.make(address)),
    layer: (url) => Kafka.layer({ brokers: Redacted.value(url), missingTopics: "create" })
  },
  rabbitmq: { server: Effect.map(RabbitMqServer.own(), url), layer: (url) => RabbitMq.layer({ url }) },
  redis: { server: Effect.map(RedisServer.own(), url), layer: (url) => RedisStreams.layer({ url }) },
  jetstream: { server: nats, layer: (url) => JetStream.layer({ servers: Redacted.value(url) }) },
  nats: { server: nats, layer: (url) => Nats.layer({ servers: Redacted.value(url) }) },
  // one name for each process; what it has not acknowledged waits for it under this name
  mqtt: { server: Effect.map(Mosquitto.own(), url), layer: (url) => Mqtt.layer({ url, clientId: "any-broker" }) }
} satisfies Record<string, Kind>

export type Name = keyof typeof kinds

export const names: ReadonlyArray<Name> = ["memory", "kafka", "rabbitmq", "redis", "jetstream", "nats", "mqtt"]

/** A broker of that name: the one at `url`, or one that is started for the run and gone with it. */
export const layer = (
  name: Name,
  url: Url | undefined
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | ServerFailed | ServerUnavailable> => {
  const kind: Kind = kinds[name]
  if (kind.server === undefined) return kind.layer(Redacted.make(""))
  if (url !== undefined) return kind.layer(url)
  return Layer.unwrap(
    Effect.map(Effect.andThen(Console.log(`Starting ${name} for this run`), kind.server), kind.layer)
  )
}
