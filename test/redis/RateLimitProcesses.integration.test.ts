import { assert, describe, it } from "@effect/vitest"
import { RateLimit } from "@millrace/core"
import { RateLimitRedis } from "@millrace/redis"
import { Postgres, Redis } from "@millrace/testing/servers"
import { Context, Effect, Exit, Layer, Redacted, Scope } from "effect"
import { spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { afterAll } from "vitest"
import { describeServer } from "../services/describe.ts"

interface Told {
  readonly passed: number
  readonly asked: number
  readonly first: number
  readonly last: number
}

const file = new URL("RateLimitHammer.ts", import.meta.url).pathname

/** Four processes that begin together, and what each of them was let through. */
const hammer = (kind: string, address: string, numbers: RateLimit.PolicyNumbers, millis = 1500) =>
  Effect.promise(async (): Promise<ReadonlyArray<Told>> => {
    const all = Array.from({ length: 4 }, () => {
      const child = spawn(process.execPath, [
        "--no-warnings",
        file,
        kind,
        address,
        JSON.stringify(numbers),
        String(millis)
      ], { stdio: ["pipe", "pipe", "inherit"] })
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
      return { child, lines }
    })
    for (const { lines } of all) assert.strictEqual((await lines.next()).value, "ready")
    for (const { child } of all) child.stdin.write("go\n")
    return Promise.all(all.map(async ({ lines }) => JSON.parse(String((await lines.next()).value)) as Told))
  })

const sum = (told: ReadonlyArray<Told>, what: "asked" | "passed") => told.reduce((all, each) => all + each[what], 0)

/** All that may pass by the clock of the store, and all but a little of it did. */
const exactly = (told: ReadonlyArray<Told>, policy: RateLimit.Policy, spare = 0) => {
  const first = Math.min(...told.map((each) => each.first))
  const last = Math.max(...told.map((each) => each.last))
  const most = policy.algorithm === "gcra"
    ? policy.burst + Math.floor((last - first) * policy.limit / policy.window)
    : policy.limit * (Math.floor(last / policy.window) - Math.floor(first / policy.window) + 1)
  const passed = sum(told, "passed")
  assert.isAtMost(passed, most + spare)
  // refusals say that they were at the limit
  assert.isAbove(sum(told, "asked"), passed)
  return { passed, most }
}

// a burst of a second: a machine that is busy elsewhere for less loses nothing
const gcra = { limit: 40, window: 1000, burst: 40 } as const
const windows = { algorithm: "fixedWindow", limit: 40, window: 500 } as const

const cases = (kind: string, address: () => string) => {
  it.live("W6 F12 four processes at one key get what one would, not one more", () =>
    Effect.gen(function*() {
      const { most, passed } = exactly(yield* hammer(kind, address(), gcra), RateLimit.policy("hammered", gcra))
      assert.isAtLeast(passed, most * 0.9)
    }))

  it.live("W7 four processes at one window get its limit, in each window", () =>
    Effect.gen(function*() {
      const { most, passed } = exactly(yield* hammer(kind, address(), windows), RateLimit.policy("hammered", windows))
      // the last window may have begun a moment ago
      assert.isAtLeast(passed, most - 2 * windows.limit)
    }))
}

describe("SQLite, processes", () => {
  const folder = mkdtempSync(join(tmpdir(), "millrace-rate-"))
  cases("sqlite", () => join(folder, `limits.db`))
  afterAll(() => rmSync(folder, { recursive: true }))
})

describeServer("PostgreSQL, processes", Postgres.own(), (postgres) => {
  cases("postgres", () => Redacted.value(postgres().url))
})

describeServer("Redis, processes", Redis.own(), (redis) => {
  cases("redis", () => Redacted.value(redis().url))

  it.live("P9 F12 with leases four processes get no more than a lease of each beyond the limit", () =>
    Effect.gen(function*() {
      const policy = { ...gcra, burst: 200, limit: 400 }
      const made = RateLimit.policy("hammered", policy)
      const told = yield* hammer("leases", Redacted.value(redis().url), policy)
      const { most, passed } = exactly(told, made, 4 * 20)
      assert.isAtLeast(passed, most * 0.9)
    }))

  const open = (options: Partial<RateLimitRedis.Options> = {}) =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
      const layer = Layer.fresh(RateLimitRedis.layer({ url: redis().url, ...options }))
      const store = Context.get(yield* Layer.buildWithScope(layer, scope), RateLimit.Store)
      return { store, close: Scope.close(scope, Exit.void) }
    })
  let keys = 0
  const fresh = () => `key ${++keys}`

  it.live("P9 tokens are spent without asking, never twice, and given back when the layer closes", () =>
    Effect.gen(function*() {
      const policy = RateLimit.policy("leased", { limit: 1000, window: "10 minutes" })
      const charges = [{ policy, key: fresh(), cost: 1 }]
      const one = yield* open({ leases: { tokens: 60 } })
      const plain = yield* open()
      const asked = [{ policy, key: charges[0]!.key, cost: 0 }]
      assert.isTrue((yield* one.store.take(charges, 0)).isAdmitted)
      assert.strictEqual((yield* plain.store.take(asked, 0)).verdicts[0]!.remaining, 940)
      for (let i = 0; i < 29; i++) yield* one.store.take(charges, 0)
      assert.strictEqual((yield* plain.store.take(asked, 0)).verdicts[0]!.remaining, 940)
      yield* one.close
      assert.strictEqual((yield* plain.store.take(asked, 0)).verdicts[0]!.remaining, 970)
    }).pipe(Effect.scoped))

  it.live("P9 whatever comes together at a lease, of whatever cost, the burst passes and no more", () =>
    Effect.gen(function*() {
      const policy = RateLimit.policy("together", { limit: 500, window: "10 minutes" })
      const key = fresh()
      const two = [yield* open({ leases: { tokens: 50 } }), yield* open({ leases: { tokens: 50 } })]
      const costs = Array.from({ length: 600 }, (_, i) => i % 7 === 0 ? 3 : 1)
      const decisions = yield* Effect.forEach(
        costs,
        (cost, i) =>
          Effect.map(
            Effect.suspend(() => two[i % 2]!.store.take([{ policy, key, cost }], 0)),
            ({ isAdmitted }) => isAdmitted ? cost : 0
          ),
        { concurrency: "unbounded" }
      )
      const spent = decisions.reduce<number>((all, cost) => all + cost, 0)
      assert.isAtMost(spent, 500)
      // what is left may be tokens of one process that the other would have had
      assert.isAtLeast(spent, 450)
    }).pipe(Effect.scoped))

  it.live("P9 other algorithms, several policies and delays ask the server each time", () =>
    Effect.gen(function*() {
      const { store } = yield* open({ leases: {} })
      const log = RateLimit.policy("log", { algorithm: "slidingLog", limit: 1, window: "10 minutes" })
      const bucket = RateLimit.policy("bucket", { limit: 1, window: "10 minutes" })
      const key = fresh()
      assert.isTrue((yield* store.take([{ policy: log, key, cost: 1 }], 0)).isAdmitted)
      assert.isFalse((yield* store.take([{ policy: log, key, cost: 1 }], 0)).isAdmitted)
      assert.isFalse(
        (yield* store.take([{ policy: bucket, key, cost: 1 }, { policy: log, key, cost: 1 }], 0)).isAdmitted
      )
      assert.isTrue((yield* store.take([{ policy: bucket, key, cost: 1 }], 0)).isAdmitted)
      const delayed = yield* store.take([{ policy: bucket, key, cost: 1 }], 600_000)
      assert.isTrue(delayed.isAdmitted && delayed.wait > 0)
    }).pipe(Effect.scoped))
})

describeServer("Redis that goes away", Redis.own(), (redis) => {
  it.live("F12 X9 without a server a call fails with a typed error, and goes through when it is back", () =>
    Effect.gen(function*() {
      const store = yield* RateLimit.Store
      const policy = RateLimit.policy("gone", { limit: 5, window: "10 minutes" })
      const take = Effect.suspend(() => store.take([{ policy, key: "one", cost: 1 }], 0))
      assert.isTrue((yield* take).isAdmitted)
      yield* redis().kill
      const failed = yield* Effect.flip(take)
      assert.instanceOf(failed, RateLimit.RateLimitUnavailable)
      assert.include(failed.message, "RateLimitRedis")
      yield* redis().start
      const back: typeof take = Effect.catch(
        take,
        () => Effect.andThen(Effect.sleep("20 millis"), Effect.suspend(() => back))
      )
      assert.strictEqual((yield* back).verdicts[0]!.remaining, 3)
    }).pipe(Effect.provide(Layer.unwrap(Effect.sync(() => RateLimitRedis.layer({ url: redis().url }))))))
})
