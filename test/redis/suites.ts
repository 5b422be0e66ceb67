import type { Driver } from "@millrace/core"
import { IdempotencyRedis, RateLimitRedis, RedisLists, RedisPubSub, RedisStreams } from "@millrace/redis"
import { BrokerContract, IdempotencyStoreContract, RateLimitStoreContract } from "@millrace/testing"
import type { Redis as Servers, ServerFailed, ServerNotOwned } from "@millrace/testing/servers"
import { Effect, Layer } from "effect"

/** The drivers by name, each by where Redis is. */
export const drivers = [
  [
    "Redis Streams",
    (place: Place) =>
      RedisStreams.driver({ ...place, consumer: { claim: "1 second", lock: "2 seconds", maximumWait: "200 millis" } })
  ],
  [
    "Redis lists",
    (place: Place) => RedisLists.driver({ ...place, consumer: { claim: "1 second", maximumWait: "200 millis" } })
  ],
  ["Redis Pub/Sub", (place: Place) => RedisPubSub.driver(place)]
] as const

/** Where Redis is. */
export type Place = Pick<RedisStreams.Options, "url" | "cluster">

/** A server that may be stopped and started, and where it is once it runs. */
export interface Subject {
  readonly kill: Effect.Effect<void, ServerFailed | ServerNotOwned>
  readonly start: Effect.Effect<void, ServerFailed | ServerNotOwned>
  readonly place: Place
}

/** One server as a subject. */
export const one = ({ kill, start, url }: Servers.RedisServer): Subject => ({ kill, start, place: { url } })

/** The broker contract of one driver; answers what it has shown. */
export const brokerContract = (title: string, driver: typeof drivers[number][1], subject: () => Subject) =>
  BrokerContract.suite(
    title,
    Effect.suspend(() => {
      const { kill, place, start } = subject()
      return Effect.map(
        driver(place),
        (driver: Driver.Driver): BrokerContract.Subject => ({ driver, stop: kill, start })
      )
    }),
    { missing: "created", quiet: "300 millis" }
  )

/** The contracts of both stores. */
export const storeContracts = (title: string, place: () => Place) => {
  // the address is there when tests run, not when they are collected
  IdempotencyStoreContract.suite(
    title,
    Layer.unwrap(Effect.sync(() => IdempotencyRedis.layer(place()))),
    { reopened: "keeps" }
  )
  RateLimitStoreContract.suite(
    title,
    Layer.unwrap(Effect.sync(() => RateLimitRedis.layer(place()))),
    { reopened: "keeps", programs: 5 }
  )
}
