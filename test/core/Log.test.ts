import { assert, describe, it } from "@effect/vitest"
import {
  After,
  type Delivery,
  type Envelope,
  type Handler,
  Headers,
  Log,
  Outcome,
  Outgoing,
  Trace
} from "@millrace/core"
import { Data, Deferred, Effect, Exit, Fiber, Layer, Logger, References, Tracer } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver, runChain } from "./support.ts"

class Broken extends Data.TaggedError("Broken")<{ readonly message?: string }> {
  readonly failure = "poison" as const
}

class Later extends Data.TaggedError("Later")<{}> {
  readonly failure = "dependency" as const
}

interface Line {
  readonly level: string
  readonly message: unknown
  readonly timestamp: string
  readonly cause: unknown
  readonly annotations: Record<string, unknown>
}

/** What Effect's structured logger would have written, and all of it as text. */
const recorder = () => {
  const lines: Array<Line> = []
  const text: Array<string> = []
  const recording = Logger.make((options) => {
    lines.push(Logger.formatStructured.log(options) as never)
    text.push(Logger.formatJson.log(options), Logger.formatLogFmt.log(options), Logger.formatSimple.log(options))
  })
  return { lines, text, logged: Effect.provide(Logger.layer([recording])) }
}

const ok = (_: Envelope) => Effect.void

