import { it } from "@effect/vitest"
import { Broker } from "@millrace/core"
import { RedisPubSub, RedisStreams } from "@millrace/redis"
import { RedisSentinel } from "@millrace/testing/servers"
import { Context, Effect, Exit, Layer, Redacted, References } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { consumer, sentinelKilled } from "./failover.ts"
import { flow } from "./flow.ts"
import { eventually, fresh, outgoing, plain } from "./support.ts"

const quiet = Effect.provideService(References.MinimumLogLevel, "None")

describeServer("Redis Sentinel", RedisSentinel.own(), (servers) => {
  const place = () => ({ sentinels: servers().addresses, name: servers().name })

  it.live("X5 a name that sentinels do not know, and sentinels that are not there, are told as such", () =>
    Effect.gen(function*() {
      const unknown = yield* Effect.flip(RedisStreams.driver({ ...place(), name: "other" }))
      expect([unknown.reason, unknown.operation]).toEqual(["Unreachable", "connect"])
      expect(unknown.message).toContain("no primary called other")
      const absent = yield* Effect.flip(RedisPubSub.driver({ sentinels: ["127.0.0.1:1"], name: "main" }))
      expect(absent.reason).toBe("Unreachable")
      expect(absent.message).toContain("correct sentinels")
    }).pipe(Effect.scoped))

  sentinelKilled(servers)

  it.live(
    "X4, X5, X9 a primary that is cut off and comes back takes writes for a while: none of ours, and WAIT confirms none",
    () =>
      Effect.gen(function*() {
        const { first, second } = servers()
        const running = yield* flow(
          yield* Layer.build(RedisStreams.layer({ ...place(), consumer })),
          fresh("sentinel.hung")
        )
        yield* eventually(() => running.done.length > 20)
        const old = (yield* servers().primary) === first.address ? first : second
        const pid = (yield* old.pid)!
        yield* Effect.acquireRelease(
          Effect.sync(() => process.kill(pid, "SIGSTOP")),
          () => Effect.sync(() => process.kill(pid, "SIGCONT"))
        )
        const began = performance.now()
        const seen = running.confirmed.length + 1
        yield* eventually(() => running.confirmed.length > seen + 20)
        // half of the time limit of a command
        expect(performance.now() - began).toBeLessThan(15_000)
        process.kill(pid, "SIGCONT")
        const url = Redacted.make(`redis://${old.address}`)
        const driver = yield* RedisStreams.driver({ url, wait: { replicas: 1, timeout: "200 millis" } })
        const stray = yield* Effect.exit(driver.publish([outgoing(fresh("stray"), "m")]))
        const reason = Exit.isFailure(stray) ? stray.cause.reasons[0] : undefined
        // not confirmed: written without a replica, or refused since it is one by now
        expect(["Lost", "Unreachable"]).toContain(reason?._tag === "Fail" ? reason.error.reason : "confirmed")
        const next = running.done.length
        yield* eventually(() => running.done.length > next + 20)
        yield* running.end
      }).pipe(Effect.scoped, quiet),
    90_000
  )

  it.live(
    "X4, X5 Pub/Sub: the sentinels move the primary by hand, and publishers and subscribers follow",
    () =>
      Effect.gen(function*() {
        const context = yield* Layer.build(RedisPubSub.layer(place()))
        const channel = fresh("sentinel.pubsub")
        const running = yield* flow(context, channel)
        yield* eventually(() => running.done.length > 20)
        const before = yield* servers().primary
        const sentinel = yield* plain({ ...servers().first, url: Redacted.make(`redis://${servers().addresses[0]}`) })
        yield* eventually(async () => {
          // refused until the last failover is long enough ago
          await sentinel.call("SENTINEL", "FAILOVER", servers().name).catch(() => {})
          return before !== await Effect.runPromise(servers().primary)
        })
        const broker = Context.get(context, Broker.Broker)
        yield* eventually(async () =>
          Exit.isSuccess(await Effect.runPromiseExit(broker.publish(outgoing(channel, "moved"))))
        )
        const seen = running.done.length
        yield* eventually(() => running.done.length > seen + 20)
        yield* running.end
      }).pipe(Effect.scoped, quiet),
    90_000
  )
})
