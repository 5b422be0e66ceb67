import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Audit, Broker, Channel, Health, Idempotency, MemoryBroker, RateLimit } from "@millrace/core"
import {
  AuditPostgres,
  IdempotencyPostgres,
  Outbox,
  OutboxRelay,
  PostgresConnection,
  RateLimitPostgres
} from "@millrace/sql"
import { AuditStoreContract } from "@millrace/testing"
import { Postgres } from "@millrace/testing/servers"
import { Data, Effect, Fiber, Layer, Logger, Redacted, Ref, Schema, Stream } from "effect"
import { SqlClient } from "effect/sql"
import { describeServer } from "../services/describe.ts"

class Vault extends Data.TaggedError("Vault")<{ readonly message: string }> {}

const orders = Outbox.publisher(Channel.make("orders", { payload: Schema.Finite }))
const policy = RateLimit.policy("many", { limit: 1_000_000 })

const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  condition.pipe(Effect.delay("20 millis"), Effect.repeat({ while: (holds) => !holds }), Effect.timeout("25 seconds"))

describeServer("Stores whose password ends", Postgres.own(), (postgres) => {
  const admin = Layer.fresh(Layer.unwrap(Effect.sync(() => PgClient.layer({ url: postgres().url }))))

  /** A user whose password changes, the vault that knows it, and a URL without one. */
  const setUp = (user: string) =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* sql.unsafe(`CREATE ROLE ${user} LOGIN PASSWORD 'first'`)
      yield* sql.unsafe(`GRANT CREATE, USAGE ON SCHEMA public TO ${user}`)
      const vault = yield* Ref.make<Effect.Effect<string, Vault>>(Effect.succeed("first"))
      const asked = { count: 0 }
      const source: PostgresConnection.Source = Effect.suspend(() => {
        asked.count++
        return Effect.map(Effect.flatten(Ref.get(vault)), (text) => ({
          password: Redacted.make(text),
          expiresAt: Date.now() + 200
        }))
      })
      const url = new URL(Redacted.value(postgres().url))
      url.username = user
      url.password = ""
      const end = sql`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = ${user}`
      /** Changes the password and ends all connections; the vault hears of it later. */
      const rotate = (password: string) =>
        Effect.gen(function*() {
          yield* sql.unsafe(`ALTER ROLE ${user} PASSWORD '${password}'`)
          yield* end
          yield* Effect.sleep("300 millis")
          yield* Ref.set(vault, Effect.succeed(password))
        })
      return { asked, end, rotate, source, url: Redacted.make(url.href), vault }
    })

  it.live("X17 X9 passwords change and connections end under load, and nothing is lost", () =>
    Effect.gen(function*() {
      const { asked, rotate, source, url } = yield* setUp("rotated")
      const own = { url, credentials: source, maximumLifetime: "500 millis", patience: "20 seconds" } as const
      const client = PgClient.layer({
        url,
        password: PostgresConnection.password(source),
        connectionTTL: "500 millis"
      })
      yield* Effect.gen(function*() {
        const audit = yield* Audit.Store
        const keys = yield* Idempotency.Store
        const relay = yield* OutboxRelay.Relay
        const written = { rows: 0, keys: 0, messages: 0 }
        const rows = Effect.forever(Effect.andThen(
          // an append is asked for when it is called
          Effect.suspend(() => audit.append({ ...AuditStoreContract.entry(), channel: "rotated" })),
          Effect.sync(() => void written.rows++)
        ))
        const claims = Effect.forever(Effect.gen(function*() {
          const key = `k${written.keys}`
          const claim = yield* keys.claim({ key, fingerprint: "", lease: 60_000 })
          assert.strictEqual(claim._tag, "Claimed")
          if (claim._tag === "Claimed") {
            assert.isTrue(yield* keys.complete(key, claim.token, new Uint8Array([1]), 60_000))
          }
          written.keys++
        }))
        // a publish that fails rolls back, and its caller tries again
        const messages = Effect.forever(Effect.andThen(
          Effect.retry(orders.publish(0), { while: ({ _tag }) => _tag === "BrokerError" }),
          Effect.sync(() => void written.messages++)
        ))
        const load = yield* Effect.forkChild(
          Effect.all([rows, claims, messages], { concurrency: "unbounded", discard: true })
        )
        for (const password of ["second", "third", "fourth"]) {
          const before = { ...written }
          yield* rotate(password)
          yield* until(Effect.sync(() =>
            written.rows > before.rows + 10 && written.keys > before.keys + 10 &&
            written.messages > before.messages + 10
          ))
        }
        assert.isUndefined(load.pollUnsafe(), "a call has failed")
        yield* Fiber.interrupt(load)
        assert.isAtLeast(yield* audit.count(), written.rows)
        for (let i = 0; i < written.keys; i++) {
          const found = yield* keys.claim({ key: `k${i}`, fingerprint: "", lease: 60_000 })
          assert.strictEqual(found._tag, "Completed", `k${i}`)
        }
        yield* until(Effect.map(relay.lag, ({ pending }) => pending === 0))
        const broker = yield* Broker.Broker
        const published = yield* Stream.runCollect(broker.browse("orders"))
        assert.isAtLeast(published.length, written.messages)
        assert.isAbove(asked.count, 3)
      }).pipe(Effect.provide(
        Layer.mergeAll(
          AuditPostgres.layer({ ...own, table: "rotated_audit" }),
          IdempotencyPostgres.layer({ ...own, table: "rotated_keys" }),
          Layer.mergeAll(Outbox.layer(), OutboxRelay.layer({ poll: "50 millis" })).pipe(
            Layer.provide(client),
            Layer.provideMerge(MemoryBroker.layer())
          )
        )
      ))
    }).pipe(Effect.provide(admin)), 60_000)

  it.live("X17 W8 a source that fails shows in calls and in health, shows no password, and is asked again", () => {
    const lines: Array<string> = []
    return Effect.gen(function*() {
      const { end, source, url, vault } = yield* setUp("failing")
      const health = Health.layer([Health.rateLimit()], { cache: 0 })
      yield* Effect.gen(function*() {
        const rate = yield* RateLimit.Store
        const take = rate.take([{ policy, key: "k", cost: 1 }], 0)
        assert.isTrue((yield* take).isAdmitted)
        yield* Ref.set(vault, Effect.fail(new Vault({ message: "the vault is sealed, first" })))
        yield* end
        // the last password ends within 200 ms
        yield* Effect.sleep("300 millis")
        const failed = yield* Effect.flip(take)
        assert.match(failed.message, /The credentials for PostgreSQL could not be obtained: Vault: the vault is sealed/)
        assert.notMatch(failed.message, /first/)
        const status = Effect.map(Health.report("readiness"), ({ checks }) => checks[0]?.status)
        yield* until(Effect.map(status, (status) => status === "down"))
        yield* Ref.set(vault, Effect.succeed("first"))
        yield* until(Effect.map(Effect.exit(take), ({ _tag }) => _tag === "Success"))
        yield* until(Effect.map(status, (status) => status === "up"))
      }).pipe(Effect.provide(
        health.pipe(Layer.provideMerge(
          RateLimitPostgres.layer({ url, credentials: source, table: "failing_rate", connectTimeout: "500 millis" })
        ))
      ))
      assert.match(lines.join("\n"), /A connection to PostgreSQL waits for its password\./)
      assert.notMatch(lines.join("\n"), /first/)
    }).pipe(
      Effect.provide([admin, Logger.layer([Logger.make(({ message }) => void lines.push(String(message)))])])
    )
  }, 30_000)

  it.live("X17 a password in the URL beside credentials is refused", () =>
    Effect.gen(function*() {
      const credentials = Effect.succeed({ password: Redacted.make("a") })
      for (const layer of [AuditPostgres.layer, IdempotencyPostgres.layer, RateLimitPostgres.layer]) {
        assert.throws(() => layer({ url: postgres().url, credentials }), RangeError, "give one of them")
      }
      yield* Effect.void
    }))
})
