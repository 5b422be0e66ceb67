/**
 * Passwords of SCRAM and PLAIN that rotate while messages flow, on a Kafka that has each connection authenticate again within
 * three seconds (KIP-368). Six seconds for each client; `MILLRACE_KAFKA_PASSWORDS=600` runs ten minutes.
 */
import { it } from "@effect/vitest"
import { Broker, Lanes } from "@millrace/core"
import type { Kafka } from "@millrace/kafka"
import { Kafka as Servers } from "@millrace/testing/servers"
import { Clock, Data, Effect, Fiber, Redacted } from "effect"
import { inspect } from "node:util"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { traffic } from "../services/traffic.ts"
import { classic, clients, consuming, eventually, fresh, kafkajs, optionsOf, outgoing, setPassword } from "./support.ts"

const seconds = Number(process.env["MILLRACE_KAFKA_PASSWORDS"] ?? 6)

class Away extends Data.TaggedError("Away")<{ readonly message: string }> {}

const kafkaWithPasswords = Servers.own({
  listeners: { SCRAM: "SASL_PLAINTEXT", PLAIN: "SASL_PLAINTEXT" },
  properties: {
    // the time after which the group gives the partition of a member without a connection to the next one
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "3000",
    "group.consumer.min.heartbeat.interval.ms": "250",
    "group.consumer.heartbeat.interval.ms": "500",
    "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-256",
    "listener.name.scram.scram-sha-256.connections.max.reauth.ms": "3000",
    "listener.name.scram.scram-sha-256.sasl.jaas.config":
      "org.apache.kafka.common.security.scram.ScramLoginModule required;",
    "listener.name.plain.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.plain.plain.connections.max.reauth.ms": "3600000",
    "listener.name.plain.plain.sasl.jaas.config":
      "org.apache.kafka.common.security.plain.PlainLoginModule required user_app=\"right\";"
  }
})

describeServer("X17 Kafka passwords that rotate", kafkaWithPasswords, (kafka) => {
  it.live.each(clients)(
    "X17 passwords and users change under load, and nothing is lost, by $name",
    (client) =>
      Effect.gen(function*() {
        const users = [fresh("user"), fresh("user")]
        for (const user of users) yield* Effect.promise(() => setPassword(kafka().brokers, user, "first"))
        let asked = 0
        let current = { username: users[0]!, password: "first" }
        const credentials = Effect.sync(() => {
          asked++
          return { username: current.username, password: Redacted.make(current.password) }
        })
        const channel = fresh("passwords")
        let over = false
        let rotated = 0
        const rotate = Effect.promise(async () => {
          // every third time the user changes: Kafka lets no connection authenticate again as another one
          const username = users[Math.floor(++rotated / 3) % 2]!
          const password = `password ${rotated}`
          // here the source is behind the server: an authentication is refused, and a later one has the new password
          await setPassword(kafka().brokers, username, password)
          current = { username, password }
        })
        const { got, sent } = yield* Effect.gen(function*() {
          yield* (yield* Broker.Broker).declare({ channel, partitions: 1 })
          const [found] = yield* Effect.all([
            traffic(channel, Lanes.partition, () => over),
            Effect.andThen(
              Effect.repeat(Effect.delay(rotate, "1500 millis"), { times: Math.ceil(seconds / 1.5) }),
              Effect.sync(() => over = true)
            )
          ], { concurrency: 2 })
          return found
        }).pipe(Effect.provide(
          client.layer(
            optionsOf(kafka(), {
              brokers: kafka().listeners["SCRAM"]!,
              sasl: { mechanism: "scram-sha-256", credentials }
            })
          )
        ))
        expect(Array.from(new Set(got))).toEqual(sent)
        expect(asked).toBeGreaterThan(seconds / 3)
        yield* Effect.log(
          `${client.name}: ${sent.length} messages, ${got.length} handled, ${rotated} rotations, asked ${asked}`
        )
      }),
    seconds * 1000 + 60_000
  )

  it.live(
    "X17 a connection authenticates again at 80 % of its credentials' life, and the member stays",
    () =>
      Effect.gen(function*() {
        let asked = 0
        const credentials = Effect.map(Clock.currentTimeMillis, (now) => {
          asked++
          return { username: "app", password: "right", expiresAt: now + 2500 }
        })
        const driver = yield* classic.driver(
          optionsOf(kafka(), { brokers: kafka().listeners["PLAIN"]!, sasl: { mechanism: "plain", credentials } })
        )
        const channel = fresh("life")
        yield* driver.declare({ channel, partitions: 1 })
        const { fiber, recorder } = yield* consuming(driver, { channel, group: fresh("group") })
        yield* eventually(() => recorder.leases.length === 1)
        const before = asked
        yield* eventually(() => asked > before + 3)
        yield* driver.publish([outgoing(channel, "after")])
        yield* eventually(() => recorder.taken.length === 1)
        expect(recorder.leases.map(({ closed }) => closed)).toEqual([undefined])
        yield* Fiber.interrupt(fiber)
      }).pipe(Effect.scoped),
    30_000
  )

  it.live.each([kafkajs, classic])(
    "X17 X9 credentials that are refused, cannot be had or are of two kinds say what to do, by $name",
    (client) =>
      Effect.gen(function*() {
        const refusal = (sasl: Kafka.Sasl) =>
          Effect.scoped(Effect.flip(
            client.driver({ brokers: kafka().listeners[sasl.mechanism === "plain" ? "PLAIN" : "SCRAM"]!, sasl })
          ))
        const of = (password: string) =>
          refusal({ mechanism: "plain", credentials: Effect.succeed({ username: "app", password }) })
        const wrong = yield* of("wr0ng secret")
        // the next authentication may get others
        expect(wrong).toMatchObject({ reason: "Credentials", failure: "dependency" })
        expect(wrong.message).toContain("refused user app by SASL PLAIN")
        expect(inspect(wrong, { depth: 10 })).not.toContain("wr0ng")
        expect((yield* of("")).message).toBe(
          "The credentials for Kafka could not be obtained: the username or the password is empty."
        )
        expect((yield* of("a\0b")).message).toContain("has a NUL character")
        const away = yield* refusal({
          mechanism: "scram-sha-256",
          credentials: Effect.fail(new Away({ message: "the vault is sealed" }))
        })
        expect(away).toMatchObject({ reason: "Credentials", failure: "dependency" })
        expect(away.message).toContain("Away: the vault is sealed")
        const both = { mechanism: "plain", username: "app", credentials: Effect.never } as const
        expect((yield* refusal(both)).message).toContain("sasl.credentials stand in place of username and password")
      }),
    30_000
  )
})
