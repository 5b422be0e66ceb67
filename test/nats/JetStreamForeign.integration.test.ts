/** What other programs and operations have written or set up, and what this library leaves behind. */
import { expect, it } from "@effect/vitest"
import {
  Broker,
  Channel,
  DeadLetters,
  Decode,
  type Delivery,
  type Message,
  Outcome,
  Request,
  Subscription
} from "@millrace/core"
import { JetStream } from "@millrace/nats"
import { Nats as Servers } from "@millrace/testing/servers"
import { type ConsumerConfig, type JetStreamManager, jetstreamManager } from "@nats-io/jetstream"
import { Clock, Effect, pipe, Schema, type Scope, Stream } from "effect"
import { connect as connectSocket } from "node:net"
import { describeServer } from "../services/describe.ts"
import { client, eventually, failureOf, fresh, layerOf, optionsOf, outgoing, reader, send, textOf } from "./support.ts"

const contents = (channel: string) =>
  Effect.flatMap(Broker.Broker, (broker) => Stream.runCollect(broker.browse(channel)))

/** Writes messages with these header blocks as they are, past the client, which would refuse them. */
const writeRaw = (server: Servers.NatsServer, channel: string, blocks: ReadonlyArray<string>) =>
  Effect.promise(() =>
    new Promise<void>((resolve, reject) => {
      const [host, port] = server.address.split(":")
      const socket = connectSocket(Number(port), host)
      socket.on("error", reject)
      socket.on("data", (data) => {
        if (data.toString().includes("PONG")) socket.end(() => resolve())
      })
      socket.write(`CONNECT {"verbose":false,"headers":true}\r\n`)
      for (const block of blocks) {
        const head = `NATS/1.0\r\n${block}\r\n`
        const length = Buffer.byteLength(head, "latin1")
        socket.write(Buffer.from(`HPUB ${channel} ${length} ${length + 1}\r\n${head}m\r\n`, "latin1"))
      }
      socket.write("PING\r\n")
    })
  )

const shown = ({ fields }: Delivery) =>
  fields.map(([name, value]) => [name, value && Buffer.from(value).toString("latin1")])

