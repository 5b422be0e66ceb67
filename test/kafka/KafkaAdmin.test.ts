import { it } from "@effect/vitest"
import * as Admin from "../../packages/kafka/src/internal/Admin.ts"
import type { Cluster } from "../../packages/kafka/src/internal/Cluster.ts"
import { check } from "../../packages/kafka/src/internal/Options.ts"
import * as Topology from "../../packages/kafka/src/internal/Topology.ts"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { describe, expect } from "vitest"

/** Errors of both clients while the coordinator of a group moves to another broker. */
const moving = [
  { client: "kafkajs", error: { type: "GROUP_LOAD_IN_PROGRESS", retriable: true } },
  { client: "kafkajs", error: { type: "NOT_COORDINATOR_FOR_GROUP", retriable: true } },
  { client: "@platformatic/kafka", error: { apiId: "COORDINATOR_LOAD_IN_PROGRESS", canRetry: true } },
  { client: "@platformatic/kafka", error: { apiId: "COORDINATOR_NOT_AVAILABLE", canRetry: true } }
]

/** A cluster whose calls about groups reject `times` times before they answer. */
const clusterOf = (error: object, times: number) => {
  let calls = 0
  const answer = <A>(value: A) => async () => {
    calls++
    if (calls <= times) throw Object.assign(new Error("The coordinator is loading"), error)
    return value
  }
  const unused = async () => {
    throw new Error("not a part of this test")
  }
  const cluster: Cluster = {
    describe: unused,
    topics: unused,
    leaders: async () => [0],
    create: unused,
    deleteTopic: unused,
    settings: unused,
    bounds: async () => [{ partition: 0, low: 2, high: 9 }],
    at: unused,
    refresh: unused,
    committed: answer([{ partition: 0, position: 5 }]),
    commit: answer(undefined),
    groups: unused,
    describeGroup: answer({ state: "Empty", members: [] }),
    readBy: unused,
    deleteGroup: answer(undefined)
  }
  return { cluster, calls: () => calls }
}

const options = check({ brokers: "127.0.0.1:9092", requestTimeout: "5 seconds" })

describe("X5 a group whose coordinator moves to another broker", () => {
  for (const { client, error } of moving) {
    const code = Object.values(error)[0]
    it.effect(`is asked until the coordinator answers: ${code} of ${client}`, () =>
      Effect.gen(function*() {
        const settings = yield* options
        const operations = (cluster: Cluster) => {
          const admin = Admin.make(settings, cluster)
          return [
            [Topology.lag(settings, cluster, "orders", "billing"), [{ partition: 0, messages: 4 }]],
            [admin.lag("billing", "orders"), [{ partition: 0, committed: 5, low: 2, high: 9, lag: 4 }]],
            [admin.describeGroup("billing"), { group: "billing", state: "Empty", members: [] }],
            [admin.move("billing", "orders", "latest"), undefined],
            [admin.deleteGroup("billing"), undefined]
          ] as const
        }
        for (const index of operations(clusterOf(error, 0).cluster).keys()) {
          const { calls, cluster } = clusterOf(error, 3)
          const [operation, expected] = operations(cluster)[index]!
          const fiber = yield* Effect.forkChild(operation)
          yield* TestClock.adjust("300 millis")
          expect(yield* Fiber.join(fiber)).toEqual(expected)
          expect(calls()).toBe(4)
        }
      }))
  }

  it.effect("is an error after requestTimeout, which says so", () =>
    Effect.gen(function*() {
      const settings = yield* options
      const { calls, cluster } = clusterOf(moving[0]!.error, Number.POSITIVE_INFINITY)
      const fiber = yield* Effect.forkChild(Effect.flip(Topology.lag(settings, cluster, "orders", "billing")))
      yield* TestClock.adjust("4900 millis")
      expect(fiber.pollUnsafe()).toBeUndefined()
      yield* TestClock.adjust("200 millis")
      const failed = yield* Fiber.join(fiber)
      expect(failed.reason).toBe("Lost")
      expect(failed.message).toMatch(/^Kafka at 127\.0\.0\.1:9092 is not ready/)
      expect(calls()).toBeGreaterThan(40)
    }))

  it.effect("does not repeat other errors", () =>
    Effect.gen(function*() {
      const settings = yield* options
      const { calls, cluster } = clusterOf({ type: "GROUP_AUTHORIZATION_FAILED", retriable: false }, 1)
      const failed = yield* Effect.flip(Admin.make(settings, cluster).lag("billing", "orders"))
      expect(failed.reason).toBe("Permission")
      expect(calls()).toBe(1)
    }))
})
