import { it } from "@effect/vitest"
import type { BrokerError } from "@millrace/core"
import { Mqtt } from "@millrace/mqtt"
import { Certificates, Mosquitto } from "@millrace/testing/servers"
import { Cause, ConfigProvider, Effect, Layer, Logger, Redacted, References } from "effect"
import { inspect } from "node:util"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { acknowledge, driverOf, eventually, fresh, outgoing, reading } from "./support.ts"

const password = "s3cret/p@ss:w%rd"
const shapes = [password, encodeURIComponent(password)]

/** Every way in which an error gets into a log. */
const shown = (error: BrokerError.BrokerError) =>
  Effect.gen(function*() {
    const logged: Array<string> = []
    yield* Effect.logError("it failed", error, Cause.fail(error)).pipe(
      Effect.provide(Logger.layer([Logger.map(Logger.formatJson, (line) => void logged.push(line))])),
      Effect.provideService(References.MinimumLogLevel, "All")
    )
    return [
      error.message,
      String(error),
      JSON.stringify(error),
      inspect(error, { depth: 20, showHidden: true }),
      Cause.pretty(Cause.fail(error)),
      ...logged
    ].join("\n")
  })

const both = Effect.gen(function*() {
  const certificates = yield* Certificates.make
  const stranger = yield* Certificates.make
  const mutual = yield* Mosquitto.own({ certificates, users: { app: password } })
  const plain = yield* Mosquitto.own({ certificates, mutual: false, users: { app: password } })
  return { certificates, stranger, mutual, plain }
})

describeServer("MQTT in safety", both, (made) => {
  it.live(
    "T9 goes through TLS, mutual TLS and WebSockets, with credentials in the URL or beside it",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const { certificates: { ca, client }, mutual, plain } = made()
        const address = new URL(Redacted.value(plain.url)).host
        const ways: ReadonlyArray<Partial<Mqtt.Options>> = [
          { url: plain.tlsUrl!, tls: { ca } },
          { url: mutual.tlsUrl!, tls: { ca, cert: client.cert, key: Redacted.make(client.key) } },
          { url: plain.webSocketUrl! },
          { url: `mqtt://${address}`, username: "app", password: Redacted.make(password) },
          { url: `mqtt://app:${encodeURIComponent(password)}@${address}` }
        ]
        for (const way of ways) {
          const channel = fresh("safe")
          const driver = yield* driverOf(plain, way)
          const { recorder } = yield* reading(driver, { channel, group: channel })
          yield* driver.publish([outgoing(channel, "m"), outgoing(channel, new Uint8Array(100_000))])
          yield* eventually(() => recorder.taken.length === 2)
          yield* acknowledge(recorder)
          yield* driver.check
        }
      })),
    60_000
  )

  it.live(
    "T9 a wrong password, certificate or address fails with what to do, and no secret in it",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const { certificates: { ca, client, stranger: nobody }, mutual, plain, stranger } = made()
        const { host } = new URL(Redacted.value(plain.url))
        const { host: secure } = new URL(Redacted.value(plain.tlsUrl!))
        const wrong = `mqtt://app:${encodeURIComponent(password)}-not@${host}`
        const cases: ReadonlyArray<readonly [Partial<Mqtt.Options>, BrokerError.Reason, RegExp]> = [
          [{ url: wrong }, "Credentials", /User app.*check username and password/],
          [{ url: `mqtt://${host}`, username: "nobody", password }, "Credentials", /check username and password/],
          [{ url: `mqtt://${host}` }, "Credentials", /check username and password/],
          [{ url: plain.tlsUrl! }, "Credentials", /tls\.ca/],
          [{ url: plain.tlsUrl!, tls: { ca: stranger.ca } }, "Credentials", /tls\.ca/],
          [{ url: plain.tlsUrl!, tls: { ca, serverName: "other.example" } }, "Credentials", /by a name that it holds/],
          [{ url: mutual.tlsUrl!, tls: { ca } }, "Credentials", /tls\.cert/],
          [{ url: mutual.tlsUrl!, tls: { ca, cert: nobody.cert, key: nobody.key } }, "Credentials", /tls\.cert/],
          [{ url: `mqtts://app:${encodeURIComponent(password)}@${host}`, tls: { ca } }, "Unreachable", /TLS/],
          [{ url: `mqtt://app:${encodeURIComponent(password)}@${secure}` }, "Unreachable", /does not answer MQTT 5/],
          [{ url: `mqtt://app:${encodeURIComponent(password)}@127.0.0.1:9` }, "Unreachable", /correct url/],
          [
            { url: `mqtt://app:${encodeURIComponent(password)}@no.such.host.invalid` },
            "Unreachable",
            /cannot be resolved/
          ]
        ]
        for (const [options, reason, words] of cases) {
          const error = yield* Effect.flip(driverOf(plain, { ...options, connectTimeout: "2 seconds" }))
          expect({ reason: error.reason, operation: error.operation, message: error.message }).toEqual({
            reason,
            operation: "connect",
            message: expect.stringMatching(words)
          })
          const text = yield* shown(error)
          for (const secret of [...shapes, client.key, nobody.key]) expect(text).not.toContain(secret)
        }
      })),
    60_000
  )

  it.live("T9 reads the environment, names what is missing there, and keeps its secrets", () =>
    Effect.gen(function*() {
      const { plain } = made()
      const { host } = new URL(Redacted.value(plain.url))
      const run = (variables: { readonly [name: string]: string }, options?: Partial<Mqtt.Options>) =>
        Layer.build(Mqtt.layerConfig(options)).pipe(
          Effect.scoped,
          Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env: variables })))
        )
      const good = {
        MQTT_URL: `mqtt://${host}`,
        MQTT_CLIENT_ID: fresh("env"),
        MQTT_USERNAME: "app",
        MQTT_PASSWORD: password,
        MQTT_QOS: "2"
      }
      yield* run(good)
      const { MQTT_CLIENT_ID: _, ...nameless } = good
      expect(String(yield* Effect.flip(run(nameless)))).toContain("MQTT_CLIENT_ID")
      yield* run(nameless, { clientId: fresh("given") }).pipe(Effect.flip)
      const refused = yield* Effect.flip(run({ ...good, MQTT_PASSWORD: `${password}-not` }))
      expect(inspect(refused, { depth: 20 })).not.toContain(password)
      expect(refused).toMatchObject({ reason: "Credentials" })
    }))
})
