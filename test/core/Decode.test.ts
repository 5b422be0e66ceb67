import { assert, describe, it } from "@effect/vitest"
import { Channel, Decode, type Message, Outcome, Settlement } from "@millrace/core"
import { Effect, Exit, pipe, Schema, SchemaGetter } from "effect"
import * as fc from "fast-check"
import { execFileSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { cases, decodeAll } from "./fixtures/schemas.ts"
import { deliver, runChain } from "./support.ts"

const Order = Schema.Struct({
  id: Schema.String,
  amount: Schema.Finite,
  lines: Schema.Array(Schema.Struct({ sku: Schema.String }))
})
const Orders = Channel.make("orders", { payload: Order })
const good = { id: "1", amount: 3, lines: [{ sku: "a" }] }

const text = (body: string): Uint8Array => new TextEncoder().encode(body)

const errorOf = (exit: Exit.Exit<unknown, unknown>): Decode.DecodeError => {
  assert(exit._tag === "Failure")
  const reason = exit.cause.reasons[0]!
  assert(reason._tag === "Fail" && reason.error instanceof Decode.DecodeError)
  return reason.error
}

const policy: Settlement.Policy = { entries: {}, table: Settlement.table }

describe("Decode", () => {
  const seen: Array<unknown> = []
  const keep = (message: Message<unknown>) => Effect.sync(() => void seen.push(message.payload))

  const decode = (body: unknown, options?: Decode.Options<"refuse">) =>
    runChain(pipe(keep, Decode.middleware(Orders, options)), deliver({ body }))

  it.effect("F18 the handler gets the typed payload, and the raw body beside it", () =>
    Effect.gen(function*() {
      const handler = pipe(
        (message: Message<typeof Order.Type>) =>
          Effect.succeed([message.payload.lines[0]?.sku, new TextDecoder().decode(message.raw), message.key]),
        Decode.middleware(Orders)
      )
      const exit = yield* runChain(handler, deliver({ body: good, key: "k" }))
      assert.deepStrictEqual(exit, Exit.succeed(["a", JSON.stringify(good), "k"]))
    }))

  it.effect("F9 what the schema refuses is a validation error that names the place, and the handler is not called", () =>
    Effect.gen(function*() {
      seen.length = 0
      const exit = yield* decode({ ...good, lines: [{ sku: "a" }, { sku: 1 }] })
      const error = errorOf(exit)
      assert.strictEqual(error.failure, "validation")
      assert.strictEqual(error.path, "lines[1].sku")
      assert.strictEqual(error.message, "Not a payload of orders: Expected string at lines[1].sku")
      assert.deepStrictEqual(seen, [])
      assert.strictEqual(Settlement.ofExit(policy, exit)._tag, "DeadLetter")
    }))

  it.effect.each(
    [
      ["not UTF-8", new Uint8Array([0x22, 0xff, 0xfe, 0x22])],
      ["no JSON", text("{\"id\": \"secret\" oops")],
      ["truncated", text("{\"id\":\"secret")],
      ["empty", new Uint8Array(0)]
    ] as const
  )("F9 bytes that cannot be read are poison: %s", ([, body]) =>
    Effect.gen(function*() {
      const exit = yield* decode(body)
      const error = errorOf(exit)
      assert.strictEqual(error.failure, "poison")
      assert.include(error.message, `${body.length} bytes`)
      assert.notInclude(error.message, "secret")
      assert.strictEqual(Settlement.ofExit(policy, exit)._tag, "DeadLetter")
    }))

  it("F9 no error shows a value of the body, and none is long", () =>
    fc.assert(
      fc.property(fc.jsonValue(), fc.string({ minLength: 5, maxLength: 5000 }), (value, secret) => {
        const marked = `SECRET${secret}`
        const bodies = [
          JSON.stringify({ id: marked, amount: value }),
          JSON.stringify({ id: "1", amount: 1, lines: marked }),
          JSON.stringify(marked),
          `${JSON.stringify({ id: marked })}}`,
          marked
        ]
        for (const body of bodies) {
          const exit = Effect.runSync(decode(text(body)))
          const error = errorOf(exit)
          assert.notInclude(error.message, "SECRET")
          assert.isAtMost(error.message.length, 1024)
          assert.isAtMost(error.path.length, 256)
        }
      })
    ))

  it.effect("F9 keys that the schema does not name are in no path, which is bounded", () =>
    Effect.gen(function*() {
      const Any = Channel.make("any", { payload: Schema.Record(Schema.String, Schema.Finite) })
      const exit = yield* runChain(pipe(keep, Decode.middleware(Any)), deliver({ body: { ["k".repeat(9_000)]: "x" } }))
      assert.strictEqual(errorOf(exit).path, "[*]")
      assert.isAtMost(errorOf(exit).message.length, 1024)
      const long = "n".repeat(300)
      const Long = Channel.make("any", { payload: Schema.Struct({ [long]: Schema.Finite }) })
      const refused = yield* runChain(pipe(keep, Decode.middleware(Long)), deliver({ body: { [long]: "x" } }))
      assert.strictEqual(errorOf(refused).path.length, 256)
    }))

  it.effect("F9 an unchecked channel gets what its codec reads, and poison is still poison", () =>
    Effect.gen(function*() {
      seen.length = 0
      const handler = pipe(keep, Decode.middleware(Channel.unchecked("any")))
      yield* runChain(handler, deliver({ body: { anything: [1] } }))
      assert.deepStrictEqual(seen, [{ anything: [1] }])
      assert.strictEqual(errorOf(yield* runChain(handler, deliver({ body: text("{") }))).failure, "poison")
    }))

  it.effect("F9 a channel of bytes gets its bytes as they are", () =>
    Effect.gen(function*() {
      const bytes = new Uint8Array([0xff, 0, 1])
      const handler = pipe(
        (message: Message<Uint8Array>) => Effect.succeed(message.payload),
        Decode.middleware(Channel.bytes("images"))
      )
      assert.deepStrictEqual(yield* runChain(handler, deliver({ body: bytes })), Exit.succeed(bytes))
    }))

  it("F9 a channel without a schema is refused where that is asked for, by a sentence with its name", () => {
    assert.throws(
      () => Decode.middleware(Channel.unchecked("loose"), { withoutSchema: "refuse" }),
      RangeError,
      "Decode: withoutSchema is \"refuse\", and the channel loose has no schema"
    )
    assert.throws(() => Decode.middleware(Channel.bytes("loose"), { withoutSchema: "refuse" }), RangeError)
    assert.doesNotThrow(() => Decode.middleware(Orders, { withoutSchema: "refuse" }))
  })

  it.effect("F9 a null body is refused, acknowledged or passed on, by choice", () =>
    Effect.gen(function*() {
      seen.length = 0
      const tombstone = () => deliver({ body: null })
      const refused = errorOf(yield* runChain(pipe(keep, Decode.middleware(Orders)), tombstone()))
      assert.strictEqual(refused.failure, "validation")
      assert.include(refused.message, "null")
      const acknowledged = yield* runChain(
        pipe(keep, Decode.middleware(Orders, { tombstone: "acknowledge" })),
        tombstone()
      )
      assert.deepStrictEqual(acknowledged, Exit.succeed(Outcome.Ack))
      assert.deepStrictEqual(seen, [])
      yield* runChain(pipe(keep, Decode.middleware(Orders, { tombstone: "pass" })), tombstone())
      assert.deepStrictEqual(seen, [undefined])
    }))

  it.effect("F9 a schema that suspends is awaited", () =>
    Effect.gen(function*() {
      const Slow = Schema.String.check(Schema.isMinLength(1)).pipe(
        Schema.decode({
          decode: SchemaGetter.transformEffect((text: string) => Effect.as(Effect.yieldNow, `${text}!`)),
          encode: SchemaGetter.passthrough<string>()
        })
      )
      const handler = pipe(
        (message: Message<string>) => Effect.succeed(message.payload),
        Decode.middleware(Channel.make("slow", { payload: Slow }))
      )
      assert.deepStrictEqual(yield* runChain(handler, deliver({ body: "a" })), Exit.succeed("a!"))
      assert.strictEqual(errorOf(yield* runChain(handler, deliver({ body: "" }))).failure, "validation")
    }))

  it.effect("F9 a check that throws settles as a defect", () =>
    Effect.gen(function*() {
      const Broken = Schema.String.check(Schema.makeFilter(() => {
        throw new Error("broken check")
      }))
      const exit = yield* runChain(
        pipe(keep, Decode.middleware(Channel.make("broken", { payload: Broken }))),
        deliver({ body: "a" })
      )
      assert(exit._tag === "Failure")
      assert.strictEqual(exit.cause.reasons[0]?._tag, "Die")
    }))
})

describe("compiled schemas", () => {
  it("F9 are compiled once, when the first message comes", () => {
    const schema = Schema.Struct({ compiled: Schema.String, once: Schema.Array(Schema.String) })
    const handler = pipe(
      (message: Message<typeof schema.Type>) => Effect.succeed(message.payload.compiled),
      Decode.middleware(Channel.make("compiled", { payload: schema }))
    )
    const run = () => Effect.runSync(runChain(handler, deliver({ body: { compiled: "yes", once: [] } })))
    const generate = globalThis.Function
    let generated = 0
    globalThis.Function = new Proxy(generate, {
      apply: (target, self, parameters) => {
        generated += 1
        return Reflect.apply(target, self, parameters)
      }
    })
    try {
      assert.deepStrictEqual(run(), Exit.succeed("yes"))
      const first = generated
      assert.isAbove(first, 0)
      assert.deepStrictEqual(run(), Exit.succeed("yes"))
      assert.strictEqual(generated, first)
    } finally {
      globalThis.Function = generate
    }
  })

  it("F9 give the values and issues of interpreted ones, and work where code generation is forbidden", () => {
    const inputs = fc.sample(cases, { numRuns: 1500, seed: 7 })
    const compiled = decodeAll(inputs)
    const interpreted: unknown = JSON.parse(
      execFileSync(process.execPath, [
        "--disallow-code-generation-from-strings",
        fileURLToPath(new URL("./fixtures/interpreted.ts", import.meta.url))
      ], { input: JSON.stringify(inputs), maxBuffer: 1 << 28, encoding: "utf8" })
    )
    assert.deepStrictEqual(JSON.parse(JSON.stringify(compiled)), interpreted)
    assert.isAbove(compiled.filter(({ ok }) => ok).length, 200)
    assert.isAbove(compiled.filter(({ ok }) => !ok).length, 200)
  })
})
