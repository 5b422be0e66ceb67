import { assert, describe, it } from "@effect/vitest"
import { Audit, Broker, Channel, Health, Idempotency, MemoryBroker, RateLimit } from "@millrace/core"
import {
  AuditSqlite,
  IdempotencySqlite,
  Outbox,
  OutboxRelay,
  RateLimitSqlite,
  SqlHealth,
  SqliteClient
} from "@millrace/sql"
import { Effect, Exit, Layer, Logger, Scope } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "millrace-health-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const memory = SqliteClient.layer({ filename: ":memory:" })

const quiet = Layer.provide(Logger.layer([]))

/** What the first check of the registry comes to. */
const first = Effect.map(Health.report("readiness"), ({ checks: [result] }) => result)

const publisher = Outbox.publisher(Channel.bytes("orders"))

describe("SqlHealth", () => {
  it.live("W8 the program's database is asked, and of what it says nothing is shown", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const database = yield* Layer.buildWithScope(memory, scope)
      const health = quiet(Health.layer([SqlHealth.client()], { cache: 0 }))
      yield* Effect.gen(function*() {
        assert.strictEqual((yield* first)?.status, "up")
        yield* Scope.close(scope, Exit.void)
        assert.containSubset(yield* first, { status: "down", error: { tag: "SqlError", message: undefined } })
      }).pipe(Effect.provide(Layer.provide(health, Layer.succeedContext(database))))
    }))

  it.live("W8 stores on SQLite are asked by their own statements, and nothing changes", () => {
    const health = quiet(Health.layer([Health.audit(), Health.idempotency(), Health.rateLimit()], { cache: 0 }))
    const stores = Layer.mergeAll(
      AuditSqlite.layer({ filename: join(folder, "audit.db") }),
      IdempotencySqlite.layer({ filename: join(folder, "idempotency.db") }),
      RateLimitSqlite.layer({ filename: join(folder, "limits.db") })
    )
    return Effect.gen(function*() {
      const { checks } = yield* Health.report("readiness")
      assert.deepStrictEqual(checks.map(({ name, status }) => [name, status]), [
        ["audit", "up"],
        ["idempotency", "up"],
        ["rate limit", "up"]
      ])
      assert.strictEqual(yield* Effect.flatMap(Audit.Store, (store) => store.count()), 0)
      yield* Idempotency.Store
      yield* RateLimit.Store
    }).pipe(Effect.provide(Layer.provideMerge(health, stores)))
  })

  it.live("W8 a relay that cannot relay, and an outbox that is behind, make it degraded, and it comes back", () =>
    Effect.gen(function*() {
      const { broker, start, stop } = yield* MemoryBroker.make()
      const relay = OutboxRelay.layer({ poll: "10 millis", retryBase: "5 millis", retryCap: "20 millis" })
      const health = Health.layer([SqlHealth.relay({ pending: 2, age: "1 hour" })], { cache: 0 })
      const program = Layer.mergeAll(quiet(health), Outbox.layer()).pipe(
        Layer.provideMerge(quiet(relay)),
        Layer.provideMerge(Layer.succeed(Broker.Broker, broker)),
        Layer.provideMerge(memory)
      )
      yield* Effect.gen(function*() {
        const until = (isSo: (found: Health.Result | undefined) => boolean) =>
          Effect.repeat(Effect.delay(first, 10), { until: isSo })
        yield* until((found) => found?.status === "up" && found.details?.["pending"] === 0)
        yield* stop
        yield* publisher.publish(new Uint8Array(1))
        const failed = yield* until((found) => found?.status === "down")
        assert.containSubset(failed, { whenDown: "degraded", error: { tag: "BrokerError", message: undefined } })
        assert.strictEqual((yield* Health.report("readiness")).checks[0]?.whenDown, "degraded")
        yield* start
        yield* until((found) => found?.status === "up" && found.details?.["pending"] === 0)
      }).pipe(Effect.provide(program))
    }).pipe(Effect.scoped))

  it("W8 options out of range are refused", () => {
    assert.throws(
      () => SqlHealth.relay({ pending: 0 }),
      RangeError,
      "SqlHealth: pending must be an integer from 1, got 0"
    )
    assert.throws(
      () => SqlHealth.relay({ age: 0 }),
      RangeError,
      "SqlHealth: age must be a finite duration from 1 ms, got 0"
    )
  })
})
