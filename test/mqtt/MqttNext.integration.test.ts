/**
 * A newer Mosquitto than that of the tests, where the environment names one:
 * `MILLRACE_MOSQUITTO_NEXT=mqtt://user:password@host:port pnpm test MqttNext`. It is not stopped, so the scenarios that stop the server are
 * left out.
 */
import type { Mqtt } from "@millrace/mqtt"
import { BrokerContract } from "@millrace/testing"
import { Mosquitto, type ServerFailed, ServerUnavailable } from "@millrace/testing/servers"
import { it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { driverOf, eventually, rawClient } from "./support.ts"

const variable = "MILLRACE_MOSQUITTO_NEXT"
const url = process.env[variable]

const next = Effect.suspend((): Effect.Effect<Mosquitto.MosquittoServer, ServerUnavailable | ServerFailed> =>
  url === undefined
    ? Effect.fail(
      new ServerUnavailable({
        server: "A newer Mosquitto",
        tool: variable,
        message:
          `A newer Mosquitto is not here: set ${variable}=mqtt://user:password@host:port to one that runs with persistence.`
      })
    )
    : Mosquitto.existing(Redacted.make(url))
)

const ways: Readonly<Record<string, Partial<Mqtt.Options>>> = {
  "QoS 1": { qos: 1 },
  "QoS 2": { qos: 2 },
  "QoS 0": { qos: 0 },
  "QoS 1, exclusive": { qos: 1, consumer: { sharing: "exclusive" } }
}

describeServer("X5 a newer Mosquitto", next, (server) => {
  it.live("X5 its version is newer than 2.0", () =>
    Effect.scoped(Effect.gen(function*() {
      const client = yield* rawClient(server())
      let version = ""
      client.on("message", (_topic, body) => {
        version = body.toString()
      })
      yield* Effect.promise(() => client.subscribeAsync("$SYS/broker/version"))
      yield* eventually(() => version !== "")
      yield* Effect.log(version)
      const [, major = 0, minor = 0] = /(\d+)\.(\d+)/.exec(version)?.map(Number) ?? []
      expect(major * 100 + minor).toBeGreaterThan(200)
    })))

  for (const [name, options] of Object.entries(ways)) {
    for (const scenario of BrokerContract.scenarios.filter(({ alone }) => !alone)) {
      it.live(
        `${scenario.rows.join(" ")} ${name}, ${scenario.id}: ${scenario.title}`,
        () =>
          Effect.scoped(Effect.gen(function*() {
            const driver = yield* driverOf(server(), options)
            const unused = Effect.die("this server is not ours to stop")
            yield* BrokerContract.run(scenario, { driver, stop: unused, start: unused }, {
              missing: "created",
              // max_packet_size, where mosquitto.conf does not say; older ones have no limit
              maximumBytes: 2_000_000,
              fields: ["duplicate", "case"],
              quiet: "200 millis",
              instructions: { "mqtt-expiry": "3600", "mqtt-retain": "true" }
            })
          })),
        300_000
      )
    }
  }
})
