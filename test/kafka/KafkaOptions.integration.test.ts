import { it } from "@effect/vitest"
import { KafkaAdmin } from "@millrace/kafka"
import type { Kafka as Servers } from "@millrace/testing/servers"
import { Effect, Schedule, Stream } from "effect"
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
  fresh,
  kafkajs,
  optionsOf,
  outgoing,
  quick,
  textOf
} from "./support.ts"

const publishing = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  const round = (producer: NonNullable<ReturnType<typeof optionsOf>["producer"]>) =>
    Effect.gen(function*() {
      const driver = yield* client.driver(optionsOf(kafka(), { producer: { retryFor: "1 second", ...producer } }))
      const channel = fresh("options")
      yield* driver.declare({ channel, partitions: 1 })
      const texts = Array.from({ length: 50 }, (_, i) => `${i} ${"text ".repeat(20)}`)
      yield* driver.publish(texts.map((text) => outgoing(channel, text)))
      const readers = producer.compression === "snappy" || producer.compression === "lz4"
        ? [classic]
        : [kafkajs, classic]
      for (const reader of readers) {
        const found = yield* Effect.provide(contents(channel), reader.layer(optionsOf(kafka()))).pipe(
          // without a confirmation they may still be on their way
          Effect.repeat({
            until: (found) => found.length === texts.length || producer.acks !== "none",
            schedule: Schedule.spaced("50 millis")
          })
        )
        expect(found.map(({ raw }) => textOf(raw))).toEqual(texts)
      }
    }).pipe(Effect.scoped)

  for (const compression of ["zstd", "snappy", "lz4"] as const) {
    it.live(`F17 messages are written with ${compression}, and read, or that is refused with a sentence`, () => {
      if (client.name !== "kafkajs" || compression === "zstd") return round({ compression })
      return Effect.map(Effect.flip(round({ compression })), (error) => {
        expect(error).toMatchObject({ reason: "Unsupported", operation: "publish" })
        expect(error.message).toContain("CompressionCodecs")
      })
    }, 60_000)
  }

  it.live("F17 the leader alone may confirm", () => round({ acks: "leader" }), 60_000)

  it.live(
    "F17 no confirmation is awaited, and nothing hangs, also where the broker refuses a message",
    () =>
      Effect.gen(function*() {
        yield* round({ acks: "none" })
        const driver = yield* client.driver(optionsOf(kafka(), { producer: { acks: "none" } }))
        const channel = fresh("small")
        yield* driver.declare({ channel, partitions: 1, settings: { "max.message.bytes": "2000" } })
        // refused by Kafka, which closes the connection; the next ones go by another
        yield* driver.publish([outgoing(channel, "x".repeat(4000))])
        // what leaves before the client hears of that is lost without an error
        const found = yield* Effect.ignore(driver.publish([outgoing(channel, "small")])).pipe(
          Effect.andThen(Stream.runCollect(driver.browse(channel))),
          Effect.repeat({ until: (found) => found.length > 0, schedule: Schedule.spaced("50 millis") })
        )
        expect(textOf(found[0]!.raw)).toBe("small")
      }).pipe(Effect.scoped),
    60_000
  )
}

const starting = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  it.live("X5 a new group begins at a time, and one that has a position goes on from it", () =>
    Effect.gen(function*() {
      const fromTime = new Date(3000)
      const driver = yield* client.driver(optionsOf(kafka(), { consumer: { ...quick, fromTime } }))
      const channel = fresh("time")
      const group = fresh("group")
      // times of 1970 are beyond any retention by time
      yield* driver.declare({ channel, partitions: 2, settings: { "retention.ms": "-1" } })
      const send = (partition: number, timestamp: number) =>
        driver.publish([outgoing(channel, String(timestamp), { native: { partition, timestamp } })])
      for (const time of [1000, 2999, 3000, 4000]) yield* send(0, time)
      yield* send(1, 2000)
      const first = yield* consuming(driver, { channel, group, from: "earliest" })
      yield* eventually(() => first.recorder.taken.length >= 2)
      yield* send(1, 2500)
      yield* eventually(() => first.recorder.taken.length >= 3)
      expect(first.recorder.texts.sort()).toEqual(["2500", "3000", "4000"])
      yield* first.recorder.lease(0).commit!(4)
      yield* first.stop
      const again = yield* consuming(yield* client.driver(optionsOf(kafka(), { consumer: { ...quick, fromTime } })), {
        channel,
        group
      })
      yield* eventually(() => again.recorder.taken.length >= 1)
      expect(again.recorder.texts).toEqual(["2500"])
      yield* again.stop
      const admin = yield* KafkaAdmin.KafkaAdmin
      yield* admin.move(fresh("moved"), channel, fromTime)
    }).pipe(Effect.scoped, Effect.provide(client.admin(optionsOf(kafka())))), 60_000)
}

const joining = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  it.live(
    "X4 a static member that comes back has its partition again, and stops no other member",
    () =>
      Effect.gen(function*() {
        const group = fresh("group")
        const channel = fresh("static")
        const member = (instanceId: string) => client.driver(optionsOf(kafka(), { consumer: { ...quick, instanceId } }))
        const [one, other] = [yield* member("one"), yield* member("other")]
        yield* one.declare({ channel, partitions: 2 })
        const staying = yield* consuming(one, { channel, group })
        const first = yield* consuming(other, { channel, group })
        const open = ({ recorder }: typeof staying) =>
          recorder.leases.filter(({ closed }) => closed === undefined).map(({ lease }) => lease.partition)
        yield* eventually(() => open(staying).length === 1 && open(first).length === 1)
        const [partition] = open(first)
        const before = staying.recorder.leases.length
        yield* first.stop
        const admin = yield* KafkaAdmin.KafkaAdmin
        expect((yield* admin.describeGroup(group)).members.length).toBe(2)
        const again = yield* consuming(other, { channel, group })
        yield* eventually(() => open(again).length === 1)
        expect(open(again)).toEqual([partition])
        yield* one.publish([0, 1].map((partition) => outgoing(channel, "m", { native: { partition } })))
        yield* eventually(() => staying.recorder.taken.length === 1 && again.recorder.taken.length === 1)
        expect(staying.recorder.leases.length).toBe(before)
      }).pipe(Effect.scoped, Effect.provide(client.admin(optionsOf(kafka())))),
    60_000
  )
}

for (const client of clients) describeKafka(`times by ${client.name}`, starting(client))
for (const client of clients) describeKafka(`producer options by ${client.name}`, publishing(client))
for (const client of [classic, consumer]) describeKafka(`static members by ${client.name}`, joining(client))

describeKafka("options that kafkajs lacks", (kafka) => {
  for (const [option, value] of [["instanceId", "one"], ["rack", "r1"], ["progress", "metadata"]] as const) {
    it.live(`F22 consumer.${option} is refused with a sentence`, () =>
      Effect.gen(function*() {
        const options = optionsOf(kafka(), { consumer: { [option]: value } })
        const error = yield* Effect.flip(Effect.scoped(kafkajs.driver(options)))
        expect(error).toMatchObject({ reason: "Unsupported", operation: "connect" })
        expect(error.message).toContain(`consumer.${option}`)
      }))
  }
})
