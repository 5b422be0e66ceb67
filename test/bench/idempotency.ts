import { Idempotency } from "@millrace/core"
import { IdempotencyRedis } from "@millrace/redis"
import { Redis as Server } from "@millrace/testing/servers"
import { Context, Effect, Exit, Layer, Redacted, Scope } from "effect"
import { Redis } from "ioredis"
import { type Bench, type Measured, scaled, type Shared, stopwatch } from "./Bench.ts"

const urlName = "MILLRACE_BENCH_REDIS"
/** Claims in flight at most, as of messages that an engine has handed on. */
const inFlight = 512
const hour = 3_600_000

const address = (): string => {
  const url = process.env[urlName]
  if (url === undefined) throw new Error(`${urlName} is set by the process that starts the variants`)
  return url
}

/** One Redis for all variants, which keeps nothing on its disk: what is measured is the way there. */
const share = async (): Promise<Shared> => {
  const scope = Scope.makeUnsafe()
  const close = () => Effect.runPromise(Scope.close(scope, Exit.void))
  try {
    const server = await Effect.runPromise(Scope.provide(Server.own({ settings: { appendonly: "no" } }), scope))
    return { environment: { [urlName]: Redacted.value(server.url) }, close }
  } catch (error) {
    await close()
    throw error
  }
}

type Store = Idempotency.Store["Service"]

const withStore = async <A>(
  layer: Layer.Layer<Idempotency.Store, Idempotency.IdempotencyUnavailable>,
  run: (store: Store) => Promise<A>
): Promise<A> => {
  const scope = Scope.makeUnsafe()
  try {
    return await run(Context.get(await Effect.runPromise(Layer.buildWithScope(layer, scope)), Idempotency.Store))
  } finally {
    await Effect.runPromise(Scope.close(scope, Exit.void))
  }
}

let next = 0
const key = (): string => `orders\nplace\ncustomer-${next & 1023}\n${process.pid}-${next++}`
const nothing = new Uint8Array(0)

const claimed = (claim: Idempotency.Claim): number => {
  if (claim._tag !== "Claimed") throw new Error(`a new key is ${claim._tag}`)
  return claim.token
}

const claim = (store: Store) =>
  Effect.map(store.claim({ key: key(), fingerprint: "120-1x2y3z-4a5b6c", lease: 30_000 }), claimed)

const whole = (store: Store) =>
  Effect.suspend(() => {
    const own = key()
    return Effect.flatMap(
      store.claim({ key: own, fingerprint: "120-1x2y3z-4a5b6c", lease: 30_000 }),
      (found) => store.complete(own, claimed(found), nothing, hour)
    )
  })

const many = (one: Effect.Effect<unknown, Idempotency.IdempotencyUnavailable>, count: number) => {
  const each = Math.ceil(count / inFlight)
  const lane = Effect.forEach(Array.from({ length: each }), () => one, { discard: true })
  return Effect.runPromise(
    Effect.forEach(Array.from({ length: inFlight }), () => lane, { concurrency: "unbounded", discard: true })
  )
}

const ours = (one: (store: Store) => Effect.Effect<unknown, Idempotency.IdempotencyUnavailable>, of: number) => () =>
  withStore(IdempotencyRedis.layer({ url: address(), prefix: `bench-${process.pid}` }), async (store) => {
    const count = Math.ceil(scaled(of) / inFlight) * inFlight
    const run = () => many(Effect.suspend(() => one(store)), count)
    await run()
    const stop = stopwatch()
    await run()
    return stop(count)
  })

/** One call after another, as a handler does that claims with its client. */
const each = (of: number, calls: (redis: Redis, key: string) => Promise<unknown>) => async (): Promise<Measured> => {
  const redis = new Redis(address(), { protocol: 2 })
  const run = async (count: number) => {
    for (let i = 0; i < count; i++) await calls(redis, key())
  }
  const count = scaled(of)
  await run(Math.ceil(count / 4))
  const stop = stopwatch()
  await run(count)
  const measured = stop(count)
  redis.disconnect()
  return measured
}

const take = (redis: Redis, name: string) => redis.set(`raw:${name}`, "C", "PX", 30_000, "NX")

/** Bytes of a key that is kept: what the heap and its buffers grow by, without the texts of the keys, which are made anew. */
const memory = (): Promise<Measured> =>
  withStore(Idempotency.layerMemory({ capacity: 1_000_000 }), async (store) => {
    const count = scaled(1_000_000)
    const size = () => {
      // the memory of buffers goes with the collection after that of their objects
      globalThis.gc?.()
      globalThis.gc?.()
      const { arrayBuffers, heapUsed } = process.memoryUsage()
      return heapUsed + arrayBuffers
    }
    const before = size()
    const stop = stopwatch()
    await Effect.runPromise(Effect.forEach(Array.from({ length: count }), () => whole(store), { discard: true }))
    const measured = stop(count)
    const bytes = (size() - before) / count
    return { ...measured, bytes }
  })

/** P9 and P15: keys in Redis beside a round trip for each, and the memory of those that are kept in memory. */
export const idempotency: Bench = {
  name: "idempotency",
  about: "idempotency keys in Redis, 512 in flight, beside a round trip for each; and a million in memory",
  rounds: 3,
  share,
  variants: [
    { name: "millrace, claim", whose: "millrace", run: ours(claim, 200_000) },
    { name: "millrace, claim and complete", whose: "millrace", run: ours(whole, 100_000) },
    { name: "SET NX each", whose: "peer", run: each(20_000, take) },
    {
      name: "SET NX and SET each",
      whose: "peer",
      run: each(10_000, async (redis, name) => {
        await take(redis, name)
        await redis.set(`raw:${name}`, "D", "PX", hour)
      })
    },
    { name: "memory store, claim and complete", whose: "millrace", run: memory }
  ],
  goals: [
    {
      id: "P9",
      text: "times the claims of a round trip each",
      target: 10,
      better: "higher",
      measured: (of) => of("millrace, claim")["perSecond"]! / of("SET NX each")["perSecond"]!
    },
    {
      id: "P9",
      text: "times the claims and completions of a round trip each",
      target: 10,
      better: "higher",
      measured: (of) => of("millrace, claim and complete")["perSecond"]! / of("SET NX and SET each")["perSecond"]!
    },
    {
      id: "P15",
      text: "bytes of a key in memory",
      target: 40,
      better: "lower",
      measured: (of) => of("memory store, claim and complete")["bytes"]!
    }
  ]
}
