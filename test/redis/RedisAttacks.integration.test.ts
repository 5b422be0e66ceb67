/**
 * What an operator, another program or a clock can do to Redis under a running subscription. Each has a typed outcome, and the subscription
 * goes on when its cause is gone.
 */
import { it } from "@effect/vitest"
import { Broker, type BrokerError, Idempotency, Lanes, RateLimit } from "@millrace/core"
import { IdempotencyRedis, RateLimitRedis, RedisLists, RedisPubSub, RedisStreams } from "@millrace/redis"
import { Redis as Servers } from "@millrace/testing/servers"
import { Clock, Context, Effect, Layer, Logger, Redacted, References, Stream } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { consume, consumer, publish } from "./consuming.ts"
import { flow } from "./flow.ts"
import { relay } from "./relay.ts"
import { eventually, fresh, numbered, outgoing, plain, textOf } from "./support.ts"

const quiet = Effect.provideService(References.MinimumLogLevel, "None")

const layers = {
  streams: (url: string) => RedisStreams.layer({ url, consumer }),
  lists: (url: string) => RedisLists.layer({ url, consumer: { claim: "500 millis", maximumWait: "100 millis" } }),
  "Pub/Sub": (url: string) => RedisPubSub.layer({ url })
}
/** With the times that a user has by default: the lock of half a second would expire while a loaded machine stands still. */
const usual = {
  streams: (url: string) => RedisStreams.layer({ url }),
  lists: (url: string) => RedisLists.layer({ url }),
  "Pub/Sub": (url: string) => RedisPubSub.layer({ url })
}
const kinds = ["streams", "lists", "Pub/Sub"] as const

/** Each way to consume: the kind, and lanes that it can have. */
const ways = [
  ["streams in order", layers.streams, Lanes.key(4)],
  ["streams without order", layers.streams, Lanes.unordered(4)],
  ["lists", layers.lists, Lanes.unordered(4)],
  ["Pub/Sub", layers["Pub/Sub"], Lanes.partition]
] as const

const policy = RateLimit.policy("attacks", { limit: 1000, window: "1 hour" })

/** Both stores, as effects that succeed when Redis has answered as it should. */
const questions = (url: string, prefix: string) =>
  Effect.gen(function*() {
    const keys = Context.get(
      yield* Layer.build(IdempotencyRedis.layer({ url, prefix: `${prefix}.keys`, patience: "1 second" })),
      Idempotency.Store
    )
    const rates = Context.get(
      yield* Layer.build(RateLimitRedis.layer({ url, prefix: `${prefix}.rate` })),
      RateLimit.Store
    )
    return {
      claim: Effect.suspend(() => keys.claim({ key: "k", fingerprint: "", lease: 1 })),
      take: rates.take([{ policy, key: "k", cost: 1 }], 0)
    }
  })

