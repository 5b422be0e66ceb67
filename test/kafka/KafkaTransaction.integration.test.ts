import { it } from "@effect/vitest"
import { Broker, Channel, type Driver, Lanes, type Message, Subscription } from "@millrace/core"
import { KafkaAdmin, KafkaTransaction } from "@millrace/kafka"
import type { Kafka as Servers } from "@millrace/testing/servers"
import { Effect, Layer, Stream } from "effect"
import { expect } from "vitest"
import { describeKafka } from "../services/describe.ts"
import {
  classic,
  type Client,
  consumer,
  consuming,
  contents,
  eventually,
  fresh,
  kafkajs,
  optionsOf,
  outgoing,
  textOf
} from "./support.ts"

const inTransactions = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  const transactions = (transactionalId: string) => client.transaction({ ...optionsOf(kafka()), transactionalId })
  const layers = () =>
    Layer.mergeAll(
      client.layer(optionsOf(kafka())),
      client.admin(optionsOf(kafka())),
      transactions(fresh("transactional"))
    )

  const made = Effect.gen(function*() {
    const admin = yield* KafkaAdmin.KafkaAdmin
    const [from, to, other] = [fresh("from"), fresh("to"), fresh("other")]
    for (const channel of [from, to, other]) yield* admin.declare({ channel, partitions: 2 })
    return { admin, from, to, other, group: fresh("group") }
  })

  /** What a member took, which still is one. */
  const taken = (channel: string, group: string, count: number, options?: Partial<Driver.ConsumeOptions>) =>
    Effect.gen(function*() {
      const driver = yield* client.driver(optionsOf(kafka()))
      const { recorder, stop } = yield* consuming(driver, { ...options, channel, group })
      yield* eventually(() => recorder.taken.length >= count)
      return { after: recorder.taken, stop, recorder }
    })

  // a transaction is committed a little before its partitions are told, and read from then on
  const readable = (channel: string, count: number) =>
    Effect.repeat(contents(channel), { until: (found) => found.length >= count })

  const texts = (channel: string, count = 1) =>
    Effect.map(readable(channel, count), (found) => found.map((delivery) => textOf(delivery.raw)).sort())

  it.live("messages of several topics and the group's position are written together", () =>
    Effect.gen(function*() {
      const { admin, from, group, other, to } = yield* made
      const broker = yield* Broker.Broker
      const { publish } = yield* KafkaTransaction.KafkaTransaction
      yield* broker.publishAll(["0", "1", "2"].map((text) => outgoing(from, text, { key: "same" })))
      const { after } = yield* taken(from, group, 3)
      yield* publish([outgoing(to, "a"), outgoing(other, "b"), outgoing(to, "c")], { after: after.slice(0, 2) })
      expect(yield* texts(to, 2)).toEqual(["a", "c"])
      expect(yield* texts(other)).toEqual(["b"])
      const lag = yield* admin.lag(group, from)
      expect(lag.filter(({ high }) => high > 0)).toMatchObject([{ committed: 2, high: 3, lag: 1 }])
      yield* publish([], { after })
      expect((yield* admin.lag(group, from)).filter(({ high }) => high > 0)).toMatchObject([{ committed: 3, lag: 0 }])
      yield* publish([])
    }).pipe(Effect.scoped, Effect.provide(layers())), 60_000)

  it.live(
    "where one message is refused none is read, no position moves, and the next transaction works",
    () =>
      Effect.gen(function*() {
        const { admin, from, group, to } = yield* made
        const broker = yield* Broker.Broker
        const { publish } = yield* KafkaTransaction.KafkaTransaction
        const small = fresh("small")
        yield* admin.declare({ channel: small, partitions: 1, settings: { "max.message.bytes": "1000" } })
        yield* broker.publish(outgoing(from, "0"))
        const { after } = yield* taken(from, group, 1)
        const error = yield* Effect.flip(
          publish([outgoing(to, "aborted"), outgoing(small, "x".repeat(5000))], { after })
        )
        expect(error).toMatchObject({ reason: "TooLarge", operation: "publish" })
        yield* publish([outgoing(to, "committed")])
        expect(yield* texts(to)).toEqual(["committed"])
        expect((yield* admin.lag(group, from)).map(({ committed }) => committed)).toEqual([undefined, undefined])
      }).pipe(Effect.scoped, Effect.provide(layers())),
    60_000
  )

  it.live("callers at once take turns", () =>
    Effect.gen(function*() {
      const { to } = yield* made
      const { publish } = yield* KafkaTransaction.KafkaTransaction
      const all = Array.from({ length: 20 }, (_, i) => `t${String(i).padStart(2, "0")}`)
      yield* Effect.forEach(all, (text) => publish([outgoing(to, text)]), { concurrency: "unbounded", discard: true })
      expect(yield* texts(to, all.length)).toEqual(all)
    }).pipe(Effect.provide(layers())), 60_000)

  it.live("a second producer of the name fences off the first, which is told", () =>
    Effect.gen(function*() {
      const { to } = yield* made
      const id = fresh("transactional")
      const first = yield* Layer.build(transactions(id))
      const publish = (text: string) =>
        Effect.flatMap(KafkaTransaction.KafkaTransaction, ({ publish }) => publish([outgoing(to, text)]))
      yield* publish("one").pipe(Effect.provide(first))
      const second = yield* Layer.build(transactions(id))
      yield* publish("two").pipe(Effect.provide(second))
      const error = yield* Effect.flip(publish("three").pipe(Effect.provide(first)))
      expect(error).toMatchObject({ reason: "Lost" })
      expect(error.message).toContain("Another producer has taken over this transactional id")
      expect(yield* texts(to, 2)).toEqual(["one", "two"])
    }).pipe(Effect.scoped, Effect.provide(layers())), 60_000)

  it.live("it says what it promises of positions", () =>
    Effect.gen(function*() {
      const { guarantee } = yield* KafkaTransaction.KafkaTransaction
      expect(guarantee).toBe(client.name === "kafkajs" ? "at least once" : "exactly once")
    }).pipe(Effect.provide(layers())), 60_000)

  it.live("a member whose partition is another member's by now publishes nothing", () =>
    Effect.gen(function*() {
      const { admin, from, group, to } = yield* made
      const broker = yield* Broker.Broker
      const { publish } = yield* KafkaTransaction.KafkaTransaction
      yield* broker.publish(outgoing(from, "0"))
      // it hears of nothing, as a process that is suspended
      const deaf = yield* client.driver(optionsOf(kafka(), {
        consumer: { heartbeatInterval: "20 seconds", sessionTimeout: "60 seconds", maximumWait: "5 seconds" }
      }))
      const first = yield* consuming(deaf, { channel: from, group })
      yield* eventually(() => first.recorder.taken.length === 1)
      yield* Effect.promise(() => client.removeMembers(kafka().brokers, group))
      const second = yield* taken(from, group, 1)
      yield* publish([outgoing(to, "by the second")], second)
      const error = yield* Effect.flip(publish([outgoing(to, "by the first")], { after: first.recorder.taken }))
      expect(error).toMatchObject({ reason: "Lost", operation: "publish" })
      yield* publish([outgoing(to, "next")])
      expect(yield* texts(to, 2)).toEqual(["by the second", "next"])
      expect((yield* admin.lag(group, from)).reduce((sum, { lag }) => sum + lag, 0)).toBe(0)
    }).pipe(Effect.scoped, Effect.provide(layers())), 60_000)

  it.live("a group that was left is not moved", () =>
    Effect.gen(function*() {
      const { from, group, to } = yield* made
      const broker = yield* Broker.Broker
      const { publish } = yield* KafkaTransaction.KafkaTransaction
      yield* broker.publish(outgoing(from, "0"))
      const { after, stop } = yield* taken(from, group, 1)
      yield* stop
      expect(yield* Effect.flip(publish([outgoing(to, "aborted")], { after }))).toMatchObject({ reason: "Lost" })
      yield* publish([outgoing(to, "next")])
      expect(yield* texts(to)).toEqual(["next"])
    }).pipe(Effect.scoped, Effect.provide(layers())), 60_000)

  it.live(
    "messages that came by lanes other than partition, or from elsewhere, are refused",
    () =>
      Effect.gen(function*() {
        const { from, group, to } = yield* made
        const broker = yield* Broker.Broker
        const { publish } = yield* KafkaTransaction.KafkaTransaction
        yield* broker.publish(outgoing(from, "0"))
        for (const lanes of ["key", "unordered"] as const) {
          const { after, stop } = yield* taken(from, `${group}-${lanes}`, 1, { lanes })
          const error = yield* Effect.flip(publish([outgoing(to, "never")], { after }))
          expect(error).toMatchObject({ reason: "Invalid", operation: "publish" })
          expect(error.message).toContain("Lanes.partition")
          yield* stop
        }
        const error = yield* Effect.flip(publish([outgoing(to, "never")], { after: yield* contents(from) }))
        expect(error).toMatchObject({ reason: "Invalid", operation: "publish" })
        expect(error.message).toContain("message.delivery")
        expect(yield* contents(to)).toEqual([])
      }).pipe(Effect.scoped, Effect.provide(layers())),
    60_000
  )

  it.live("a handler publishes and moves its group, message by message", () =>
    Effect.gen(function*() {
      const { admin, from, group, to } = yield* made
      const broker = yield* Broker.Broker
      const { publish } = yield* KafkaTransaction.KafkaTransaction
      yield* Subscription.run(Subscription.make(
        Channel.bytes(from),
        { group, name: "copy", lanes: Lanes.partition },
        (message: Message<Uint8Array>) =>
          publish([outgoing(to, textOf(message.payload))], { after: [message.delivery] })
      ))
      const all = Array.from({ length: 10 }, (_, i) => String(i))
      yield* broker.publishAll(all.map((text) => outgoing(from, text, { key: text })))
      expect(yield* texts(to, 10)).toEqual(all)
      yield* Effect.repeat(admin.lag(group, from), { until: (found) => found.every(({ lag }) => lag === 0) })
    }).pipe(Effect.scoped, Effect.provide(layers())), 60_000)

  it.live("an empty name is refused", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Effect.scoped(Layer.build(transactions(""))))
      expect(error).toMatchObject({ reason: "Invalid" })
    }))
}

