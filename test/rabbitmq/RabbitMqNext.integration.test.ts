/**
 * RabbitMQ 4.3 and newer, which counts deliveries by another header and no longer counts what a nack returns. It runs where the
 * environment names such a server: `MILLRACE_RABBITMQ_NEXT=amqp://user:password@host:port/ pnpm test RabbitMqNext`. The attempt rule itself
 * is in RabbitMqCodec.test.ts, and runs everywhere.
 */
import { Broker, Lanes, Outcome } from "@millrace/core"
import { RabbitMq } from "@millrace/rabbitmq"
import { BrokerContract } from "@millrace/testing"
import { RabbitMq as Servers, type ServerFailed, ServerUnavailable } from "@millrace/testing/servers"
import { it } from "@effect/vitest"
import { Effect, Exit, Redacted, Scope } from "effect"
import { describe, expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { eventually, fresh, on, optionsOf, outgoing } from "./support.ts"

const variable = "MILLRACE_RABBITMQ_NEXT"
const url = process.env[variable]

const next = Effect.suspend((): Effect.Effect<Servers.RabbitMqServer, ServerUnavailable | ServerFailed> =>
  url === undefined
    ? Effect.fail(
      new ServerUnavailable({
        server: "RabbitMQ 4.3",
        tool: variable,
        message: `RabbitMQ 4.3 is not here: set ${variable}=amqp://user:password@host:port/vhost to one that runs.`
      })
    )
    : Servers.existing(Redacted.make(url))
)

describe("a newer RabbitMQ", () => {
  describeServer("X5 RabbitMQ from 4.3", next, (server) => {
    const { consuming, raw, using } = on(server)

    it.live(
      "X5 F11 each delivery is an attempt: after a release, a lost channel and a delayed retry",
      () =>
        using(Effect.gen(function*() {
          const [major = 0, minor = 0] = yield* raw((model) =>
            Promise.resolve(String(model.connection.serverProperties.version).split(".").map(Number))
          )
          expect(major * 100 + minor).toBeGreaterThanOrEqual(403)
          const channel = fresh("counted")
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          yield* broker.publish(outgoing(channel, "m"))
          const attempts: Array<number> = []
          // a handler that has begun and is interrupted, by members that share and by members that keep order
          for (const lanes of [Lanes.unordered(4), Lanes.unordered(4), Lanes.partition, Lanes.partition]) {
            const scope = yield* Scope.make()
            const { got } = yield* consuming(channel, () => Effect.never, { lanes, grace: { drain: 0 } }).pipe(
              Scope.provide(scope)
            )
            yield* eventually(() => got.length === 1)
            attempts.push(got[0]!.attempt)
            yield* Scope.close(scope, Exit.void)
          }
          expect(attempts).toEqual([1, 2, 3, 4])
          const last = yield* consuming(
            channel,
            ({ attempt }) => Effect.succeed(attempt < 7 ? Outcome.Retry({ after: 20 }) : Outcome.Ack)
          )
          yield* eventually(() => last.got.length === 3)
          expect(last.got.map(({ attempt }) => attempt)).toEqual([5, 6, 7])
        })),
      30_000
    )

    for (const scenario of BrokerContract.scenarios.filter(({ alone }) => !alone)) {
      it.live(
        `${scenario.rows.join(" ")} ${scenario.id}: ${scenario.title}`,
        () =>
          Effect.scoped(Effect.gen(function*() {
            const driver = yield* RabbitMq.driver(optionsOf(server(), { requestTimeout: "10 seconds" }))
            const unused = Effect.die("this server is not ours to stop")
            const subject: BrokerContract.Subject = { driver, stop: unused, start: unused }
            yield* BrokerContract.run(scenario, subject, { missing: "refused", quiet: "300 millis" })
          })),
        300_000
      )
    }
  })
})
