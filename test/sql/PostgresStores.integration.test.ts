import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Audit, Broker, Channel, Idempotency, MemoryBroker, type Message, RateLimit } from "@millrace/core"
import { AuditPostgres, IdempotencyPostgres, Inbox, Outbox, OutboxRelay, RateLimitPostgres } from "@millrace/sql"
import { Deliveries } from "@millrace/testing"
import { Postgres } from "@millrace/testing/servers"
import { Context, Data, Effect, Exit, Layer, pipe, Redacted, Schema, Stream } from "effect"
import { SqlClient } from "effect/sql"
import { randomBytes } from "node:crypto"
import { describeServer } from "../services/describe.ts"

class Database extends Data.TaggedError("Database")<{}> {
  readonly failure = "dependency" as const
}

const Orders = Channel.make("orders", { payload: Schema.String, key: (text) => text })
const orders = Outbox.publisher(Orders)

const entry = (channel: string): Audit.Entry => ({
  kind: "consumer",
  channel,
  partition: undefined,
  position: undefined,
  key: undefined,
  body: undefined,
  handler: channel,
  attempt: 1,
  startedAt: 1,
  completedAt: 2,
  duration: 1,
  status: "done",
  errorTag: undefined,
  errorMessage: undefined
})

const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  condition.pipe(Effect.delay("20 millis"), Effect.repeat({ while: (holds) => !holds }), Effect.timeout("25 seconds"))

const hour = RateLimit.policy("hour", { limit: 2, window: "1 hour" })
const take = (key: string, policy = hour) =>
  Effect.flatMap(RateLimit.Store, (store) => store.take([{ policy, key, cost: 1 }], 0))

const messageOf = (exit: Exit.Exit<unknown, unknown>): string => {
  const reason = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
  return reason?._tag === "Fail" && typeof reason.error === "object" && reason.error !== null &&
      "message" in reason.error
    ? String(reason.error.message)
    : exit._tag
}

