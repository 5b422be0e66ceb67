import { it } from "@effect/vitest"
import {
  Address,
  Broker,
  Channel,
  type Delivery,
  type Driver,
  Engine,
  type Headers,
  type Message,
  Subscription
} from "@millrace/core"
import { KafkaAdmin, KafkaTransaction } from "@millrace/kafka"
import type { Kafka as Servers } from "@millrace/testing/servers"
import { Effect, Schedule } from "effect"
import * as FastCheck from "fast-check"
import { expect } from "vitest"
import { describeKafka } from "../services/describe.ts"
import {
  classic,
  type Client,
  clients,
  consumer,
  consuming,
  contents,
  eventually,
  forget,
  fresh,
  kafkajs,
  optionsOf,
  outgoing,
  quick,
  textOf
} from "./support.ts"

const each = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  it.live(
    "F20 a pattern reads each topic under a lease of its own, and what is made later from its beginning",
    () =>
      Effect.gen(function*() {
        const driver = yield* client.driver(optionsOf(kafka()))
        const base = fresh("pattern")
        const pattern = Address.pattern(`${base}.{region}.created`)!
        const of = (region: string) => `${base}.${region}.created`
        yield* driver.declare({ channel: of("eu"), partitions: 2 })
        yield* driver.declare({ channel: `${base}.eu.deleted`, partitions: 1 })
        yield* driver.publish([outgoing(of("eu"), "old")])
        const options = { channel: pattern.address, pattern, group: fresh("group"), from: "latest" } as const
        const { recorder, stop } = yield* consuming(driver, options)
        yield* eventually(() => recorder.leases.length >= 2)
        yield* driver.publish([outgoing(of("eu"), "new"), outgoing(`${base}.eu.deleted`, "other")])
        yield* eventually(() => recorder.taken.length > 0)
        yield* driver.declare({ channel: of("us"), partitions: 1 })
        yield* driver.publish([outgoing(of("us"), "first")])
        yield* eventually(() => recorder.texts.includes("first"))
        const open = recorder.leases.filter(({ closed }) => closed === undefined).map(({ lease }) => lease)
        expect(open.map(({ channel, partition }) => `${channel}:${partition}`).sort()).toEqual(
          [`${of("eu")}:0`, `${of("eu")}:1`, `${of("us")}:0`].sort()
        )
        expect(new Set(recorder.taken.map(({ channel, raw }) => `${channel} ${Buffer.from(raw).toString()}`))).toEqual(
          new Set([`${of("eu")} new`, `${of("us")} first`])
        )
        // what was held when the topics changed was given back in order, and not lost
        expect(recorder.leases.filter(({ closed }) => closed === "lost")).toEqual([])
        yield* stop
      }).pipe(Effect.scoped),
    60_000
  )

  it.live("X15 lag counts what a group has not committed, and not what retention took", () =>
    Effect.gen(function*() {
      const driver = yield* client.driver(optionsOf(kafka()))
      const admin = yield* KafkaAdmin.KafkaAdmin
      const channel = fresh("lag")
      const group = fresh("group")
      yield* driver.declare({ channel, partitions: 1 })
      yield* driver.publish(Array.from({ length: 10 }, (_, i) => outgoing(channel, String(i))))
      expect(yield* driver.lag(channel, group)).toEqual([])
      yield* admin.move(group, channel, [{ partition: 0, position: 2 }])
      expect(yield* driver.lag(channel, group)).toEqual([{ partition: 0, messages: 8 }])
      yield* Effect.promise(() => forget(kafka().brokers, channel, 0, 7))
      expect(yield* driver.lag(channel, group)).toEqual([{ partition: 0, messages: 3 }])
      yield* admin.move(group, channel, "latest")
      expect(yield* driver.lag(channel, group)).toEqual([{ partition: 0, messages: 0 }])
      expect(yield* Effect.flip(driver.lag(fresh("missing"), group))).toMatchObject({
        reason: "NotFound",
        operation: "lag"
      })
      yield* driver.check
    }).pipe(Effect.scoped, Effect.provide(client.admin(optionsOf(kafka())))), 60_000)

  it.live("X15 the lag of a group that has not done its first message is all there is", () =>
    Effect.gen(function*() {
      const driver = yield* client.driver(optionsOf(kafka()))
      const channel = fresh("lag")
      const group = fresh("group")
      yield* driver.declare({ channel, partitions: 2 })
      yield* driver.publish(
        [0, 0, 1].map((partition) => outgoing(channel, "stuck", { native: { partition } }))
      )
      const { recorder, stop } = yield* consuming(driver, { channel, group })
      yield* eventually(() => recorder.taken.length === 3)
      const lag = [{ partition: 0, messages: 2 }, { partition: 1, messages: 1 }]
      expect(yield* driver.lag(channel, group)).toEqual(lag)
      yield* recorder.lease(1).commit!(1)
      expect(yield* driver.lag(channel, group)).toEqual([lag[0], { partition: 1, messages: 0 }])
      expect(yield* driver.lag(channel, fresh("stranger"))).toEqual([])
      yield* stop
    }).pipe(Effect.scoped), 60_000)

  it.live(
    "X15 nothing is left to a group that has done all messages of transactions, aborted or not",
    () =>
      Effect.gen(function*() {
        const driver = yield* client.driver(optionsOf(kafka()))
        const { publish } = yield* KafkaTransaction.KafkaTransaction
        const [channel, small, group] = [fresh("lag"), fresh("small"), fresh("group")]
        yield* driver.declare({ channel, partitions: 1 })
        yield* driver.declare({ channel: small, partitions: 1, settings: { "max.message.bytes": "1000" } })
        const seen: Array<string> = []
        yield* Subscription.run(Subscription.make(
          Channel.bytes(channel),
          { group, name: "h" },
          (message: Message<Uint8Array>) => Effect.sync(() => void seen.push(textOf(message.payload)))
        )).pipe(Effect.provideService(Broker.Broker, Engine.make(driver)))
        for (const text of ["a", "b"]) yield* publish([outgoing(channel, text)])
        yield* eventually(() => seen.length === 2)
        const behind = Effect.map(
          driver.lag(channel, group),
          (lag) => lag.reduce((sum, { messages }) => sum + messages, 0)
        )
        const caughtUp = Effect.repeat(behind, { until: (messages) => messages === 0 })
        yield* caughtUp
        yield* Effect.flip(publish([outgoing(channel, "aborted"), outgoing(small, "x".repeat(5000))]))
        yield* caughtUp
        yield* publish([outgoing(channel, "c")])
        yield* eventually(() => seen.length === 3)
        yield* caughtUp
      }).pipe(
        Effect.scoped,
        Effect.provide(client.transaction({ ...optionsOf(kafka()), transactionalId: fresh("transactional") }))
      ),
    60_000
  )

  it.live(
    "a group whose next message retention took goes on with the first that is left",
    () =>
      Effect.gen(function*() {
        const driver = yield* client.driver(optionsOf(kafka()))
        const admin = yield* KafkaAdmin.KafkaAdmin
        const channel = fresh("retention")
        const group = fresh("group")
        yield* driver.declare({ channel, partitions: 1 })
        yield* driver.publish(Array.from({ length: 10 }, (_, i) => outgoing(channel, String(i))))
        yield* admin.move(group, channel, [{ partition: 0, position: 2 }])
        yield* Effect.promise(() => forget(kafka().brokers, channel, 0, 7))
        const { recorder, stop } = yield* consuming(driver, { channel, group })
        yield* eventually(() => recorder.taken.length === 3)
        expect(recorder.texts).toEqual(["7", "8", "9"])
        yield* stop
      }).pipe(Effect.scoped, Effect.provide(client.admin(optionsOf(kafka())))),
    60_000
  )
}

