import type { BrokerError, Driver } from "@millrace/core"
import { IdempotencyRedis, RateLimitRedis, RedisLists, RedisPubSub, RedisStreams } from "@millrace/redis"
import { BrokerContract, IdempotencyStoreContract, RateLimitStoreContract } from "@millrace/testing"
import { RedisCluster } from "@millrace/testing/servers"
import { Effect, Layer, type Scope } from "effect"
import { describeServer } from "../services/describe.ts"

/** Three primaries, each with a replica, for all suites of this file: the contract of one server holds on a cluster unchanged. */
describeServer("Redis Cluster", RedisCluster.own(), (server) => {
  const suite = (
    name: string,
    driver: (cluster: ReadonlyArray<string>) => Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope>
  ) =>
    BrokerContract.suite(
      `X5, X3, X4, F13, F3, T16, X9 ${name} on a cluster`,
      Effect.suspend(() =>
        Effect.map(
          // one node is enough to find the others
          driver(server().addresses.slice(0, 1)),
          (driver): BrokerContract.Subject => ({ driver, stop: server().kill, start: server().start })
        )
      ),
      { missing: "created", quiet: "300 millis" }
    )

  suite(
    "Redis Streams",
    (cluster) =>
      RedisStreams.driver({ cluster, consumer: { claim: "1 second", lock: "2 seconds", maximumWait: "200 millis" } })
  )
  suite(
    "Redis lists",
    (cluster) => RedisLists.driver({ cluster, consumer: { claim: "1 second", maximumWait: "200 millis" } })
  )
  suite("Redis Pub/Sub", (cluster) => RedisPubSub.driver({ cluster }))

  // the address is there when tests run, not when they are collected
  const cluster = () => server().addresses.slice(1, 2)
  IdempotencyStoreContract.suite(
    "Redis Cluster",
    Layer.unwrap(Effect.sync(() => IdempotencyRedis.layer({ cluster: cluster() }))),
    { reopened: "keeps" }
  )
  RateLimitStoreContract.suite(
    "Redis Cluster",
    Layer.unwrap(Effect.sync(() => RateLimitRedis.layer({ cluster: cluster() }))),
    { reopened: "keeps", programs: 5 }
  )
})
