import { it } from "@effect/vitest"
import { Address, Broker, Channel, type Driver, Engine, type Message, Subscription } from "@millrace/core"
import { KafkaAdmin } from "@millrace/kafka"
import type { Kafka as Servers } from "@millrace/testing/servers"
import { Effect, Schedule } from "effect"
import { expect } from "vitest"
import { describeKafka } from "../services/describe.ts"
import {
  type Client,
  clients,
  consuming,
  eventually,
  forget,
  fresh,
  grow,
  optionsOf,
  outgoing,
  textOf
} from "./support.ts"

// a topic that is being deleted is there for a while
const patiently = { schedule: Schedule.spaced("100 millis"), times: 100 }

/** Runs a subscription of a new group from the end, and returns the texts that it handles. */
const reading = (driver: Driver.Driver, channel: string, group: string) =>
  Effect.gen(function*() {
    const seen: Array<string> = []
    yield* Subscription.run(
      Subscription.make(
        Channel.bytes(channel),
        { group, name: "h", from: "latest", restart: { base: "50 millis", cap: "200 millis" } },
        (message: Message<Uint8Array>) => Effect.sync(() => void seen.push(textOf(message.payload)))
      )
    ).pipe(Effect.provideService(Broker.Broker, Engine.make(driver)))
    return seen
  })

