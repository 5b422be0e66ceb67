import { assert, describe, it } from "@effect/vitest"
import { Broker, BrokerError, Channel, type Delivery, MemoryBroker, Outgoing, Publisher, Trace } from "@millrace/core"
import { Outbox, OutboxRelay, SqliteClient } from "@millrace/sql"
import { Cause, Effect, Exit, Layer, Ref, Schema, Stream } from "effect"
import { SqlClient } from "effect/sql"
import * as fc from "fast-check"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import { hostile } from "./fixtures/hostile.ts"

const folder = mkdtempSync(join(tmpdir(), "millrace-outbox-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
let files = 0
const filename = () => join(folder, `${++files}.db`)

const Order = Schema.Struct({ id: Schema.String, n: Schema.Finite })
const Orders = Channel.make("orders", { payload: Order, key: (order) => order.id })
const orders = Outbox.publisher(Orders)

const fast = { poll: "10 millis", retryBase: "5 millis", retryCap: "20 millis" } as const

const bodies = (deliveries: ReadonlyArray<Delivery>) =>
  deliveries.map(({ payload }) => new TextDecoder().decode(payload))

const browse = (channel: string) => Effect.flatMap(Broker.Broker, (broker) => Stream.runCollect(broker.browse(channel)))

/** Waits for the relay, not for a time. */
const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  condition.pipe(Effect.delay("5 millis"), Effect.repeat({ while: (holds) => !holds }), Effect.timeout("20 seconds"))

const isEmpty = Effect.map(
  Effect.flatMap(OutboxRelay.Relay, (relay) => Effect.orDie(relay.lag)),
  ({ pending }) => pending === 0
)

const memory = (options: OutboxRelay.Options = {}) =>
  Layer.mergeAll(Outbox.layer(), OutboxRelay.layer({ ...fast, ...options })).pipe(
    Layer.provideMerge(MemoryBroker.layer({ partitions: 1 })),
    Layer.provideMerge(SqliteClient.layer({ filename: ":memory:" }))
  )

describe("Outbox", () => {
  it.live("X10 B8 what is rolled back is not published, by a failure, a defect, an interruption, a savepoint", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const put = (n: number) => orders.publish({ id: "a", n })
      yield* Effect.exit(sql.withTransaction(Effect.andThen(put(1), Effect.fail("no"))))
      yield* Effect.exit(sql.withTransaction(Effect.andThen(put(2), Effect.die("no"))))
      yield* Effect.timeoutOption(sql.withTransaction(Effect.andThen(put(3), Effect.never)), "20 millis")
      yield* sql.withTransaction(Effect.andThen(
        Effect.exit(sql.withTransaction(Effect.andThen(put(4), Effect.fail("inner")))),
        put(5)
      ))
      yield* put(6)
      yield* until(isEmpty)
      assert.deepStrictEqual(bodies(yield* browse("orders")), ["{\"id\":\"a\",\"n\":5}", "{\"id\":\"a\",\"n\":6}"])
    }).pipe(Effect.provide(memory())))

  it.live("X10 nothing is published before the commit", () =>
    Effect.gen(function*() {
      const path = filename()
      const own = SqliteClient.layer({ filename: path })
      // relays of another client: another process, as far as SQLite can tell
      const elsewhere = OutboxRelay.layer(fast).pipe(
        Layer.provide([Layer.fresh(SqliteClient.layer({ filename: path })), MemoryBroker.layer()])
      )
      yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const relay = yield* OutboxRelay.Relay
        yield* sql.withTransaction(Effect.gen(function*() {
          yield* orders.publish({ id: "a", n: 1 })
          yield* Effect.sleep("100 millis")
          assert.strictEqual((yield* relay.health).published, 0)
        }))
        yield* until(Effect.map(relay.health, ({ published }) => published === 1))
      }).pipe(Effect.provide(Layer.mergeAll(Outbox.layer(), elsewhere).pipe(Layer.provideMerge(own))))
    }))

  it.live("X10 F13 a message keeps every byte: payload, key, headers, native parts", () =>
    Effect.gen(function*() {
      const door = yield* Outbox.to()
      const broker = yield* hostile()
      const bytes = fc.uint8Array({ maxLength: 40 })
      const text = fc.string({ unit: "binary", maxLength: 12 })
      const message = fc.record({
        channel: fc.constantFrom("a", "b\0c", "ü.ä"),
        payload: bytes,
        key: fc.option(text, { nil: undefined }),
        headers: fc.dictionary(fc.stringMatching(/^[a-z-]{1,8}$/), text, { maxKeys: 4 }),
        keyBytes: fc.option(bytes, { nil: undefined }),
        fields: fc.option(fc.array(fc.tuple(text, fc.option(bytes)), { maxLength: 4 }), { nil: undefined }),
        tombstone: fc.option(fc.constant(true), { nil: undefined }),
        partition: fc.option(fc.nat(), { nil: undefined }),
        timestamp: fc.option(fc.nat(), { nil: undefined })
      })
      const samples = fc.sample(message, { numRuns: 400, seed: 7 })
      const given = samples.map(({ channel, headers, key, payload, ...native }, i) =>
        new Outgoing(
          channel,
          payload,
          key,
          { ...headers, "message-id": String(i) },
          Object.values(native).every((part) => part === undefined) ? undefined : native
        )
      )
      yield* door.publishAll(given)
      yield* Effect.provide(
        Effect.gen(function*() {
          yield* until(isEmpty)
        }),
        OutboxRelay.layer(fast).pipe(Layer.provide(broker.layer))
      )
      assert.strictEqual(broker.log.length, given.length)
      const byId = new Map(broker.log.map((one) => [one.headers["message-id"], one]))
      for (const [i, one] of given.entries()) {
        const got = byId.get(String(i))
        const parts = (of: Outgoing<Uint8Array> | undefined) => ({
          channel: of?.channel,
          key: of?.key,
          keyBytes: of?.keyBytes,
          payload: of && Array.from(of.payload),
          headers: { ...of?.headers },
          fields: of?.fields,
          tombstone: of?.native?.tombstone,
          partition: of?.native?.partition,
          timestamp: of?.native?.timestamp
        })
        assert.deepStrictEqual(parts(got), parts(one))
      }
    }).pipe(Effect.provide(memory({ broker: Broker.Broker, table: "other" }))))

  it.live(
    "X10 each key in order and nothing lost, whatever single publishes and whole batches fail",
    () =>
      Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(
            fc.array(
              fc.record({
                commits: fc.boolean(),
                keys: fc.array(fc.constantFrom("a", "b", "c", undefined), { minLength: 1, maxLength: 5 })
              }),
              { minLength: 1, maxLength: 25 }
            ),
            fc.array(fc.constantFrom("ok", "ok", "ok", "transient", "down", "defect", "lost reply"), { maxLength: 40 }),
            fc.integer({ min: 1, max: 9 }),
            (transactions, faults, batch) =>
              Effect.runPromise(
                Effect.gen(function*() {
                  const broker = yield* hostile(faults)
                  yield* Effect.gen(function*() {
                    const sql = yield* SqlClient.SqlClient
                    const door = yield* Outbox.to()
                    const committed: Array<[string | undefined, string]> = []
                    let n = 0
                    for (const { commits, keys } of transactions) {
                      const rows = keys.map((key) => [key, String(n++)] as const)
                      const messages = rows.map(([key, id]) =>
                        new Outgoing("c", new Uint8Array([1]), key, { "message-id": id })
                      )
                      yield* Effect.ignore(sql.withTransaction(
                        Effect.andThen(door.publishAll(messages), commits ? Effect.void : Effect.fail("rollback"))
                      ))
                      if (commits) rows.forEach(([key, id]) => committed.push([key, id]))
                    }
                    yield* until(isEmpty)
                    const first = broker.firsts()
                    assert.deepStrictEqual(
                      new Set(first.map((one) => one.headers["message-id"])),
                      new Set(committed.map(([, id]) => id))
                    )
                    for (const key of ["a", "b", "c"]) {
                      assert.deepStrictEqual(
                        first.filter((one) => one.key === key).map((one) => one.headers["message-id"]),
                        committed.filter(([own]) => own === key).map(([, id]) => id)
                      )
                    }
                    const lag = yield* (yield* OutboxRelay.Relay).lag
                    assert.strictEqual(lag.parked, 0)
                  }).pipe(Effect.provide(
                    Layer.mergeAll(
                      Outbox.layer(),
                      OutboxRelay.layer({ ...fast, retryBase: 1, retryCap: 1, batch, attempts: 1_000 })
                    )
                      .pipe(
                        Layer.provide(broker.layer),
                        Layer.provideMerge(SqliteClient.layer({ filename: ":memory:" }))
                      )
                  ))
                }).pipe(Effect.scoped)
              )
          ),
          { numRuns: 60 }
        )
      ),
    120_000
  )

  it.live("X10 a poison row is parked with its error after its attempts, its key goes on, and it is published after all", () =>
    Effect.gen(function*() {
      const broker = yield* hostile()
      broker.refuse = (message) =>
        message.headers["message-id"] === "bad"
          ? BrokerError.make({ system: "test", operation: "publish", reason: "TooLarge", message: "too large: 9 MB" })
          : undefined
      yield* Effect.gen(function*() {
        const door = yield* Outbox.to()
        const relay = yield* OutboxRelay.Relay
        const out = (key: string, id: string) => new Outgoing("c", new Uint8Array([1]), key, { "message-id": id })
        yield* door.publishAll([out("a", "1"), out("a", "bad"), out("a", "2"), out("b", "3")])
        yield* until(Effect.map(relay.health, ({ parked }) => parked === 1))
        yield* until(isEmpty)
        assert.deepStrictEqual(broker.firsts().map((one) => one.headers["message-id"]), ["1", "3", "2"])
        assert.strictEqual(broker.tries("bad"), 3)
        const outbox = yield* Outbox.watch()
        assert.deepInclude(yield* outbox.lag, { pending: 0, failing: 0, parked: 1 })
        const [row] = yield* outbox.parked()
        assert.deepInclude(row, { attempts: 3, errorTag: "BrokerError TooLarge", errorMessage: "too large: 9 MB" })
        assert.strictEqual(row!.message.headers["message-id"], "bad")
        assert.deepStrictEqual(yield* outbox.parked({ after: row!.id }), [])

        broker.refuse = () => undefined
        assert.strictEqual(yield* outbox.retry([row!.id, "12345", "x"]), 1)
        yield* until(isEmpty)
        assert.strictEqual(broker.firsts().at(-1)?.headers["message-id"], "bad")
        assert.strictEqual(yield* outbox.discard([row!.id]), 0)
      }).pipe(Effect.provide(
        Layer.mergeAll(Outbox.layer(), OutboxRelay.layer({ ...fast, attempts: 3 })).pipe(
          Layer.provide(broker.layer),
          Layer.provideMerge(SqliteClient.layer({ filename: ":memory:" }))
        )
      ))
    }))

  it.live("X10 a key that fails holds up itself alone, and what is later of it", () =>
    Effect.gen(function*() {
      const broker = yield* hostile()
      broker.refuse = (message) =>
        message.key === "a"
          ? BrokerError.make({ system: "test", operation: "publish", reason: "Unknown", message: "not now" })
          : undefined
      yield* Effect.gen(function*() {
        const relay = yield* OutboxRelay.Relay
        yield* orders.publishAll(Array.from({ length: 40 }, (_, n) => ({ id: n % 2 === 0 ? "a" : "b", n })))
        yield* until(Effect.map(relay.health, ({ published }) => published === 20))
        yield* until(Effect.map(relay.health, ({ failed }) => failed >= 12))
        assert.deepInclude(yield* relay.lag, { pending: 20, failing: 1, parked: 0 })
        broker.refuse = () => undefined
        yield* until(isEmpty)
        for (const rest of [0, 1]) {
          const numbers = broker.firsts().map(({ payload }) =>
            JSON.parse(new TextDecoder().decode(payload)).n as number
          )
          assert.deepStrictEqual(
            numbers.filter((n) => n % 2 === rest),
            Array.from({ length: 20 }, (_, i) => 2 * i + rest)
          )
        }
      }).pipe(Effect.provide(
        Layer.mergeAll(Outbox.layer(), OutboxRelay.layer(fast)).pipe(
          Layer.provide(broker.layer),
          Layer.provideMerge(SqliteClient.layer({ filename: ":memory:" }))
        )
      ))
    }))

  it.live("X10 rows that a relay held and did not release before it died are published in order", () =>
    Effect.gen(function*() {
      const broker = yield* hostile()
      yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* orders.publishAll(Array.from({ length: 6 }, (_, n) => ({ id: "a", n })))
        // its first row was published, and the relay died before the others were pending again
        yield* sql`UPDATE millrace_outbox SET state = 'done', attempts = 1, done_at = 1 WHERE id = 1`
        yield* sql`UPDATE millrace_outbox SET state = 'held' WHERE id BETWEEN 2 AND 4`
        yield* Effect.provide(
          until(isEmpty),
          OutboxRelay.layer({ ...fast, lease: "1 second" }).pipe(Layer.provide(broker.layer))
        )
        const numbers = broker.firsts().map(({ payload }) => JSON.parse(new TextDecoder().decode(payload)).n as number)
        assert.deepStrictEqual(numbers, [1, 2, 3, 4, 5])
      }).pipe(Effect.provide(
        Outbox.layer().pipe(Layer.provideMerge(SqliteClient.layer({ filename: ":memory:" })))
      ))
    }))

  it.live("X10 a thousand keys whose publishes have no answer, and then fail, hold up no other key", () =>
    Effect.gen(function*() {
      const broker = yield* hostile()
      let isSilent = true
      const isSick = ({ key }: Outgoing<Uint8Array>) => key?.startsWith("sick") === true
      const sick = Effect.suspend(() =>
        isSilent
          ? Effect.andThen(
            Effect.repeat(Effect.sleep("5 millis"), { while: () => isSilent }),
            Effect.suspend(() =>
              Effect.fail(BrokerError.make({ system: "x", operation: "publish", reason: "Unknown", message: "no" }))
            )
          )
          : Effect.void
      )
      const own = Layer.effect(
        Broker.Broker,
        Effect.map(Broker.Broker, (inner) => ({
          ...inner,
          publish: (message: Outgoing<Uint8Array>) => isSick(message) ? sick : inner.publish(message),
          publishAll: (messages: ReadonlyArray<Outgoing<Uint8Array>>) =>
            messages.some(isSick) ? sick : inner.publishAll(messages)
        }))
      ).pipe(Layer.provide(broker.layer))
      yield* Effect.gen(function*() {
        const door = yield* Outbox.to()
        const relay = yield* OutboxRelay.Relay
        const out = (key: string) => new Outgoing("c", new Uint8Array([1]), key, { "message-id": key })
        yield* door.publishAll(Array.from({ length: 1000 }, (_, i) => out(`sick${i}`)))
        yield* until(Effect.map(relay.health, ({ inFlight }) => inFlight === 1000))
        for (let i = 0; i < 20; i++) yield* door.publish(out(`well${i}`))
        yield* until(Effect.map(relay.health, ({ published }) => published === 20))
        assert.strictEqual(broker.log.length, 20)
        isSilent = false
        yield* until(isEmpty)
      }).pipe(Effect.provide(
        Layer.mergeAll(Outbox.layer(), OutboxRelay.layer({ ...fast, lease: "1 minute" })).pipe(
          Layer.provide(own),
          Layer.provideMerge(SqliteClient.layer({ filename: ":memory:" }))
        )
      ))
    }))

  for (const failure of ["throttled", "dependency"] as const) {
    it.live(`X10 a broker that is full (${failure}) stops ${failure === "throttled" ? "its key" : "all"}`, () =>
      Effect.gen(function*() {
        const broker = yield* hostile()
        broker.refuse = ({ key }) =>
          key === "a"
            ? BrokerError.make({ system: "test", operation: "publish", reason: "Full", message: "full", failure })
            : undefined
        yield* Effect.gen(function*() {
          const relay = yield* OutboxRelay.Relay
          yield* orders.publish({ id: "a", n: 0 })
          yield* until(Effect.map(relay.health, ({ lastError }) => lastError !== undefined))
          const { failing } = yield* relay.lag
          assert.strictEqual(failing, failure === "throttled" ? 1 : 0)
          broker.refuse = () => undefined
          yield* until(isEmpty)
        }).pipe(Effect.provide(
          Layer.mergeAll(Outbox.layer(), OutboxRelay.layer(fast)).pipe(
            Layer.provide(broker.layer),
            Layer.provideMerge(SqliteClient.layer({ filename: ":memory:" }))
          )
        ))
      }))
  }

  it.live("X10 while the broker is down no row is tried for its own, and all go out when it is back", () =>
    Effect.gen(function*() {
      const broker = yield* MemoryBroker.make({ partitions: 1 })
      yield* broker.stop
      yield* Effect.gen(function*() {
        const relay = yield* OutboxRelay.Relay
        yield* orders.publishAll(Array.from({ length: 30 }, (_, n) => ({ id: `${n % 3}`, n })))
        yield* until(Effect.map(relay.health, ({ state }) => state === "waiting"))
        const health = yield* relay.health
        assert.strictEqual(health.lastError?._tag, "BrokerError")
        assert.deepInclude(yield* relay.lag, { pending: 30, failing: 0 })
        yield* broker.start
        yield* until(isEmpty)
        assert.strictEqual((yield* Stream.runCollect(broker.broker.browse("orders"))).length, 30)
        yield* until(Effect.map(relay.health, ({ lastError, state }) => state === "idle" && lastError === undefined))
      }).pipe(Effect.provide(
        Layer.mergeAll(Outbox.layer(), OutboxRelay.layer(fast)).pipe(
          Layer.provide(Layer.succeed(Broker.Broker, broker.broker)),
          Layer.provideMerge(SqliteClient.layer({ filename: ":memory:" }))
        )
      ))
    }))

  it.live(
    "X10 relays share the work, no row is in two hands, and one that leaves gives its share back",
    () =>
      Effect.gen(function*() {
        const broker = yield* hostile()
        const path = filename()
        const client = SqliteClient.layer({ filename: path })
        const one = OutboxRelay.layer({ ...fast, lease: "2 seconds", batch: 8 }).pipe(
          Layer.provide(Layer.fresh(client)),
          Layer.provide(broker.layer)
        )
        const health = Effect.flatMap(OutboxRelay.Relay, (relay) => relay.health)
        yield* Effect.gen(function*() {
          const [a, b] = [yield* Layer.build(Layer.fresh(one)), yield* Layer.build(Layer.fresh(one))]
          const shares = Effect.all([Effect.provide(health, a), Effect.provide(health, b)])
          yield* until(Effect.map(shares, ([left, right]) => left.shards === 32 && right.shards === 32))
          yield* orders.publishAll(Array.from({ length: 400 }, (_, n) => ({ id: `${n % 40}`, n })))
          yield* until(Effect.map(shares, ([left, right]) => left.published + right.published === 400))
          const [left, right] = yield* shares
          assert.isAbove(left.published, 50)
          assert.isAbove(right.published, 50)
          assert.strictEqual(broker.log.length, 400)
          yield* Effect.scoped(Effect.gen(function*() {
            const c = yield* Layer.build(Layer.fresh(one))
            yield* until(Effect.map(Effect.provide(health, c), ({ shards }) => shards >= 20))
          }))
          yield* until(Effect.map(shares, ([left, right]) => left.shards === 32 && right.shards === 32))
        }).pipe(Effect.scoped, Effect.provide(Layer.provideMerge(Outbox.layer(), client)))
      }),
    60_000
  )

  it.live("X10 no more than a batch, and no more bytes than allowed, are in its hands", () =>
    Effect.gen(function*() {
      const broker = yield* hostile()
      yield* Effect.gen(function*() {
        const door = yield* Outbox.to()
        yield* door.publishAll(
          Array.from({ length: 60 }, (_, i) => new Outgoing("c", new Uint8Array(i === 30 ? 50_000 : 900), `${i}`, {}))
        )
        yield* Effect.provide(
          until(isEmpty),
          OutboxRelay.layer({ ...fast, batch: 20, maximumBytes: 10_000 }).pipe(
            Layer.provide(broker.layer)
          )
        )
        assert.strictEqual(broker.log.length, 60)
        for (const batch of broker.batches) {
          assert.isAtMost(batch.length, 20)
          const bytes = batch.reduce((sum, { payload }) => sum + payload.length, 0)
          assert.isTrue(bytes <= 10_000 || batch.some(({ payload }) => payload.length === 50_000))
        }
        assert.isTrue(broker.batches.some((batch) => batch.length > 5))
      }).pipe(Effect.provide(Layer.provideMerge(Outbox.layer(), SqliteClient.layer({ filename: ":memory:" }))))
    }))

  it.live("X10 rows that are done are kept for a time, or not at all", () =>
    Effect.gen(function*() {
      const rows = Effect.flatMap(
        SqlClient.SqlClient,
        (sql) => sql<{ state: string; done_at: number }>`SELECT state, done_at FROM millrace_outbox`
      )
      yield* Effect.gen(function*() {
        yield* orders.publish({ id: "a", n: 1 })
        yield* until(isEmpty)
        assert.deepStrictEqual((yield* rows).map(({ state }) => state), ["done"])
        yield* until(Effect.map(rows, (found) => found.length === 0))
      }).pipe(Effect.provide(memory({ keep: "300 millis", pruneEvery: "1 second" })))
      yield* Effect.gen(function*() {
        yield* orders.publish({ id: "a", n: 1 })
        yield* until(isEmpty)
        assert.deepStrictEqual(yield* rows, [])
      }).pipe(Effect.provide(memory({ keep: 0 })))
    }))

  it.live("X10 T1 the trace of the publisher travels with the row", () =>
    Effect.gen(function*() {
      const traced = Publisher.make(Outbox.on(Orders), Trace.middleware())
      const span = yield* traced.publish({ id: "a", n: 1 }).pipe(
        Effect.andThen(Effect.currentSpan),
        Effect.withSpan("request")
      )
      yield* until(isEmpty)
      const [delivery] = yield* browse("orders")
      assert.strictEqual(delivery!.headers["traceparent"]?.split("-")[1], span.traceId)
    }).pipe(Effect.provide(memory())))

  it.live("X10 a payload that does not fit fails before anything is written", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(orders.publish({ id: "a", n: Number.NaN }))
      assert.strictEqual(error._tag, "EncodeError")
      assert.deepInclude(yield* (yield* Outbox.watch()).lag, { pending: 0 })
    }).pipe(Effect.provide(memory())))

  it.live("X10 a transaction of another SqlClient is refused, and nothing is written", () =>
    Effect.gen(function*() {
      const other = yield* Layer.build(Layer.fresh(SqliteClient.layer({ filename: ":memory:" })))
      const attempt = Effect.flatMap(
        SqlClient.SqlClient,
        (sql) => sql.withTransaction(orders.publish({ id: "a", n: 1 }))
      )
      const error = yield* Effect.flip(Effect.provide(attempt, other))
      assert.deepInclude(error, { _tag: "BrokerError", reason: "Invalid" })
      assert.deepInclude(yield* (yield* Outbox.watch()).lag, { pending: 0 })
    }).pipe(Effect.scoped, Effect.provide(memory({ lease: "60 seconds" }))))

  it.live("X10 what an outbox cannot do it says, and options out of range are refused", () =>
    Effect.gen(function*() {
      const door = yield* Outbox.to()
      const errors = yield* Effect.all([
        Effect.flip(door.lag("a", "b")),
        Effect.flip(door.declare({ channel: "a" })),
        Effect.flip(Stream.runCollect(door.browse("a")))
      ])
      assert.deepStrictEqual(errors.map(({ reason }) => reason), ["Unsupported", "Unsupported", "Unsupported"])
      for (
        const [build, word] of [
          [() => Outbox.layer({ table: "A" }), "table"],
          [() => OutboxRelay.layer({ batch: 0 }), "batch must be an integer from 1, got 0"],
          [() => OutboxRelay.layer({ lease: "10 millis" }), "lease"],
          [() => OutboxRelay.layer({ table: "a; DROP" }), "table"],
          [() => SqliteClient.layer({ filename: "" }), "filename"]
        ] as ReadonlyArray<readonly [() => object, string]>
      ) {
        const thrown = Effect.runSyncExit(Effect.sync(build))
        assert.include(Exit.isFailure(thrown) ? String(Cause.squash(thrown.cause)) : "", word)
      }
    }).pipe(Effect.provide(memory())))

  it.live("X10 B5 brokers of a program have each a part of the table", () =>
    Effect.gen(function*() {
      const Archive = Broker.named("archive")
      const Kept = Broker.on(Archive, Channel.make("kept", { payload: Order }))
      const [main, archive] = [yield* hostile(), yield* hostile()]
      const isDone = Ref.makeUnsafe(false)
      yield* Effect.gen(function*() {
        yield* Outbox.publisher(Kept).publish({ id: "k", n: 1 })
        yield* orders.publish({ id: "o", n: 2 })
        yield* until(Effect.sync(() => main.log.length + archive.log.length === 2))
        assert.deepStrictEqual([main.log[0]?.channel, archive.log[0]?.channel], ["orders", "kept"])
        yield* Ref.set(isDone, true)
      }).pipe(Effect.provide(
        Layer.mergeAll(
          Outbox.layer(),
          Outbox.layer({ broker: Archive }),
          OutboxRelay.layer(fast),
          Layer.fresh(OutboxRelay.layer({ ...fast, broker: Archive }))
        ).pipe(
          Layer.provide([main.layer, Broker.layerAs(Archive, archive.layer)]),
          Layer.provideMerge(SqliteClient.layer({ filename: ":memory:" }))
        )
      ))
      assert.isTrue(yield* Ref.get(isDone))
    }))
})