describeServer("X5 JetStream beside other programs", Servers.own(), (server) => {
  const run = <A, E>(
    effect: Effect.Effect<A, E, Broker.Broker | Scope.Scope>,
    more?: Partial<JetStream.Options>
  ) => Effect.suspend(() => Effect.scoped(Effect.provide(effect, layerOf(server(), more))))

  const administration: Effect.Effect<JetStreamManager, never, Scope.Scope> = Effect.suspend(() =>
    Effect.flatMap(client(server()), (nc) => Effect.promise(() => jetstreamManager(nc)))
  )

  it.live("X5 F13 a header line that is no field costs itself alone: the other headers and the key are there", () =>
    run(Effect.gen(function*() {
      const channel = fresh("lines")
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel })
      yield* writeRaw(server(), channel, [
        "Bad Name: x\r\nGood: y\r\nMillrace-Key: k\r\n",
        "NoColonHere\r\nGood: y\r\nMillrace-Key: k\r\n",
        ": no name\r\nGood:y\r\nMillrace-Key:   k \r\n",
        "A: 1\r\na: 2\r\nA: 3\r\nE:\r\nMillrace-Key: k\r\n",
        "V: \u00e9\u0001\r\nMillrace-Key: k\r\n",
        "Nats-Msg-Id: id-7\r\nNats-Foo: f\r\nMillrace-Key: k\r\n"
      ])
      const found = yield* contents(channel)
      expect(found.map(({ key }) => key)).toEqual(Array.from({ length: 6 }, () => "k"))
      expect(found.map(shown)).toEqual([
        [["Bad Name", "x"], ["Good", "y"]],
        [["Good", "y"]],
        [["Good", "y"]],
        [["A", "1"], ["a", "2"], ["A", "3"], ["E", ""]],
        [["V", "\u00e9\u0001"]],
        [["Nats-Msg-Id", "id-7"], ["Nats-Foo", "f"]]
      ])
      expect(found[5]!.headers["nats-msg-id"]).toBe("id-7")
    })))

  it.live("X5 F13 what is too long with its headers says how long each is", () =>
    run(Effect.gen(function*() {
      const channel = fresh("sizes")
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel })
      const body = new Uint8Array(1024 * 1024 - 10)
      const error = yield* failureOf(broker.publish(outgoing(channel, body, { key: "k", headers: { name: "value" } })))
      // NATS/1.0, name: value, Millrace-Key: k and the empty line, each with its line end
      const headers = 10 + 13 + 17 + 2
      expect([error.reason, error.message]).toEqual([
        "TooLarge",
        expect.stringContaining(
          `${body.length} bytes of body and ${headers} bytes of headers and key, and the server takes ${1024 * 1024}`
        )
      ])
    })))

  it.live("X5 a group's consumer that operations have made is used as it is, or refused, and never changed", () =>
    run(
      Effect.gen(function*() {
        const channel = fresh("operations")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        const manager = yield* administration
        const settings = { ack_policy: "explicit", ack_wait: 300e9, max_ack_pending: 7 } as const
        const added = yield* Effect.promise(() => manager.consumers.add(channel, { ...settings, durable_name: "made" }))
        const config = Effect.map(
          Effect.promise(() => manager.consumers.info(channel, "made")),
          (info): ConsumerConfig => info.config
        )
        const { texts } = yield* reader(channel, { group: "made" })
        yield* send(channel, ...Array.from({ length: 20 }, (_, i) => `m-${i}`))
        yield* eventually(() => texts.length === 20)
        expect(yield* config).toEqual(added.config)
        for (
          const [options, what] of [
            [{ claim: "2 seconds" }, /ack_wait is 300000 ms, and consumer.claim says 2000 ms/],
            [{ pending: 8 }, /max_ack_pending is 7, and consumer.pending says 8/]
          ] as const
        ) {
          const error = yield* Effect.provide(
            failureOf(Effect.scoped(reader(channel, { group: "made" }))),
            JetStream.layer(optionsOf(server(), { consumer: options }))
          )
          expect([error.reason, error.message]).toEqual(["Conflict", expect.stringMatching(what)])
        }
        expect(yield* config).toEqual(added.config)
      }),
      { consumer: {} }
    ))

  it.live("X5 a consumer that cannot give a group its messages whole is refused with a sentence", () =>
    run(
      Effect.gen(function*() {
        const channel = fresh("parts")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel: `${channel}.a`, settings: { subjects: `${channel}.a` } })
        const stream = `${channel}~a`
        const manager = yield* administration
        yield* Effect.promise(() =>
          manager.consumers.add(stream, { durable_name: "headers", ack_policy: "explicit", headers_only: true })
        )
        const error = yield* failureOf(reader(`${channel}.a`, { group: "headers" }))
        expect([error.reason, error.message]).toEqual(["Conflict", expect.stringMatching(/headers_only/)])
      }),
      { consumer: {} }
    ))

  it.live("F22 an id against duplicates is not given to copies: each failure of a message leaves its dead letter", () =>
    run(
      Effect.gen(function*() {
        const channel = fresh("ids")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        const { texts } = yield* reader(channel, {}, () => Effect.succeed(Outcome.DeadLetter(new Error("no"))))
        const letters = `${channel}.dead-letters`
        const message = outgoing(channel, "m")
        yield* broker.publish(message)
        const listed = Effect.map(Stream.runCollect(DeadLetters.list(letters)), (all) => Array.from(all))
        const until = (count: number) => Effect.repeat(listed, { until: (all) => all.length >= count, times: 10_000 })
        const [first] = yield* until(1)
        yield* DeadLetters.replay(first!, { reach: "all" })
        yield* until(2)
        expect(texts).toEqual(["m", "m"])
        // the publisher itself is held to its ids
        yield* broker.publish(message)
        expect((yield* contents(channel)).length).toBe(2)
      }),
      { producer: { messageId: ({ payload }) => textOf(payload) } }
    ))

  it.live("F3 a client of requests leaves nothing at the server, and the next one removes what a killed one left", () =>
    run(Effect.gen(function*() {
      const name = fresh("prices")
      const Prices = Channel.make(name, { payload: Schema.Struct({ sku: Schema.String }) })
      const Price = Request.make(Prices, { reply: Schema.Struct({ cents: Schema.Int }), deadline: "8 seconds" })
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel: name })
      yield* broker.declare({ channel: `${name}.shared` })
      yield* Subscription.run(Subscription.make(
        Prices,
        { group: "shop", name: "price" },
        pipe(
          ({ payload }: Message<{ readonly sku: string }>) => Effect.succeed({ cents: payload.sku.length }),
          Decode.middleware(Prices),
          Request.answer(Price)
        )
      ))
      const manager = yield* administration
      const streams = Effect.promise(async () => {
        const found: Array<string> = []
        for await (const each of manager.streams.names(`${name}.>`)) found.push(each)
        return found.toSorted()
      })
      const before = yield* streams
      const life = (replyTo?: string) =>
        Effect.gen(function*() {
          const prices = yield* Request.client(Price, { replyTo })
          expect((yield* prices.request({ sku: "tea" })).cents).toBe(3)
          return prices.replyTo
        })
      yield* Effect.scoped(life())
      expect(yield* streams).toEqual(before)
      yield* Effect.scoped(life(`${name}.shared`))
      const shared = `${name}.shared`
      const consumers = yield* Effect.promise(() => manager.streams.info(shared.replaceAll(".", "~")))
      expect(consumers.state.consumer_count).toBe(0)
      expect(yield* streams).toEqual(before)
      // what a client has while it lives, and what is left of one whose process was killed some minutes ago
      const replyTo = yield* life()
      const living = replyTo.replaceAll(".", "~")
      const [consumer] = yield* Effect.promise(() => manager.consumers.list(living).next())
      expect(consumer!.config.inactive_threshold).toBe(300e9)
      const { config } = yield* Effect.promise(() => manager.streams.info(living))
      yield* Effect.promise(() =>
        manager.streams.add({ ...config, name: `${name}~killed`, subjects: [`${name}.replies.killed`] })
      )
      const clock = yield* Clock.Clock
      yield* broker.declare({ channel: `${name}.replies.next`, temporary: true }).pipe(
        Effect.provideService(Clock.Clock, {
          ...clock,
          currentTimeMillis: Effect.map(clock.currentTimeMillis, (now) => now + 600_000)
        })
      )
      expect(yield* streams).toEqual([...before, living, `${name}~replies~next`].toSorted())
    })))
})
