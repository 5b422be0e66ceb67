import { CloudEvents } from "@millrace/codecs"
import { Broker, Channel, Decode, Lanes, type Message, Publisher, Subscription } from "@millrace/core"
import { Kafka } from "@millrace/kafka"
import { Mqtt } from "@millrace/mqtt"
import { JetStream } from "@millrace/nats"
import { RabbitMq } from "@millrace/rabbitmq"
import {
  Kafka as KafkaServers,
  Mosquitto,
  Nats as NatsServers,
  RabbitMq as RabbitServers
} from "@millrace/testing/servers"
import { connect as connectNats } from "@nats-io/transport-node"
import { connect as connectAmqp, type MessageProperties } from "amqplib"
import { CloudEvent, Kafka as KafkaPeer, MQTT as MqttPeer } from "cloudevents"
import { Kafka as KafkaJs } from "kafkajs"
import { connectAsync as connectMqtt } from "mqtt"
import { it } from "@effect/vitest"
import { Effect, type Layer, pipe, Redacted, Schedule, Schema, type Scope } from "effect"
import { assert } from "vitest"
import { describeServer } from "../services/describe.ts"
import { eventually, fresh, outgoing } from "../services/driving.ts"

const Order = Schema.Struct({ amount: Schema.Number })
const modes = ["binary", "structured"] as const
type Event = Schema.Schema.Type<ReturnType<typeof CloudEvents.Event<typeof Order>>>

const ordersOn = (name: string, mode: "binary" | "structured") =>
  Channel.make(name, { payload: CloudEvents.Event(Order), codec: CloudEvents.event(Channel.json, { mode }) })

const event = (id: string): Event => ({
  id,
  source: "/shop",
  type: "com.example.order",
  subject: "Zürich 100% €",
  time: "2030-01-02T03:04:05.678901Z",
  extensions: { region: "eu" },
  data: { amount: 3 }
})

/** Reads a channel until each of these publishes has come. */
const reading = (name: string, publishes: ReadonlyArray<Effect.Effect<void, unknown, Broker.Broker>>) =>
  Effect.gen(function*() {
    const channel = ordersOn(name, "binary")
    yield* Effect.flatMap(Broker.Broker, (broker) => broker.declare({ channel: name }))
    const seen: Array<Message<Event>> = []
    const { health } = yield* Subscription.run(Subscription.make(
      channel,
      { group: "billing", name: "bill", lanes: Lanes.unordered(4) },
      pipe((message: Message<Event>) => Effect.sync(() => void seen.push(message)), Decode.middleware(channel))
    ))
    yield* Effect.repeat(health, { until: ({ state }) => state === "running", schedule: Schedule.spaced("10 millis") })
    for (const publish of publishes) yield* publish
    yield* eventually(() => seen.length === publishes.length)
    return seen
  })

const ours = (name: string) => modes.map((mode) => Publisher.make(ordersOn(name, mode)).publish(event(mode)))

/** An event of the SDK; `amount` is its data. */
const theirs = () =>
  new CloudEvent({
    id: "theirs",
    source: "/shop",
    type: "com.example.order",
    subject: "abc",
    region: "eu",
    datacontenttype: "application/json",
    data: { amount: 4 }
  })

const foreign = (name: string, body: unknown, headers: Readonly<Record<string, unknown>>) =>
  Effect.flatMap(Broker.Broker, (broker) => {
    const texts = Object.entries(headers).filter((pair): pair is [string, string] => typeof pair[1] === "string")
    return broker.publish(
      outgoing(name, typeof body === "string" ? body : JSON.stringify(body), { headers: Object.fromEntries(texts) })
    )
  })

const isWhole = (messages: ReadonlyArray<Message<Event>>) => {
  for (const mode of modes) {
    const message = messages.find(({ payload }) => payload.id === mode)
    assert.deepEqual(message?.payload, { ...event(mode), datacontenttype: "application/json" })
    assert.strictEqual(CloudEvents.attributes(message!)?.subject, event(mode).subject)
  }
}

