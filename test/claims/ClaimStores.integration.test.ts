import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Claims, ClaimSql, ClaimStore } from "@millrace/claims"
import * as ClaimNats from "@millrace/claims/ClaimNats"
import { Nats, Postgres } from "@millrace/testing/servers"
import { jetstream } from "@nats-io/jetstream"
import { Objm } from "@nats-io/obj"
import { connect } from "@nats-io/transport-node"
import { Deferred, Effect, Fiber, Layer, Redacted, Schedule, Stream } from "effect"
import { SqlClient } from "effect/sql"
import { describeServer } from "../services/describe.ts"
import { suite } from "./contract.ts"
import { bytesOf, decode, encode, failureOf } from "./support.ts"

const claims = Claims.transform({ threshold: 10, timeout: "3 seconds" })

/** A store loses its server in the middle of a write; nothing is poison, and all that was written is there afterwards. */
const outage = (
  server: { readonly kill: Effect.Effect<void, unknown>; readonly start: Effect.Effect<void, unknown> }
) =>
  Effect.gen(function*() {
    const store = yield* ClaimStore.Store
    const body = bytesOf(600_000)
    const encoded = yield* encode(claims, body)
    // killed in the middle of a write
    const key = "2026-12-01/killed"
    const halfway = Stream.unwrap(Effect.as(Effect.orDie(server.kill), Stream.make(bytesOf(900_000))))
    const error = yield* Effect.flip(
      Effect.timeout(store.writeStream(key, Stream.concat(Stream.make(body), halfway)), "20 seconds")
    )
    assert.propertyVal(error, "_tag", "ClaimStoreUnavailable")
    assert.deepStrictEqual(yield* failureOf(decode(claims, encoded)), ["dependency", "ClaimStoreUnavailable"])
    assert.deepStrictEqual(yield* failureOf(encode(claims, bytesOf(700_000))), ["dependency", "ClaimStoreUnavailable"])
    yield* server.start
    const again = Effect.eventually(decode(claims, encoded)).pipe(Effect.timeout("20 seconds"))
    assert.isTrue(Buffer.from(yield* again).equals(Buffer.from(body)))
    assert.strictEqual(yield* store.read(key, 1), undefined)
  })

describeServer("Claims in PostgreSQL", Postgres.own(), (postgres) => {
  const client = () => PgClient.layer({ url: postgres().url, connectTimeout: "2 seconds" })
  const inDatabase = <A, E>(effect: Effect.Effect<A, E, SqlClient.SqlClient>) => Effect.provide(effect, client())
  const layer = () => Layer.provideMerge(ClaimSql.layer({ retention: "Infinity", timeout: "2 seconds" }), client())

  suite("PostgreSQL", layer, {
    prunes: true,
    count: (day) =>
      inDatabase(Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const like = `${day}%`
        const rows = yield* sql<{ n: string }>`SELECT count(*) AS n FROM millrace_claims WHERE name LIKE ${like}
          UNION ALL SELECT count(*) FROM millrace_claims_parts WHERE write LIKE ${like}`
        return rows.reduce((sum, { n }) => sum + Number(n), 0)
      })),
    replace: (key, body) =>
      Effect.gen(function*() {
        const store = yield* ClaimStore.Store
        yield* inDatabase(
          Effect.flatMap(SqlClient.SqlClient, (sql) => sql`DELETE FROM millrace_claims WHERE name = ${key}`)
        )
        if (body !== undefined) yield* store.write(key, body)
      })
  })

  it.live(
    "X13 PostgreSQL: a body stays although the transaction around its publish is rolled back",
    () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const body = bytesOf(5000, Date.now())
        let written: Effect.Success<ReturnType<typeof encode>> | undefined
        yield* Effect.ignore(sql.withTransaction(
          Effect.andThen(
            Effect.tap(encode(claims, body), (encoded) => Effect.sync(() => void (written = encoded))),
            () => Effect.fail("rolled back")
          )
        ))
        assert.isTrue(Buffer.from(yield* decode(claims, written!)).equals(Buffer.from(body)))
      }).pipe(Effect.provide(layer())),
    30_000
  )

  it.live(
    "X13 PostgreSQL: a server that is killed in the middle of a write leaves no body and no poison",
    () => Effect.provide(outage(postgres()), layer()),
    60_000
  )
})

