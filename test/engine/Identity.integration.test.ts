import {
  Broker,
  Channel,
  DeadLetters,
  Identity,
  Lanes,
  type Message,
  Outcome,
  Outgoing,
  Replays,
  Retries,
  Subscription
} from "@millrace/core"
import { Kafka } from "@millrace/kafka"
import { JetStream } from "@millrace/nats"
import { RabbitMq } from "@millrace/rabbitmq"
import { Kafka as KafkaServers, Nats as NatsServers, RabbitMq as RabbitServers } from "@millrace/testing/servers"
import { it } from "@effect/vitest"
import { Effect, type Layer, Redacted, Schedule, Stream } from "effect"
import { assert } from "vitest"
import { describeServer } from "../services/describe.ts"
import { eventually, fresh } from "../services/driving.ts"

const running = (subscription: Subscription.Subscription<never>) =>
  Effect.flatMap(
    Subscription.run(subscription),
    ({ health }) =>
      Effect.repeat(health, { until: ({ state }) => state === "running", schedule: Schedule.spaced("10 millis") })
  )

const declared = (channel: string) => Effect.flatMap(Broker.Broker, (broker) => broker.declare({ channel }))

/** Carries a message of a broker through a retry, its dead letter and both replays, to another broker; the ids on the way. */
const carried = (
  name: string,
  headers: Readonly<Record<string, string>>,
  first: Layer.Layer<Broker.Broker, unknown>,
  second: Layer.Layer<Broker.Broker, unknown>
) =>
  Effect.gen(function*() {
    const ids: Array<string | undefined> = []
    let fails = true
    let last: Message<Uint8Array> | undefined
    const handler = (message: Message<Uint8Array>) =>
      Effect.sync(() => {
        ids.push(Identity.of(message))
        last = message
        if (!fails) return Outcome.Ack
        return message.attempt === 1 ? Outcome.Retry({ after: "10 millis" }) : Outcome.DeadLetter("no")
      })
    const on = (channel: string) =>
      Subscription.make(Channel.bytes(channel), {
        group: "g",
        name: "n",
        lanes: Lanes.unordered(1),
        retries: Retries.held
      }, handler)
    yield* Effect.gen(function*() {
      const broker = yield* Broker.Broker
      yield* declared(name)
      // another message is first, so the copies have other positions
      yield* broker.publish(new Outgoing(name, new Uint8Array(0), undefined, { skip: "yes" }))
      yield* running(on(name))
      yield* eventually(() => ids.length === 2)
      yield* broker.publish(new Outgoing(name, new Uint8Array([1]), undefined, headers))
      yield* eventually(() => ids.length === 4)
      const list = Effect.map(Stream.runCollect(DeadLetters.list(`${name}.dead-letters`)), (all) => Array.from(all))
      const services = yield* Effect.context<Broker.Broker>()
      let letters: ReadonlyArray<DeadLetters.DeadLetter> = []
      yield* eventually(async () => {
        letters = await Effect.runPromise(Effect.provideContext(list, services))
        return letters.length === 2
      })
      ids.splice(0, 2)
      fails = false
      const letter = letters.find(({ delivery }) => delivery.raw.length === 1)!
      ids.push(Identity.of(letter.delivery))
      yield* running(Replays.make(on(name)))
      yield* DeadLetters.replay(letter)
      yield* eventually(() => ids.length === 4)
      yield* DeadLetters.replay(letter, { reach: "all" })
      yield* eventually(() => ids.length === 5)
    }).pipe(Effect.scoped, Effect.provide(first))
    const copy = last!
    yield* Effect.gen(function*() {
      const broker = yield* Broker.Broker
      const elsewhere = `${name}-bridge`
      yield* declared(elsewhere)
      yield* running(on(elsewhere))
      yield* broker.publish(new Outgoing(elsewhere, copy.raw, copy.key, copy.headers))
      yield* eventually(() => ids.length === 6)
    }).pipe(Effect.scoped, Effect.provide(second))
    return ids
  })

describeServer(
  "T13 the id of a message on Kafka, JetStream and RabbitMQ",
  Effect.all([KafkaServers.make(), NatsServers.make(), RabbitServers.make()]),
  (servers) => {
    for (const from of ["kafka", "jetstream"] as const) {
      for (const headers of [{}, { "message-id": "m1" }, { ce_source: "/a", ce_id: "1" }]) {
        it.live(
          `T13 stays the same from ${from} through retry, dead letter and replays to RabbitMQ: ${
            JSON.stringify(headers)
          }`,
          () =>
            Effect.gen(function*() {
              const [{ brokers }, nats, rabbitmq] = servers()
              const first = from === "kafka"
                ? Kafka.layer({ brokers, missingTopics: "create" })
                : JetStream.layer({ servers: Redacted.value(nats.url), missingStreams: "create" })
              const ids = yield* carried(fresh("orders"), headers, first, RabbitMq.layer({ url: rabbitmq.url }))
              // two attempts, the letter and the replay for the group; then all groups, and another broker
              assert.strictEqual(new Set(ids.slice(0, 4)).size, 1, ids.join(", "))
              if (Object.keys(headers).length > 0) assert.strictEqual(new Set(ids).size, 1, ids.join(", "))
              assert.isDefined(ids[0])
            }),
          60_000
        )
      }
    }
  }
)
