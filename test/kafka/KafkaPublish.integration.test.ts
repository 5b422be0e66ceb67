import { it } from "@effect/vitest"
import { Broker } from "@millrace/core"
import type { Kafka as Servers } from "@millrace/testing/servers"
import { Effect, Exit } from "effect"
import { Kafka as KafkaJs, logLevel, Partitioners } from "kafkajs"
import { expect } from "vitest"
import { describeKafka } from "../services/describe.ts"
import { bytes, classic, type Client, contents, fresh, kafkajs, optionsOf, outgoing, textOf } from "./support.ts"

const declared = (partitions: number) =>
  Effect.gen(function*() {
    const broker = yield* Broker.Broker
    const channel = fresh("publish")
    yield* broker.declare({ channel, partitions })
    return { broker, channel }
  })

const publishing = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  it.live("keeps body, key, headers and native fields, byte for byte", () =>
    Effect.gen(function*() {
      const { broker, channel } = yield* declared(1)
      const fields = [
        ["Trace", bytes("one")],
        ["binary", new Uint8Array([0, 255, 128])],
        ["Trace", bytes("two")],
        ["nothing", null],
        ["empty", new Uint8Array(0)],
        ["2", bytes("digit")],
        ["constructor", bytes("inherited")],
        ["__proto__", null]
      ] as const
      yield* broker.publishAll([
        outgoing(channel, new Uint8Array([255, 0, 1]), { key: "κλειδί", headers: { "content-type": "a/b", x: "ü" } }),
        outgoing(channel, "fields", {
          headers: { trace: "replaced", own: "kept" },
          native: { keyBytes: new Uint8Array([255, 1]), fields }
        }),
        outgoing(channel, "gone", { key: "k", native: { tombstone: true } }),
        outgoing(channel, "")
      ])
      const [first, second, third, fourth] = yield* contents(channel)
      expect(Array.from(first!.raw)).toEqual([255, 0, 1])
      expect(first!.key).toBe("κλειδί")
      expect({ ...first!.headers }).toEqual({ "content-type": "a/b", x: "ü" })
      expect(first!.timestamp).toBeTypeOf("number")

      expect(Array.from(second!.keyBytes!)).toEqual([255, 1])
      const named = (name: string) =>
        second!.fields.filter(([each]) => each === name).map(([, value]) => value === null ? null : Array.from(value))
      for (const name of ["Trace", "binary", "nothing", "empty", "2"]) {
        expect(named(name)).toEqual(
          fields.filter(([each]) => each === name).map(([, value]) => value === null ? null : Array.from(value))
        )
      }
      expect(named("own")).toEqual([Array.from(bytes("kept"))])
      expect(named("trace")).toEqual([])
      // kafkajs takes what an object inherits for an earlier header of the name; it must not reach anybody
      expect(named("constructor")).toEqual([Array.from(bytes("inherited"))])
      expect(named("__proto__")).toEqual([null])
      expect(second!.headers["trace"]).toBe("one")

      expect(third!.tombstone).toBe(true)
      expect(third!.raw.length).toBe(0)
      expect(third!.key).toBe("k")
      expect(fourth!.tombstone).toBe(false)
      expect(fourth!.key).toBeUndefined()
    }).pipe(Effect.provide(client.layer(optionsOf(kafka())))))

  it.live("what one caller publishes keeps its order, over many requests", () =>
    Effect.gen(function*() {
      const { broker, channel } = yield* declared(1)
      const body = "x".repeat(1000)
      const all = Array.from({ length: 3000 }, (_, i) => `${i}-${body}`)
      yield* broker.publishAll(all.map((text) => outgoing(channel, text)))
      expect((yield* contents(channel)).map((delivery) => textOf(delivery.raw))).toEqual(all)
    }).pipe(Effect.provide(client.layer(optionsOf(kafka())))))

  it.live("keys go where Java's clients put them", () =>
    Effect.gen(function*() {
      const { broker, channel } = yield* declared(7)
      const keys = Array.from({ length: 200 }, (_, i) => `key-${i}`)
      yield* broker.publishAll(keys.map((key) => outgoing(channel, key, { key })))
      const partitionMetadata = Array.from({ length: 7 }, (_, partitionId) => ({
        partitionErrorCode: 0,
        partitionId,
        leader: 1,
        replicas: [1],
        isr: [1]
      }))
      const choose = Partitioners.DefaultPartitioner()
      for (const delivery of yield* contents(channel)) {
        const message = { key: Buffer.from(delivery.keyBytes!), value: null }
        expect(delivery.partition).toBe(choose({ topic: channel, partitionMetadata, message }))
      }
    }).pipe(Effect.provide(client.layer(optionsOf(kafka())))))

  it.live("many callers at once share requests, and each is confirmed", () =>
    Effect.gen(function*() {
      const { broker, channel } = yield* declared(4)
      yield* Effect.forEach(
        Array.from({ length: 5000 }, (_, i) => String(i)),
        (text) => broker.publish(outgoing(channel, text, { key: text })),
        { concurrency: "unbounded", discard: true }
      )
      const found = (yield* contents(channel)).map((delivery) => Number(textOf(delivery.raw)))
      expect(found.sort((a, b) => a - b)).toEqual(Array.from({ length: 5000 }, (_, i) => i))
    }).pipe(Effect.provide(client.layer(optionsOf(kafka())))))

  it.live("a topic that is missing is refused at once, and no other caller's message with it", () =>
    Effect.gen(function*() {
      const { broker, channel } = yield* declared(1)
      const missing = fresh("missing")
      const started = performance.now()
      const exits = yield* Effect.forEach(
        [outgoing(channel, "a"), outgoing(missing, "b"), outgoing(channel, "c"), outgoing("not a name!", "d")],
        (message) => Effect.exit(broker.publish(message)),
        { concurrency: "unbounded" }
      )
      expect(performance.now() - started).toBeLessThan(10_000)
      expect(exits.map(Exit.isSuccess)).toEqual([true, false, true, false])
      const error = yield* Effect.flip(broker.publish(outgoing(missing, "b")))
      expect(error).toMatchObject({ reason: "NotFound", failure: "permanent", operation: "publish", system: "kafka" })
      expect(error.message).toBe(`The topic ${missing} does not exist: declare it, or set missingTopics to "create".`)
      const name = yield* Effect.flip(broker.publish(outgoing("not a name!", "d")))
      expect(name).toMatchObject({ reason: "Invalid" })
      expect(name.message).toContain("at most 249 letters")
      expect((yield* contents(channel)).map((delivery) => textOf(delivery.raw)).sort()).toEqual(["a", "c"])
    }).pipe(Effect.provide(client.layer(optionsOf(kafka())))))

  it.live("a topic that is missing is made where that was asked for", () =>
    Effect.gen(function*() {
      const broker = yield* Broker.Broker
      const channel = fresh("made")
      yield* broker.publish(outgoing(channel, "a"))
      expect((yield* contents(channel)).map((delivery) => textOf(delivery.raw))).toEqual(["a"])
    }).pipe(Effect.provide(client.layer(optionsOf(kafka(), { missingTopics: "create" })))))

  it.live("a message that is too large fails alone, and what follows is neither lost nor written twice", () =>
    Effect.gen(function*() {
      const broker = yield* Broker.Broker
      const channel = fresh("small")
      yield* broker.declare({ channel, partitions: 1, settings: { "max.message.bytes": "2000" } })
      const error = yield* Effect.flip(broker.publish(outgoing(channel, "x".repeat(3000))))
      expect(error).toMatchObject({ reason: "TooLarge", failure: "permanent" })
      expect(error.message).toContain(`A message for ${channel} is larger than the topic takes`)
      // together they are larger than the topic takes, alone they are not
      const all = Array.from({ length: 40 }, (_, i) => `${i}`.padEnd(150, "."))
      yield* broker.publishAll(all.map((text) => outgoing(channel, text)))
      const together = yield* Effect.forEach(
        ["a", "y".repeat(3000), "b"],
        (text) => Effect.exit(broker.publish(outgoing(channel, text))),
        { concurrency: "unbounded" }
      )
      expect(together.map(Exit.isSuccess)).toEqual([true, false, true])
      expect((yield* contents(channel)).map((delivery) => textOf(delivery.raw))).toEqual([...all, "a", "b"])
    }).pipe(Effect.provide(client.layer(optionsOf(kafka())))))

  it.live("a body that no request can hold is refused without being sent", () =>
    Effect.gen(function*() {
      const { broker, channel } = yield* declared(1)
      const error = yield* Effect.flip(broker.publish(outgoing(channel, new Uint8Array(101 * 1024 * 1024))))
      expect(error).toMatchObject({ reason: "TooLarge" })
      expect(error.message).toContain("100 MiB")
      yield* broker.publish(outgoing(channel, "after"))
    }).pipe(Effect.provide(client.layer(optionsOf(kafka())))))

  it.live("compresses where it is told to", () =>
    Effect.gen(function*() {
      const { broker, channel } = yield* declared(1)
      const text = "compressible ".repeat(1000)
      yield* broker.publishAll([outgoing(channel, text), outgoing(channel, text)])
      const admin = new KafkaJs({ brokers: kafka().brokers, logLevel: logLevel.NOTHING }).admin()
      yield* Effect.promise(() => admin.connect())
      yield* Effect.promise(() => admin.disconnect())
      expect((yield* contents(channel)).map((delivery) => textOf(delivery.raw))).toEqual([text, text])
    }).pipe(Effect.provide(client.layer(optionsOf(kafka(), { producer: { compression: "gzip" } })))))

  it.live("closing the layer writes what has gathered", () =>
    Effect.gen(function*() {
      const { channel } = yield* declared(1)
      yield* Effect.gen(function*() {
        const driver = yield* client.driver(optionsOf(kafka()))
        for (let i = 0; i < 100; i++) {
          yield* Effect.forkDetach(driver.publish([outgoing(channel, String(i))]), { startImmediately: true })
        }
      }).pipe(Effect.scoped)
      expect(yield* contents(channel)).toHaveLength(100)
    }).pipe(Effect.provide(client.layer(optionsOf(kafka())))))
}

for (const client of [kafkajs, classic]) describeKafka(`F17 publishing to Kafka by ${client.name}`, publishing(client))
