import { it } from "@effect/vitest"
import { Broker, Channel, type Message, Subscription } from "@millrace/core"
import { type Kafka, KafkaAdmin } from "@millrace/kafka"
import { Kafka as Servers } from "@millrace/testing/servers"
import { ConfigProvider, Effect, Exit, Fiber, Layer, Stream } from "effect"
import { createServer, type Server, type Socket } from "node:net"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { type Client, clients, contents, eventually, fresh, optionsOf, outgoing, textOf } from "./support.ts"

const listening = (answer: (socket: Socket) => void) =>
  Effect.acquireRelease(
    Effect.promise(() =>
      new Promise<{ readonly server: Server; readonly address: string }>((resolve) => {
        const sockets = new Set<Socket>()
        const server = createServer((socket) => {
          sockets.add(socket)
          socket.on("error", () => {})
          answer(socket)
        })
        server.on("close", () => sockets.forEach((socket) => socket.destroy()))
        server.listen(0, "127.0.0.1", () => {
          const found = server.address()
          resolve({ server, address: `127.0.0.1:${typeof found === "object" ? found?.port : ""}` })
        })
      })
    ),
    ({ server }) =>
      Effect.sync(() => {
        server.close()
        server.emit("close")
      })
  )

const inTrouble = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  /** Opens the layer for nothing; what it fails with, and how long that took. */
  const refusal = (options: Kafka.Options) =>
    Effect.gen(function*() {
      const started = performance.now()
      const error = yield* Effect.flip(Effect.scoped(Layer.build(client.layer(options))))
      return { error, took: performance.now() - started }
    })

  it.live(
    "no server, no such host, a server that speaks something else, one that says nothing",
    () =>
      Effect.gen(function*() {
        const refused = yield* refusal({ brokers: "127.0.0.1:1" })
        expect(refused.error).toMatchObject({ reason: "Unreachable", failure: "dependency", operation: "connect" })
        expect(refused.error.message).toBe(
          "No Kafka answers at 127.0.0.1:1 (connection refused): start it, or correct brokers."
        )
        expect(refused.took).toBeLessThan(5000)

        const host = yield* refusal({ brokers: "no-such-host.invalid:9092" })
        expect(host.error).toMatchObject({ reason: "Unreachable" })
        expect(host.error.message).toContain("cannot be resolved: correct brokers")

        const http = yield* listening((socket) => {
          socket.on("data", () => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"))
        })
        const web = yield* refusal({ brokers: http.address })
        expect(web.error).toMatchObject({ reason: "Unreachable" })
        expect(web.error.message).toContain("check that the port is a Kafka listener")
        expect(web.took).toBeLessThan(15_000)

        const mute = yield* listening(() => {})
        const silent = yield* refusal({ brokers: mute.address, connectTimeout: "1 second" })
        expect(silent.error).toMatchObject({ reason: "Unreachable" })
        expect(silent.took).toBeLessThan(15_000)
      }).pipe(Effect.scoped),
    60_000
  )

  it.live("options that are wrong are named", () =>
    Effect.gen(function*() {
      const wrong: ReadonlyArray<readonly [Kafka.Options, string]> = [
        [{ brokers: [] }, `Kafka: brokers is empty: give "host:port".`],
        [
          { brokers: "localhost" },
          `Kafka: brokers must be "host:port" each, or one kafka:// URL; localhost is neither.`
        ],
        [
          { brokers: "app:hunter2@localhost" },
          `Kafka: brokers must be "host:port" each, or one kafka:// URL; <redacted>@localhost is neither.`
        ],
        [
          { brokers: "kafka://app:a@h:1?mechanism=md5" },
          "Kafka: mechanism in the URL of brokers must be one of plain, scram-sha-256, scram-sha-512, got md5."
        ],
        [
          { brokers: "h:1", sasl: { mechanism: "plain", username: "", password: "x" } },
          "Kafka: sasl needs a username and a password, and one of them is empty."
        ],
        [
          { brokers: "h:1", consumer: { heartbeatInterval: "20 seconds" } },
          "Kafka: consumer.heartbeatInterval must be a third of consumer.sessionTimeout (30000 ms) at most, got 20000 ms."
        ],
        [
          { brokers: "h:1", consumer: { partitionBytes: 0.5 } },
          "Kafka: consumer.partitionBytes must be an integer from 1, got 0.5."
        ],
        [
          { brokers: "h:1", connectTimeout: -1 },
          "Kafka: connectTimeout must be a duration from 1 ms to 24 days, got -1."
        ],
        [{ brokers: "h:1", tls: { cert: "x" } }, "Kafka: tls needs both cert and key, or neither."]
      ]
      for (const [options, message] of wrong) {
        const { error } = yield* refusal(options)
        expect(error).toMatchObject({ reason: "Invalid", failure: "permanent" })
        expect(error.message).toBe(message)
      }
    }))

  it.live("B1 configured by the environment, and told what is wrong with it", () =>
    Effect.gen(function*() {
      const by = (env: Record<string, string>) => {
        const provider = ConfigProvider.layer(ConfigProvider.fromEnv({ env }))
        return Effect.scoped(Layer.build(Layer.provide(client.layerConfig(), provider)))
      }
      yield* by({ KAFKA_BROKERS: kafka().address, KAFKA_CLIENT_ID: "tests", KAFKA_TLS: "off" })
      expect(String(yield* Effect.flip(by({})))).toContain("KAFKA_BROKERS")
      expect(String(yield* Effect.flip(by({ KAFKA_BROKERS: kafka().address, KAFKA_TLS: "yes" })))).toContain(
        "KAFKA_TLS"
      )
      const error = yield* Effect.flip(by({ KAFKA_BROKERS: kafka().address, KAFKA_USERNAME: "app" }))
      expect(error).toMatchObject({ reason: "Invalid" })
    }))

  it.live("a topic that exists and differs", () =>
    Effect.gen(function*() {
      const broker = yield* Broker.Broker
      const channel = fresh("differs")
      const settings = { "retention.ms": "60000" }
      yield* broker.declare({ channel, partitions: 2, settings })
      yield* broker.declare({ channel, partitions: 2, settings })
      yield* broker.declare({ channel })
      const error = yield* Effect.flip(
        broker.declare({ channel, partitions: 3, settings: { "retention.ms": "5", "cleanup.policy": "delete" } })
      )
      expect(error).toMatchObject({ reason: "Conflict", failure: "permanent", operation: "declare" })
      expect(error.message).toBe(
        `The topic ${channel} exists and differs: it has 2 partitions, not 3; retention.ms is 60000, not 5. Declare it as it is, or change it.`
      )
      for (
        const [declaration, says] of [
          [{ channel: fresh("new"), settings: { "no.such": "1" } }, "no.such"],
          [{ channel, settings: { "no.such": "1" } }, "no.such"],
          [{ channel: "not a name" }, "at most 249 letters"],
          [{ channel, partitions: 0 }, "partitions"]
        ] as const
      ) {
        const invalid = yield* Effect.flip(broker.declare(declaration))
        expect(invalid).toMatchObject({ reason: "Invalid" })
        expect(invalid.message).toContain(says)
      }
    }).pipe(Effect.provide(client.layer(optionsOf(kafka())))))

  it.live(
    "X3, X9 the broker is killed and comes back: nothing confirmed is lost, and all of it is handled",
    () =>
      Effect.gen(function*() {
        const broker = yield* Broker.Broker
        const channel = fresh("killed")
        const group = fresh("group")
        yield* broker.declare({ channel, partitions: 4 })
        const seen = new Set<string>()
        let handled = 0
        const running = yield* Subscription.run(
          Subscription.make(Channel.bytes(channel), {
            group,
            name: "h",
            restart: { cap: "1 second" }
          }, (message: Message<Uint8Array>) =>
            Effect.sync(() => {
              handled++
              seen.add(textOf(message.payload))
            }))
        )
        const confirmed = new Set<string>()
        let publishing = true
        const pump = yield* Effect.forkChild(Effect.gen(function*() {
          for (let n = 0; publishing; n++) {
            const texts = Array.from({ length: 20 }, (_, i) => `${n}-${i}`)
            const exit = yield* Effect.exit(broker.publishAll(texts.map((text) => outgoing(channel, text))))
            if (Exit.isSuccess(exit)) texts.forEach((text) => confirmed.add(text))
            yield* Effect.sleep("10 millis")
          }
        }))
        yield* eventually(() => seen.size > 500)
        yield* kafka().kill
        yield* Effect.sleep("1 second")
        yield* kafka().start
        const before = confirmed.size
        yield* eventually(() => confirmed.size > before + 500)
        publishing = false
        yield* Effect.yieldNow
        yield* eventually(() => pump.pollUnsafe() !== undefined)
        yield* eventually(() => [...confirmed].every((text) => seen.has(text)))
        expect(handled).toBeGreaterThanOrEqual(confirmed.size)
        yield* running.drain
        const admin = yield* KafkaAdmin.KafkaAdmin
        expect((yield* admin.lag(group, channel)).map(({ lag }) => lag)).toEqual([0, 0, 0, 0])
        // idempotent: a publish that was tried again is there once
        const stored = (yield* contents(channel)).map((delivery) => textOf(delivery.raw))
        const counts = new Map<string, number>()
        for (const text of stored) counts.set(text, (counts.get(text) ?? 0) + 1)
        expect([...confirmed].filter((text) => counts.get(text) === undefined)).toEqual([])
      }).pipe(
        Effect.scoped,
        Effect.provide(Layer.merge(client.layer(optionsOf(kafka())), client.admin(optionsOf(kafka()))))
      ),
    120_000
  )

  it.live("publishing while the broker is away waits for it, and gives up in time", () =>
    Effect.gen(function*() {
      const channel = fresh("away")
      const impatient = yield* client.driver(optionsOf(kafka(), { producer: { retryFor: "3 seconds" } }))
      const patient = yield* client.driver(optionsOf(kafka(), { producer: { retryFor: "1 minute" } }))
      yield* patient.declare({ channel, partitions: 1 })
      yield* impatient.publish([outgoing(channel, "before")])
      yield* kafka().stop
      const started = performance.now()
      const error = yield* Effect.flip(impatient.publish([outgoing(channel, "never")]))
      expect(error.retriable).toBe(true)
      expect(performance.now() - started).toBeLessThan(40_000)
      const waiting = yield* Effect.forkChild(patient.publish([outgoing(channel, "after")]))
      yield* kafka().start
      yield* Fiber.join(waiting)
      const found = yield* Stream.runCollect(patient.browse(channel))
      expect(found.map((delivery) => textOf(delivery.raw))).toEqual(["before", "after"])
    }).pipe(Effect.scoped), 120_000)
}

for (const client of clients) describeServer(`Kafka in trouble by ${client.name}`, Servers.own(), inTrouble(client))
