import { TaskStoreRedis } from "@millrace/redis"
import { TaskStoreContract } from "@millrace/testing"
import { Redis } from "@millrace/testing/servers"
import { Effect, Layer } from "effect"
import { describeServer } from "../services/describe.ts"

describeServer("TaskStoreRedis", Redis.own(), (redis) => {
  TaskStoreContract.suite(
    "Redis",
    // the address is there when tests run, not when they are collected
    Layer.unwrap(Effect.sync(() => TaskStoreRedis.layer({ url: redis().url }))),
    { reopened: "keeps" }
  )
})
