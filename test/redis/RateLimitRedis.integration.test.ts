import { RateLimitRedis } from "@millrace/redis"
import { RateLimitStoreContract } from "@millrace/testing"
import { Redis } from "@millrace/testing/servers"
import { Effect, Layer } from "effect"
import { describeServer } from "../services/describe.ts"

describeServer("RateLimitRedis", Redis.own(), (redis) => {
  // the address is there when tests run, not when they are collected
  const lazy = (options: Omit<RateLimitRedis.Options, "url"> = {}) =>
    Layer.unwrap(Effect.sync(() => RateLimitRedis.layer({ url: redis().url, ...options })))

  RateLimitStoreContract.suite("Redis, by its clock", lazy(), { reopened: "keeps" })
  RateLimitStoreContract.suite("Redis, by the time of the test", lazy({ clock: "process", prefix: "test" }), {
    clock: "effect",
    programs: 40
  })
})
