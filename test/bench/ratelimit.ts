import { RateLimit } from "@millrace/core"
import { RateLimitRedis } from "@millrace/redis"
import { Redis } from "@millrace/testing/servers"
import { Context, Effect, Exit, Layer, Redacted, Scope } from "effect"
import { RateLimiter } from "effect/persistence"
import { Redis as Client } from "ioredis"
import { type RateLimiterAbstract, RateLimiterMemory, RateLimiterRedis } from "rate-limiter-flexible"
import { type Bench, measure, type Measured, scaled, stopwatch } from "./Bench.ts"

const urlName = "MILLRACE_BENCH_RATE_URL"

const share = async () => {
  const scope = Scope.makeUnsafe()
  const server = await Effect.runPromise(Scope.provide(Redis.own({ settings: { appendonly: "no" } }), scope))
  return {
    environment: { [urlName]: Redacted.value(server.url) },
    close: () => Effect.runPromise(Scope.close(scope, Exit.void))
  }
}

const keys = Array.from({ length: 100 }, (_, i) => `tenant-${i}`)
const policy = RateLimit.policy("bench", { limit: 1_000_000, burst: 1_000_000 })
const charges = keys.map((key) => [{ policy, key, cost: 1 }])

type Store = RateLimit.Store["Service"]

const open = async <E>(layer: Layer.Layer<RateLimit.Store, E>) => {
  const scope = Scope.makeUnsafe()
  const store = Context.get(await Effect.runPromise(Layer.buildWithScope(layer, scope)), RateLimit.Store)
  return { store, close: () => Effect.runPromise(Scope.close(scope, Exit.void)) }
}

/** As an engine does it: what is there at once costs no step of a fiber. */
const decide = (store: Store, count: number, inFlight: number): Promise<unknown> => {
  let next = 0
  const flow: Effect.Effect<void, RateLimit.RateLimitUnavailable> = Effect.suspend(() => {
    while (next < count) {
      const taken = store.take(charges[next++ % charges.length]!, 0)
      if (!Exit.isExit(taken)) return Effect.flatMap(taken, () => flow)
    }
    return Effect.void
  })
  return Effect.runPromise(Effect.all(Array.from({ length: inFlight }, () => flow), { concurrency: "unbounded" }))
}

const ours = <E>(layer: () => Layer.Layer<RateLimit.Store, E>, inFlight: number) => async (): Promise<Measured> => {
  const { close, store } = await open(layer())
  const measured = await measure((count) => decide(store, count, inFlight))
  await close()
  return measured
}

const redis = (options: Partial<RateLimitRedis.Options> = {}) => () =>
  RateLimitRedis.layer({ url: Redacted.make(process.env[urlName] ?? ""), ...options })

/** Effect's own limiter, as its documentation has it. */
const effects = async (): Promise<Measured> => {
  const layer = RateLimiter.layer.pipe(Layer.provide(RateLimiter.layerStoreMemory))
  const context = await Effect.runPromise(Effect.scoped(Layer.build(layer)))
  const limiter = Context.get(context, RateLimiter.RateLimiter)
  return measure((count) =>
    Effect.runPromise(Effect.gen(function*() {
      for (let i = 0; i < count; i++) {
        yield* limiter.consume({
          algorithm: "token-bucket",
          window: "1 second",
          limit: 1_000_000,
          key: keys[i % keys.length]!
        })
      }
    }))
  )
}

/** The most used limiter of Node: a window for each key, by its promises; one call waits for the last in each of `lanes`. */
const flexible =
  (make: () => { readonly limiter: RateLimiterAbstract; readonly close: () => void }, lanes: number) =>
  async (): Promise<Measured> => {
    const { close, limiter } = make()
    const measured = await measure((count) => {
      let next = 0
      const lane = async () => {
        while (next < count) await limiter.consume(keys[next++ % keys.length]!)
      }
      return Promise.all(Array.from({ length: lanes }, lane))
    }, { most: 200_000 })
    close()
    return measured
  }

const inMemory = () => ({ limiter: new RateLimiterMemory({ points: 1_000_000, duration: 1 }), close: () => {} })

