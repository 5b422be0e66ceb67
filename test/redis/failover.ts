import { it } from "@effect/vitest"
import { Idempotency } from "@millrace/core"
import { IdempotencyRedis, RedisLists, RedisStreams } from "@millrace/redis"
import type { RedisCluster, RedisSentinel } from "@millrace/testing/servers"
import { Context, Effect, Exit, Layer, References } from "effect"
import { expect } from "vitest"
import { flow } from "./flow.ts"
import { eventually, fresh, plain } from "./support.ts"

const quiet = Effect.provideService(References.MinimumLogLevel, "None")

/** Short times, so that tests need not wait. */
export const consumer = { claim: "1 second", lock: "1 second", maximumWait: "100 millis" } as const

type Place = Pick<RedisStreams.Options, "url" | "cluster" | "sentinels" | "name">

/** The brokers whose messages survive a failover. */
export const layers = [
  [
    "streams",
    (place: Place, wait?: RedisStreams.Options["wait"]) => RedisStreams.layer({ ...place, consumer, wait })
  ],
  [
    "lists",
    (place: Place, wait?: RedisStreams.Options["wait"]) =>
      RedisLists.layer({ ...place, consumer: { claim: "1 second", maximumWait: "100 millis" }, wait })
  ]
] as const

/** Sentinels elect a new primary. */
export const sentinelKilled = (servers: () => RedisSentinel.RedisSentinel): void =>
  it.live(
    "X4, X5, X9 the primary is killed under load: all use the new one within seconds, and nothing confirmed is lost or sent twice",
    () =>
      Effect.gen(function*() {
        const place = { sentinels: servers().addresses, name: servers().name }
        const { first, second } = servers()
        const store = Context.get(
          yield* Layer.build(IdempotencyRedis.layer({ ...place, prefix: fresh("keys") })),
          Idempotency.Store
        )
        const wait = { replicas: 1, timeout: "300 millis" } as const
        const flows = [
          yield* flow(
            yield* Layer.build(RedisStreams.layer({ ...place, consumer, wait })),
            fresh("sentinel.streams")
          ),
          yield* flow(
            yield* Layer.build(
              RedisLists.layer({ ...place, consumer: { claim: "1 second", maximumWait: "100 millis" }, wait })
            ),
            fresh("sentinel.lists")
          )
        ]
        const claim = (key: string) => store.claim({ key, fingerprint: "", lease: 1000 })
        yield* claim("before")
        for (const { done } of flows) yield* eventually(() => done.length > 20)
        const [old, next] = (yield* servers().primary) === first.address ? [first, second] : [second, first]
        yield* old.kill
        const began = performance.now()
        // the new primary has no replica yet, so what is written there is not confirmed
        for (const { unconfirmed } of flows) yield* eventually(() => unconfirmed() > 3)
        yield* eventually(async () => Exit.isSuccess(await Effect.runPromiseExit(claim("after"))))
        expect(performance.now() - began).toBeLessThan(20_000)
        expect(yield* servers().primary).toBe(next.address)
        // it takes writes until the sentinels make it a replica: no client of ours comes back to it
        yield* old.start
        for (const { confirmed } of flows) {
          const seen = confirmed.length
          yield* eventually(() => confirmed.length > seen + 20)
        }
        for (const { done, end } of flows) {
          const { confirmed, failed } = yield* end
          for (const { reason } of failed) expect(["Lost", "Unreachable"]).toContain(reason)
          yield* eventually(() => confirmed.every((text) => done.includes(text)))
        }
        const raw = yield* plain(old)
        expect(yield* Effect.promise(() => raw.info("replication"))).toContain("role:slave")
      }).pipe(Effect.scoped, quiet),
    90_000
  )

/** The replica of a cluster's node takes its place. */
export const clusterKilled = (
  [name, layer]: typeof layers[number],
  server: () => RedisCluster.RedisCluster
): void =>
  it.live(
    `X4, X5, X9 ${name}: a primary that is killed under load is replaced within seconds, and nothing confirmed is lost or sent twice`,
    () =>
      Effect.gen(function*() {
        const channel = fresh(`killed.${name}`)
        // with WAIT: a replica has what was confirmed
        const running = yield* flow(
          yield* Layer.build(layer({ cluster: server().addresses }, { replicas: 1, timeout: "300 millis" })),
          channel
        )
        yield* eventually(() => running.done.length > 20)
        const owner = yield* server().primaryOf(channel)
        const before = running.written()
        yield* owner.kill
        const began = performance.now()
        // the new primary has no replica yet, so what is written there is not confirmed
        yield* eventually(() => running.unconfirmed() > 3)
        const took = performance.now() - began
        expect(took).toBeLessThan(20_000)
        yield* owner.start
        const seen = running.done.length
        yield* eventually(() => running.written() > before + 20 && running.done.length > seen + 20)
        const { confirmed, done, failed } = yield* running.end
        for (const { reason } of failed) expect(["Lost", "Unreachable"]).toContain(reason)
        yield* eventually(() => confirmed.every((text) => done.includes(text)))
        if (name === "streams") {
          const client = yield* plain(yield* server().primaryOf(channel))
          const entries = yield* Effect.promise(() => client.xrange(channel, "-", "+"))
          const texts = entries.map(([, fields]) => fields[1])
          expect(texts.length).toBe(new Set(texts).size)
        }
      }).pipe(Effect.scoped, quiet),
    90_000
  )
