import { it } from "@effect/vitest"
import { IdempotencyRedis } from "@millrace/redis"
import { IdempotencyStoreContract } from "@millrace/testing"
import { Redis } from "@millrace/testing/servers"
import { Effect, Layer, Redacted } from "effect"
import { describeServer } from "../services/describe.ts"
import * as Faults from "../sql/IdempotencyFaults.ts"
import * as Race from "../sql/IdempotencyRace.ts"

describeServer("IdempotencyRedis", Redis.own(), (redis) => {
  // the address is there when tests run, not when they are collected
  const lazy = (options: Omit<IdempotencyRedis.Options, "url">) =>
    Layer.unwrap(Effect.sync(() => IdempotencyRedis.layer({ url: redis().url, ...options })))

  IdempotencyStoreContract.suite("Redis", lazy({}), { reopened: "keeps" })
  IdempotencyStoreContract.suite("Redis, small groups", lazy({ prefix: "small", maximumGroup: 7 }), {
    reopened: "keeps"
  })

  it.live(
    "W5 of many processes that die at any moment one completes each key, and no late one overwrites it",
    () =>
      Effect.provide(Race.check(Race.racer("Redis", Redacted.value(redis().url), "race")), lazy({ prefix: "race" })),
    Race.timeLimit
  )

  Faults.registerClocks(() => IdempotencyRedis.layer({ url: redis().url }))
  Faults.registerOutages(
    redis,
    // a server that starts beside other work may take longer than a claim waits by default
    ({ name, patience }) =>
      IdempotencyRedis.layer({ url: redis().url, prefix: name, patience, requestTimeout: Math.max(1000, patience) })
  )

  Faults.registerLostAnswers(redis, (port) => IdempotencyRedis.layer({ url: `redis://127.0.0.1:${port}` }))
})
