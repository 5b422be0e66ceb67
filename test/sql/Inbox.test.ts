import { assert, describe, it } from "@effect/vitest"
import {
  Auth,
  Broker,
  Channel,
  Decode,
  Description,
  Idempotency,
  MemoryBroker,
  type Message,
  Order,
  Outcome,
  Publish,
  RateLimit,
  Retry
} from "@millrace/core"
import { Inbox, Outbox, OutboxRelay, SqliteClient } from "@millrace/sql"
import { Deliveries } from "@millrace/testing"
import { Data, Effect, Layer, pipe, Schema, Stream } from "effect"
import { SqlClient } from "effect/sql"
import * as fc from "fast-check"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "millrace-inbox-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

class Failed extends Data.TaggedError("Failed")<{}> {
  readonly failure = "transient" as const
}

const delivery = (id: string | undefined, more: object = {}) =>
  Deliveries.make({ channel: "c", body: 1, headers: id === undefined ? {} : { "message-id": id }, ...more })

const stored = Effect.flatMap(
  SqlClient.SqlClient,
  (sql) => Effect.map(sql<{ id: string }>`SELECT id FROM effects ORDER BY rowid`, (rows) => rows.map(({ id }) => id))
)

const prepare = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`CREATE TABLE IF NOT EXISTS effects (id TEXT)`)