for (const client of clients) describeKafka(`Kafka's topics by ${client.name}`, each(client))

/** What a reader sees of a message; names in the order of their first field, which is all that kafkajs tells. */
const seen = (delivery: Delivery) => {
  const fields = new Map<string, Array<string | null>>()
  for (const [name, value] of delivery.fields) {
    const hex = value === null ? null : Buffer.from(value).toString("hex")
    fields.set(name, [...fields.get(name) ?? [], hex])
  }
  return {
    body: Buffer.from(delivery.raw).toString("hex"),
    tombstone: delivery.tombstone,
    key: delivery.keyBytes === undefined ? undefined : Buffer.from(delivery.keyBytes).toString("hex"),
    fields: Array.from(fields).sort(([a], [b]) => a < b ? -1 : 1),
    headers: Object.entries(delivery.headers).sort(([a], [b]) => a < b ? -1 : 1),
    partition: delivery.partition,
    position: delivery.position,
    timestamp: delivery.timestamp
  }
}

const messages = FastCheck.array(
  FastCheck.record({
    body: FastCheck.uint8Array({ maxLength: 40 }),
    tombstone: FastCheck.boolean(),
    key: FastCheck.option(FastCheck.uint8Array({ maxLength: 12 }), { nil: undefined }),
    fields: FastCheck.array(
      FastCheck.tuple(
        FastCheck.string({ minLength: 1, maxLength: 6, unit: "binary" }),
        FastCheck.option(FastCheck.uint8Array({ maxLength: 12 }), { nil: null })
      ),
      { maxLength: 4 }
    )
  }),
  { minLength: 1, maxLength: 60 }
)

