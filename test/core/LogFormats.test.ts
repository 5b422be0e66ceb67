import { assert, describe, it } from "@effect/vitest"
import { Correlate, type Delivery, Log } from "@millrace/core"
import { Config, ConfigProvider, Console, Data, Effect, Exit, Logger, pipe, Redacted, References } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver, runChain } from "./support.ts"

class Broken extends Data.TaggedError("Broken")<{ readonly message: string }> {}

/** A console that keeps what is written to it. */
const keeping = () => {
  const out: Array<string> = []
  const error: Array<string> = []
  const console: Console.Console = {
    ...globalThis.console,
    log: (...args) => void out.push(args.join(" ")),
    error: (...args) => void error.push(args.join(" "))
  }
  return { out, error, kept: Effect.provideService(Console.Console, console) }
}

/** What a program logs, line by line. */
const lines = <E>(program: Effect.Effect<unknown, E>, options?: Log.FormatOptions): ReadonlyArray<string> => {
  const all: Array<string> = []
  const logger = Logger.map(Log.format(options), (line) => void all.push(line))
  Effect.runSync(Effect.provide(Effect.exit(program), Logger.layer([logger])))
  return all
}

const formats = ["json", "logfmt", "pretty"] as const

/** Reads `name=value` as its readers do. */
const readLogfmt = (line: string): Record<string, string> => {
  const fields: Record<string, string> = {}
  for (
    const [, name = "", quoted, plain = ""] of line.matchAll(/(?:^| )([^\s="]+)=(?:("(?:[^"\\]|\\.)*")|([^\s"]*))/g)
  ) {
    // names lose what may not stand in one, so two may meet; never in a field of the line's own
    assert.isFalse(/^(timestamp|level|message)$/.test(name) && Object.hasOwn(fields, name), line)
    fields[name] = quoted === undefined ? plain : JSON.parse(quoted)
  }
  return fields
}

describe("Log formats", () => {
  it.effect("H6 B10 one line: timestamp, level, message, correlation id, channel, operation, status, duration", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(Date.UTC(2026, 10, 21, 12, 0, 1, 500))
      const handler = pipe((_: Delivery) => Effect.void, Log.middleware(), Correlate.middleware())
      const message = deliver({ key: "k 1", headers: { "correlation-id": "c-1", "message-id": "m-1" } })
      const written: Record<string, ReadonlyArray<string>> = {}
      for (const format of formats) {
        const { kept, out } = keeping()
        yield* kept(Effect.provide(runChain(handler, message), Log.layer({ format })))
        written[format] = out
      }
      const common = {
        correlationId: "c-1",
        causationId: "m-1",
        channel: "orders",
        operation: "process",
        status: "done",
        group: "billing",
        handler: "placeOrder",
        partition: 0,
        position: 0,
        attempt: 1,
        key: "k 1",
        durationMs: 0
      }
      const first = { timestamp: "2026-11-21T12:00:01.500Z", level: "INFO", message: "process orders done" }
      assert.deepStrictEqual(written["json"], [JSON.stringify({ ...first, ...common })])
      const pairs = (fields: object) =>
        Object.entries(fields).map(([name, value]) => `${name}=${/ /.test(value) ? JSON.stringify(value) : value}`)
          .join(" ")
      assert.deepStrictEqual(written["logfmt"], [pairs({ ...first, ...common })])
      assert.deepStrictEqual(written["pretty"], [`12:00:01.500 INFO  process orders done ${pairs(common)}`])
    }))

  it.effect("H6 the level decides what is written, and the stream where", () =>
    Effect.gen(function*() {
      const all = Effect.andThen(Effect.logDebug("d"), Effect.andThen(Effect.log("i"), Effect.logError("e")))
      const count = (options: Log.LayerOptions, stderr = false) =>
        Effect.gen(function*() {
          const { error, kept, out } = keeping()
          yield* kept(Effect.provide(all, Log.layer(options))).pipe(
            Effect.provideService(Logger.LogToStderr, stderr)
          )
          return [out.length, error.length]
        })
      assert.deepStrictEqual(yield* count({}), [2, 0])
      assert.deepStrictEqual(yield* count({ level: "Debug" }), [3, 0])
      assert.deepStrictEqual(yield* count({ level: "Error" }), [1, 0])
      assert.deepStrictEqual(yield* count({ level: "None" }), [0, 0])
      assert.deepStrictEqual(yield* count({}, true), [0, 2])
    }))

  it.effect("H6 B1 format and level come from the environment, in any case, and what is wrong is named", () =>
    Effect.gen(function*() {
      const run = (env: Record<string, string>, options?: Log.LayerOptions) => {
        const { kept, out } = keeping()
        return kept(Effect.provide(Effect.logDebug("d"), Log.layerConfig(options))).pipe(
          Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown(env)),
          Effect.as(out)
        )
      }
      assert.deepStrictEqual(yield* run({}), [])
      const [json] = yield* run({ LOG_LEVEL: "debug" })
      assert.strictEqual(JSON.parse(json ?? "").message, "d")
      const [logfmt] = yield* run({ LOG_LEVEL: "TRACE", LOG_FORMAT: "LogFmt " })
      assert.include(logfmt, "level=DEBUG message=d")
      const [given] = yield* run({ LOG_LEVEL: "none", LOG_FORMAT: "nonsense" }, { level: "All", format: "pretty" })
      assert.include(given, "DEBUG d")
      for (const [name, value] of [["LOG_FORMAT", "yaml"], ["LOG_LEVEL", "loud"]] as const) {
        const error = yield* Effect.flip(run({ [name]: value }))
        assert.instanceOf(error, Config.ConfigError)
        assert.include(error.message, name)
      }
    }))

  it("H6 annotations stay flat, in order, and never replace a field of the line", () => {
    const program = Effect.log("said", { n: 1 }, 2).pipe(
      Effect.annotateLogs({
        level: "none",
        message: "other",
        nested: { a: [1, "b"], c: { d: true } },
        none: undefined
      }),
      Effect.withLogSpan("outer")
    )
    const [json = ""] = lines(program)
    const { timestamp, ...rest } = JSON.parse(json)
    assert.match(timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
    assert.deepStrictEqual({ ...rest, spans: Object.keys(rest.spans) }, {
      level: "INFO",
      message: "said {\"n\":1} 2",
      "annotation.level": "none",
      "annotation.message": "other",
      nested: { a: [1, "b"], c: { d: true } },
      spans: ["outer"]
    })
    const [logfmt = ""] = lines(program, { format: "logfmt" })
    assert.include(
      logfmt,
      "annotation.level=none annotation.message=other nested.a=\"[1,\\\"b\\\"]\" nested.c.d=true spans.outer="
    )
  })

  it("H6 whatever is logged, each line is one, is read back whole, and holds no control character", () => {
    const nasty = fc.oneof(
      fc.string({ unit: "binary", maxLength: 20 }),
      fc.string({
        maxLength: 20,
        unit: fc.constantFrom(..."a =\"\\\r\n\t\u0000\u001b\u007f\u0085\u2028\u2029\u202e[]{}:,")
      })
    )
    fc.assert(
      fc.property(nasty, fc.dictionary(nasty, nasty, { maxKeys: 4 }), (message, annotations) => {
        const program = Effect.annotateLogs(Effect.log(message), annotations)
        for (const format of formats) {
          const [line = "", ...more] = lines(program, { format })
          assert.isEmpty(more)
          // oxlint-disable-next-line no-control-regex
          assert.notMatch(line, /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e]/)
          if (format === "json") {
            const read = JSON.parse(line)
            for (const name of Object.keys(annotations)) {
              if (name === "__proto__") continue
              const shown = ["timestamp", "level", "message", "cause", "spans"].includes(name)
                ? `annotation.${name}`
                : name
              assert.strictEqual(typeof read[shown], "string", name)
            }
          }
          if (format === "logfmt") {
            const names = Object.keys(readLogfmt(line))
            assert.deepStrictEqual(names.slice(0, 3), ["timestamp", "level", "message"])
          }
        }
      }),
      { numRuns: 300 }
    )
  })

  it("H6 what nothing is redacted of reads back as it was written", () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(..."ab =\"\\\n;é"), maxLength: 20 }), (note) => {
        const program = Effect.annotateLogs(Effect.log("x"), { note })
        const [json = ""] = lines(program)
        const [logfmt = ""] = lines(program, { format: "logfmt" })
        assert.strictEqual(JSON.parse(json).note, note)
        assert.strictEqual(readLogfmt(logfmt)["note"], note)
      }),
      { numRuns: 300 }
    )
  })

  it("H6 a cause is one field, and lines of its own in pretty", () => {
    const program = Effect.logError("failed").pipe(
      Effect.andThen(Effect.fail(new Broken({ message: "a\nb" }))),
      (self) => Effect.catchCause(self, (cause) => Effect.logWarning("caught", cause))
    )
    const [, json = ""] = lines(program)
    assert.include(JSON.parse(json).cause, "Broken: a\nb")
    const [, logfmt = ""] = lines(program, { format: "logfmt" })
    assert.notInclude(logfmt, "\n")
    const [, pretty = ""] = lines(program, { format: "pretty" })
    const [first, ...rest] = pretty.split("\n")
    assert.include(first, "WARN  caught")
    assert.isAbove(rest.length, 1)
    for (const line of rest) assert.isTrue(line.startsWith("  "))
    const [coloured = ""] = lines(Effect.log("x"), { format: "pretty", colors: true })
    assert.include(coloured, "\u001b[32mINFO \u001b[0m")
  })

  it("H6 what cannot be written is told by its kind, and what is long is cut", () => {
    const cycle: { self?: unknown } = {}
    cycle.self = cycle
    const [json = ""] = lines(
      Effect.log("x").pipe(Effect.annotateLogs({
        cycle,
        big: 12n,
        bytes: new Uint8Array(3),
        call: () => 1,
        nan: Number.NaN,
        secretly: Redacted.make("hidden"),
        map: new Map([["a", 1]]),
        long: "y".repeat(20_000)
      }))
    )
    const read = JSON.parse(json)
    assert.deepInclude(read, {
      cycle: "<object>",
      big: "12",
      bytes: "<3 bytes>",
      call: "<function>",
      nan: "NaN",
      map: { a: 1 }
    })
    assert.notInclude(json, "hidden")
    assert.strictEqual(read.long.length, Log.bounds.value)
    const many = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`f${i}`, i]))
    for (const format of formats) {
      const [line = ""] = lines(Effect.log("x").pipe(Effect.annotateLogs({ ...many, deep: many })), { format })
      assert.isBelow(line.length, 5000)
    }
  })

  it("H6 B10 secrets are replaced whoever logged them", () => {
    const program = Effect.log("password=hunter2 and Bearer abc.def", { token: "hunter2" }).pipe(
      Effect.annotateLogs({
        authorization: "hunter2",
        "x-api-key": "hunter2",
        client_secret: { value: "hunter2" },
        body: "{\"user\":{\"password\":\"hunter2\"},\"n\":1}",
        nested: { list: [{ apiKey: "hunter2", ok: "yes" }], text: "pwd: hunter2" },
        mine: "hunter2",
        card: "4111111111111111",
        jwt: "eyJhbGciOi.eyJzdWIi.c2ln"
      }),
      Effect.andThen(Effect.fail(new Broken({ message: "token=hunter2" }))),
      (self) => Effect.catchCause(self, (cause) => Effect.logError(cause))
    )
    for (const format of formats) {
      const text = lines(program, { format, redact: { fields: ["mine"], values: [/\b\d{16}\b/] } }).join("\n")
      assert.notMatch(text, /hunter2|abc\.def|4111|eyJ/)
      assert.include(text, "yes")
    }
  })

  it.effect("H6 a line of a message keeps its own redaction, and Effect's loggers stay possible", () =>
    Effect.gen(function*() {
      const { kept, out } = keeping()
      const handler = Log.middleware({ body: { characters: 100 }, redact: { fields: ["card"] } })
      const message = deliver({ body: { card: "4111", id: 7 } })
      yield* kept(Effect.provide(runChain(handler((_: Delivery) => Effect.void), message), Log.layer()))
      assert.strictEqual(JSON.parse(out[0] ?? "").body, "{\"card\":\"<redacted>\",\"id\":7}")
      const exit = yield* kept(runChain(handler((_: Delivery) => Effect.void), message)).pipe(
        Effect.provide(Logger.layer([Logger.consoleJson]))
      )
      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(JSON.parse(out[1] ?? "").annotations.channel, "orders")
      assert.deepStrictEqual(yield* References.CurrentLogAnnotations, {})
    }))
})