const write = (id: string) =>
  Effect.orDie(Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO effects VALUES (${id})`))

const memory = (options?: Inbox.Options) =>
  Layer.provideMerge(Inbox.layer(options), SqliteClient.layer({ filename: ":memory:" }))

describe("Inbox", () => {
  it.live(
    "X10 what ends well commits once with its id, and what does not leaves nothing",
    () =>
      Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(
            fc.array(
              fc.record({
                id: fc.constantFrom("a", "b", "c"),
                ends: fc.constantFrom(
                  "ok",
                  "Ack",
                  "Reject",
                  "fail",
                  "die",
                  "Retry",
                  "Release",
                  "DeadLetter",
                  "interrupt"
                )
              }),
              { maxLength: 30 }
            ),
            (messages) =>
              Effect.runPromise(
                Effect.gen(function*() {
                  yield* prepare
                  const expected: Array<string> = []
                  for (const { ends, id } of messages) {
                    const isNew = !expected.includes(id)
                    let ran = false
                    const handler = pipe(
                      (_: Message<Uint8Array>) =>
                        Effect.andThen(
                          Effect.suspend(() => {
                            ran = true
                            return write(id)
                          }),
                          ends === "fail"
                            ? Effect.fail(new Failed())
                            : ends === "die"
                            ? Effect.die("made to die")
                            : ends === "interrupt"
                            ? Effect.interrupt
                            : Effect.succeed(
                              ends === "Retry"
                                ? Outcome.Retry()
                                : ends === "DeadLetter"
                                ? Outcome.DeadLetter()
                                : ends === "Reject"
                                ? Outcome.Reject()
                                : ends === "Release"
                                ? Outcome.Release
                                : ends === "Ack"
                                ? Outcome.Ack
                                : "an answer"
                            )
                        ),
                      Inbox.middleware()
                    )
                    const { exit } = yield* Deliveries.run(handler, delivery(id))
                    assert.strictEqual(ran, isNew)
                    const commits = ["ok", "Ack", "Reject"].includes(ends)
                    if (isNew && commits) expected.push(id)
                    if (!isNew) assert.deepStrictEqual(exit._tag === "Success" && exit.value, Outcome.Ack)
                    else if (["fail", "die", "interrupt"].includes(ends)) assert.strictEqual(exit._tag, "Failure")
                    else if (ends === "ok") assert.strictEqual(exit._tag === "Success" && exit.value, "an answer")
                    else {
                      const tag: string | false = exit._tag === "Success" && Outcome.isOutcome(exit.value) &&
                        exit.value._tag
                      assert.strictEqual(tag, ends)
                    }
                    assert.deepStrictEqual(yield* stored, expected)
                  }
                }).pipe(Effect.provide(memory()))
              )
          ),
          { numRuns: 40 }
        )
      ),
    60_000
  )

  it("X10 W9 a step whose store knows nothing of the transaction stands outside, every one of them", () => {
    const handle = () => Effect.void
    const limit = () => RateLimit.middleware({ limit: 1 })
    const inner = [
      [Order.violations(pipe(handle, Idempotency.middleware(), Inbox.middleware())), "Idempotency"],
      [Order.violations(pipe(handle, limit(), Inbox.middleware())), "RateLimit"],
      [Order.violations(pipe(handle, limit(), Inbox.middleware(), limit())), "RateLimit"]
    ] as const
    for (const [[sentence], name] of inner) {
      assert.match(sentence ?? "", new RegExp(`^Inbox must stand inside ${name}, not outside it: what its store keeps`))
    }
    assert.deepStrictEqual(
      Order.violations(pipe(handle, Inbox.middleware(), limit(), Idempotency.middleware())),
      []
    )
    const asked = Description.of(Inbox.middleware()).flatMap(({ order }) => order ?? [])
    for (const name of ["IdempotencyKey", "Hmac"]) {
      assert.isTrue(asked.some((rule) => "inside" in rule && rule.inside === name), name)
    }
  })

  it.live("X10 each group and each channel handles a message once of its own", () =>
    Effect.gen(function*() {
      yield* prepare
      const handler = pipe((message: Message<Uint8Array>) => write(message.channel), Inbox.middleware())
      for (const more of [{ channel: "a", group: "g" }, { channel: "a", group: "h" }, { channel: "b", group: "g" }]) {
        yield* Deliveries.run(handler, delivery("1", more))
        yield* Deliveries.run(handler, delivery("1", more))
      }
      assert.deepStrictEqual(yield* stored, ["a", "a", "b"])
    }).pipe(Effect.provide(memory())))

  it.live("X10 an id that is missing or none is refused, or run, or taken from the position", () =>
    Effect.gen(function*() {
      yield* prepare
      const handle = () => write("x")
      const refused = [undefined, "", "a\0b"].map((id) => delivery(id))
      for (const [i, message] of refused.entries()) {
        const { exit, outcome } = yield* Deliveries.run(pipe(handle, Inbox.middleware()), message)
        assert.strictEqual(outcome._tag, "DeadLetter")
        assert.deepInclude(exit._tag === "Failure" ? exit.cause.reasons[0] : {}, {
          _tag: "Fail",
          error: new Inbox.InboxRefused({ channel: "c", reason: i < 2 ? "missing" : "invalid" })
        })
      }
      assert.deepStrictEqual(yield* stored, [])
      const lax = pipe(handle, Inbox.middleware({ missing: "run" }))
      yield* Deliveries.run(lax, delivery(undefined))
      yield* Deliveries.run(lax, delivery(undefined))
      assert.strictEqual((yield* stored).length, 2)
      const placed = pipe(handle, Inbox.middleware({ id: Inbox.position }))
      for (const position of [1, 2, 1]) yield* Deliveries.run(placed, delivery(undefined, { position }))
      assert.strictEqual((yield* stored).length, 4)
    }).pipe(Effect.provide(memory())))

  it.live("X10 two that come at once, of two clients, run once", () =>
    Effect.gen(function*() {
      const client = SqliteClient.layer({ filename: join(folder, "race.db"), busyTimeout: "20 seconds" })
      const one = Layer.provideMerge(Inbox.layer(), client)
      const [left, right] = [yield* Layer.build(Layer.fresh(one)), yield* Layer.build(Layer.fresh(one))]
      yield* Effect.provide(prepare, left)
      const handler = (id: string) =>
        pipe(() => Effect.andThen(write(id), Effect.sleep("2 millis")), Inbox.middleware())
      yield* Effect.forEach(
        Array.from({ length: 60 }, (_, i) => i),
        (i) =>
          Effect.provide(
            Effect.map(
              Deliveries.run(handler(`${i >> 1}`), delivery(`${i >> 1}`)),
              ({ outcome }) => assert.strictEqual(outcome._tag, "Ack")
            ),
            i % 2 === 0 ? left : right
          ),
        { concurrency: "unbounded" }
      )
      const all = yield* Effect.provide(stored, left)
      assert.strictEqual(all.length, 30)
      assert.strictEqual(new Set(all).size, 30)
    }).pipe(Effect.scoped), 60_000)

  it.live("X10 from consume to publish once: the answer is written with the id, and published when both are", () =>
    Effect.gen(function*() {
      yield* prepare
      const In = Channel.bytes("c")
      const Out = Channel.make("out", { payload: Schema.String, key: (text) => text })
      let fails = 2
      const handler = pipe(
        (message: Message<Uint8Array>) =>
          Effect.as(write(message.headers["message-id"] ?? ""), `of ${message.headers["message-id"]}`),
        Publish.middleware(Outbox.on(Out)),
        // after the answer is in the outbox, and before the commit
        (next) => (message: Message<Uint8Array>) =>
          Effect.flatMap(next(message), (answer) => fails-- > 0 ? Effect.fail(new Failed()) : Effect.succeed(answer)),
        Decode.middleware(In),
        Inbox.middleware()
      )
      const outcomes: Array<string> = []
      for (let i = 0; i < 6; i++) outcomes.push((yield* Deliveries.run(handler, delivery("1"))).outcome._tag)
      assert.deepStrictEqual(outcomes, ["Retry", "Retry", "Ack", "Ack", "Ack", "Ack"])
      assert.deepStrictEqual(yield* stored, ["1"])
      const relay = yield* OutboxRelay.Relay
      yield* Effect.repeat(Effect.delay(relay.health, "5 millis"), { while: ({ published }) => published === 0 })
      const broker = yield* Broker.Broker
      const out = yield* Stream.runCollect(broker.browse("out"))
      assert.deepStrictEqual(out.map(({ payload }) => new TextDecoder().decode(payload)), ["\"of 1\""])
    }).pipe(Effect.provide(
      Layer.mergeAll(Inbox.layer(), Outbox.layer(), OutboxRelay.layer({ poll: "10 millis" })).pipe(
        Layer.provideMerge(MemoryBroker.layer({ partitions: 1 })),
        Layer.provideMerge(SqliteClient.layer({ filename: ":memory:" }))
      )
    )))

  it.live("X10 ids are kept for a time, and then a message is new again", () =>
    Effect.gen(function*() {
      yield* prepare
      const handler = pipe(() => write("x"), Inbox.middleware())
      const inbox = yield* Inbox.Store
      const sql = yield* SqlClient.SqlClient
      yield* Deliveries.run(handler, delivery("1"))
      assert.strictEqual(yield* inbox.prune, 0)
      yield* sql`UPDATE millrace_inbox SET handled_at = handled_at - 1001`
      assert.strictEqual(yield* inbox.prune, 1)
      yield* Deliveries.run(handler, delivery("1"))
      assert.strictEqual((yield* stored).length, 2)
      // more than one statement deletes
      yield* sql`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
        INSERT INTO millrace_inbox SELECT 'g', 'c', CAST(i AS TEXT), 0 FROM n`
      assert.strictEqual(yield* inbox.prune, 2500)
    }).pipe(Effect.provide(memory({ keep: "1 second", pruneEvery: "1 hour" }))))

  it.live("X10 a database that fails gives the message back", () =>
    Effect.gen(function*() {
      yield* prepare
      const sql = yield* SqlClient.SqlClient
      yield* sql`DROP TABLE millrace_inbox`
      const { exit, outcome } = yield* Deliveries.run(pipe(() => write("x"), Inbox.middleware()), delivery("1"))
      assert.include(["Retry", "Release"], outcome._tag)
      const reason = exit._tag === "Failure" ? exit.cause.reasons[0] : undefined
      const error = reason?._tag === "Fail" ? reason.error : undefined
      assert.instanceOf(error, Inbox.InboxError)
      assert.include(error.message, "millrace_inbox")
      assert.deepStrictEqual(yield* stored, [])
    }).pipe(Effect.provide(memory())))

  it("X10 F20 orders that would lose an answer, an id or a transaction are refused", () => {
    const handle = (_: Message<unknown>) => Effect.succeed("x")
    const fails = (_: Message<unknown>) => Effect.fail(new Failed())
    const Out = Channel.make("out", { payload: Schema.String })
    const orders: ReadonlyArray<[object, string]> = [
      [pipe(handle, Inbox.middleware(), Publish.middleware(Out)), "Inbox must stand outside Publish"],
      [pipe(fails, Retry.middleware(), Inbox.middleware()), "Inbox must stand inside Retry"],
      [pipe(handle, Auth.middleware(), Inbox.middleware()), "Inbox must stand inside Auth"]
    ]
    for (const [handler, sentence] of orders) assert.include(Order.violations(handler).join(), sentence)
    assert.deepStrictEqual(
      Order.violations(
        pipe(handle, Publish.middleware(Out), Inbox.middleware(), Retry.middleware(), Auth.middleware())
      ),
      []
    )
    assert.throws(() => Inbox.layer({ keep: 0 }), RangeError, "keep")
    assert.throws(() => Inbox.layer({ table: "x-y" }), RangeError, "table")
  })
})