describeKafka("the fetches of Kafka by platformatic", (kafka) => {
  // the broker answers in the order in which it is asked, which may be either
  for (const [large, other] of [[0, 1], [1, 0]] as const) {
    it.live(
      `T16 partition ${large}, whose batch is above the limit, does not wait for the backlog of ${other}`,
      () =>
        Effect.gen(function*() {
          const driver = yield* classic.driver(optionsOf(kafka(), { consumer: { ...quick, partitionBytes: 1000 } }))
          const channel = fresh("large")
          yield* driver.declare({ channel, partitions: 2 })
          const backlog = 200
          // each is a batch of its own, and an answer holds one of them
          for (let i = 0; i < backlog; i++) {
            yield* driver.publish([outgoing(channel, "x".repeat(900), { native: { partition: other } })])
          }
          yield* driver.publish([outgoing(channel, "y".repeat(5000), { native: { partition: large } })])
          const { recorder, stop } = yield* consuming(driver, { channel, group: fresh("group") })
          yield* eventually(() => recorder.taken.length === backlog + 1)
          expect(recorder.taken.findIndex(({ partition }) => partition === large)).toBeLessThan(backlog / 2)
          yield* stop
        }).pipe(Effect.scoped),
      60_000
    )
  }
})

describeKafka("F17 the clients of Kafka agree", (kafka) => {
  for (const compression of ["none", "gzip"] as const) {
    it.live(
      `on keys, headers, bodies and times of whatever either writes, with compression ${compression}`,
      () =>
        Effect.promise(() =>
          FastCheck.assert(
            FastCheck.asyncProperty(messages, (given) =>
              Effect.runPromise(
                Effect.gen(function*() {
                  const options = optionsOf(kafka(), { producer: { compression } })
                  for (const writer of [kafkajs, classic]) {
                    const channel = fresh("agree")
                    const native = given.map(({ body, fields, key, tombstone }) =>
                      outgoing(channel, body, {
                        native: {
                          fields: fields as ReadonlyArray<Headers.Field>,
                          tombstone,
                          ...(key === undefined ? {} : { keyBytes: key })
                        }
                      })
                    )
                    const write = Effect.gen(function*() {
                      const broker = yield* Broker.Broker
                      yield* broker.declare({ channel, partitions: 1 })
                      yield* broker.publishAll(native)
                    })
                    yield* Effect.provide(write, writer.layer(options))
                    const [one, other] = yield* Effect.forEach(
                      [kafkajs, classic],
                      (reader) => Effect.provide(contents(channel), reader.layer(options))
                    )
                    expect(other!.map(seen)).toEqual(one!.map(seen))
                    expect(other!.map(({ raw }) => Buffer.from(raw).toString("hex"))).toEqual(
                      given.map(({ body, tombstone }) => tombstone ? "" : Buffer.from(body).toString("hex"))
                    )
                    // the order between names, too
                    expect(other!.map(({ fields }) => fields.map(([name]) => name))).toEqual(
                      given.map(({ fields }) => fields.map(([name]) => name))
                    )
                  }
                })
              )),
            { numRuns: 6 }
          )
        ),
      120_000
    )
  }

  it.live("on the partition of each key", () =>
    Effect.gen(function*() {
      const channel = fresh("partitions")
      const keys = FastCheck.sample(FastCheck.uint8Array({ maxLength: 20 }), 500)
      const places = yield* Effect.forEach([kafkajs, classic], (writer) =>
        Effect.gen(function*() {
          const broker = yield* Broker.Broker
          const of = `${channel}-${writer.name.replace(" ", "-")}`
          yield* broker.declare({ channel: of, partitions: 7 })
          yield* broker.publishAll(keys.map((keyBytes, i) => outgoing(of, String(i), { native: { keyBytes } })))
          const found = yield* contents(of)
          return new Map(found.map(({ partition, raw }) => [Buffer.from(raw).toString(), partition]))
        }).pipe(Effect.provide(writer.layer(optionsOf(kafka())))))
      expect(places[0]!.size).toBe(500)
      expect(places[1]).toEqual(places[0])
    }), 60_000)

  it.live("X4 on one group, whose partitions members of both share", () =>
    Effect.gen(function*() {
      const channel = fresh("mixed")
      const group = fresh("group")
      // as the engine does: kafkajs ends where the assignment changes just after a join
      const restarted = (driver: Driver.Driver): Driver.Driver => ({
        ...driver,
        consume: (options, sink) =>
          Effect.retry(Effect.scoped(driver.consume(options, sink)), {
            schedule: Schedule.spaced("100 millis"),
            while: ({ reason }) => reason === "Lost"
          })
      })
      const one = restarted(yield* kafkajs.driver(optionsOf(kafka())))
      const other = restarted(yield* classic.driver(optionsOf(kafka())))
      yield* one.declare({ channel, partitions: 4 })
      for (const [first, second] of [[one, other], [other, one]] as const) {
        const a = yield* consuming(first, { channel, group })
        const b = yield* consuming(second, { channel, group })
        const open = ({ recorder }: typeof a) => recorder.leases.filter(({ closed }) => closed === undefined)
        yield* eventually(() => open(a).length === 2 && open(b).length === 2)
        const partitions = [...open(a), ...open(b)].map(({ lease }) => lease.partition)
        expect(partitions.sort()).toEqual([0, 1, 2, 3])
        yield* b.stop
        yield* eventually(() => open(a).length === 4)
        yield* a.stop
      }
    }).pipe(Effect.scoped), 60_000)

  it.live("that only a Kafka that knows the protocol is asked for it", () =>
    Effect.gen(function*() {
      const driver = yield* consumer.driver(optionsOf(kafka()))
      const channel = fresh("protocols")
      const group = fresh("group")
      yield* driver.declare({ channel, partitions: 2 })
      const { recorder, stop } = yield* consuming(driver, { channel, group })
      yield* eventually(() => recorder.leases.length === 2)
      const admin = yield* KafkaAdmin.KafkaAdmin
      expect(yield* admin.describeGroup(group)).toMatchObject({ state: "Stable", members: [{ clientId: "millrace" }] })
      yield* stop
    }).pipe(Effect.scoped, Effect.provide(consumer.admin(optionsOf(kafka())))), 60_000)
})