describe("Log", () => {
  it.effect("B10 one line: timestamp, level, message, correlation id, channel, operation, status, duration", () =>
    Effect.gen(function*() {
      const { lines, logged } = recorder()
      const handler = Log.middleware()((_: Delivery) => Effect.sleep("1500 millis"))
      const message = deliver({
        key: "k1",
        partition: 2,
        position: 7,
        attempt: 3,
        headers: { "X-Correlation-Id": "c-1", authorization: "Bearer abc" }
      })
      const fiber = yield* Effect.forkChild(
        logged(runChain(handler, message)).pipe(Effect.annotateLogs({ tenant: "t1" }))
      )
      yield* TestClock.adjust("1500 millis")
      yield* Fiber.join(fiber)
      assert.strictEqual(lines.length, 1)
      const { annotations, level, message: text, timestamp } = lines[0]!
      assert.deepStrictEqual([level, text, timestamp], ["INFO", "process orders done", "1970-01-01T00:00:01.500Z"])
      assert.deepStrictEqual(annotations, {
        tenant: "t1",
        channel: "orders",
        operation: "process",
        status: "done",
        group: "billing",
        handler: "placeOrder",
        partition: 2,
        position: 7,
        attempt: 3,
        key: "k1",
        correlationId: "c-1",
        durationMs: 1500
      })
    }))

  it.effect("B10 level and status by what happened", () =>
    Effect.gen(function*() {
      const { lines, logged } = recorder()
      const endings: ReadonlyArray<Handler<Delivery, unknown, Broken | Later>> = [
        () => Effect.void,
        () => Effect.fail(new Broken({})),
        () => Effect.andThen(Effect.yieldNow, Effect.fail(new Later())),
        () => Effect.die(new TypeError("no")),
        () => {
          throw new RangeError("no")
        },
        () => Effect.succeed(Outcome.DeadLetter(new Later())),
        () => Effect.succeed(Outcome.Retry()),
        () => Effect.succeed(Outcome.Reject("unwanted")),
        () => Effect.succeed(Outcome.Release)
      ]
      for (const ending of endings) yield* logged(runChain(Log.middleware()(ending), deliver()))
      assert.deepStrictEqual(
        lines.map(({ annotations: { error, failure, status }, level }) => [level, status, error, failure]),
        [
          ["INFO", "done", undefined, undefined],
          ["ERROR", "failed", "Broken", "poison"],
          ["WARN", "failed", "Later", "dependency"],
          ["ERROR", "failed", "TypeError", undefined],
          ["ERROR", "failed", "RangeError", undefined],
          ["WARN", "failed", "Later", "dependency"],
          ["WARN", "retried", undefined, undefined],
          ["WARN", "rejected", "string", undefined],
          ["INFO", "interrupted", undefined, undefined]
        ]
      )
    }))

  it.effect("B10 an interrupted message is logged once, also before the chain's first step", () =>
    Effect.gen(function*() {
      for (const gap of [false, true]) {
        const { lines, logged } = recorder()
        const started = yield* Deferred.make<void>()
        const handler = Log.middleware()((_: Delivery) =>
          Effect.andThen(Deferred.succeed(started, undefined), Effect.never)
        )
        const message = deliver()
        const fiber = yield* Effect.forkChild(logged(Effect.suspend(() => handler(message))))
        yield* Deferred.await(started)
        if (!gap) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        yield* logged(Effect.suspend(() => After.run(message.hooks ?? [], Exit.interrupt(), undefined)))
        assert.deepStrictEqual(lines.map(({ annotations }) => annotations["status"]), ["interrupted"])
      }
    }))

  it.effect("B10 slow messages are marked, and seen where only warnings are", () =>
    Effect.gen(function*() {
      const { lines, logged } = recorder()
      const handler = Log.middleware({ slow: "1 second" })((message: Delivery) => Effect.sleep(message.position))
      for (const position of [999, 1000]) {
        const fiber = yield* Effect.forkChild(
          logged(runChain(handler, deliver({ position }))).pipe(
            Effect.provideService(References.MinimumLogLevel, "Warn")
          )
        )
        yield* TestClock.adjust(position)
        yield* Fiber.join(fiber)
      }
      assert.strictEqual(lines.length, 1)
      assert.deepInclude(lines[0]?.annotations, { slow: true, durationMs: 1000, status: "done" })
      assert.strictEqual(lines[0]?.level, "WARN")
    }))

  it.effect("B10 a start line and levels of one's own", () =>
    Effect.gen(function*() {
      const { lines, logged } = recorder()
      const handler = Log.middleware({ start: "Info", levels: { failed: "Fatal" } })((_: Delivery) =>
        Effect.fail(new Broken({}))
      )
      yield* logged(runChain(handler, deliver()))
      assert.deepStrictEqual(lines.map(({ level, message }) => [level, message]), [
        ["INFO", "process orders started"],
        ["FATAL", "process orders failed"]
      ])
    }))

  it.effect("B10 a publish is logged too, and inside Trace each line has its trace", () =>
    Effect.gen(function*() {
      const { lines, logged } = recorder()
      const tracer = Tracer.make({ span: (options) => new Tracer.NativeSpan(options) })
      const publish = Trace.middleware()(Log.middleware()((_: Outgoing<Uint8Array>) => Effect.void))
      const outgoing = new Outgoing("next", new Uint8Array(), undefined, Headers.empty)
      yield* logged(Effect.suspend(() => After.around(outgoing, publish))).pipe(
        Effect.provideService(Tracer.Tracer, tracer)
      )
      assert.deepInclude(lines[0]?.annotations, { channel: "next", operation: "publish", status: "done" })
      assert.match(String(lines[0]?.annotations["traceId"]), /^[0-9a-f]{32}$/)
    }))

  it.effect("B10 by default neither body nor headers nor what an error says is shown", () =>
    Effect.gen(function*() {
      const { logged, text } = recorder()
      const handler = Log.middleware()((_: Delivery) => Effect.fail(new Broken({ message: "s3cret-in-error" })))
      yield* logged(
        runChain(handler, deliver({ headers: { note: "s3cret-in-header" }, body: { a: "s3cret-in-body" } }))
      )
      assert.notInclude(text.join(), "s3cret")
    }))

  it.effect("B10 the cause of a failure where it is asked for", () =>
    Effect.gen(function*() {
      const { lines, logged } = recorder()
      const handler = Log.middleware({ error: "cause" })((_: Delivery) =>
        Effect.fail(new Broken({ message: "out of paper" }))
      )
      yield* logged(runChain(handler, deliver()))
      assert.include(String(lines[0]?.cause), "out of paper")
    }))

  it.effect("B10 a pattern of secrets is found across the cut", () =>
    Effect.gen(function*() {
      const { lines, logged } = recorder()
      const handler = Log.middleware({ body: { characters: 20 }, redact: { values: [/\d{16}/] } })(
        ok as Handler<Delivery, void>
      )
      yield* logged(runChain(handler, deliver({ body: { number: "4111111111111111" } })))
      assert.strictEqual(lines[0]?.annotations["body"], "{\"number\":\"<redacte…")
    }))

  it.effect("B10 what the handler logs is its own", () =>
    Effect.gen(function*() {
      const { lines, logged } = recorder()
      const handler = Log.middleware({ start: "Info" })((_: Delivery) => Effect.log("mine"))
      yield* logged(runChain(handler, deliver()))
      assert.deepStrictEqual(lines.map(({ annotations: { status }, message }) => [message, status]), [
        ["process orders started", "started"],
        ["mine", undefined],
        ["process orders done", "done"]
      ])
    }))

  it.effect("B10 chosen headers and the beginning of the body, redacted", () =>
    Effect.gen(function*() {
      const { lines, logged } = recorder()
      const show = (options: Log.Options, body: unknown) =>
        logged(runChain(
          Log.middleware(options)(ok as Handler<Delivery, void>),
          deliver({
            headers: { authorization: "x", note: "Bearer abc.def", other: "o", "my-token": "t" },
            body
          })
        ))
      const body = { characters: 60 }
      yield* show({ headers: "all", body, redact: { fields: ["email", "customer.card"] } }, {
        email: "a@b.c",
        card: 1,
        customer: { card: 4111, password: "p" }
      })
      yield* show({ headers: ["Note"], body }, new Uint8Array([0, 255, 1]))
      yield* show({ body }, new TextEncoder().encode("my pass is hunter2"))
      yield* show({ body }, { long: "x".repeat(500) })
      assert.deepStrictEqual(
        lines.map(({ annotations: { body, headers } }) => [body, headers && { ...headers as object }]),
        [
          [
            "{\"email\":\"<redacted>\",\"card\":1,\"customer\":{\"card\":\"<redacte…",
            { authorization: "<redacted>", note: "<redacted>", other: "o", "my-token": "<redacted>" }
          ],
          ["<3 bytes>", { note: "<redacted>" }],
          ["<18 bytes>", undefined],
          [`{"long":"${"x".repeat(50)}…`, undefined]
        ]
      )
    }))

  it.effect("B10 what comes from outside cannot forge a line", () =>
    Effect.gen(function*() {
      const { lines, logged } = recorder()
      const evil = "a\r\nERROR forged\u2028\u0000"
      yield* logged(runChain(
        Log.middleware({ headers: "all" })(ok as Handler<Delivery, void>),
        deliver({
          channel: evil,
          key: evil + "k".repeat(500),
          headers: { "correlation-id": evil, "x-note": evil }
        })
      ))
      const text = JSON.stringify(lines[0])
      assert.notMatch(text.replaceAll("\\\\", ""), /\\[rn]|\u2028|\\u0000(?!")/)
      assert.include(String(lines[0]?.message), "a\\u000d\\u000aERROR")
      assert.isAtMost(String(lines[0]?.annotations["key"]).length, 300)
    }))

  it.effect("B10 no planted secret reaches a logger", () =>
    Effect.gen(function*() {
      const name = fc.constantFrom("password", "apiKey", "client_secret", "Access-Token", "pin", "mine")
      const plain = fc.constantFrom("id", "name", "items", "note")
      const harmless = fc.oneof(fc.integer(), fc.constantFrom("x", "\"", "\\", "é", "a=b"), fc.constant(null))
      const tree = (depth: number): fc.Arbitrary<unknown> =>
        depth === 0
          ? harmless
          : fc.oneof(
            harmless,
            fc.array(tree(depth - 1), { maxLength: 3 }),
            fc.dictionary(plain, tree(depth - 1), { maxKeys: 3 })
          )
      const secret = fc.string({ minLength: 8, maxLength: 20, unit: fc.constantFrom(..."ABCDEF0123456789\"\\ é") })
        .map((text) => `S3C-${text}-RET`)
      const planted = fc.tuple(name, secret, tree(2), fc.array(plain, { maxLength: 3 }), fc.nat(200), fc.boolean())
      const run = (handler: Handler<Delivery, unknown, Broken>, message: Delivery, options: Log.Options) => {
        const { lines, logged, text } = recorder()
        Effect.runSync(logged(runChain(Log.middleware(options)(handler), message)))
        assert.strictEqual(lines.length, 1)
        return text.join("\n")
      }
      fc.assert(
        fc.property(planted, ([field, hidden, beside, path, cut, nested]) => {
          const inner = { beside, [field]: nested ? { deep: [hidden] } : hidden }
          const body = path.reduce<unknown>((value, key, i) => i % 2 === 0 ? { [key]: value } : [value], inner)
          const bytes = new TextEncoder().encode(JSON.stringify(body))
          const message = deliver({
            body: cut < 100 ? bytes.subarray(0, cut) : bytes,
            headers: {
              [`x-${field}`]: hidden,
              authorization: hidden,
              cookie: hidden,
              note: `Bearer ${hidden.replace(/[^A-F0-9-]/g, "")}`
            }
          })
          const out = run(() => Effect.fail(new Broken({ message: hidden })), message, {
            headers: "all",
            body: { characters: 1 + cut },
            start: undefined,
            redact: { fields: ["mine"] }
          })
          assert.notInclude(out, "S3C-")
        }),
        { numRuns: 500 }
      )
    }))

  it.effect("B10 a logger that throws harms neither the message nor the other loggers", () =>
    Effect.gen(function*() {
      const { lines, logged } = recorder()
      const throwing = Logger.make(() => {
        throw new Error("disk full")
      })
      const exit = yield* runChain(Log.middleware()(ok as Handler<Delivery, void>), deliver()).pipe(
        logged,
        Effect.provide(Layer.provideMerge(Logger.layer([throwing]), Layer.empty))
      )
      assert.strictEqual(exit._tag, "Success")
      const both = yield* Effect.exit(
        Effect.provide(
          runChain(Log.middleware()(ok as Handler<Delivery, void>), deliver()),
          Logger.layer([
            throwing,
            Logger.make((options) => void lines.push(Logger.formatStructured.log(options) as never))
          ])
        )
      )
      assert.strictEqual(both._tag, "Success")
      assert.strictEqual(lines.length, 2)
    }))

  it("B10 options out of range are refused", () => {
    assert.throws(
      () => Log.middleware({ body: { characters: 0 } }),
      RangeError,
      "Log: body.characters must be an integer from 1, got 0"
    )
  })
})