const lookingAfter = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  it.live(
    "browsing reads what is there and nothing more, consumes nothing and leaves nothing",
    () =>
      Effect.gen(function*() {
        const broker = yield* Broker.Broker
        const admin = yield* KafkaAdmin.KafkaAdmin
        const channel = fresh("browse")
        yield* broker.declare({ channel, partitions: 3 })
        expect(yield* Stream.runCollect(broker.browse(channel))).toEqual([])
        const all = Array.from({ length: 5000 }, (_, i) => outgoing(channel, `${i}`.padEnd(500), { key: String(i) }))
        yield* broker.publishAll(all)
        const before = yield* admin.groups
        let first = true
        const found = yield* Stream.runCollect(
          broker.browse(channel).pipe(Stream.tap(() => {
            if (!first) return Effect.void
            first = false
            return broker.publish(outgoing(channel, "later"))
          }))
        )
        expect(found.length).toBe(5000)
        for (let partition = 0; partition < 3; partition++) {
          const positions = found.filter((each) => each.partition === partition).map(({ position }) => position)
          expect(positions).toEqual(positions.map((_, index) => index))
        }
        const some = yield* Stream.runCollect(Stream.take(broker.browse(channel), 10))
        expect(some.length).toBe(10)
        const added = (yield* admin.groups).filter((group) => !before.includes(group))
        expect(added.filter((group) => group.startsWith("millrace-browse"))).toEqual([])
        const error = yield* Effect.flip(Stream.runDrain(broker.browse(fresh("missing"))))
        expect(error).toMatchObject({ reason: "NotFound", operation: "browse" })
      }).pipe(Effect.provide(Layer.merge(client.layer(optionsOf(kafka())), client.admin(optionsOf(kafka()))))),
    60_000
  )

  it.live(
    "browsing ends where a topic ends in marks of transactions, and where offsets have gaps",
    () =>
      Effect.gen(function*() {
        const broker = yield* Broker.Broker
        const { publish } = yield* KafkaTransaction.KafkaTransaction
        const channel = fresh("marks")
        const small = fresh("small")
        yield* broker.declare({ channel, partitions: 1 })
        yield* broker.declare({ channel: small, partitions: 1, settings: { "max.message.bytes": "1000" } })
        yield* publish([outgoing(channel, "a"), outgoing(channel, "b")])
        yield* Effect.flip(publish([outgoing(channel, "aborted"), outgoing(small, "x".repeat(5000))]))
        yield* publish([outgoing(channel, "c")])
        const found = yield* Effect.repeat(contents(channel), { until: (found) => found.length >= 3 })
        expect(found.map((delivery) => textOf(delivery.raw))).toEqual(["a", "b", "c"])
        expect(found.at(-1)!.position).toBeGreaterThan(3)
      }).pipe(
        Effect.provide(Layer.merge(
          client.layer(optionsOf(kafka())),
          client.transaction({ ...optionsOf(kafka()), transactionalId: fresh("transactional") })
        ))
      ),
    60_000
  )

  it.live("topics and groups are made, listed, moved and deleted", () =>
    Effect.gen(function*() {
      const broker = yield* Broker.Broker
      const admin = yield* KafkaAdmin.KafkaAdmin
      const channel = fresh("admin")
      const group = fresh("group")
      yield* admin.declare({ channel, partitions: 2, settings: { "retention.ms": "3600000" } })
      expect(yield* admin.topics).toContain(channel)
      yield* broker.publishAll(Array.from({ length: 10 }, (_, i) => outgoing(channel, String(i), { key: "same" })))
      const positions = yield* admin.positions(channel)
      expect(positions.map(({ partition }) => partition)).toEqual([0, 1])
      expect(positions.map(({ high }) => high).sort()).toEqual([0, 10])
      const at = positions.find(({ high }) => high === 10)!.partition
      const committed = () => Effect.map(admin.lag(group, channel), (lag) => lag[at]!)
      expect(yield* committed()).toEqual({ partition: at, committed: undefined, low: 0, high: 10, lag: 10 })
      yield* admin.move(group, channel, [{ partition: at, position: 4 }])
      expect(yield* committed()).toMatchObject({ committed: 4, lag: 6 })
      yield* admin.move(group, channel, "latest")
      expect(yield* committed()).toMatchObject({ lag: 0 })
      yield* admin.move(group, channel, "earliest")
      expect(yield* committed()).toMatchObject({ lag: 10 })
      expect(yield* admin.describeGroup(group)).toEqual({ group, state: "Empty", members: [] })
      expect(yield* admin.groups).toContain(group)
      yield* admin.deleteGroup(group)
      expect(yield* admin.groups).not.toContain(group)
      yield* admin.deleteTopic(channel)
      expect(yield* admin.topics).not.toContain(channel)
      for (const again of [admin.deleteTopic(channel), admin.positions(channel), admin.lag(group, channel)]) {
        expect(yield* Effect.flip(again)).toMatchObject({ reason: "NotFound" })
      }
    }).pipe(Effect.provide(Layer.merge(client.layer(optionsOf(kafka())), client.admin(optionsOf(kafka()))))), 60_000)
}

for (const client of [kafkajs, classic, consumer]) {
  describeKafka(`Kafka transactions by ${client.name}`, inTransactions(client))
}

for (const client of [kafkajs, classic]) {
  describeKafka(`browsing and looking after Kafka by ${client.name}`, lookingAfter(client))
}
