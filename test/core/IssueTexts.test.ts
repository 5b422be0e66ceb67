import { Channel, DeadLetters, Decode, Lanes, MemoryBroker, type Message, Request, Subscription } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Body, Problem, Server } from "@millrace/http"
import { Deliveries } from "@millrace/testing"
import { Cause, Effect, Exit, pipe, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { inspect } from "node:util"
import { post, serve } from "../http/support.ts"

const secret = "hunter2-4111111111111111"

const check = (sentence: (text: string) => string) =>
  Schema.String.check(Schema.makeFilter((text: string) => text.length < 3 ? undefined : sentence(text)))

/** Schemas that refuse the secret, and a value that holds it. */
const refusing: Readonly<Record<string, readonly [Schema.ConstraintCodec<unknown, unknown>, unknown]>> = {
  literal: [Schema.Struct({ kind: Schema.Literal("a") }), { kind: secret }],
  union: [Schema.Union([Schema.Struct({ id: Schema.Finite }), Schema.Struct({ name: Schema.Finite })]), { id: secret }],
  pattern: [Schema.Struct({ card: Schema.String.check(Schema.isPattern(/^\d{3}$/)) }), { card: secret }],
  number: [Schema.Struct({ n: Schema.FiniteFromString }), { n: secret }],
  date: [Schema.Struct({ n: Schema.Date }), { n: secret }],
  bigint: [Schema.Struct({ n: Schema.BigInt }), { n: secret }],
  JSON: [Schema.Struct({ n: Schema.fromJsonString(Schema.Finite) }), { n: secret }],
  record: [Schema.Record(Schema.String, Schema.Finite), { [secret]: "x" }],
  "a sentence with the value": [Schema.Struct({ note: check((text) => `${text} is too long`) }), { note: secret }],
  "a sentence with a part of it": [Schema.Struct({ note: check((text) => `${text.slice(0, 7)}… is odd`) }), {
    note: secret
  }],
  "a sentence in capitals": [Schema.Struct({ note: check((text) => text.toUpperCase()) }), { note: secret }],
  "a sentence about a field beside": [
    Schema.Struct({ note: Schema.String, other: Schema.String }).check(
      Schema.makeFilter(({ note }) => ({ path: ["other"], issue: `is not ${note}` }))
    ),
    { note: secret, other: "o" }
  ]
}

const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value))

describe("texts of schema issues", () => {
  for (const [name, [schema, value]] of Object.entries(refusing)) {
    it.effect(`H5 no text of an error holds the value: ${name}`, () =>
      Effect.gen(function*() {
        const Notes = Channel.make("notes", { payload: schema })
        const handler = pipe((_: Message<unknown>) => Effect.void, Decode.middleware(Notes))
        const { exit } = yield* Deliveries.run(handler, Deliveries.make({ body: json(value) }))
        if (!Exit.isFailure(exit)) return assert.fail("it was taken")
        const error = Cause.squash(exit.cause)
        assert.instanceOf(error, Decode.DecodeError)
        const { message, path } = error
        for (
          const text of [
            message,
            path,
            Cause.pretty(exit.cause),
            JSON.stringify(exit.cause),
            JSON.stringify(error),
            inspect(error, { depth: 9 })
          ]
        ) {
          assert.notInclude(text.toLowerCase(), "hunter2", name)
        }
        // who sent it knows its keys
        const { body } = Problem.of(Problem.defaults, error)
        if (name !== "record") assert.notInclude(JSON.stringify(body).toLowerCase(), "hunter2", name)
      }))
  }

  it.effect("H5 nor does the reason of a dead letter, or what the caller of a request is told", () =>
    Effect.gen(function*() {
      const reply = Schema.Struct({ ok: Schema.Boolean })
      const Asked = Channel.make("ask", { payload: Schema.Struct({ note: Schema.String }) })
      const Served = Channel.make("ask", { payload: Schema.Struct({ note: check((text) => `${text} is too long`) }) })
      const handler = pipe(
        (_: Message<{ readonly note: string }>) => Effect.succeed({ ok: true }),
        Decode.middleware(Served),
        Request.answer(Request.make(Served, { reply }))
      )
      yield* Subscription.run(Subscription.make(Served, { group: "g", name: "h", lanes: Lanes.unordered(4) }, handler))
      const client = yield* Request.client(Request.make(Asked, { reply }))
      const fiber = yield* Effect.forkChild(Effect.exit(client.request({ note: secret })), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      const exit = fiber.pollUnsafe()
      assert.isDefined(exit)
      assert.notInclude(inspect(exit, { depth: 12 }), "hunter2")
      const [letter] = yield* Stream.runCollect(DeadLetters.list("ask.dead-letters"))
      assert.strictEqual(letter?.errorMessage, "Not a payload of ask: Expected a valid value at note")
    }).pipe(Effect.scoped, Effect.provide(MemoryBroker.layer())))

  it.effect("H5 a sentence that has nothing of the value is shown, on messages and on HTTP", () =>
    Effect.gen(function*() {
      const schema = Schema.Struct({ note: check(() => "must be short") })
      const Notes = Channel.make("notes", { payload: schema })
      const handler = pipe((_: Message<unknown>) => Effect.void, Decode.middleware(Notes))
      const { exit } = yield* Deliveries.run(handler, Deliveries.make({ body: json({ note: secret }) }))
      if (!Exit.isFailure(exit)) return assert.fail("it was taken")
      assert.strictEqual(
        String(Reflect.get(Object(Cause.squash(exit.cause)), "message")),
        "Not a payload of notes: must be short at note"
      )
      const base = yield* serve(Server.route("POST", "/", pipe(() => Effect.void, Body.json(schema))))
      const shown = yield* Effect.promise(() => post(base, "/", JSON.stringify({ note: secret })))
      assert.include(shown.text, "must be short")
      const loud = Schema.Struct({ note: check((text) => `${text} is too long`) })
      const other = yield* serve(Server.route("POST", "/", pipe(() => Effect.void, Body.json(loud))))
      const hidden = yield* Effect.promise(() => post(other, "/", JSON.stringify({ note: secret })))
      assert.strictEqual(hidden.status, 422)
      assert.notInclude(hidden.text, "hunter2")
    }))
})
