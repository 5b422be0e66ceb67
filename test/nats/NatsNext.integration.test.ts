/**
 * A newer NATS than that of the tests, where the environment names one: `MILLRACE_NATS_NEXT=nats://host:port pnpm test NatsNext`. It is not
 * stopped, so the scenarios that stop the server are left out. The version that it ran on is the first line.
 */
import { JetStream, Nats } from "@millrace/nats"
import { BrokerContract } from "@millrace/testing"
import { Nats as Servers, type ServerFailed, ServerUnavailable } from "@millrace/testing/servers"
import { it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { client } from "./support.ts"

const variable = "MILLRACE_NATS_NEXT"
const url = process.env[variable]

const next = Effect.suspend((): Effect.Effect<Servers.NatsServer, ServerUnavailable | ServerFailed> =>
  url === undefined
    ? Effect.fail(
      new ServerUnavailable({
        server: "A newer NATS",
        tool: variable,
        message: `A newer NATS is not here: set ${variable}=nats://host:port to one that runs with JetStream.`
      })
    )
    : Servers.existing(Redacted.make(url))
)

describeServer("X5 a newer NATS", next, (server) => {
  it.live("X5 its version is newer than 2.9", () =>
    Effect.scoped(Effect.gen(function*() {
      const nc = yield* client(server())
      const version = nc.info?.version ?? ""
      yield* Effect.log(`NATS ${version}`)
      const [major = 0, minor = 0] = version.split(".").map(Number)
      expect(major * 100 + minor).toBeGreaterThan(209)
    })))

  const drivers = {
    "core NATS": ["created", () => Nats.driver({ servers: Redacted.value(server().url) })],
    JetStream: ["refused", () =>
      JetStream.driver({
        servers: Redacted.value(server().url),
        consumer: { claim: "2 seconds", takeover: "1 second" }
      })]
  } as const
  for (const [name, [missing, open]] of Object.entries(drivers)) {
    for (const scenario of BrokerContract.scenarios.filter(({ alone }) => !alone)) {
      it.live(
        `${scenario.rows.join(" ")} ${name}, ${scenario.id}: ${scenario.title}`,
        () =>
          Effect.scoped(Effect.gen(function*() {
            const driver = yield* open()
            const unused = Effect.die("this server is not ours to stop")
            yield* BrokerContract.run(scenario, { driver, stop: unused, start: unused }, {
              missing,
              maximumBytes: 1024 * 1024,
              patience: "20 seconds",
              quiet: "100 millis",
              instructions: { "Nats-Msg-Id": "contract" }
            })
          })),
        300_000
      )
    }
  }
})
