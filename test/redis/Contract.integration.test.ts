import type { BrokerError, Driver } from "@millrace/core"
import { RedisLists, RedisPubSub, RedisStreams } from "@millrace/redis"
import { BrokerContract } from "@millrace/testing"
import { Redis as Servers } from "@millrace/testing/servers"
import { Effect, Redacted, type Scope } from "effect"
import { describeServer } from "../services/describe.ts"
import { keepsRow } from "../services/row.ts"

/** Redis under the suites, a copy of its own each, since they kill it. */
const suite = (
  name: string,
  driver: (url: string) => Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope>
) =>
  describeServer(`X5, X3, X4, F13, F3, T16, X9 ${name} keep the contract`, Servers.own(), (server) => {
    const shown = BrokerContract.suite(
      name,
      Effect.suspend(() =>
        Effect.map(
          driver(Redacted.value(server().url)),
          (driver): BrokerContract.Subject => ({ driver, stop: server().kill, start: server().start })
        )
      ),
      { missing: "created", quiet: "300 millis" }
    )
    keepsRow(name, shown)
  })

suite(
  "Redis Streams",
  (url) => RedisStreams.driver({ url, consumer: { claim: "1 second", lock: "2 seconds", maximumWait: "200 millis" } })
)
suite("Redis lists", (url) => RedisLists.driver({ url, consumer: { claim: "1 second", maximumWait: "200 millis" } }))
suite("Redis Pub/Sub", (url) => RedisPubSub.driver({ url }))