describeServer("Redis under attack", Servers.own(), (server) => {
  const url = () => Redacted.value(server().url)

  for (const kind of kinds) {
    it.live(`X4, X5 ${kind}: clients that are killed by hand connect again, and nothing confirmed is lost`, () =>
      Effect.gen(function*() {
        const raw = yield* plain(server())
        const running = yield* flow(yield* Layer.build(layers[kind](url())), fresh("killed"))
        for (let i = 0; i < 5; i++) {
          const seen = running.done.length
          yield* eventually(() => running.done.length > seen + 5)
          for (const type of ["normal", "pubsub"]) {
            yield* Effect.promise(() => raw.call("CLIENT", "KILL", "TYPE", type, "SKIPME", "yes"))
          }
        }
        const seen = running.done.length
        yield* eventually(() => running.done.length > seen + 5)
        const { confirmed, done, failed } = yield* running.end
        for (const { reason } of failed) expect(["Lost", "Unreachable"]).toContain(reason)
        if (kind !== "Pub/Sub") yield* eventually(() => confirmed.every((text) => done.includes(text)))
      }).pipe(Effect.scoped, quiet))
  }

  for (const [name, layer, lanes] of ways) {
    it.live(`X5 ${name}: all scripts and all data are deleted (SCRIPT FLUSH, FLUSHALL), and what comes later arrives`, () =>
      Effect.gen(function*() {
        const raw = yield* plain(server())
        const channel = fresh("flushed")
        const here = yield* consume(channel, () => Effect.void, lanes)
        const arrives = (text: string) =>
          eventually(async () => {
            await Effect.runPromiseExit(Effect.provideService(publish(channel, [text]), Broker.Broker, broker))
            return here.got.includes(text)
          })
        const broker = yield* Broker.Broker
        yield* arrives("before")
        yield* Effect.promise(() => raw.call("SCRIPT", "FLUSH", "SYNC"))
        yield* arrives("scripts")
        expect((yield* here.running.health).restarts).toBe(0)
        yield* Effect.promise(() => raw.flushall())
        yield* arrives("data")
      }).pipe(Effect.provide(layer(url())), Effect.scoped, quiet))

    // Pub/Sub has no keys
    if (name === "Pub/Sub") continue
    it.live(`X5 ${name}: a key of another type is a Conflict for each operation, and its deletion is enough`, () =>
      Effect.gen(function*() {
        const raw = yield* plain(server())
        const channel = fresh("type")
        yield* Effect.promise(() => raw.set(channel, "text"))
        const broker = yield* Broker.Broker
        const failing = [
          publish(channel, ["m"]),
          broker.declare({ channel }),
          Stream.runCollect(broker.browse(channel))
        ]
        for (const each of failing) {
          const error = yield* Effect.flip(each as Effect.Effect<unknown, BrokerError.BrokerError>)
          expect([error.reason, error.failure], error.message).toEqual(["Conflict", "permanent"])
          expect(error.message).toContain("use another name, or delete the key")
        }
      }).pipe(Effect.provide(layer(url())), Effect.scoped, quiet))
  }

  for (const lanes of [Lanes.key(4), Lanes.unordered(4)]) {
    it.live(`X5 streams, ${lanes._tag}: a group that is destroyed is made again, and no message is passed over`, () =>
      Effect.gen(function*() {
        const raw = yield* plain(server())
        const channel = fresh("destroyed")
        const here = yield* consume(channel, () => Effect.void, lanes, "latest")
        yield* publish(channel, ["before"])
        yield* eventually(() => here.got.includes("before"))
        yield* Effect.promise(() => raw.xgroup("DESTROY", channel, "workers"))
        yield* publish(channel, ["after"])
        yield* eventually(() => here.got.includes("after"))
      }).pipe(Effect.provide(layers.streams(url())), Effect.scoped, quiet))
  }

  it.live("X4 streams: a process whose clock is set back still takes over the messages of a dead one", () =>
    Effect.gen(function*() {
      const raw = yield* plain(server())
      const channel = fresh("clock")
      const clock = yield* Clock.Clock
      let shift = 0
      const shifted: Clock.Clock = {
        sleep: (duration) => clock.sleep(duration),
        currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe() - shift,
        currentTimeMillis: Effect.sync(() => clock.currentTimeMillisUnsafe() - shift),
        currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe(),
        currentTimeNanos: clock.currentTimeNanos,
        monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
        monotonicTimeNanos: clock.monotonicTimeNanos
      }
      yield* Effect.gen(function*() {
        const here = yield* consume(channel, () => Effect.void, Lanes.unordered(4))
        yield* publish(channel, ["first"])
        yield* eventually(() => here.got.includes("first"))
        // long enough for one look at what others have
        yield* Effect.sleep("1 second")
        shift = 3_600_000
        yield* Effect.promise(() => raw.xadd(channel, "1-1", "body", "old").catch(() => null))
        yield* publish(channel, ["second"])
        yield* eventually(() => here.got.includes("second"))
        // a consumer that died with a message
        const [[id = ""] = []] = yield* Effect.promise(() => raw.xrevrange(channel, "+", "-", "COUNT", 1))
        yield* Effect.promise(() => raw.xclaim(channel, "workers", "millrace:dead:1", 0, id, "FORCE"))
        const seen = here.got.length
        yield* eventually(() => here.got.length > seen)
        expect(here.got.at(-1)).toBe("second")
      }).pipe(Effect.provide(layers.streams(url())), Effect.provideService(Clock.Clock, shifted))
    }).pipe(Effect.scoped, quiet))

  it.live("X5 a user who may read but not acknowledge is told so, and once it may, nothing was lost", () =>
    Effect.gen(function*() {
      const raw = yield* plain(server())
      yield* Effect.promise(() => raw.acl("SETUSER", "half", "on", ">half", "~*", "&*", "+@all", "-xack"))
      const channel = fresh("half")
      yield* Effect.gen(function*() {
        for (const lanes of [Lanes.unordered(4)]) {
          const here = yield* consume(channel, () => Effect.void, lanes)
          yield* publish(channel, numbered(3))
          yield* eventually(() => here.got.length >= 3)
          yield* eventually(async () =>
            ((await Effect.runPromise(here.running.health)).lastError as { reason?: string } | undefined)?.reason ===
              "Permission"
          )
          yield* Effect.promise(() => raw.acl("SETUSER", "half", "+xack"))
          yield* eventually(async () => (await raw.xpending(channel, "workers"))[0] === 0)
          expect(new Set(here.got)).toEqual(new Set(numbered(3)))
        }
      }).pipe(Effect.provide(layers.streams(url().replace("redis://", "redis://half:half@"))))
    }).pipe(Effect.scoped, quiet))

  it.live("X5 stores: keys of another type, and scripts and data that are deleted", () =>
    Effect.gen(function*() {
      const raw = yield* plain(server())
      const prefix = fresh("store")
      const { claim, take } = yield* questions(url(), prefix)
      yield* claim
      yield* take
      yield* Effect.promise(() => raw.call("SCRIPT", "FLUSH", "SYNC"))
      yield* claim
      yield* take
      yield* Effect.promise(() => raw.flushall())
      yield* claim
      yield* take
      for (const key of yield* Effect.promise(() => raw.keys(`*${prefix}*`))) {
        yield* Effect.promise(async () => {
          await raw.del(key)
          await raw.lpush(key, "x")
        })
      }
      yield* Effect.promise(() => raw.lpush(`{${prefix}.keys}:k:k`, "x"))
      for (const each of [claim, take]) {
        const error = yield* Effect.flip(each as Effect.Effect<unknown, { readonly message: string }>)
        expect(error.message).toContain("holds something else")
      }
    }).pipe(Effect.scoped, quiet))

  for (const kind of kinds) {
    it.live(`F22 ${kind}: a message of 64 MiB arrives whole`, () =>
      Effect.gen(function*() {
        const raw = yield* plain(server())
        // more than Redis lets a subscriber be behind by default
        yield* Effect.promise(() => raw.config("SET", "client-output-buffer-limit", "pubsub 256mb 0 0"))
        const channel = fresh("large")
        const body = Buffer.alloc(64 * 1024 * 1024, "x")
        const lengths: Array<number> = []
        const broker = yield* Broker.Broker
        const here = yield* consume(
          channel,
          ({ payload }) => Effect.sync(() => void lengths.push(payload.length)),
          kind === "streams" ? Lanes.partition : kind === "lists" ? Lanes.unordered(2) : Lanes.partition
        )
        yield* broker.publish(outgoing(channel, body))
        yield* eventually(() => lengths.length === 1)
        expect(lengths).toEqual([body.length])
        expect((yield* here.running.health).restarts).toBe(0)
        yield* Effect.promise(() => raw.del(channel))
      }).pipe(Effect.provide(usual[kind](url())), Effect.scoped, quiet))
  }

  it.live(
    "X4 F22 streams in order: a message that arrives for longer than the lock lasts is handled once, and settled",
    () =>
      Effect.gen(function*() {
        const way = yield* relay(server().port)
        const slow = yield* Layer.build(
          RedisStreams.layer({ url: `redis://127.0.0.1:${way.port}`, consumer: { ...consumer, lock: "2 seconds" } })
        )
        const channel = fresh("slow")
        const body = Buffer.alloc(16 * 1024 * 1024, "x")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        yield* broker.publish(outgoing(channel, body))
        // four seconds for the message
        way.pace = 4096
        const here = yield* consume(channel, () => Effect.void, Lanes.partition).pipe(Effect.provideContext(slow))
        yield* eventually(() => here.attempts.length > 0)
        yield* eventually(async () => (await Effect.runPromise(broker.lag(channel, "workers")))[0]?.messages === 0)
        expect(here.attempts).toEqual([1])
        expect((yield* here.running.health).restarts).toBe(0)
      }).pipe(Effect.provide(usual.streams(url())), Effect.scoped, quiet),
    60_000
  )

  it.live("X4 Pub/Sub: a subscriber that Redis cuts off for being behind says so, and listens again", () =>
    Effect.gen(function*() {
      const raw = yield* plain(server())
      yield* Effect.promise(() => raw.config("SET", "client-output-buffer-limit", "pubsub 1mb 0 0"))
      const channel = fresh("cut")
      const broker = yield* Broker.Broker
      const here = yield* consume(channel, () => Effect.void, Lanes.partition)
      const error = yield* eventually(async () => {
        await Effect.runPromise(
          Effect.provideService(publish(channel, numbered(1, "x".repeat(3 * 1024 * 1024))), Broker.Broker, broker)
        )
        return (await Effect.runPromise(here.running.health)).restarts > 0
      }).pipe(Effect.andThen(Effect.map(here.running.health, ({ lastError }) => lastError)))
      expect((error as BrokerError.BrokerError).reason).toBe("Lost")
      yield* eventually(async () => {
        await Effect.runPromise(Effect.provideService(publish(channel, ["after"]), Broker.Broker, broker))
        return here.got.includes("after")
      })
    }).pipe(Effect.provide(layers["Pub/Sub"](url())), Effect.scoped, quiet))

  it.live(
    "X4 streams: 5,000 pending messages of a process that died are all taken over, sooner than a claim for each batch would last",
    () =>
      Effect.gen(function*() {
        const raw = yield* plain(server())
        for (const lanes of [Lanes.unordered(256), Lanes.partition]) {
          const channel = fresh("pending")
          const count = 5000
          for (let from = 0; from < count; from += 1000) {
            const pipeline = raw.pipeline()
            for (let i = from; i < from + 1000; i++) pipeline.xadd(channel, "*", "body", `${i}`)
            yield* Effect.promise(() => pipeline.exec())
          }
          yield* Effect.promise(() => raw.xgroup("CREATE", channel, "workers", "0"))
          for (let from = 0; from < count; from += 1000) {
            yield* Effect.promise(async () => {
              await raw.xreadgroup("GROUP", "workers", "millrace:dead:1", "COUNT", 1000, "STREAMS", channel, ">")
              const ids = (await raw.xrange(channel, "-", "+")).slice(from, from + 1000).map(([id]) => id)
              // long ago
              await raw.call("XCLAIM", channel, "workers", "millrace:dead:1", 0, ...ids, "IDLE", 3_600_000, "JUSTID")
            })
          }
          const got = new Set<string>()
          yield* Effect.scoped(Effect.gen(function*() {
            yield* consume(channel, ({ payload }) => Effect.sync(() => void got.add(textOf(payload))), lanes)
            yield* eventually(() => got.size === count)
            yield* eventually(async () => (await raw.xpending(channel, "workers"))[0] === 0)
          }))
          yield* Effect.promise(() => raw.del(channel))
        }
      }).pipe(Effect.provide(usual.streams(url())), Effect.scoped, quiet),
    120_000
  )
})

