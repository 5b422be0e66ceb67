import { it } from "@effect/vitest"
import { Broker, Idempotency, RateLimit } from "@millrace/core"
import { IdempotencyRedis, RateLimitRedis, RedisLists, RedisStreams } from "@millrace/redis"
import { Redis as Servers } from "@millrace/testing/servers"
import { Context, Effect, Exit, Layer } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { relay } from "./relay.ts"
import { eventually, fresh, outgoing, plain } from "./support.ts"

const pair = Effect.gen(function*() {
  const first = yield* Servers.own({ settings: { "repl-diskless-sync-delay": "0" } })
  const second = yield* Servers.own({
    settings: { "repl-diskless-sync-delay": "0", replicaof: `127.0.0.1 ${first.port}` }
  })
  return { first, second }
})

const policy = RateLimit.policy("failover", { limit: 1_000_000 })
let keys = 0

/** Each way to use Redis through an address, as an effect that succeeds when Redis has answered. */
const uses = (port: number) =>
  Effect.gen(function*() {
    const url = `redis://127.0.0.1:${port}`
    const keeping = Context.get(
      yield* Layer.build(IdempotencyRedis.layer({ url, prefix: fresh("keys") })),
      Idempotency.Store
    )
    const rate = Context.get(yield* Layer.build(RateLimitRedis.layer({ url, prefix: fresh("rate") })), RateLimit.Store)
    const streams = Context.get(yield* Layer.build(RedisStreams.layer({ url })), Broker.Broker)
    const lists = Context.get(yield* Layer.build(RedisLists.layer({ url })), Broker.Broker)
    const list = fresh("failover.list")
    const stream = fresh("failover.stream")
    const claim = Effect.suspend(() => keeping.claim({ key: `k${keys++}`, fingerprint: "", lease: 1000 }))
    const take = rate.take([{ policy, key: "k", cost: 1 }], 0)
    return {
      questions: { claim, take },
      all: { claim, take, stream: streams.publish(outgoing(stream, "m")), list: lists.publish(outgoing(list, "m")) }
    }
  })

const succeeds = (use: Effect.Effect<unknown, unknown>) =>
  eventually(async () => Exit.isSuccess(await Effect.runPromiseExit(use)))

describeServer("Redis fails over", pair, (servers) => {
  it.live(
    "X4, X9 stores and publishers leave a server that has become a replica, when their address leads to the new primary",
    () =>
      Effect.gen(function*() {
        const { first, second } = servers()
        const [one, two] = [yield* plain(first), yield* plain(second)]
        yield* eventually(async () => (await two.info("replication")).includes("master_link_status:up"))
        const way = yield* relay(first.port)
        const { all } = yield* uses(way.port)
        for (const use of Object.values(all)) yield* use
        way.target = second.port
        yield* Effect.promise(async () => {
          await two.replicaof("NO", "ONE")
          await one.replicaof("127.0.0.1", `${second.port}`)
        })
        for (const use of Object.values(all)) yield* succeeds(use)
        // and back again
        yield* eventually(async () => (await one.info("replication")).includes("master_link_status:up"))
        way.target = first.port
        yield* Effect.promise(async () => {
          await one.replicaof("NO", "ONE")
          await two.replicaof("127.0.0.1", `${first.port}`)
        })
        for (const use of Object.values(all)) yield* succeeds(use)
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "W5, W6, X9 a question to a server that answers nothing fails after the limit, and is answered soon after it answers again",
    () =>
      Effect.gen(function*() {
        const way = yield* relay(servers().first.port)
        const { questions } = yield* uses(way.port)
        for (const use of Object.values(questions)) yield* use
        way.isSilent = true
        const asked = Object.entries(questions).flatMap(([name, use]) =>
          // the second one waits behind the first, or finds no connection
          [0, 500].map((after) =>
            Effect.gen(function*() {
              yield* Effect.sleep(after)
              const began = performance.now()
              const error = yield* Effect.flip(use as Effect.Effect<unknown, { readonly failure: string }>)
              return { name, failure: error.failure, isLate: performance.now() - began > 5_000 }
            })
          )
        )
        for (const each of yield* Effect.all(asked, { concurrency: "unbounded" })) {
          expect(each).toEqual({ name: each.name, failure: "dependency", isLate: false })
        }
        way.isSilent = false
        const began = performance.now()
        for (const use of Object.values(questions)) yield* succeeds(use)
        expect(performance.now() - began).toBeLessThan(15_000)
      }).pipe(Effect.scoped),
    90_000
  )

  for (
    const [name, layer] of [["streams", RedisStreams.layer], ["lists", RedisLists.layer]] as const
  ) {
    it.live(
      `X5, X9 ${name}: a publish that waits for replicas fails with Lost when too few have it, and completes when enough do`,
      () =>
        Effect.gen(function*() {
          const { first, second } = servers()
          const two = yield* plain(second)
          yield* eventually(async () => (await two.info("replication")).includes("master_link_status:up"))
          const channel = fresh(`wait.${name}`)
          const url = first.url
          const broker = Context.get(
            yield* Layer.build(layer({ url, wait: { replicas: 1, timeout: "20 seconds" } })),
            Broker.Broker
          )
          yield* broker.publishAll([outgoing(channel, "a"), outgoing(channel, "b")])
          const impatient = Context.get(
            yield* Layer.build(layer({ url, wait: { replicas: 2, timeout: "100 millis" } })),
            Broker.Broker
          )
          const error = yield* Effect.flip(impatient.publish(outgoing(channel, "c")))
          expect([error.reason, error.failure, error.operation]).toEqual(["Lost", "transient", "publish"])
          expect(error.message).toContain("1 of 2 replicas")
          // it is written
          const one = yield* plain(first)
          const length = yield* Effect.promise(() => name === "streams" ? one.xlen(channel) : one.llen(channel))
          expect(length).toBe(3)
        }).pipe(Effect.scoped),
      60_000
    )
  }
})
