import { assert, describe, it } from "@effect/vitest"
import {
  After,
  Audit,
  Channel,
  type Delivery,
  Gather,
  type Handler,
  Middleware,
  Outcome,
  type Outgoing,
  Publisher,
  Redaction,
  Retry,
  Settlement,
  Stack,
  Subscription
} from "@millrace/core"
import { AuditStoreContract, Deliveries } from "@millrace/testing"
import { Clock, Context, Data, Deferred, Duration, Effect, Exit, Fiber, Layer, Logger } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver } from "./support.ts"

AuditStoreContract.suite("memory", Audit.layerMemory())

class OutOfStock extends Data.TaggedError("OutOfStock")<{ readonly message: string }> {}
class Down extends Data.TaggedError("Down")<{ readonly message: string }> {
  readonly failure = "dependency" as const
}

const policy: Settlement.Policy = {
  entries: { OutOfStock: (e: never) => Outcome.DeadLetter(e) },
  table: Settlement.table
}

/** Runs a chain, and answers how its hooks ended. */
const settle = <M extends Deliveries.Carrier, A, E, R>(handler: Handler<M, A, E, R>, message: M) =>
  Effect.map(Deliveries.run(handler, message), ({ hooks }) => hooks)

const rows = Effect.flatMap(Audit.Store, (store) => Effect.map(store.query(), (page) => page.rows))

const memory = Effect.provide(Audit.layerMemory())

const audited = Audit.middleware()