describeServer(
  "Redis as a replica",
  Effect.gen(function*() {
    const first = yield* Servers.own({ settings: { "repl-diskless-sync-delay": "0" } })
    return yield* Servers.own({ settings: { replicaof: `127.0.0.1 ${first.port}` } })
  }),
  (server) => {
    it.live("X5 a replica as target refuses writes with what to do", () =>
      Effect.gen(function*() {
        const url = Redacted.value(server().url)
        for (const kind of ["streams", "lists"] as const) {
          yield* Effect.gen(function*() {
            const channel = fresh("replica")
            const error = yield* Effect.flip(publish(channel, ["m"]))
            expect([error.reason, error.retriable], error.message).toEqual(["Unreachable", true])
            const refused = yield* Effect.flip(consume(channel, () => Effect.void, Lanes.unordered(2)))
            expect([refused.reason, refused.retriable], refused.message).toEqual(["Unreachable", true])
          }).pipe(Effect.provide(layers[kind](url)), Effect.scoped)
        }
        const { claim, take } = yield* questions(url, fresh("store"))
        for (const each of [claim, take]) {
          const error = yield* Effect.flip(each as Effect.Effect<unknown, { readonly failure: string }>)
          expect(error.failure).toBe("dependency")
        }
      }).pipe(Effect.scoped, quiet))
  }
)

