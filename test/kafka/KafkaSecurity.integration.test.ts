import { it } from "@effect/vitest"
import { Broker, Channel, Subscription } from "@millrace/core"
import { type Kafka, KafkaAdmin } from "@millrace/kafka"
import { Certificates, Kafka as Servers } from "@millrace/testing/servers"
import { Data, Effect, Layer, Logger, Redacted, References } from "effect"
import { execFile } from "node:child_process"
import { readdirSync, writeFileSync } from "node:fs"
import { homedir } from "node:os"
import { dirname, join } from "node:path"
import { inspect, promisify } from "node:util"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { classic, type Client, eventually, fresh, kafkajs, optionsOf, outgoing, textOf, tokenOf } from "./support.ts"

class Away extends Data.TaggedError("Away")<{ readonly message: string }> {}

const run = promisify(execFile)

const password = "s3cret/p@ss:w%rd"
const encoded = encodeURIComponent(password)

const plainModule =
  `org.apache.kafka.common.security.plain.PlainLoginModule required user_app="${password}" user_poor="n0 rights";`
const scramModule = "org.apache.kafka.common.security.scram.ScramLoginModule required;"

// takes tokens without a signature, as its name says: who signs is a matter of the listener
const oauthModule =
  `org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="app";`

interface Secure {
  readonly kafka: Servers.KafkaServer
  readonly certificates: Certificates.Certificates
}

const secure = Effect.gen(function*() {
  const certificates = yield* Certificates.make
  const both = join(dirname(certificates.caFile), "server.pem")
  writeFileSync(both, certificates.server.key + certificates.server.cert)
  const kafka = yield* Servers.own({
    listeners: { SASL: "SASL_PLAINTEXT", OAUTH: "SASL_PLAINTEXT", TLS: "SSL", BOTH: "SASL_SSL", MUTUAL: "SSL" },
    properties: {
      "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
      "listener.name.sasl.plain.sasl.jaas.config": plainModule,
      "listener.name.sasl.scram-sha-256.sasl.jaas.config": scramModule,
      "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
      "listener.name.oauth.oauthbearer.sasl.jaas.config": oauthModule,
      "listener.name.oauth.oauthbearer.sasl.server.callback.handler.class":
        "org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler",
      "listener.name.both.plain.sasl.jaas.config": plainModule,
      "listener.name.both.scram-sha-256.sasl.jaas.config": scramModule,
      "ssl.keystore.type": "PEM",
      "ssl.keystore.location": both,
      "ssl.truststore.type": "PEM",
      "ssl.truststore.location": certificates.caFile,
      "listener.name.mutual.ssl.client.auth": "required",
      "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
      "super.users": "User:ANONYMOUS;User:app;User:scr;User:CN=app"
    }
  })
  return { kafka, certificates }
})

const using = (client: Client) => ({
  /** Opens the layer for nothing; what it fails with, and how long that took. */
  refusal: (options: Kafka.Options) =>
    Effect.gen(function*() {
      const started = performance.now()
      const error = yield* Effect.flip(Effect.scoped(Layer.build(client.layer(options))))
      return { error, took: performance.now() - started }
    }),
  usable: (options: Kafka.Options) =>
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
    }).pipe(Effect.scoped, Effect.provide(client.layer(options)))
})

const secured = (client: Client) => (secure: () => Secure) => {
  const kafka = () => secure().kafka
  const { refusal, usable } = using(client)
  const listener = (name: string) => kafka().listeners[name]!

  it.live("plain users, certificates and both are let in", () =>
    Effect.gen(function*() {
      const ca = secure().certificates.ca
      const sasl = { mechanism: "plain", username: "app", password: Redacted.make(password) } as const
      yield* usable(optionsOf(kafka(), { brokers: [listener("SASL")], sasl }))
      yield* usable(optionsOf(kafka(), { brokers: `kafka://app:${encoded}@${listener("SASL")}` }))
      yield* usable(optionsOf(kafka(), { brokers: listener("TLS"), tls: { ca } }))
      yield* usable(
        optionsOf(kafka(), { brokers: `kafkas://app:${encoded}@${listener("BOTH")}?mechanism=PLAIN`, tls: { ca } })
      )
    }), 60_000)

  it.live(
    "tokens are let in, asked for at each connection, and one that is refused says so",
    () =>
      Effect.gen(function*() {
        const brokers = listener("OAUTH")
        const good = tokenOf(Date.now() + 3_600_000)
        yield* usable(optionsOf(kafka(), { brokers, sasl: { mechanism: "oauthbearer", token: Redacted.make(good) } }))
        let asked = 0
        const token = Effect.sync(() => {
          asked++
          return { token: good, expiresAt: Date.now() + 3_600_000 }
        })
        yield* usable(optionsOf(kafka(), { brokers, sasl: { mechanism: "oauthbearer", token } }))
        expect(asked).toBeGreaterThan(1)
        for (const bad of [tokenOf(Date.now() - 60_000), "no-token"]) {
          const { error, took } = yield* refusal({ brokers, sasl: { mechanism: "oauthbearer", token: bad } })
          expect(error).toMatchObject({ reason: "Credentials", failure: "permanent" })
          expect(error.message).toContain("refused the OAUTHBEARER token")
          expect(inspect(error, { depth: 10 })).not.toContain(bad)
          expect(took).toBeLessThan(15_000)
        }
        const none = yield* refusal({
          brokers,
          sasl: { mechanism: "oauthbearer", token: Effect.fail(new Away({ message: "the identity provider is away" })) }
        })
        expect(none.error).toMatchObject({ reason: "Credentials" })
        expect(none.error.message).toContain("the identity provider is away")
      }),
    60_000
  )

  it.live("a client's own certificate is let in, and none or a stranger's is not", () =>
    Effect.gen(function*() {
      const { ca, client: own, stranger } = secure().certificates
      const brokers = listener("MUTUAL")
      yield* usable(optionsOf(kafka(), { brokers, tls: { ca, cert: own.cert, key: Redacted.make(own.key) } }))
      for (const tls of [{ ca }, { ca, cert: stranger.cert, key: stranger.key }]) {
        const { error, took } = yield* refusal({ brokers, tls })
        expect(error).toMatchObject({ reason: "Credentials", failure: "permanent" })
        expect(error.message).toContain("certificate")
        expect(took).toBeLessThan(15_000)
      }
      const told = yield* refusal({ brokers: "127.0.0.1:1", tls: { ca, cert: own.cert, key: own.key } })
      expect(inspect(told.error, { depth: 10 })).not.toContain(own.key)
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
      if (client === kafkajs) expect(logged.length).toBeGreaterThan(0)
      const shown = [JSON.stringify(error), String(error.stack), String(error.cause), inspect(error, { depth: 10 })]
      const told = [...logged, ...shown].join("\n")
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
        expect(unknown.error.message).toContain("Give tls.ca the authority that signed the server's")
        const ca = secure().certificates.ca
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
      const open = yield* Layer.build(client.admin(optionsOf(kafka())))
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
      }).pipe(Effect.provide(client.layer(optionsOf(kafka(), { brokers: listener("SASL"), sasl }))))
    }).pipe(Effect.scoped), 60_000)
}

for (const client of [kafkajs, classic]) {
  describeServer(`X17 Kafka with users and certificates by ${client.name}`, secure, secured(client))
}