describe("Audit", () => {
  it.effect("F6 F19 a row says where the message was, what it held, who handled it, when, how long and how it ended", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(1_700_000_000_000)
      const handler = audited((_: Delivery) => Effect.sleep("250 millis"))
      const message = deliver({ key: "k1", body: { id: 7 }, position: 41, partition: 3, attempt: 2 })
      const fiber = yield* Effect.forkChild(settle(handler, message))
      yield* TestClock.adjust("250 millis")
      yield* Fiber.join(fiber)
      const [row, ...others] = yield* rows
      assert.deepStrictEqual(others, [])
      const { id, ...rest } = row!
      assert.isString(id)
      assert.deepStrictEqual(rest, {
        kind: "consumer",
        channel: "orders",
        partition: 3,
        position: 41,
        key: "k1",
        body: "{\"id\":7}",
        handler: "placeOrder",
        attempt: 2,
        startedAt: 1_700_000_000_000,
        completedAt: 1_700_000_000_250,
        duration: 250,
        status: "done",
        errorTag: undefined,
        errorMessage: undefined
      })
    }).pipe(memory))

  it.effect("F6 the status is the outcome, and the error is the one that led to it", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<
        [Effect.Effect<unknown, unknown>, Audit.Status, string | undefined, string | undefined]
      > = [
        [Effect.void, "done", undefined, undefined],
        [Effect.succeed(Outcome.Retry()), "retried", undefined, undefined],
        [Effect.succeed(Outcome.Reject(new Down({ message: "no use" }))), "rejected", "Down", "no use"],
        [new Down({ message: "try later" }), "retried", "Down", "try later"],
        [new OutOfStock({ message: "none left" }), "deadLettered", "OutOfStock", "none left"],
        [Effect.die(new TypeError("not a function")), "deadLettered", "TypeError", "not a function"],
        [Effect.interrupt, "released", "Interrupted", undefined]
      ]
      for (const [effect, status, tag, text] of cases) {
        yield* settle(audited((_: Delivery) => effect), deliver())
        const [row] = yield* rows
        assert.deepStrictEqual([row?.status, row?.errorTag, row?.errorMessage], [status, tag, text])
        yield* Effect.flatMap(Audit.Store, (store) => store.prune({ before: Infinity }))
      }
    }).pipe(memory))

  it.effect("F6 a publisher's row is done or failed, and shows a value that is not encoded yet", () =>
    Effect.gen(function*() {
      const outgoing = () =>
        Publisher.message(Channel.unchecked("orders"), { id: 7, password: "hunter2" }, { key: "k" }).fresh()
      const publish = (effect: Effect.Effect<void, Down>) =>
        Effect.exit(After.around(outgoing(), audited((_: Outgoing<unknown>) => effect)))
      yield* publish(Effect.void)
      yield* publish(Effect.fail(new Down({ message: "broker" })))
      const found = yield* Effect.flatMap(Audit.Store, (store) => store.query({ order: "oldest" }))
      assert.deepStrictEqual(found.rows.map((row) => [row.kind, row.status, row.body, row.partition, row.handler]), [
        ["producer", "done", "{\"id\":7,\"password\":\"<redacted>\"}", undefined, undefined],
        ["producer", "failed", "{\"id\":7,\"password\":\"<redacted>\"}", undefined, undefined]
      ])
    }).pipe(memory))

  it.effect("F6 durations are the monotonic clock's: a wall clock set back makes no negative one", () =>
    Effect.gen(function*() {
      const real = yield* Clock.Clock
      let wall = 5_000
      let monotonic = 0n
      const clock: Clock.Clock = {
        ...real,
        sleep: (duration) => real.sleep(duration),
        currentTimeMillisUnsafe: () => wall,
        monotonicTimeNanosUnsafe: () => monotonic
      }
      const handler = audited((_: Delivery) =>
        Effect.sync(() => {
          wall = 1_000
          monotonic += 7_500_000n
        })
      )
      yield* Effect.provideService(settle(handler, deliver()), Clock.Clock, clock)
      const [row] = yield* rows
      assert.deepStrictEqual([row?.startedAt, row?.completedAt, row?.duration], [5_000, 5_008, 7.5])
    }).pipe(memory))

  it.effect("X9 the message waits for its row, and all of a chunk wait for one effect", () =>
    Effect.gen(function*() {
      const gate = yield* Deferred.make<void>()
      const groups: Array<number> = []
      const gather = yield* Gather.make({
        write: (entries: ReadonlyArray<Audit.Entry>) =>
          Effect.andThen(Effect.sync(() => groups.push(entries.length)), Deferred.await(gate))
      })
      const store = Context.get(yield* Layer.build(Audit.layerMemory()), Audit.Store)
      const handler = audited((_: Delivery) => Effect.void)
      const waits = yield* Effect.provideService(
        Effect.sync(() =>
          [1, 2, 3].map((position) => {
            const message = deliver({ position })
            const exit = handler(message)
            assert.isTrue(Exit.isExit(exit))
            return After.run(message.hooks ?? [], exit as Exit.Exit<void>, Outcome.Ack)
          })
        ),
        Audit.Store,
        { ...store, append: gather.add }
      )
      assert.strictEqual(new Set(waits).size, 1)
      const settled = yield* Effect.forkChild(waits[0]!)
      yield* Effect.repeat(Effect.yieldNow, { times: 10 })
      assert.deepStrictEqual(groups, [3])
      assert.isUndefined(settled.pollUnsafe())
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(settled)
    }).pipe(Effect.scoped))

  const broken = (operation: () => void) =>
    Layer.effect(
      Audit.Store,
      Effect.map(Layer.build(Audit.layerMemory()), (context) =>
        Object.assign({}, Context.get(context, Audit.Store), {
          append: () =>
            Effect.suspend(() => {
              operation()
              return new Audit.AuditError({ operation: "append", reason: "Full", message: "no space is left" })
            })
        }))
    )

  it.effect("X9 a store that fails sends the message back by its class, or lets it run where that is chosen", () =>
    Effect.gen(function*() {
      const exit = yield* settle(audited((_: Delivery) => Effect.void), deliver())
      assert.isTrue(Exit.isFailure(exit))
      // a retry that names its time is never given up
      assert.deepStrictEqual(Settlement.ofExit(policy, exit), Outcome.Retry({ after: Duration.seconds(5) }))
      const lenient = Audit.middleware({ onStoreError: "run" })
      assert.deepStrictEqual(yield* settle(lenient((_: Delivery) => Effect.void), deliver()), Exit.void)
    }).pipe(Effect.provide(broken(() => {}))))

  it.effect.each(["run", "retry"] as const)(
    "X9 where rows fail, a group stays one effect and is told once: %s",
    (onStoreError) =>
      Effect.gen(function*() {
        const logged: Array<unknown> = []
        const gather = yield* Gather.make({
          write: (_: ReadonlyArray<Audit.Entry>) =>
            new Audit.AuditError({ operation: "append", reason: "Full", message: "no space is left" })
        })
        const store = Context.get(yield* Layer.build(Audit.layerMemory()), Audit.Store)
        const handler = Audit.middleware({ onStoreError })((_: Delivery) => Effect.void)
        const waits = yield* Effect.provideService(
          Effect.sync(() =>
            [1, 2].map((position) => {
              const message = deliver({ position })
              return After.run((void handler(message), message.hooks ?? []), Exit.void, Outcome.Ack)
            })
          ),
          Audit.Store,
          { ...store, append: gather.add }
        )
        assert.strictEqual(waits[0], waits[1])
        const exits = yield* Effect.forEach(waits, Effect.exit, { concurrency: "unbounded" }).pipe(
          Effect.provide(Logger.layer([Logger.make(({ message }) => void logged.push(message))]))
        )
        assert.deepStrictEqual(exits.map(Exit.isSuccess), [onStoreError === "run", onStoreError === "run"])
        assert.strictEqual(logged.length, 1)
        assert.include(String(logged[0]), "no space is left")
      }).pipe(Effect.scoped)
  )

  it.effect("F6 the first 500 characters of the body are kept, never half a character, or none", () =>
    Effect.gen(function*() {
      const bodyOf = (options: Audit.Options, body: unknown) =>
        Effect.gen(function*() {
          yield* settle(Audit.middleware(options)((_: Delivery) => Effect.void), deliver({ body }))
          const [row] = yield* rows
          yield* Effect.flatMap(Audit.Store, (store) => store.prune({ before: Infinity }))
          return row!.body
        })
      const text = (content: string) => new TextEncoder().encode(content)
      assert.strictEqual(yield* bodyOf({}, text("x".repeat(499) + "éy")), "x".repeat(499) + "é")
      assert.strictEqual(yield* bodyOf({}, text("x".repeat(499) + "😀")), "x".repeat(499))
      assert.strictEqual(yield* bodyOf({}, text("漢".repeat(2_000))), "漢".repeat(500))
      assert.strictEqual(yield* bodyOf({}, text("x" + "😀".repeat(1_000))), "x" + "😀".repeat(249))
      assert.strictEqual(yield* bodyOf({ body: { characters: 3 } }, text("abcdef")), "abc")
      assert.strictEqual(yield* bodyOf({}, text("")), "")
      assert.isUndefined(yield* bodyOf({ body: "none" }, text("abc")))
      assert.isUndefined(yield* bodyOf({}, null))
      assert.strictEqual(yield* bodyOf({}, new Uint8Array([0, 1, 2, 255])), "<4 bytes>")
    }).pipe(memory))

  it("F6 options out of range and a wrong order are refused when built", () => {
    assert.throws(() => Audit.middleware({ body: { characters: 0 } }), RangeError, "Audit: body.characters")
    assert.throws(() => Audit.layerMemory({ capacity: 0 }), RangeError, "Audit.layerMemory: capacity")
    assert.throws(() => Audit.layerRetention({ keep: 0 }), RangeError, "Audit.layerRetention: keep")
    const Orders = Channel.bytes("orders")
    const fails = (_: Delivery) => Effect.fail(new Down({ message: "" }))
    assert.throws(
      () => Subscription.make(Orders, { group: "g" }, Retry.middleware()(audited(fails))),
      "Audit must stand outside Retry"
    )
  })

  it.effect("F6 old rows are removed at once and then every so often", () =>
    Effect.gen(function*() {
      const store = yield* Audit.Store
      yield* TestClock.setTime(10 * 86_400_000)
      const at = (days: number) => store.append(AuditStoreContract.entry({ completedAt: days * 86_400_000 }))
      yield* Effect.all([at(1), at(8), at(9.5)])
      yield* Layer.build(Audit.layerRetention({ keep: "3 days", every: "1 day" }))
      yield* Effect.repeat(Effect.yieldNow, { times: 5 })
      assert.strictEqual(yield* store.count(), 2)
      yield* TestClock.adjust("2 days")
      assert.strictEqual(yield* store.count(), 1)
    }).pipe(memory, Effect.scoped))

  it.effect("F6 a memory store keeps the newest of its capacity", () =>
    Effect.gen(function*() {
      const store = yield* Audit.Store
      for (let position = 0; position < 25; position++) yield* store.append(AuditStoreContract.entry({ position }))
      const found = yield* store.query({ order: "oldest" })
      assert.deepStrictEqual(found.rows.map((row) => row.position), [20, 21, 22, 23, 24])
      assert.strictEqual(yield* store.count(), 5)
    }).pipe(Effect.provide(Audit.layerMemory({ capacity: 5 }))))
})