const beginning = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  const made = Effect.gen(function*() {
    const driver = yield* client.driver(optionsOf(kafka()))
    const channel = fresh("begin")
    yield* driver.declare({ channel, partitions: 1 })
    const publish = (text: string, partition = 0, to = channel) =>
      driver.publish([outgoing(to, text, { native: { partition } })])
    return { driver, channel, publish, options: { channel, group: fresh("group"), from: "latest" } as const }
  })

  /** A group that began at the end, and has done one message. */
  const begun = (
    driver: Driver.Driver,
    options: Parameters<typeof consuming>[1],
    publish: Effect.Effect<void, unknown>
  ) =>
    Effect.gen(function*() {
      const { recorder, stop } = yield* consuming(driver, options)
      yield* Effect.orDie(publish)
      yield* eventually(() => recorder.taken.length === 1)
      yield* recorder.lease(0).commit!(recorder.taken[0]!.position + 1)
      yield* stop
    })

  it.live(
    "X5 partitions that were added while a group was away are read from their first message",
    () =>
      Effect.gen(function*() {
        const { channel, driver, options, publish } = yield* made
        yield* publish("before the group")
        yield* begun(driver, options, publish("first"))
        yield* Effect.promise(() => grow(kafka().brokers, channel, 3))
        yield* publish("added 1", 1)
        yield* publish("added 2", 2)
        // a program that starts again knows nothing but what Kafka tells
        const again = yield* client.driver(optionsOf(kafka()))
        const { recorder, stop } = yield* consuming(again, options)
        yield* eventually(() => recorder.taken.length >= 2)
        expect(recorder.taken.map(({ partition, raw }) => `${partition}: ${textOf(raw)}`).sort()).toEqual(
          ["1: added 1", "2: added 2"]
        )
        yield* stop
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "X5 partitions that are added while a group reads are read soon, from their first message",
    () =>
      Effect.gen(function*() {
        const { channel, driver, options, publish } = yield* made
        const seen = yield* reading(driver, channel, options.group)
        yield* publish("first")
        yield* Effect.promise(() => grow(kafka().brokers, channel, 2))
        yield* publish("added", 1)
        yield* eventually(() => seen.length >= 2)
        expect(seen).toEqual(["first", "added"])
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "F20 topics of a pattern that were made while a group was away are read from their first message",
    () =>
      Effect.gen(function*() {
        const { channel: base, driver, options, publish } = yield* made
        const pattern = Address.pattern(`${base}.{region}.created`)!
        const of = (region: string) => `${base}.${region}.created`
        yield* driver.declare({ channel: of("eu"), partitions: 1 })
        yield* publish("before the group", 0, of("eu"))
        const all = { ...options, channel: pattern.address, pattern }
        yield* begun(driver, all, publish("first", 0, of("eu")))
        yield* driver.declare({ channel: of("us"), partitions: 2 })
        yield* publish("made 0", 0, of("us"))
        yield* publish("made 1", 1, of("us"))
        yield* publish("next", 0, of("eu"))
        const again = yield* client.driver(optionsOf(kafka()))
        const { recorder, stop } = yield* consuming(again, all)
        yield* eventually(() => recorder.taken.length >= 3)
        expect(recorder.texts.sort()).toEqual(["made 0", "made 1", "next"])
        yield* stop
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "F20 the first topic of a pattern that nothing fitted is read from its first message",
    () =>
      Effect.gen(function*() {
        const { channel: base, driver, options, publish } = yield* made
        const pattern = Address.pattern(`${base}.{region}.created`)!
        const { recorder, stop } = yield* consuming(driver, { ...options, channel: pattern.address, pattern })
        yield* driver.declare({ channel: `${base}.eu.created`, partitions: 1 })
        yield* publish("first", 0, `${base}.eu.created`)
        yield* eventually(() => recorder.taken.length === 1)
        expect(recorder.texts).toEqual(["first"])
        yield* stop
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "X5 members of a new group that start at once begin where it ends, in every partition",
    () =>
      Effect.gen(function*() {
        const { driver, options } = yield* made
        const channel = fresh("begin")
        const partitions = 4
        yield* driver.declare({ channel, partitions })
        const each = (text: string) =>
          driver.publish(
            Array.from({ length: partitions }, (_, partition) => outgoing(channel, text, { native: { partition } }))
          )
        yield* each("old")
        const drivers = yield* Effect.forEach([1, 2, 3], () => client.driver(optionsOf(kafka())))
        const members = yield* Effect.forEach(
          drivers,
          (one) => consuming(one, { ...options, channel }),
          { concurrency: "unbounded" }
        )
        yield* each("new")
        const texts = () => members.flatMap(({ recorder }) => recorder.texts)
        yield* eventually(() => texts().filter((text) => text === "new").length >= partitions)
        expect(texts()).not.toContain("old")
        for (const { stop } of members) yield* stop
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "X5 a group that began at the end goes on with the first message that retention left",
    () =>
      Effect.gen(function*() {
        const { channel, driver, options, publish } = yield* made
        yield* begun(driver, options, publish("first"))
        for (let i = 1; i < 10; i++) yield* publish(String(i))
        yield* Effect.promise(() => forget(kafka().brokers, channel, 0, 7))
        const { recorder, stop } = yield* consuming(driver, options)
        yield* eventually(() => recorder.taken.length >= 3)
        expect(recorder.texts).toEqual(["7", "8", "9"])
        yield* stop
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "X5 a topic that is made anew under a group that began at the end is read from its first message, and committed",
    () =>
      Effect.gen(function*() {
        const { channel, driver, options } = yield* made
        const admin = yield* KafkaAdmin.KafkaAdmin
        const seen = yield* reading(driver, channel, options.group)
        const publish = (text: string) => Effect.retry(driver.publish([outgoing(channel, text)]), patiently)
        for (let i = 0; i < 5; i++) yield* publish(`old ${i}`)
        yield* eventually(() => seen.length === 5)
        yield* admin.deleteTopic(channel)
        yield* Effect.retry(driver.declare({ channel, partitions: 1 }), patiently)
        for (let i = 0; i < 3; i++) yield* publish(`new ${i}`)
        yield* eventually(() => new Set(seen).size === 8)
        const committed = Effect.map(admin.lag(options.group, channel), ([found]) => found?.committed === 3)
        yield* Effect.repeat(committed, { until: (isSo) => isSo })
      }).pipe(Effect.scoped, Effect.provide(client.admin(optionsOf(kafka())))),
    60_000
  )
}

for (const client of clients) describeKafka(`where groups begin, by ${client.name}`, beginning(client))
