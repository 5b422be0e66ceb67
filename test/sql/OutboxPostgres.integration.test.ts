import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Broker, BrokerError, MemoryBroker, Outgoing } from "@millrace/core"
import { Outbox, OutboxRelay } from "@millrace/sql"
import { Postgres } from "@millrace/testing/servers"
import { Context, Effect, Layer, Logger, Stream } from "effect"
import { SqlClient } from "effect/sql"
import { randomBytes } from "node:crypto"
import { describeServer } from "../services/describe.ts"

const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  condition.pipe(Effect.delay("20 millis"), Effect.repeat({ while: (holds) => !holds }), Effect.timeout("25 seconds"))

const out = (key: string | undefined, id: string, payload: Uint8Array = new Uint8Array([1])) =>
  new Outgoing("c", payload, key, { "message-id": id })

const ids = (broker: Broker.Broker["Service"]) =>
  Effect.map(Stream.runCollect(broker.browse("c")), (found) => found.map(({ headers }) => headers["message-id"] ?? ""))

describeServer("Outbox in PostgreSQL", Postgres.own(), (postgres) => {
  const pg = Layer.fresh(Layer.unwrap(Effect.sync(() => PgClient.layer({ url: postgres().url }))))

  it.live("X10 a relay whose connection for LISTEN ends says so once, polls, and listens again", () => {
    const lines: Array<string> = []
    const logger = Logger.make(({ message }) => lines.push(String(message)))
    const told = () => lines.filter((line) => line.includes("looks for rows by poll alone")).length
    return Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const door = yield* Outbox.to()
      const watch = yield* Outbox.watch({ table: "deaf" })
      const listens = sql<{ readonly pid: number }>`SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'`
      yield* until(Effect.map(listens, (found) => found.length === 1))
      const [before] = yield* listens
      yield* sql`SELECT pg_terminate_backend(${before!.pid}, 5000)`
      yield* until(Effect.sync(() => told() > 0))
      yield* door.publish(out("a", "1"))
      yield* until(Effect.map(watch.lag, ({ pending }) => pending === 0))
      yield* until(Effect.map(listens, (found) => found.length === 1 && found[0]!.pid !== before!.pid))
      assert.strictEqual(told(), 1)
    }).pipe(
      Effect.provide(
        Layer.mergeAll(Outbox.layer({ table: "deaf" }), OutboxRelay.layer({ table: "deaf" })).pipe(
          Layer.provideMerge(Layer.mergeAll(MemoryBroker.layer({ partitions: 1 }), pg, Logger.layer([logger])))
        )
      )
    )
  }, 60_000)

  it.live(
    "X10 F13 a row of 20 MiB is sent byte for byte, what cannot be read is parked, and neither stops the others",
    () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const door = yield* Outbox.to()
        const broker = yield* Broker.Broker
        const relay = yield* OutboxRelay.Relay
        const watch = yield* Outbox.watch({ table: "large" })
        const payload = randomBytes(20 * 1024 * 1024)
        // as another program may write them
        const foreign = (id: string, headers: string, native: string | null, key: string | null = null) =>
          sql`INSERT INTO large (message, broker, shard, channel, key, headers, native, payload, size, created_at)
          VALUES (${id}, ${Broker.Broker.key}, 3, 'c', ${key}, ${headers}, ${native}, 'x', 1, 1)`
        yield* foreign("no json", "not json", null)
        yield* foreign("no texts", `{"a": 1}`, null)
        yield* foreign("no record", "[]", null)
        yield* foreign("no native", "{}", `{"fields": 7}`)
        yield* sql`INSERT INTO large (message, broker, shard, channel, headers, payload, size, created_at)
        VALUES ('wide', ${Broker.Broker.key}, 3, 'c', repeat('x', 17000000), 'x', 1, 1)`
        yield* foreign("good", "{\"message-id\":\"good\"}", null)
        yield* door.publishAll([out("a", "1"), out("a", "large", payload), out("a", "2"), out("b", "3")])
        yield* until(Effect.map(watch.lag, ({ pending }) => pending === 0))
        assert.deepStrictEqual((yield* ids(broker)).toSorted(), ["1", "2", "3", "good", "large"])
        const large = yield* Stream.runCollect(Stream.filter(broker.browse("c"), (one) => one.payload.length > 1000))
        assert.isTrue(Buffer.from(large[0]!.payload).equals(payload))
        const parked = yield* watch.parked()
        assert.deepStrictEqual(parked.map(({ errorTag }) => errorTag), Array.from({ length: 5 }, () => "Unreadable"))
        assert.match(parked[0]!.errorMessage, /^Row \d+ of the outbox cannot be read: its headers are no JSON object/)
        assert.strictEqual((yield* relay.health).parked, 5)
      }).pipe(Effect.provide(
        Layer.mergeAll(Outbox.layer({ table: "large" }), OutboxRelay.layer({ table: "large", poll: "50 millis" })).pipe(
          Layer.provideMerge(Layer.mergeAll(MemoryBroker.layer({ partitions: 1 }), pg))
        )
      )),
    60_000
  )

  it.live("X10 a row that its broker finds too large is parked, and is shown whole", () =>
    Effect.gen(function*() {
      const door = yield* Outbox.to()
      const memory = yield* MemoryBroker.make({ partitions: 1 })
      const strict = Broker.Broker.of({
        ...memory.broker,
        publish: (message) =>
          message.payload.length > 1000
            ? Effect.fail(
              BrokerError.make({ system: "x", operation: "publish", reason: "TooLarge", message: "too large" })
            )
            : memory.broker.publish(message),
        publishAll: (messages) =>
          messages.some(({ payload }) => payload.length > 1000)
            ? Effect.fail(
              BrokerError.make({ system: "x", operation: "publish", reason: "TooLarge", message: "too large" })
            )
            : memory.broker.publishAll(messages)
      })
      const payload = randomBytes(17 * 1024 * 1024)
      yield* door.publishAll([out("a", "large", payload), out("a", "1"), out("b", "2")])
      yield* Effect.gen(function*() {
        const watch = yield* Outbox.watch({ table: "refused" })
        yield* until(Effect.map(watch.lag, ({ pending }) => pending === 0))
        assert.deepStrictEqual((yield* ids(memory.broker)).toSorted(), ["1", "2"])
        const [row] = yield* watch.parked()
        assert.strictEqual(row!.errorTag, "BrokerError TooLarge")
        assert.isTrue(Buffer.from(row!.message.payload).equals(payload))
      }).pipe(Effect.provide(
        OutboxRelay.layer({ table: "refused", poll: "50 millis", attempts: 2, retryBase: "5 millis" }).pipe(
          Layer.provide(Layer.succeed(Broker.Broker, strict))
        )
      ))
    }).pipe(Effect.provide(Layer.provideMerge(Outbox.layer({ table: "refused" }), pg))), 60_000)

  for (const how of ["unreachable", "silent"] as const) {
    it.live(
      `X10 a relay whose broker is ${how} gives its shards up, and takes its share again when it is back`,
      () =>
        Effect.gen(function*() {
          const table = `progress_${how}`
          const memory = yield* MemoryBroker.make({ partitions: 1 })
          const good = memory.broker
          let isBad = true
          const fails: Effect.Effect<void, BrokerError.BrokerError> = Effect.suspend(() =>
            how === "silent"
              ? Effect.never
              : Effect.fail(
                BrokerError.make({ system: "x", operation: "publish", reason: "Unreachable", message: "no route" })
              )
          )
          const bad = Broker.Broker.of({
            ...good,
            publish: (message) => Effect.suspend(() => isBad ? fails : good.publish(message)),
            publishAll: (messages) => Effect.suspend(() => isBad ? fails : good.publishAll(messages)),
            check: Effect.suspend(() => isBad ? fails : good.check)
          })
          const options = { table, lease: "1 second", poll: "50 millis" } as const
          const relay = (broker: Broker.Broker["Service"]) =>
            Effect.map(
              Layer.build(
                Layer.fresh(OutboxRelay.layer(options)).pipe(
                  Layer.provide([Layer.succeed(Broker.Broker, broker), pg])
                )
              ),
              (context) => Context.get(context, OutboxRelay.Relay)
            )
          const [one, two] = [yield* relay(bad), yield* relay(good)]
          const shards = Effect.map(Effect.all([one.health, two.health]), (both) => both.map((each) => each.shards))
          yield* until(Effect.map(shards, ([a, b]) => a === 32 && b === 32))
          const door = yield* Outbox.to()
          for (let i = 0; i < 100; i++) yield* door.publish(out(`k${i}`, `${i}`))
          yield* until(Effect.map(two.lag, ({ pending }) => pending === 0))
          assert.strictEqual(new Set(yield* ids(good)).size, 100)
          yield* until(Effect.map(shards, ([a, b]) => a === 0 && b === 64))
          assert.strictEqual((yield* one.health).state, "waiting")
          isBad = false
          yield* until(Effect.map(shards, ([a, b]) => a === 32 && b === 32))
        }).pipe(
          Effect.scoped,
          Effect.provide(Layer.provideMerge(Outbox.layer({ table: `progress_${how}` }), pg))
        ),
      60_000
    )
  }

  it.live(
    "X10 5,000 keys that fail are looked up by their key, not read again for each row of the others",
    () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const door = yield* Outbox.to()
        // a planner without statistics, as it is soon after a start
        yield* sql`ALTER TABLE failing SET (autovacuum_enabled = off)`
        yield* door.publishAll(Array.from({ length: 5000 }, (_, i) => out(`sick${i}`, `sick${i}`)))
        yield* sql`UPDATE failing SET attempts = 1, due_at = 9000000000000`
        yield* sql`SELECT pg_stat_reset()`
        yield* Effect.gen(function*() {
          const relay = yield* OutboxRelay.Relay
          yield* door.publishAll(Array.from({ length: 500 }, (_, i) => out(`well${i}`, `well${i}`)))
          yield* until(Effect.map(relay.health, ({ published }) => published === 500))
        }).pipe(Effect.provide(
          OutboxRelay.layer({ table: "failing", poll: "1 minute" }).pipe(Layer.provide([MemoryBroker.layer(), pg]))
        ))
        const reads = sql<{ n: number }>`SELECT sum(idx_tup_read)::float8 AS n FROM pg_stat_user_indexes
        WHERE relname = 'failing'`
        // the connections of the relay are closed, so all is counted
        yield* until(Effect.map(reads, ([row]) => (row?.n ?? 0) > 0))
        assert.isBelow((yield* reads)[0]!.n, 100_000)
      }).pipe(Effect.provide(Layer.provideMerge(Outbox.layer({ table: "failing" }), pg))),
    60_000
  )

  it.live(
    "X10 rows behind 1,000 failing keys are read once and then no more, and go out in order when their keys are well",
    () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const door = yield* Outbox.to()
        const memory = yield* MemoryBroker.make({ partitions: 1 })
        let isSick = true
        const refused = (messages: ReadonlyArray<Outgoing<Uint8Array>>) =>
          isSick && messages.some(({ key }) => key?.startsWith("sick"))
            ? Effect.fail(BrokerError.make({ system: "x", operation: "publish", reason: "Unknown", message: "no" }))
            : undefined
        const broker = Broker.Broker.of({
          ...memory.broker,
          publish: (message) => refused([message]) ?? memory.broker.publish(message),
          publishAll: (messages) => refused(messages) ?? memory.broker.publishAll(messages)
        })
        for (let n = 0; n < 4; n++) {
          yield* door.publishAll(Array.from({ length: 1000 }, (_, i) => out(`sick${i}`, `${n} ${i}`)))
        }
        yield* Effect.gen(function*() {
          const relay = yield* OutboxRelay.Relay
          yield* until(Effect.map(relay.lag, ({ failing, pending }) => failing === 1000 && pending === 4000))
          const counts = Effect.map(
            sql<
              { reads: number; scans: number }
            >`SELECT sum(idx_tup_read)::float8 AS reads, sum(idx_scan)::float8 AS scans
              FROM pg_stat_user_indexes WHERE relname = 'behind' AND indexrelname = 'behind_fresh'`,
            ([row]) => row!
          )
          // a connection counts what it has read within a second of its last statement
          yield* Effect.sleep("1500 millis")
          const before = yield* counts
          const published = (yield* relay.health).published
          for (let i = 0; i < 100; i++) {
            yield* door.publish(out(`well${i}`, `well${i}`))
            yield* until(Effect.map(relay.health, (health) => health.published > published + i))
          }
          yield* Effect.sleep("1500 millis")
          const after = yield* counts
          // a few rows for each scan, however many there are in the time; passing all of them would be 3,000
          assert.isAbove(after.scans - before.scans, 0)
          assert.isBelow((after.reads - before.reads) / (after.scans - before.scans), 50)
          isSick = false
          yield* until(Effect.map(relay.lag, ({ pending }) => pending === 0))
        }).pipe(Effect.provide(
          OutboxRelay.layer({ table: "behind", poll: "100 millis", retryBase: "500 millis", retryCap: "2 seconds" })
            .pipe(
              Layer.provide([Layer.succeed(Broker.Broker, broker), pg])
            )
        ))
        const seen = new Map<string, Array<number>>()
        for (const { headers, key } of yield* Stream.runCollect(memory.broker.browse("c"))) {
          const [n, i] = String(headers["message-id"]).split(" ")
          if (key?.startsWith("sick") === true) seen.set(i!, [...seen.get(i!) ?? [], Number(n)])
        }
        assert.strictEqual(seen.size, 1000)
        for (const order of seen.values()) assert.deepStrictEqual(Array.from(new Set(order)), [0, 1, 2, 3])
      }).pipe(Effect.provide(Layer.provideMerge(Outbox.layer({ table: "behind" }), pg))),
    90_000
  )

  it.live(
    "X10 20,000 keys fit one publishAll, or one transaction, and keep their order beside other writers",
    () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const door = yield* Outbox.to()
        const many = Array.from({ length: 20_000 }, (_, i) => out(`k${i}`, `${i}`))
        const locks = Effect.map(
          sql<{ n: number }>`SELECT count(*)::float8 AS n FROM pg_locks WHERE locktype = 'advisory'
          AND pid = pg_backend_pid()`,
          ([row]) => row!.n
        )
        const outside = yield* Effect.context<never>()
        const held = yield* sql.withTransaction(Effect.gen(function*() {
          yield* door.publishAll(many)
          // of a key that the other has written: it waits for this transaction
          const other = Effect.runForkWith(outside)(door.publish(out("k7", "later")))
          yield* until(Effect.map(
            sql<{ n: number }>`SELECT count(*)::float8 AS n FROM pg_locks WHERE NOT granted`,
            ([row]) => row!.n > 0
          ))
          assert.isUndefined(other.pollUnsafe())
          return yield* locks
        }))
        assert.isAtMost(held, 128)
        yield* until(Effect.map(
          sql<{ n: number }>`SELECT count(*)::float8 AS n FROM wide WHERE message = 'later'`,
          ([row]) => row!.n === 1
        ))
        const pieces = yield* sql.withTransaction(Effect.andThen(
          Effect.forEach(many.slice(0, 2000), (message) => door.publish(message), { discard: true }),
          locks
        ))
        assert.isAtMost(pieces, 128)
      }).pipe(Effect.provide(Layer.provideMerge(Outbox.layer({ table: "wide", timeout: "30 seconds" }), pg))),
    60_000
  )
})