describeServer("Claims in NATS", Nats.own(), (nats) => {
  const connected = Effect.suspend(() =>
    Effect.tryPromise(() =>
      connect({ servers: Redacted.value(nats().url), maxReconnectAttempts: -1, reconnectTimeWait: 100 })
    )
  )
  const layer = (more: Partial<ClaimNats.Options> = {}) =>
    ClaimNats.layer({ connect: connected, bucket: "claims", retention: "30 days", timeout: "1 second", ...more })
  const inBucket = <A>(use: (objm: Objm) => Promise<A>) =>
    Effect.scoped(Effect.flatMap(
      Effect.acquireRelease(connected, (connection) => Effect.promise(() => connection.close())),
      (connection) => Effect.promise(() => use(new Objm(jetstream(connection))))
    ))

  suite("NATS", layer, {
    prunes: false,
    count: (day) =>
      inBucket(async (objm) => {
        const objects = await objm.open("claims")
        const listed = (await objects.list()).filter(({ name }) => name.startsWith(day))
        return listed.length
      }),
    replace: (key, body) =>
      inBucket(async (objm) => {
        const objects = await objm.open("claims")
        await (body === undefined ? objects.delete(key) : objects.putBlob({ name: key }, body))
      })
  })

  it.live(
    "X13 NATS: parts of a stream that failed are gone, and a bucket that forgets too early is refused",
    () =>
      Effect.gen(function*() {
        const parts = inBucket(async (objm) => {
          const { streamInfo } = await (await objm.open("claims")).status({ subjects_filter: "$O.claims.C.>" })
          return Object.keys(streamInfo.state.subjects ?? {}).length
        })
        const store = yield* ClaimStore.Store
        const before = yield* parts
        yield* Effect.flip(
          store.writeStream("2026-12-01/x", Stream.concat(Stream.make(bytesOf(900_000)), Stream.fail("broken")))
        )
        assert.strictEqual(yield* parts, before)
        const reached = yield* Deferred.make<void>()
        const forever = Stream.fromEffect(Effect.andThen(Deferred.succeed(reached, undefined), Effect.never))
        const fiber = yield* Effect.forkChild(
          store.writeStream("2026-12-01/y", Stream.concat(Stream.make(bytesOf(900_000)), forever))
        )
        yield* Deferred.await(reached)
        // the first part comes to the server before the rest is asked for
        assert.isAbove(yield* parts, before)
        yield* Fiber.interrupt(fiber)
        yield* Effect.repeat(parts, { until: (now) => now === before, schedule: Schedule.spaced("20 millis") })
        // the parts of one of three writers are kept
        const three = ["2026-12-01/z", "2026-12-01/z", "2026-12-01/z"]
        yield* Effect.forEach(three, (key) => store.write(key, bytesOf(300_000)), { concurrency: 3 })
        assert.strictEqual(yield* parts, before + 1)
        const error = yield* Effect.flip(Effect.provide(ClaimStore.Store, layer({ retention: "400 days" })))
        assert.match(error.message, /shorter than retention/)
        // other clients read the bodies
        const body = bytesOf(300_000)
        yield* store.write("2026-12-01/other", body)
        const blob = yield* inBucket(async (objm) => (await objm.open("claims")).getBlob("2026-12-01/other"))
        assert.isTrue(Buffer.from(blob ?? []).equals(Buffer.from(body)))
      }).pipe(Effect.provide(layer())),
    30_000
  )

  it.live(
    "X13 NATS: a server that is killed in the middle of a write leaves no body and no poison",
    () => Effect.provide(outage(nats()), layer()),
    60_000
  )
})
