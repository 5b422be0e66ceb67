import { it } from "@effect/vitest"
import { Broker, Channel, type Message, Subscription } from "@millrace/core"
import { Kafka, KafkaAdmin } from "@millrace/kafka"
import { Kafka as Servers } from "@millrace/testing/servers"
import { ConfigProvider, Effect, Exit, Layer, Logger, Redacted, References } from "effect"
import { execFile } from "node:child_process"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { createServer, type Server, type Socket } from "node:net"
import { homedir, tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { afterAll, expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { contents, eventually, fresh, layerOf, optionsOf, outgoing, textOf } from "./support.ts"

const run = promisify(execFile)

const password = "s3cret/p@ss:w%rd"
const encoded = encodeURIComponent(password)

const folder = mkdtempSync(join(tmpdir(), "kafka-certificates-"))
afterAll(() => rmSync(folder, { recursive: true }))

/** An authority, and a certificate of it for the loopback interface. */
const certificates = async () => {
  const openssl = (...args: ReadonlyArray<string>) => run("openssl", args, { cwd: folder })
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
  await openssl("req", "-x509", ...curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test-ca", "-days", "2")
  await openssl("req", ...curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
  writeFileSync(join(folder, "names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
  const ca = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
  await openssl("x509", "-req", "-in", "server.csr", "-out", "server.crt", ...ca)
  writeFileSync(
    join(folder, "server.pem"),
    readFileSync(join(folder, "server.key"), "utf8") + readFileSync(join(folder, "server.crt"), "utf8")
  )
}

const plainModule =
  `org.apache.kafka.common.security.plain.PlainLoginModule required user_app="${password}" user_poor="n0 rights";`
const scramModule = "org.apache.kafka.common.security.scram.ScramLoginModule required;"

const secure = Effect.andThen(
  Effect.promise(certificates),
  Servers.own({
    listeners: { SASL: "SASL_PLAINTEXT", TLS: "SSL", BOTH: "SASL_SSL" },
    properties: {
      "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
      "listener.name.sasl.plain.sasl.jaas.config": plainModule,
      "listener.name.sasl.scram-sha-256.sasl.jaas.config": scramModule,
      "listener.name.both.plain.sasl.jaas.config": plainModule,
      "listener.name.both.scram-sha-256.sasl.jaas.config": scramModule,
      "ssl.keystore.type": "PEM",
      "ssl.keystore.location": join(folder, "server.pem"),
      "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
      "super.users": "User:ANONYMOUS;User:app;User:scr"
    }
  })
)

/** Opens the layer for nothing; what it fails with, and how long that took. */
const refusal = (options: Kafka.Options) =>
  Effect.gen(function*() {
    const started = performance.now()
    const error = yield* Effect.flip(Effect.scoped(Layer.build(Kafka.layer(options))))
    return { error, took: performance.now() - started }
  })

const usable = (options: Kafka.Options) =>
  Effect.gen(function*() {
    const broker = yield* Broker.Broker
    const channel = fresh("secure")
    yield* broker.declare({ channel, partitions: 1 })
    const seen: Array<string> = []
    yield* Subscription.run(
      Subscription.make(
        Channel.bytes(channel),
        { group: fresh("group"), name: "h" },
        (message) => Effect.sync(() => seen.push(textOf(message.payload)))
      )
    )
    yield* broker.publish(outgoing(channel, "through"))
    yield* eventually(() => seen.length === 1)
  }).pipe(Effect.scoped, Effect.provide(Kafka.layer(options)))

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

describeServer("Kafka with users and certificates", secure, (kafka) => {
  const listener = (name: string) => kafka().listeners[name]!

  it.live("plain users, certificates and both are let in", () =>
    Effect.gen(function*() {
      const ca = readFileSync(join(folder, "ca.crt"), "utf8")
      const sasl = { mechanism: "plain", username: "app", password: Redacted.make(password) } as const
      yield* usable(optionsOf(kafka(), { brokers: [listener("SASL")], sasl }))
      yield* usable(optionsOf(kafka(), { brokers: `kafka://app:${encoded}@${listener("SASL")}` }))
      yield* usable(optionsOf(kafka(), { brokers: listener("TLS"), tls: { ca } }))
      yield* usable(
        optionsOf(kafka(), { brokers: `kafkas://app:${encoded}@${listener("BOTH")}?mechanism=PLAIN`, tls: { ca } })
      )
    }), 60_000)

  it.live("users by SCRAM are let in", () =>
    Effect.gen(function*() {
      const cache = join(
        process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"),
        "millrace",
        `kafka-${Servers.version}`
      )
      const jars = readdirSync(join(cache, "lib")).map((jar) => join(cache, "lib", jar)).join(":")
      const java = process.env["JAVA_HOME"] === undefined ? "java" : join(process.env["JAVA_HOME"], "bin/java")
      const config = ["--alter", "--entity-type", "users", "--entity-name", "scr"]
      yield* Effect.promise(() =>
        run(java, [
          "-cp",
          jars,
          "kafka.admin.ConfigCommand",
          "--bootstrap-server",
          kafka().address,
          ...config,
          "--add-config",
          "SCRAM-SHA-256=[password=scrpw]"
        ])
      )
      const sasl = { mechanism: "scram-sha-256", username: "scr", password: "scrpw" } as const
      yield* usable(optionsOf(kafka(), { brokers: listener("SASL"), sasl }))
      const { error } = yield* refusal({ brokers: listener("SASL"), sasl: { ...sasl, password: "not it" } })
      expect(error).toMatchObject({ reason: "Credentials", failure: "permanent" })
    }), 60_000)

  it.live("wrong credentials say so, soon, and nothing of them is in errors or logs", () =>
    Effect.gen(function*() {
      const logged: Array<string> = []
      const log = Logger.layer([
        Logger.map(Logger.formatJson, (line) => {
          logged.push(line)
        })
      ])
      const wrong = "wr0ng%pass"
      const options = { brokers: `kafka://app:${encodeURIComponent(wrong)}@${listener("SASL")}` }
      const { error, took } = yield* refusal(options).pipe(
        Effect.provide(log),
        Effect.provideService(References.MinimumLogLevel, "All")
      )
      expect(error).toMatchObject({
        reason: "Credentials",
        failure: "permanent",
        operation: "connect",
        system: "kafka"
      })
      expect(error.message).toBe(
        `Kafka at ${listener("SASL")} refused user app by SASL PLAIN: check the user, the password and the mechanism.`
      )
      expect(took).toBeLessThan(5000)
      expect(logged.length).toBeGreaterThan(0)
      const told = [...logged, JSON.stringify(error), String(error.stack), String(error.cause)].join("\n")
      expect(told).not.toContain(wrong)
      expect(told).not.toContain(encodeURIComponent(wrong))
    }))

  it.live("a mechanism that the listener lacks, no credentials at all, and none wanted", () =>
    Effect.gen(function*() {
      const lacking = yield* refusal({
        brokers: listener("SASL"),
        sasl: { mechanism: "scram-sha-512", username: "app", password }
      })
      expect(lacking.error).toMatchObject({ reason: "Credentials" })
      expect(lacking.error.message).toContain("does not offer SASL SCRAM-SHA-512: set sasl.mechanism")
      const none = yield* refusal({ brokers: listener("SASL") })
      expect(none.error).toMatchObject({ reason: "Unreachable", failure: "dependency" })
      expect(none.error.message).toContain("that tls and sasl are as it wants them")
      const unwanted = yield* refusal({
        brokers: kafka().address,
        sasl: { mechanism: "plain", username: "a", password: "b" }
      })
      expect(unwanted.error).toMatchObject({ reason: "Credentials" })
      expect(unwanted.error.message).toContain("leave sasl out")
      for (const { took } of [lacking, none, unwanted]) expect(took).toBeLessThan(15_000)
    }), 60_000)

  it.live(
    "certificates that do not fit, TLS where there is none, and none where there is TLS",
    () =>
      Effect.gen(function*() {
        const unknown = yield* refusal({ brokers: listener("TLS"), tls: "on" })
        expect(unknown.error).toMatchObject({ reason: "Credentials", failure: "permanent" })
        expect(unknown.error.message).toContain("Give tls.ca the authority that signed the broker's")
        const ca = readFileSync(join(folder, "ca.crt"), "utf8")
        const other = yield* refusal({ brokers: listener("TLS"), tls: { ca, serverName: "elsewhere.example" } })
        expect(other.error).toMatchObject({ reason: "Credentials" })
        const plain = yield* refusal({ brokers: kafka().address, tls: { ca } })
        expect(plain.error).toMatchObject({ reason: "Unreachable" })
        expect(plain.error.message).toContain("does not speak TLS as this client does")
        const tls = yield* refusal({ brokers: listener("TLS") })
        expect(tls.error).toMatchObject({ reason: "Unreachable" })
        for (const { took } of [unknown, other, plain, tls]) expect(took).toBeLessThan(15_000)
      }),
    60_000
  )

  it.live("a user without rights is told which", () =>
    Effect.gen(function*() {
      const channel = fresh("forbidden")
      const open = yield* Layer.build(KafkaAdmin.layer(optionsOf(kafka())))
      const sasl = { mechanism: "plain", username: "poor", password: "n0 rights" } as const
      yield* Effect.flatMap(KafkaAdmin.KafkaAdmin, (admin) => admin.declare({ channel, partitions: 1 })).pipe(
        Effect.provide(open)
      )
      yield* Effect.gen(function*() {
        const broker = yield* Broker.Broker
        const error = yield* Effect.flip(broker.publish(outgoing(channel, "no")))
        expect(error).toMatchObject({ reason: "Permission", failure: "permanent" })
        expect(error.message).toBe(`User poor may not use the topic ${channel}: grant it the operation by an ACL.`)
        const subscription = Subscription.make(Channel.bytes(channel), { group: "g", name: "h" }, () => Effect.void)
        expect(yield* Effect.flip(Effect.scoped(Subscription.run(subscription)))).toMatchObject({
          reason: "Permission"
        })
      }).pipe(Effect.provide(Kafka.layer(optionsOf(kafka(), { brokers: listener("SASL"), sasl }))))
    }).pipe(Effect.scoped), 60_000)
})

describeServer("Kafka that is not there", Servers.own(), (kafka) => {
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
        return Effect.scoped(Layer.build(Layer.provide(Kafka.layerConfig(), provider)))
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
    }).pipe(Effect.provide(layerOf(kafka()))))

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
        Effect.provide(Layer.merge(layerOf(kafka()), KafkaAdmin.layer(optionsOf(kafka()))))
      ),
    120_000
  )

  it.live("publishing while the broker is away waits for it, and gives up in time", () =>
    Effect.gen(function*() {
      const broker = yield* Broker.Broker
      const channel = fresh("away")
      yield* broker.declare({ channel, partitions: 1 })
      yield* broker.publish(outgoing(channel, "before"))
      yield* kafka().stop
      const started = performance.now()
      const error = yield* Effect.flip(broker.publish(outgoing(channel, "never")))
      expect(error.retriable).toBe(true)
      expect(performance.now() - started).toBeLessThan(40_000)
      const waiting = yield* Effect.forkChild(broker.publish(outgoing(channel, "after")))
      yield* kafka().start
      yield* eventually(() => waiting.pollUnsafe() !== undefined)
      expect(yield* Effect.exit(Effect.flatten(Effect.sync(() => waiting.pollUnsafe()!)))).toEqual(Exit.void)
      const texts = (yield* contents(channel)).map((delivery) => textOf(delivery.raw))
      expect(texts).toContain("before")
      expect(texts).toContain("after")
    }).pipe(Effect.provide(layerOf(kafka(), { producer: { retryFor: "3 seconds" } }))), 120_000)
})