describeServer(
  "F14 CloudEvents on Kafka, RabbitMQ, NATS and MQTT",
  Effect.all([KafkaServers.make(), RabbitServers.make(), NatsServers.make(), Mosquitto.make()]),
  (servers) => {
    const run = <A>(
      layer: Layer.Layer<Broker.Broker, unknown>,
      effect: Effect.Effect<A, unknown, Broker.Broker | Scope.Scope>
    ): Effect.Effect<A, unknown> => Effect.provide(Effect.scoped(effect), layer)

    it.live("F14 go through Kafka, from and to the SDK of CloudEvents", () =>
      Effect.gen(function*() {
        const [{ brokers }] = servers()
        const name = fresh("events")
        const [binary, structured] = [KafkaPeer.binary(theirs()), KafkaPeer.structured(theirs())]
        const seen = yield* run(
          Kafka.layer({ brokers, missingTopics: "create" }),
          reading(name, [
            ...ours(name),
            foreign(name, binary.value, binary.headers),
            foreign(name, structured.value, structured.headers)
          ])
        )
        isWhole(seen)
        const foreigners = seen.filter(({ payload }) => payload.id === "theirs")
        assert.deepEqual(foreigners.map(({ payload }) => [payload.data, payload.extensions]), [
          [{ amount: 4 }, { region: "eu" }],
          [{ amount: 4 }, { region: "eu" }]
        ])
        const read = yield* Effect.promise(async () => {
          const consumer = new KafkaJs({ brokers, logLevel: 0 }).consumer({ groupId: fresh("peer") })
          await consumer.connect()
          await consumer.subscribe({ topic: name, fromBeginning: true })
          const found: Array<unknown> = []
          await new Promise<void>((resolve) =>
            void consumer.run({
              eachMessage: async ({ message: { headers, value } }) => {
                const texts = Object.fromEntries(
                  Object.entries(headers ?? {}).map(([key, each]) => [key, String(each)])
                )
                const peer = KafkaPeer.toEvent({ headers: texts, body: String(value), value: String(value) } as never)
                const { data, id, region, subject } = peer as CloudEvent<unknown>
                found.push([id, subject, region, data])
                if (found.length === 4) resolve()
              }
            })
          )
          await consumer.disconnect()
          return found
        })
        for (const mode of modes) assert.deepInclude(read, [mode, event(mode).subject, "eu", { amount: 3 }])
      }), 60_000)

    it.live(
      "F14 go through RabbitMQ, as cloudEvents:NAME of AMQP, and are read as cloudEvents_NAME, too",
      () =>
        Effect.gen(function*() {
          const [, { url }] = servers()
          const name = fresh("events")
          const headers = (start: string) => ({
            "content-type": "application/json",
            [`${start}specversion`]: "1.0",
            [`${start}id`]: "theirs",
            [`${start}source`]: "/a",
            [`${start}type`]: "t"
          })
          const wire: Array<MessageProperties> = []
          const connection = yield* Effect.promise(() => connectAmqp(Redacted.value(url)))
          const watch = Effect.promise(async () => {
            const channel = await connection.createChannel()
            const { queue } = await channel.assertQueue("", { exclusive: true })
            await channel.bindQueue(queue, "millrace", name)
            await channel.consume(queue, (message) => void wire.push(message!.properties))
          })
          const declare = Effect.flatMap(Broker.Broker, (broker) => broker.declare({ channel: name }))
          // the last one was carried from Kafka with its headers
          const publishes = [
            ...ours(name),
            foreign(name, { amount: 4 }, headers("cloudEvents_")),
            foreign(name, { amount: 4 }, headers("ce_"))
          ]
          const seen = yield* run(
            RabbitMq.layer({ url }),
            Effect.andThen(Effect.andThen(declare, watch), reading(name, publishes))
          )
          isWhole(seen)
          assert.strictEqual(seen.filter(({ payload }) => payload.source === "/a" && payload.id === "theirs").length, 2)
          yield* eventually(() => wire.length === 4)
          yield* Effect.promise(() => connection.close())
          const [properties] = wire
          assert.strictEqual(properties?.contentType, "application/json")
          assert.deepInclude(properties?.headers, {
            "cloudEvents:specversion": "1.0",
            "cloudEvents:id": "binary",
            "cloudEvents:subject": event("binary").subject
          })
        }),
      60_000
    )

    it.live("F14 go through JetStream, as ce-NAME with percent-encoding", () =>
      Effect.gen(function*() {
        const [, , { url }] = servers()
        const name = fresh("events")
        const connection = yield* Effect.promise(() => connectNats({ servers: Redacted.value(url) }))
        const wire = connection.subscribe(name, { max: 1 })
        const first = Effect.promise(async () => {
          for await (const { headers } of wire) return [headers?.get("ce-id"), headers?.get("ce-subject")]
          return []
        })
        const seen = yield* run(JetStream.layer({ servers: Redacted.value(url) }), reading(name, ours(name)))
        isWhole(seen)
        assert.deepStrictEqual(yield* first, ["binary", "Z%C3%BCrich%20100%25%20%E2%82%AC"])
        yield* Effect.promise(() => connection.close())
      }), 60_000)

    it.live("F14 go through MQTT, from and to the SDK of CloudEvents", () =>
      Effect.gen(function*() {
        const [, , , { url }] = servers()
        const name = fresh("events")
        const client = yield* Effect.promise(() => connectMqtt(Redacted.value(url), { protocolVersion: 5 }))
        const wire: Array<readonly [string | undefined, Record<string, string>, string]> = []
        client.on("message", (_topic, payload, { properties }) => {
          wire.push([
            properties?.contentType,
            { ...properties?.userProperties } as Record<string, string>,
            String(payload)
          ])
        })
        yield* Effect.promise(() => client.subscribeAsync(name))
        const [binary, structured] = [MqttPeer.binary(theirs()), MqttPeer.structured(theirs())]
        const own = { "content-type": "application/json" }
        const seen = yield* run(
          Mqtt.layer({ url, clientId: fresh("reader") }),
          reading(name, [
            ...ours(name),
            foreign(name, binary.body, { ...binary.headers, ...own }),
            foreign(name, structured.body, { "content-type": "application/cloudevents+json" })
          ])
        )
        isWhole(seen)
        assert.deepEqual(seen.filter(({ payload }) => payload.id === "theirs").map(({ payload }) => payload.data), [
          { amount: 4 },
          { amount: 4 }
        ])
        yield* eventually(() => wire.length === 4)
        const read = wire.slice(0, 2).map(([contentType, headers, body]) => {
          const peer = MqttPeer.toEvent({
            PUBLISH: { "Content Type": contentType },
            headers,
            body: JSON.parse(body)
          } as never)
          const { data, id, region, subject } = peer as CloudEvent<unknown>
          return [id, subject, region, data]
        })
        assert.deepStrictEqual(read, modes.map((mode) => [mode, event(mode).subject, "eu", { amount: 3 }]))
        yield* Effect.promise(() => client.endAsync())
      }), 60_000)
  }
)