describe("Redaction", () => {
  const secretName = fc.constantFrom(
    "password",
    "PassWord",
    "userPassword",
    "api_key",
    "apiKey",
    "x-api-key",
    "access-token",
    "client_secret",
    "Authorization",
    "cvv",
    "card.number",
    "pin"
  )
  const plant = (n: number) => `SECRET-${n}-"\\\u00e9\n`
  // a document with secrets planted at any depth, under names that are written as JSON may write them
  const { document } = fc.letrec<{ document: unknown; value: unknown }>((tie) => ({
    value: fc.oneof(
      { depthSize: "medium", withCrossShrink: true },
      fc.constantFrom(1, true, null, "plain", "with \"quotes\" and \\", ""),
      fc.array(tie("value"), { maxLength: 3 }),
      tie("document"),
      tie("document").map((inner) => JSON.stringify(inner))
    ),
    document: fc.tuple(
      fc.dictionary(fc.constantFrom("id", "note", "items", "customer", "données", "a\"b"), tie("value"), {
        maxKeys: 4
      }),
      fc.dictionary(
        secretName,
        fc.oneof(
          fc.nat(99).map(plant),
          fc.array(fc.nat(99).map(plant), { minLength: 1, maxLength: 2 }),
          fc.nat(99).map((n) => ({ deep: [{ deeper: plant(n) }] }))
        ),
        { minKeys: 1, maxKeys: 2 }
      ),
      fc.boolean()
    ).map(([open, secrets, first]) => Object.assign({}, ...(first ? [secrets, open] : [open, secrets])) as unknown)
  }))

  it("F6 no planted secret is left, at any depth, however the text is indented or escaped, wherever it is cut", () => {
    const redaction = Redaction.make()
    let replaced = 0
    fc.assert(
      fc.property(
        document,
        fc.integer({ min: 0, max: 1_000 }),
        fc.boolean(),
        fc.boolean(),
        (value, part, indent, escapes) => {
          let text = JSON.stringify(value, null, indent ? 2 : 0)
          // o of every name and value, as an escape
          if (escapes) text = text.replace(/(?<!\\)o/g, "\\u006f")
          const head = text.slice(0, Math.round(text.length * part / 1_000))
          const clean = redaction.text(head)
          if (clean.includes("<redacted>")) replaced++
          assert.notMatch(clean, /SE?C?R?E?T?-\d|SECR/)
        }
      ),
      { numRuns: 3_000 }
    )
    assert.isAbove(replaced, 1_000)
  })

  it("F6 what is no secret comes back as it was, and what was JSON stays JSON", () => {
    const redaction = Redaction.make()
    fc.assert(
      fc.property(fc.json({ maxDepth: 4 }), (text) => {
        const letters = text.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "")
        fc.pre(![...Redaction.usual.containing, ...Redaction.usual.equal].some((name) => letters.includes(name)))
        assert.strictEqual(redaction.text(text), text)
      }),
      { numRuns: 500 }
    )
    fc.assert(
      fc.property(document, (value) => {
        JSON.parse(redaction.text(JSON.stringify(value)))
      }),
      { numRuns: 500 }
    )
  })

  it("F6 names, paths with wildcards, patterns of names and of values", () => {
    const text = (options: Redaction.Options, value: unknown) =>
      JSON.parse(Redaction.make(options).text(JSON.stringify(value))) as unknown
    const order = { card: "a", customer: { card: "b", iban: "c" }, lines: [{ note: { card: "d" } }], token: "e" }
    const gone = "<redacted>"
    assert.deepStrictEqual(text({ fields: ["iban"], usual: "drop" }, order), {
      ...order,
      customer: { card: "b", iban: gone }
    })
    assert.deepStrictEqual(text({ fields: ["customer.card", "lines.*.card"] }, order), {
      card: "a",
      customer: { card: gone, iban: "c" },
      lines: [{ note: { card: gone } }],
      token: gone
    })
    assert.deepStrictEqual(text({ fields: [/^ib/], usual: "drop" }, order), {
      ...order,
      customer: { card: "b", iban: gone }
    })
    assert.deepStrictEqual(text({ values: [/\b\d{16}\b/] }, { note: "card 4111111111111111." }), {
      note: `card ${gone}.`
    })
  })

  it("F6 text that is no JSON loses what follows the name of a secret", () => {
    const redaction = Redaction.make()
    for (
      const text of [
        "password=SECRET&id=1",
        "a: 1, api_key: 'SECRET', b",
        "Authorization: Bearer SECRET",
        "<token>SECRET</token>",
        "{'password': 'SECRET'}",
        "{password: {a: \"SECRET\"}}",
        "{\"password\"=\"SECRET\"}",
        "{\"password\": SECRET}",
        "{\"password\": 1SECRET, \"a\": 2}",
        "{\"a: 1, \"password\": \"SECRET\"}",
        "\u0000\u0000\u0000\u0000\u0007{\"password\":\"SECRET\"}",
        "user_password => \"SECRET\""
      ]
    ) {
      assert.notInclude(redaction.text(text), "SECRET", text)
    }
  })

  it("F6 a text made to be slow is read in one pass", () => {
    const redaction = Redaction.make()
    for (const part of ["token", "token=", "a", "{\"a\":", "\"\\", "token\"", "[", "token_-. "]) {
      const text = part.repeat(Math.ceil(400_000 / part.length))
      // quadratic work would take minutes, which no test has
      assert.isArray(redaction.secrets(text))
    }
  })
})

describe("Audit and secrets", () => {
  it.effect("F6 an error message repeats no secret of the headers or of the body, also beyond what is kept of it", () =>
    Effect.gen(function*() {
      const message = deliver({
        headers: { authorization: "Bearer SECRET-HEADER", "x-session-token": "SECRET-SESSION" },
        body: { note: "n".repeat(2_000), user: { password: "SECRET-BODY" } }
      })
      const handler = Stack.start().use(audited).use(
        Middleware.make()({ name: "Leaks", stage: "consume" }, () => () =>
          Effect.fail(
            new Down({
              message:
                "refused SECRET-HEADER of SECRET-SESSION, got \"SECRET-BODY\" at [\"user\"][\"password\"], token=SECRET-TOKEN"
            })
          ))
      ).handle(() => Effect.void)
      yield* settle(handler, message)
      const [row] = yield* rows
      assert.notInclude(JSON.stringify(row), "SECRET")
      assert.include(row!.errorMessage, "refused <redacted> of <redacted>")
    }).pipe(memory))
})