describeServer("The stores in PostgreSQL", Postgres.own(), (postgres) => {
  const pg = (more: Partial<PgClient.PgPoolConfig> = {}) =>
    Layer.fresh(Layer.unwrap(Effect.sync(() => PgClient.layer({ url: postgres().url, ...more }))))

  const stores = Layer.mergeAll(
    AuditPostgres.layerClient(),
    IdempotencyPostgres.layerClient(),
    RateLimitPostgres.layerClient(),
    Inbox.layer(),
    Outbox.layer()
  )

  it.live("W6 X9 no statement of a store runs in the transaction of its caller, and no layer is built in it", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* Effect.scoped(Layer.build(stores))
      const inside = Effect.gen(function*() {
        const context = yield* Layer.build(Layer.fresh(stores))
        const audit = Context.get(context, Audit.Store)
        const keys = Context.get(context, Idempotency.Store)
        const watch = yield* Outbox.watch()
        yield* audit.append(entry("inside"))
        yield* audit.query()
        yield* audit.count()
        yield* audit.prune({ before: 0 })
        yield* keys.claim({ key: "inside", fingerprint: "", lease: 60_000 })
        yield* Effect.provide(take("inside"), context)
        yield* Context.get(context, Inbox.Store).prune
        yield* watch.lag
        yield* watch.parked()
        yield* watch.retry(["1"])
        yield* watch.discard(["1"])
        const locks = yield* sql<{ name: string }>`SELECT DISTINCT relation::regclass::text AS name FROM pg_locks
          WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation::regclass::text LIKE 'millrace%'`
        const [setting] = yield* sql<{ value: string }>`SELECT current_setting('synchronous_commit') AS value`
        return { locks: locks.map(({ name }) => name), commit: setting?.value }
      })
      const seen = yield* Effect.scoped(sql.withTransaction(inside))
      assert.deepStrictEqual(seen, { locks: [], commit: "on" })
    }).pipe(Effect.provide(pg())))

  it.live("W6 a count stays where its caller rolls back, and its lock does not last as long as the caller's transaction", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const held = yield* Effect.exit(sql.withTransaction(Effect.gen(function*() {
        yield* take("rolled back")
        // of another fiber, while this transaction is open
        const other = yield* Effect.forkDetach(take("rolled back"))
        yield* until(Effect.sync(() => other.pollUnsafe() !== undefined))
        return yield* Effect.fail("rolled back" as const)
      })))
      assert.isTrue(Exit.isFailure(held))
      assert.isFalse((yield* take("rolled back")).isAdmitted)
    }).pipe(Effect.provide(Layer.provideMerge(RateLimitPostgres.layerClient({ table: "counts" }), pg()))))

  it.live("W6 W5 a store that needs a second connection of a pool of one says so", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const limited = yield* sql.withTransaction(Effect.exit(take("alone")))
      assert.match(messageOf(limited), /inside a transaction of the same SqlClient.*more connections/)
      const claimed = yield* sql.withTransaction(Effect.exit(Effect.flatMap(Idempotency.Store, (store) =>
        store.claim({ key: "alone", fingerprint: "", lease: 1000 }))))
      assert.match(messageOf(claimed), /all connections of the client are in use.*more connections/)
      // the pool is as it was
      assert.isTrue((yield* take("alone")).isAdmitted)
    }).pipe(Effect.provide(
      Layer.mergeAll(
        RateLimitPostgres.layerClient({ timeout: "100 millis" }),
        IdempotencyPostgres.layerClient({ timeout: "100 millis", patience: 0 })
      ).pipe(Layer.provideMerge(pg({ maxConnections: 1 })))
    )))

  it.live("X10 an inbox whose client has no connection left fails the message, and as many messages as connections do not", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const send = (id: string) =>
        Deliveries.run(
          pipe((_: Message<Uint8Array>) => Effect.asVoid(Effect.sleep("10 millis")), Inbox.middleware()),
          Deliveries.make({ headers: { "message-id": id } })
        )
      const { exit, outcome } = yield* sql.withTransaction(
        // on a fiber outside of the transaction
        Effect.updateContext(
          send("late"),
          (own: Context.Context<Inbox.Store | SqlClient.SqlClient>) =>
            Context.omit(sql.transactionService)(own) as typeof own
        )
      )
      assert.strictEqual(outcome._tag, "Retry")
      assert.match(messageOf(exit), /the transaction did not begin.*more connections/)
      const all = yield* Effect.forEach(Array.from({ length: 8 }, (_, i) => `m${i}`), send, {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(new Set(all.map((each) => each.outcome._tag)), new Set(["Ack"]))
    }).pipe(
      Effect.provide(
        Layer.provideMerge(Inbox.layer({ table: "late", timeout: "2 seconds" }), pg({ maxConnections: 1 }))
      )
    ))

  it.live("X9 W5 a connection that is lost in the handler's transaction is no fault of the message", () =>
    Effect.gen(function*() {
      const other = yield* Layer.build(pg())
      const lose = Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const [row] = yield* sql<{ pid: number }>`SELECT pg_backend_pid() AS pid`
        yield* Effect.provideContext(
          Effect.flatMap(SqlClient.SqlClient, (own) => own`SELECT pg_terminate_backend(${row!.pid}, 5000)`),
          other
        )
      })
      const ends = {
        fails: Effect.andThen(
          Effect.orDie(lose),
          Effect.mapError(Effect.flatMap(SqlClient.SqlClient, (sql) => sql`SELECT 1`), () => new Database())
        ),
        succeeds: Effect.orDie(lose)
      }
      for (const [name, end] of Object.entries(ends)) {
        const handler = (_: Message<Uint8Array>) => Effect.asVoid(end)
        const message = () => Deliveries.make({ headers: { "message-id": name } })
        const keyed = yield* Deliveries.run(pipe(handler, Idempotency.middleware({ key: () => name })), message())
        assert.strictEqual(keyed.outcome._tag, "Retry", name)
        const boxed = yield* Deliveries.run(pipe(handler, Inbox.middleware()), message())
        assert.strictEqual(boxed.outcome._tag, "Retry", name)
      }
    }).pipe(
      Effect.scoped,
      Effect.provide(
        Layer.mergeAll(IdempotencyPostgres.layerClient({ table: "lost_keys", transaction: "handler" }), Inbox.layer())
          .pipe(
            Layer.provideMerge(pg())
          )
      )
    ))

  it.live("W6 W5 calls that meet at one row succeed at every isolation level of the database", () =>
    Effect.gen(function*() {
      for (const level of ["repeatable read", "serializable"]) {
        const client = pg({ maxConnections: 8, startupParameters: { default_transaction_isolation: level } })
        const build = Layer.build(
          Layer.mergeAll(
            RateLimitPostgres.layerClient({ table: "strict", timeout: "20 seconds" }),
            IdempotencyPostgres.layerClient({ table: "strict_keys", timeout: "20 seconds" })
          ).pipe(Layer.provide(client))
        )
        const contexts = [yield* build, yield* build]
        const many = RateLimit.policy(level, { limit: 1_000_000 })
        const taken = yield* Effect.forEach(
          Array.from({ length: 120 }, (_, i) => i),
          (i) => Effect.exit(Effect.provide(take("k", many), contexts[i % 2]!)),
          { concurrency: 16 }
        )
        assert.deepStrictEqual(taken.filter(Exit.isFailure).map(messageOf), [])
        const claimed = yield* Effect.forEach(Array.from({ length: 200 }, (_, i) => i), (i) =>
          Effect.provide(
            Effect.flatMap(Idempotency.Store, (store) =>
              store.claim({ key: `${level} ${i >> 1}`, fingerprint: "", lease: 60_000 })),
            contexts[i % 2]!
          ), { concurrency: 32 })
        assert.strictEqual(claimed.filter(({ _tag }) => _tag === "Claimed").length, 100)
      }
    }).pipe(Effect.scoped))

  it.live("W6 pruning does not delete a count that is made meanwhile", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const one = RateLimit.policy("once", { limit: 1, window: "1 hour" })
      const keys = Array.from({ length: 200 }, (_, i) => `k${i}`)
      const all = Effect.forEach(keys, (key) => take(key, one), { concurrency: 8 })
      let twice = 0
      for (let round = 0; round < 5; round++) {
        yield* all
        // all of them have ended, and the next prune finds them while they are taken again
        yield* sql`UPDATE raced SET ends_at = 1, state = '{1,0}'`
        yield* all
        twice += (yield* all).filter(({ isAdmitted }) => isAdmitted).length
        yield* sql`DELETE FROM raced`
      }
      assert.strictEqual(twice, 0)
    }).pipe(
      Effect.provide(
        Layer.provideMerge(RateLimitPostgres.layerClient({ table: "raced", pruneEvery: "10 millis" }), pg())
      )
    ))

  it.live("X9 W5 W6 X10 what removes old rows finds them by an index", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const options = { pruneEvery: "10 millis" } as const
      yield* Effect.scoped(Layer.build(
        Layer.mergeAll(
          AuditPostgres.layerClient({ table: "p_audit" }),
          IdempotencyPostgres.layerClient({ table: "p_keys" }),
          RateLimitPostgres.layerClient({ table: "p_rate" }),
          Inbox.layer({ table: "p_inbox" }),
          Outbox.layer({ table: "p_outbox" })
        ).pipe(Layer.provide(pg({ applicationName: "tables" })))
      ))
      // a connection counts the scans that made its indexes up to a second later, or when it ends
      yield* until(Effect.map(
        sql<{ n: number }>`SELECT count(*)::int AS n FROM pg_stat_activity WHERE application_name = 'tables'`,
        ([row]) => row?.n === 0
      ))
      yield* sql`INSERT INTO p_audit (id, kind, channel, started_at, completed_at, duration, status)
        SELECT i::text, 'consumer', 'c', 1, 1000 + i, 1, 'done' FROM generate_series(1, 20000) i`
      yield* sql`INSERT INTO p_keys SELECT i::text, 'f', 'o', i, now() + interval '1 hour', 'x'
        FROM generate_series(1, 20000) i`
      yield* sql`INSERT INTO p_rate SELECT i::text, '{1,2}', 9000000000000 + i FROM generate_series(1, 20000) i`
      yield* sql`INSERT INTO p_inbox SELECT 'g', 'c', i::text, 9000000000000 + i FROM generate_series(1, 20000) i`
      yield* sql`INSERT INTO p_outbox (message, broker, shard, channel, headers, payload, size, created_at, state, done_at)
        SELECT i::text, ${Broker.Broker.key}, 1, 'c', '{}', 'x', 1, 1, 'done', 9000000000000 FROM generate_series(1, 20000) i`
      for (const table of ["audit", "keys", "rate", "inbox", "outbox"]) yield* sql.unsafe(`ANALYZE p_${table}`)
      yield* sql`SELECT pg_stat_reset()`
      const scans = sql<{ name: string; full: number; indexed: number }>`SELECT relname AS name,
        seq_scan::float8 AS full, idx_scan::float8 AS indexed FROM pg_stat_user_tables WHERE relname LIKE 'p\\_%'
        AND relname IN ('p_audit', 'p_keys', 'p_rate', 'p_inbox', 'p_outbox') ORDER BY 1`
      yield* Effect.gen(function*() {
        const audit = yield* Audit.Store
        const inbox = yield* Inbox.Store
        yield* until(Effect.gen(function*() {
          yield* audit.prune({ before: 1 })
          yield* inbox.prune
          return (yield* scans).every(({ indexed }) => indexed > 2)
        }))
      }).pipe(Effect.provide(
        Layer.mergeAll(
          AuditPostgres.layerClient({ table: "p_audit" }),
          IdempotencyPostgres.layerClient({ ...options, table: "p_keys" }),
          RateLimitPostgres.layerClient({ ...options, table: "p_rate" }),
          Inbox.layer({ table: "p_inbox" }),
          OutboxRelay.layer({ table: "p_outbox", pruneEvery: "1 second" }).pipe(Layer.provide(MemoryBroker.layer()))
        ).pipe(Layer.provide(pg()))
      ))
      assert.deepStrictEqual((yield* scans).map(({ full, name }) => [name, full]), [
        ["p_audit", 0],
        ["p_inbox", 0],
        ["p_keys", 0],
        ["p_outbox", 0],
        ["p_rate", 0]
      ])
    }).pipe(Effect.provide(pg())))

  it.live("F6 X10 channels and groups of any length are audited, found again, and handled once", () =>
    Effect.gen(function*() {
      const long = () => `devices/${randomBytes(6000).toString("base64")}`
      const store = yield* Audit.Store
      const [one, other] = [long(), long()]
      for (const channel of [one, other, "short"]) yield* store.append(entry(channel))
      assert.deepStrictEqual((yield* store.query({ channel: one })).rows.map(({ channel }) => channel), [one])
      assert.strictEqual(yield* store.count({ handler: other }), 1)
      let runs = 0
      const handler = pipe((_: Message<Uint8Array>) => Effect.sync(() => void runs++), Inbox.middleware())
      for (const channel of [one, one, other, `${one}\0`]) {
        const { outcome } = yield* Deliveries.run(
          handler,
          Deliveries.make({ channel, group: channel, headers: { "message-id": "7".repeat(255) } })
        )
        assert.strictEqual(outcome._tag, "Ack")
      }
      assert.strictEqual(runs, 3)
    }).pipe(Effect.provide(
      Layer.mergeAll(AuditPostgres.layerClient({ table: "long_audit" }), Inbox.layer({ table: "long_inbox" })).pipe(
        Layer.provideMerge(pg())
      )
    )))

  it.live("X9 tables are made apart by a function, a user without rights on tables starts, and a newer schema is refused", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* sql`CREATE SCHEMA apart`
      type Migrate = Effect.Effect<void, unknown, SqlClient.SqlClient>
      type Tables = Layer.Layer<never, unknown, SqlClient.SqlClient>
      const discard = <A>(layer: Layer.Layer<A, unknown, SqlClient.SqlClient>): Tables =>
        Layer.effectDiscard(Layer.build(layer))
      const modules: ReadonlyArray<readonly [string, Migrate, Tables]> = [
        [
          "apart.audit",
          AuditPostgres.migrate({ table: "apart.audit" }),
          discard(AuditPostgres.layerClient({ table: "apart.audit" }))
        ],
        [
          "apart.keys",
          IdempotencyPostgres.migrate({ table: "apart.keys" }),
          discard(IdempotencyPostgres.layerClient({ table: "apart.keys" }))
        ],
        [
          "apart.rate",
          RateLimitPostgres.migrate({ table: "apart.rate" }),
          discard(RateLimitPostgres.layerClient({ table: "apart.rate" }))
        ],
        ["apart.inbox", Inbox.migrate({ table: "apart.inbox" }), discard(Inbox.layer({ table: "apart.inbox" }))],
        ["apart.outbox", Outbox.migrate({ table: "apart.outbox" }), discard(Outbox.layer({ table: "apart.outbox" }))]
      ]
      for (const [, migrate] of modules) {
        yield* migrate
        yield* migrate
      }
      yield* sql`CREATE ROLE app LOGIN PASSWORD 'app'`
      yield* sql`GRANT USAGE ON SCHEMA apart TO app`
      yield* sql`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA apart TO app`
      yield* sql`GRANT USAGE ON ALL SEQUENCES IN SCHEMA apart TO app`
      const url = new URL(Redacted.value(postgres().url))
      url.username = "app"
      url.password = "app"
      const app = Layer.fresh(PgClient.layer({ url: Redacted.make(url.href) }))
      for (const [table, migrate, layer] of modules) {
        const build = Effect.exit(Effect.scoped(Layer.build(Layer.provide(Layer.fresh(layer), app))))
        assert.strictEqual(messageOf(yield* build), "Success", table)
        yield* sql.unsafe(`INSERT INTO ${table}_versions (migration_id, name) VALUES (99, 'later')`)
        assert.match(messageOf(yield* build), /has version 99.*update the program/, table)
        assert.match(messageOf(yield* Effect.exit(migrate)), /has version 99.*update the program/, table)
      }
    }).pipe(Effect.provide(pg())))

  it.live("X10 an outbox whose table has a long name takes messages, and its relay hears of them", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* sql`CREATE SCHEMA billing_and_invoicing_department`
      const table = "billing_and_invoicing_department.outbox_of_the_billing_department"
      assert.isAbove(table.length, 63)
      yield* Effect.gen(function*() {
        const relay = yield* OutboxRelay.Relay
        yield* orders.publish("a")
        yield* until(Effect.map(relay.health, ({ published }) => published === 1))
      }).pipe(Effect.provide(
        Layer.mergeAll(
          Layer.provide(Outbox.layer({ table }), pg()),
          Layer.provide(OutboxRelay.layer({ table, poll: "1 minute" }), [pg(), MemoryBroker.layer()])
        )
      ))
    }).pipe(Effect.provide(pg())))

  it.live("X10 a relay on a pool of one connection relays", () =>
    Effect.gen(function*() {
      const relay = yield* OutboxRelay.Relay
      yield* orders.publish("a")
      yield* until(Effect.map(relay.health, ({ published }) => published === 1))
      const broker = yield* Broker.Broker
      assert.strictEqual((yield* Stream.runCollect(broker.browse("orders"))).length, 1)
    }).pipe(Effect.provide(
      Layer.mergeAll(
        Outbox.layer({ table: "pool_of_one" }),
        OutboxRelay.layer({ table: "pool_of_one", poll: "50 millis" })
      )
        .pipe(Layer.provideMerge(Layer.mergeAll(MemoryBroker.layer(), pg({ maxConnections: 1 }))))
    )))

  it.live("X10 an idle relay writes at most a row a second", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const relay = yield* OutboxRelay.Relay
      yield* until(Effect.map(relay.health, ({ shards, state }) => state === "idle" && shards === 64))
      // each transaction that writes takes a number
      const last = Effect.map(sql<{ n: number }>`SELECT pg_current_xact_id()::text::float8 AS n`, ([row]) => row!.n)
      const before = yield* last
      yield* Effect.sleep("6 seconds")
      assert.isAtMost((yield* last) - before - 1, 6)
      const [moved] = yield* sql<{ n: number }>`SELECT count(*)::float8 AS n FROM idle_shards
        WHERE xmin::text::float8 > ${before}`
      assert.strictEqual(moved!.n, 0)
    }).pipe(Effect.provide(
      OutboxRelay.layer({ table: "idle" }).pipe(Layer.provideMerge(Layer.mergeAll(MemoryBroker.layer(), pg())))
    )), 30_000)
})
