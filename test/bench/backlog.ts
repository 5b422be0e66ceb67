import { Broker, type BrokerError, Channel, Headers, Lanes, Outgoing, Subscription } from "@millrace/core"
import { Kafka } from "@millrace/kafka"
import { JetStream } from "@millrace/nats"
import { RabbitMq } from "@millrace/rabbitmq"
import { RedisStreams } from "@millrace/redis"
import {
  Kafka as KafkaServers,
  Nats as NatsServers,
  RabbitMq as RabbitMqServers,
  Redis as RedisServers,
  type ServerFailed,
  type ServerUnavailable
} from "@millrace/testing/servers"
import { Effect, type Layer, Redacted, type Scope } from "effect"
import { type Bench, type Measured, scaled } from "./Bench.ts"

const count = scaled(1_000_000)
const body = new Uint8Array(100).fill(120)
const batch = 1000

/** How long the slow handler is watched. */
const seconds = Math.max(3, scaled(15))

/** MiB of this process, without what is garbage. */
const mebibytes = (): number => {
  globalThis.gc?.()
  globalThis.gc?.()
  const { arrayBuffers, heapUsed } = process.memoryUsage()
  return (heapUsed + arrayBuffers) / 1024 / 1024
}

type Server = Effect.Effect<string, ServerFailed | ServerUnavailable, Scope.Scope>

/** Publishes a million messages, and then reads them by a handler that takes a second for each. */
const behind =
  (server: Server, layer: (address: string) => Layer.Layer<Broker.Broker, BrokerError.BrokerError>) =>
  (): Promise<Measured> => {
    const program = Effect.gen(function*() {
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel: "backlog" })
      const messages = Array.from({ length: batch }, (_, i) => new Outgoing("backlog", body, `k${i}`, Headers.empty))
      for (let published = 0; published < count; published += batch) yield* broker.publishAll(messages)
      const before = mebibytes()
      const slow = Subscription.make(
        Channel.bytes("backlog"),
        { group: "slow", name: "slow", lanes: Lanes.unordered(100), grace: { drain: 0 } },
        () => Effect.sleep("1 second")
      )
      const running = yield* Subscription.run(slow)
      let most = before
      for (let second = 0; second < seconds; second++) {
        yield* Effect.sleep("1 second")
        most = Math.max(most, mebibytes())
      }
      const { pending, settled } = yield* running.health
      if (settled === 0) return yield* Effect.die(new Error("The slow handler did nothing"))
      return { cpu: 0, grownMiB: most - before, pending }
    })
    return Effect.runPromise(
      Effect.scoped(Effect.flatMap(server, (address) => Effect.provide(Effect.scoped(program), layer(address))))
    )
  }

const urlOf = ({ url }: { readonly url: Redacted.Redacted<string> }) => Redacted.value(url)

const variants = {
  "Redis Streams": behind(Effect.map(RedisServers.own(), urlOf), (url) => RedisStreams.layer({ url })),
  Kafka: behind(
    Effect.map(KafkaServers.own(), ({ address }) => address),
    (address) => Kafka.layer({ brokers: address })
  ),
  JetStream: behind(Effect.map(NatsServers.own(), urlOf), (url) => JetStream.layer({ servers: url })),
  RabbitMQ: behind(Effect.map(RabbitMqServers.own(), urlOf), (url) => RabbitMq.layer({ url }))
}

/** Back-pressure: what waits stays with the broker. */
export const backlog: Bench = {
  name: "backlog",
  about: "a slow handler with a million messages of 100 bytes waiting for it: what its process grows by",
  rounds: 1,
  variants: Object.entries(variants).map(([name, run]) => ({ name, whose: "millrace", run })),
  goals: Object.keys(variants).map((name) => ({
    id: "X4",
    text: `MiB that the process grows by, on ${name}`,
    target: 32,
    better: "lower",
    measured: (of) => of(name)["grownMiB"]!
  }))
}