const onRedis = () => {
  const client = new Client(process.env[urlName] ?? "", { protocol: 2 })
  return {
    limiter: new RateLimiterRedis({ storeClient: client, points: 1_000_000, duration: 1 }),
    close: () => client.disconnect()
  }
}

/** The least that a count can cost: a window's start and count in a Map. */
const map = (): Promise<Measured> => {
  const counts = new Map<string, { start: number; count: number }>()
  let passed = 0
  return measure((count) => {
    for (let i = 0; i < count; i++) {
      const now = Date.now()
      const key = keys[i % keys.length]!
      const known = counts.get(key)
      if (known === undefined || now - known.start >= 1000) counts.set(key, { start: now, count: 1 })
      else if (known.count < 1_000_000) known.count++
      else continue
      passed++
    }
    return passed
  })
}

/** The heap of a hundred thousand keys. */
const heap = (algorithm: RateLimit.Algorithm) => async (): Promise<Measured> => {
  const count = scaled(100_000)
  const made = RateLimit.policy("heap", { algorithm, limit: 100 })
  const names = Array.from({ length: count }, (_, i) => `customer-${i}`)
  const { close, store } = await open(RateLimit.layerMemory())
  const size = () => {
    globalThis.gc?.()
    globalThis.gc?.()
    const { arrayBuffers, heapUsed } = process.memoryUsage()
    return heapUsed + arrayBuffers
  }
  const before = size()
  const stop = stopwatch()
  for (const key of names) await Effect.runPromise(store.take([{ policy: made, key, cost: 1 }], 0))
  const measured = stop(count)
  const bytes = (size() - before) / count
  await close()
  return { ...measured, bytesPerKey: bytes }
}

/** P9 and P15: decisions in a process, on Redis one by one, and by leases; the memory of keys. */
export const ratelimit: Bench = {
  name: "ratelimit",
  about: "rate limit decisions over 100 keys: in memory, on Redis with one round trip each, on Redis by leases",
  rounds: 3,
  share,
  variants: [
    { name: "millrace, memory", whose: "millrace", run: ours(() => RateLimit.layerMemory(), 1) },
    { name: "millrace, Redis, leases of 1,000", whose: "millrace", run: ours(redis({ leases: { tokens: 1000 } }), 64) },
    { name: "millrace, Redis, leases of 100", whose: "millrace", run: ours(redis({ leases: { tokens: 100 } }), 64) },
    { name: "millrace, Redis, 64 in flight", whose: "millrace", run: ours(redis(), 64) },
    { name: "millrace, Redis, one by one", whose: "millrace", run: ours(redis(), 1) },
    { name: "millrace, memory, 100,000 keys", whose: "millrace", run: heap("gcra") },
    { name: "millrace, memory, 100,000 windows", whose: "millrace", run: heap("fixedWindow") },
    { name: "effect RateLimiter, memory", whose: "peer", run: effects },
    { name: "rate-limiter-flexible, memory", whose: "peer", run: flexible(inMemory, 1) },
    { name: "rate-limiter-flexible, Redis, 64 in flight", whose: "peer", run: flexible(onRedis, 64) },
    { name: "rate-limiter-flexible, Redis, one by one", whose: "peer", run: flexible(onRedis, 1) },
    // what express-rate-limit does, without its promises
    { name: "Map of windows", whose: "limit", run: map }
  ],
  goals: [
    {
      id: "P9",
      text: "decisions on Redis for a second of a processor, by leases",
      target: 1_000_000,
      better: "higher",
      measured: (of) => 1_000_000 / of("millrace, Redis, leases of 1,000").cpu
    },
    {
      id: "P9",
      text: "times one round trip for each message",
      target: 90,
      better: "higher",
      measured: (of) =>
        of("millrace, Redis, leases of 1,000")["perSecond"]! / of("millrace, Redis, one by one")["perSecond"]!
    },
    {
      id: "P9",
      text: "in memory, times cheaper than rate-limiter-flexible",
      target: 1,
      better: "higher",
      measured: (of) => of("rate-limiter-flexible, memory").cpu / of("millrace, memory").cpu
    },
    {
      id: "P15",
      text: "bytes of a key beside its text",
      target: 105,
      better: "lower",
      measured: (of) => of("millrace, memory, 100,000 keys")["bytesPerKey"]!
    }
  ]
}