for (const policy of ["allkeys-lru", "volatile-ttl", "noeviction"]) {
  describeServer(
    `Redis that may evict, ${policy}`,
    Servers.own({ settings: { maxmemory: "64mb", "maxmemory-policy": policy } }),
    (server) => {
      it.live("X5 a server that may delete what a driver or a store keeps is told of at start", () =>
        Effect.gen(function*() {
          const url = Redacted.value(server().url)
          const said: Array<string> = []
          const logger = Logger.make(({ message }) => void said.push(String(message)))
          const all = [
            ["driver", RedisStreams.layer({ url })],
            ["driver", RedisLists.layer({ url })],
            ["store", IdempotencyRedis.layer({ url })],
            ["store", RateLimitRedis.layer({ url })],
            ["none", RedisPubSub.layer({ url })]
          ] as const
          for (const [kind, layer] of all) {
            said.length = 0
            yield* Effect.scoped(Layer.build(layer as Layer.Layer<unknown, unknown>)).pipe(
              Effect.provide(Logger.layer([logger]))
            )
            const isTold = said.some((line) => line.includes(policy) && line.includes("noeviction"))
            expect(isTold, `${kind}: ${said.join()}`).toBe(
              policy === "allkeys-lru" ? kind !== "none" : policy === "volatile-ttl" ? kind === "store" : false
            )
          }
        }).pipe(Effect.scoped))
    }
  )
}
