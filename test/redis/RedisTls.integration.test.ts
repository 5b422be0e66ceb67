import { it } from "@effect/vitest"
import { RedisPubSub, RedisStreams } from "@millrace/redis"
import { Certificates, RedisCluster, RedisSentinel } from "@millrace/testing/servers"
import { Effect, Layer, References } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { consumer } from "./failover.ts"
import { flow } from "./flow.ts"
import { eventually, fresh } from "./support.ts"

const quiet = Effect.provideService(References.MinimumLogLevel, "None")

const secure = Effect.gen(function*() {
  const certificates = yield* Certificates.make
  const tls = certificates
  return {
    ca: certificates.ca,
    sentinel: yield* RedisSentinel.own({ tls }),
    cluster: yield* RedisCluster.own({ tls })
  }
})

describeServer("Redis Sentinel and Cluster by TLS", secure, (found) => {
  it.live(
    "F3 X5 X9 sentinels: the primary is killed under load, and nothing confirmed is lost",
    () =>
      Effect.gen(function*() {
        const { ca, sentinel } = found()
        const layer = RedisStreams.layer({
          sentinels: sentinel.tlsAddresses,
          name: sentinel.name,
          tls: { ca },
          consumer,
          wait: { replicas: 1, timeout: "300 millis" }
        })
        const { confirmed, done, end, unconfirmed } = yield* flow(yield* Layer.build(layer), fresh("sentinel.tls"))
        yield* eventually(() => done.length > 20)
        yield* sentinel.first.kill
        // the new primary has no replica yet
        yield* eventually(() => unconfirmed() > 3)
        yield* sentinel.first.start
        const seen = confirmed.length
        yield* eventually(() => confirmed.length > seen + 20)
        for (const { reason } of (yield* end).failed) expect(["Lost", "Unreachable"]).toContain(reason)
        yield* eventually(() => confirmed.every((text) => done.includes(text)))
      }).pipe(Effect.scoped, quiet),
    60_000
  )

  it.live(
    "F3 X5 X9 a cluster: nodes redirect to TLS listeners, a primary is killed, and nothing confirmed is lost",
    () =>
      Effect.gen(function*() {
        const { ca, cluster } = found()
        const layer = RedisStreams.layer({
          // one node: the client finds the others
          cluster: cluster.tlsAddresses.slice(0, 1),
          tls: { ca },
          consumer,
          wait: { replicas: 1, timeout: "300 millis" }
        })
        const channel = fresh("cluster.tls")
        const { confirmed, done, end, unconfirmed } = yield* flow(yield* Layer.build(layer), channel)
        yield* eventually(() => done.length > 20)
        const owner = yield* cluster.primaryOf(channel)
        yield* owner.kill
        yield* eventually(() => unconfirmed() > 3)
        yield* owner.start
        const seen = confirmed.length
        yield* eventually(() => confirmed.length > seen + 20)
        for (const { reason } of (yield* end).failed) expect(["Lost", "Unreachable"]).toContain(reason)
        yield* eventually(() => confirmed.every((text) => done.includes(text)))
      }).pipe(Effect.scoped, quiet),
    60_000
  )

  it.live("X5 an authority that is not trusted, and ports without TLS, are told as such", () =>
    Effect.gen(function*() {
      const { ca, cluster, sentinel } = found()
      const { name } = sentinel
      for (const place of [{ cluster: cluster.tlsAddresses }, { sentinels: sentinel.tlsAddresses, name }]) {
        const error = yield* Effect.flip(RedisPubSub.driver({ ...place, tls: "on" }))
        expect([error.reason, error.message]).toEqual(["Credentials", expect.stringContaining("Give tls.ca")])
      }
      for (const place of [{ cluster: cluster.addresses }, { sentinels: sentinel.addresses, name }]) {
        const error = yield* Effect.flip(RedisPubSub.driver({ ...place, tls: { ca }, connectTimeout: "500 millis" }))
        expect([error.reason, error.message]).toEqual(["Unreachable", expect.stringContaining("tls")])
      }
    }).pipe(Effect.scoped, quiet), 30_000)
})
