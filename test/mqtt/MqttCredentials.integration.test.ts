import { it } from "@effect/vitest"
import { Lanes } from "@millrace/core"
import { Mqtt } from "@millrace/mqtt"
import { Mosquitto } from "@millrace/testing/servers"
import { Clock, Effect, Redacted } from "effect"
import { inspect } from "node:util"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { traffic } from "../services/traffic.ts"
import { relay } from "./relay.ts"
import { fresh, outgoing } from "./support.ts"

const secret = "s3cret/pass"

const made = Mosquitto.own({ users: { one: secret, two: `${secret}2`, rotated: secret } })

describeServer("Credentials of MQTT that expire", made, (server) => {
  const addressOf = () => `mqtt://${new URL(Redacted.value(server().url)).host}`

  for (
    const [name, sharing, lanes] of [
      ["in order", "exclusive", Lanes.partition],
      ["shared", "group", Lanes.unordered(16)]
    ] as const
  ) {
    it.live(
      `X17 MQTT connects again with new credentials before the old ones end: nothing is lost, repeated or refused, ${name}`,
      () =>
        Effect.gen(function*() {
          let asked = 0
          const credentials = Effect.gen(function*() {
            const [username, password] = ++asked % 2 === 1 ? ["one", secret] : ["two", `${secret}2`]
            return { username, password: Redacted.make(password), expiresAt: (yield* Clock.currentTimeMillis) + 1500 }
          })
          const options = { url: addressOf(), clientId: fresh("client"), credentials, consumer: { sharing } }
          const { failures, got, sent } = yield* traffic(fresh("renewed"), lanes, () => asked > 8).pipe(
            Effect.provide(Mqtt.layer(options))
          )
          if (sharing === "exclusive") expect(got).toEqual(sent)
          else expect(got.toSorted()).toEqual(sent.toSorted())
          expect(failures).toBe(0)
        }),
      60_000
    )
  }

  it.live(
    "X17 a password that is changed at the server ends connections, and the next ones ask for the new one",
    () =>
      Effect.gen(function*() {
        let password = secret
        let changes = 0
        const credentials = Effect.sync(() => ({ username: "rotated", password }))
        const change = Effect.suspend(() => {
          password = `${secret}-${++changes}`
          return server().setPassword("rotated", password)
        })
        yield* Effect.forkScoped(Effect.repeat(Effect.andThen(Effect.sleep("500 millis"), change), { times: 3 }))
        const options = { url: addressOf(), clientId: fresh("client"), credentials }
        const { got, sent } = yield* traffic(fresh("rotated"), Lanes.unordered(16), () => changes > 2).pipe(
          Effect.provide(Mqtt.layer(options))
        )
        expect([...new Set(got)].toSorted()).toEqual(sent.toSorted())
      }).pipe(Effect.scoped),
    60_000
  )

  it.live("X17 credentials that are refused, cannot be had or are of two kinds fail with what to do, and no secret", () =>
    Effect.gen(function*() {
      const own = { url: addressOf(), clientId: fresh("client") }
      const cases = [
        [
          { credentials: Effect.succeed({ username: "one", password: `${secret}-not` }) },
          "Credentials",
          "dependency",
          /User one/
        ],
        [
          { credentials: Effect.succeed({ username: "", password: secret }) },
          "Credentials",
          "dependency",
          /username is empty/
        ],
        // @effect-diagnostics-next-line globalErrorInEffectFailure:off
        [{ credentials: Effect.fail(new Error("sealed")) }, "Credentials", "dependency", /sealed/],
        [
          { credentials: Effect.succeed({ username: "one", password: secret }), username: "one" },
          "Invalid",
          "permanent",
          /one of them/
        ]
      ] as const
      for (const [options, reason, failure, message] of cases) {
        const error = yield* Effect.flip(Mqtt.driver({ ...own, ...options }))
        expect([error.reason, error.failure, error.message]).toEqual([reason, failure, expect.stringMatching(message)])
        expect(inspect(error, { depth: 12, showHidden: true })).not.toContain(secret)
      }
    }).pipe(Effect.scoped))

  it.live(
    "X17 a server that ends a connection since its credentials ended has refused no message: it may be published again",
    () =>
      Effect.gen(function*() {
        const wire = yield* relay(server())
        const credentials = Effect.succeed({ username: "one", password: secret })
        for (
          const [renews, code, reason, failure] of [
            [true, 135, "Lost", "transient"],
            [true, 160, "Lost", "transient"],
            [false, 135, "Permission", "permanent"],
            [false, 152, "Lost", "transient"],
            [false, 141, "Lost", "transient"]
          ] as const
        ) {
          const url = Redacted.value(wire.url)
          const driver = yield* Mqtt.driver({
            clientId: fresh("client"),
            ...renews ? { url: `mqtt://${new URL(url).host}`, credentials } : { url }
          })
          // DISCONNECT in the place of a confirmation
          wire.change = ({ bytes, type }) => type === 4 ? Buffer.of(0xe0, 2, code, 0) : bytes
          const error = yield* Effect.flip(driver.publish([outgoing(fresh("ended"), "m")]))
          expect([code, error.operation, error.reason, error.failure]).toEqual([code, "publish", reason, failure])
          wire.change = ({ bytes }) => bytes
        }
      }).pipe(Effect.scoped),
    60_000
  )

  it.live("X17 while the source fails, the check tells it and the connection goes on", () =>
    Effect.gen(function*() {
      let isSealed = false
      const credentials = Effect.suspend(() =>
        isSealed
          // @effect-diagnostics-next-line globalErrorInEffectFailure:off
          ? Effect.fail(new Error("sealed"))
          : Effect.map(Clock.currentTimeMillis, (now) => ({ username: "one", password: secret, expiresAt: now + 1500 }))
      )
      const driver = yield* Mqtt.driver({
        url: addressOf(),
        clientId: fresh("client"),
        credentials,
        producer: { unheard: "confirm" }
      })
      expect(yield* driver.check).toBeUndefined()
      isSealed = true
      const pending = yield* Effect.repeat(driver.check, { until: (each) => each !== undefined })
      expect(pending).toMatchObject({ reason: "Credentials", failure: "dependency" })
      yield* driver.publish([outgoing(fresh("still"), "m")])
      isSealed = false
      yield* Effect.repeat(driver.check, { until: (each) => each === undefined })
    }).pipe(Effect.scoped), 60_000)
})
