/**
 * Tokens that end after five seconds, on a Kafka that closes connections whose token has ended (KIP-368). Eight seconds for each
 * client; `MILLRACE_KAFKA_TOKENS=600` runs ten minutes.
 */
import { it } from "@effect/vitest"
import { Kafka as Servers } from "@millrace/testing/servers"
import { Clock, Effect, Fiber, Schedule } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { clients, consuming, eventually, fresh, optionsOf, outgoing, textOf, tokenOf } from "./support.ts"

const seconds = Number(process.env["MILLRACE_KAFKA_TOKENS"] ?? 8)
const life = 5

const kafkaWithTokens = Servers.own({
  listeners: { OAUTH: "SASL_PLAINTEXT" },
  properties: {
    "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
    "listener.name.oauth.oauthbearer.connections.max.reauth.ms": "3600000",
    "listener.name.oauth.oauthbearer.sasl.jaas.config":
      "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"app\";",
    "listener.name.oauth.oauthbearer.sasl.server.callback.handler.class":
      "org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
  }
})

describeServer("X17 Kafka tokens of five seconds", kafkaWithTokens, (kafka) => {
  it.live.each(clients)(
    "X17 under load nothing is lost and the member stays, by $name",
    (client) =>
      Effect.gen(function*() {
        let asked = 0
        const token = Effect.map(Clock.currentTimeMillis, (now) => {
          asked++
          // tokens count whole seconds
          const expiresAt = (Math.floor(now / 1000) + life) * 1000
          return { token: tokenOf(expiresAt), expiresAt }
        })
        const driver = yield* client.driver(
          optionsOf(kafka(), { brokers: kafka().listeners["OAUTH"]!, sasl: { mechanism: "oauthbearer", token } })
        )
        const channel = fresh("tokens")
        yield* driver.declare({ channel, partitions: 1 })
        const { fiber, recorder } = yield* consuming(driver, { channel, group: fresh("group") })
        yield* eventually(() => recorder.leases.length === 1)
        const until = (yield* Clock.currentTimeMillis) + seconds * 1000
        let published = 0
        const publish = Effect.suspend(() => driver.publish([outgoing(channel, String(published++))]))
        const commit = Effect.suspend(() => recorder.lease(0).commit!(recorder.taken.length))
        const isOver = Effect.map(Clock.currentTimeMillis, (now) => now >= until)
        yield* Effect.all([
          Effect.repeat(publish, { schedule: Schedule.spaced("5 millis"), until: () => isOver }),
          Effect.repeat(commit, { schedule: Schedule.spaced("200 millis"), until: () => isOver })
        ], { concurrency: 2 })
        yield* eventually(() => recorder.taken.length >= published)
        expect(recorder.taken.map(({ raw }) => Number(textOf(raw)))).toEqual(
          Array.from({ length: published }, (_, i) => i)
        )
        expect(recorder.leases.map(({ closed }) => closed)).toEqual([undefined])
        expect(fiber.pollUnsafe()).toBeUndefined()
        expect(asked).toBeGreaterThan(seconds / life)
        yield* Effect.log(`${client.name}: ${published} messages in ${seconds} s, ${asked} tokens`)
        yield* Fiber.interrupt(fiber)
      }).pipe(Effect.scoped),
    seconds * 1000 + 60_000
  )
})
