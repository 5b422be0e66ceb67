/**
 * A process of its own that asks one key of a limit as fast as it can: `redis`, `leases`, `sqlite` or `postgres`, its address, a
 * policy, and for how many milliseconds. Prints `ready`, begins when it is written to, and prints what passed.
 */
import { RateLimit } from "@millrace/core"
import { RateLimitRedis } from "@millrace/redis"
import { RateLimitPostgres, RateLimitSqlite } from "@millrace/sql"
import { Effect, type Layer, Redacted } from "effect"
import { once } from "node:events"

const [kind, address = "", numbers = "{}", millis = "1000"] = process.argv.slice(2)
const url = Redacted.make(address)
const layer: Layer.Layer<RateLimit.Store, unknown> = kind === "redis"
  ? RateLimitRedis.layer({ url })
  : kind === "leases"
  ? RateLimitRedis.layer({ url, leases: { tokens: 20 } })
  : kind === "sqlite"
  ? RateLimitSqlite.layer({ filename: address, busyTimeout: "10 seconds" })
  : RateLimitPostgres.layer({ url })

const hammer = Effect.gen(function*() {
  const store = yield* RateLimit.Store
  // the test writes it
  const policy = RateLimit.policy("hammered", JSON.parse(numbers) as RateLimit.PolicyNumbers)
  const charges = [{ policy, key: "one", cost: 1 }]
  console.log("ready")
  yield* Effect.promise(() => once(process.stdin, "data"))
  const end = Date.now() + Number(millis)
  let [passed, asked, first, last] = [0, 0, Infinity, 0]
  const flow = Effect.gen(function*() {
    while (Date.now() < end) {
      const { at, isAdmitted } = yield* store.take(charges, 0)
      asked++
      if (isAdmitted) passed++
      first = Math.min(first, at)
      last = Math.max(last, at)
      // SQLite answers at once, and others want their turn
      yield* Effect.yieldNow
    }
  })
  yield* Effect.all(Array.from({ length: 8 }, () => flow), { concurrency: "unbounded" })
  return { passed, asked, first, last }
})

console.log(JSON.stringify(await Effect.runPromise(Effect.provide(hammer, layer))))
process.exit(0)
