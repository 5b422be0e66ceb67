import { assert, describe, it } from "@effect/vitest"
import { type Delivery, Headers, Idempotency, Outcome, Outgoing } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Effect, Exit, Logger, Schema, SchemaGetter } from "effect"
import * as fc from "fast-check"
import { deliver, runChain } from "./support.ts"

const identified = (key: string): Delivery => deliver({ headers: { "idempotency-key": key } })
const memory = Idempotency.layerMemory()

/** A schema whose encoding throws. */
const Throwing = Schema.String.pipe(
  Schema.decodeTo(Schema.String, {
    decode: SchemaGetter.transform((text: string) => text),
    encode: SchemaGetter.transform((): string => {
      throw new TypeError("no")
    })
  })
)

describe("Idempotency, answers", () => {
  for (
    const [title, schema, value] of [
      ["a number that is none", Schema.Struct({ cents: Schema.Int }), { cents: Number.NaN }],
      ["an answer of another type", Schema.String, 7],
      ["what JSON cannot write", Schema.Unknown, 1n],
      ["what the schema throws on", Throwing, "a"]
    ] as const
  ) {
    for (const suspends of [false, true]) {
      it.effect(`W4 ${title} is passed on${suspends ? " by a handler that suspends" : ""}, and its handler does not run again`, () =>
        Effect.gen(function*() {
          let runs = 0
          const handler = (_: Delivery) =>
            Effect.andThen(suspends ? Effect.yieldNow : Effect.void, Effect.sync(() => (runs++, value)))
          // a program whose types promise what its values do not keep
          const chain = Idempotency.middleware({ answer: schema as Schema.Codec<unknown> })(handler)
          assert.deepStrictEqual<unknown>(yield* runChain(chain, identified("a")), Exit.succeed(value))
          const again = yield* Deliveries.run(chain, identified("a"))
          assert.deepStrictEqual<unknown>(again.exit, Exit.succeed(Outcome.Ack))
          assert.strictEqual(again.outcome?._tag, "Ack")
          assert.strictEqual(runs, 1)
        }).pipe(Effect.provide(memory)))
    }
  }

  it.effect("W4 outcomes that say done are done, whatever the schema of answers is", () =>
    Effect.gen(function*() {
      for (const outcome of [Outcome.Ack, Outcome.Reject("not ours")]) {
        let runs = 0
        const chain = Idempotency.middleware({ answer: Schema.Struct({ id: Schema.String }) })((_: Delivery) =>
          Effect.sync(() => (runs++, outcome))
        )
        const first = yield* Deliveries.run(chain, identified(outcome._tag))
        const again = yield* Deliveries.run(chain, identified(outcome._tag))
        assert.deepStrictEqual([first.outcome?._tag, again.outcome?._tag, runs], [outcome._tag, "Ack", 1])
      }
    }).pipe(Effect.provide(memory)))

  it.effect("W4 whatever another version has kept, a message that is done is acknowledged and does not run", () => {
    const schema = Schema.Struct({ id: Schema.String })
    return Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.oneof(
            fc.uint8Array(),
            fc.json().map((json) => new TextEncoder().encode(json)),
            fc.constant(new TextEncoder().encode("{\"id\":\"a\"}"))
          ),
          async (result) => {
            let runs = 0
            const chain = Idempotency.middleware({ answer: schema })((_: Delivery) =>
              Effect.sync(() => (runs++, { id: "b" }))
            )
            const { exit, outcome } = await Effect.runPromise(
              Deliveries.run(chain, identified("a")).pipe(
                Effect.provideService(Idempotency.Store, {
                  claim: () => Exit.succeed({ _tag: "Completed", result }),
                  complete: () => Exit.succeed(true),
                  extend: () => Exit.succeed(true),
                  release: () => Exit.void
                }),
                Effect.provide(Logger.layer([]))
              )
            )
            assert.strictEqual(outcome?._tag, "Ack")
            assert.strictEqual(runs, 0)
            if (Exit.isSuccess(exit) && exit.value !== Outcome.Ack) assert.isTrue(Schema.is(schema)(exit.value))
          }
        ),
        { numRuns: 200 }
      )
    )
  })

  it.effect("W4 what is no consumed message fails with IdempotencyUnrepeatable, which says why", () =>
    Effect.gen(function*() {
      const store = yield* Idempotency.Store
      const chain = Idempotency.middleware({ answer: Schema.Int, key: () => "k", fingerprint: () => "" })(
        (_: Outgoing<Uint8Array>) => Effect.succeed(Number.NaN)
      )
      const send = Effect.exit(
        Effect.suspend(() => chain(new Outgoing("orders", new Uint8Array(0), undefined, Headers.empty)))
      )
      const reason = (exit: Exit.Exit<unknown, unknown>) => {
        assert(Exit.isFailure(exit) && exit.cause.reasons[0]?._tag === "Fail")
        return exit.cause.reasons[0].error
      }
      yield* send
      assert.deepInclude(reason(yield* send), {
        _tag: "IdempotencyUnrepeatable",
        failure: "permanent",
        reason: "unkept",
        message: "The request to orders was done before; its answer cannot be repeated, as it was not kept"
      })
      const older = Effect.provideService(send, Idempotency.Store, {
        ...store,
        claim: () => Exit.succeed({ _tag: "Completed", result: new Uint8Array([1]) })
      })
      assert.deepInclude(reason(yield* older), { _tag: "IdempotencyUnrepeatable", reason: "unreadable" })
    }).pipe(Effect.provide(memory)))

  it.effect("W4 the log is told what was not kept; a logger that throws changes nothing", () =>
    Effect.gen(function*() {
      const lines: Array<string> = []
      const throwing = Logger.make(({ message }) => {
        lines.push(String(message))
        throw new Error("no")
      })
      const chain = Idempotency.middleware({ answer: Schema.Int })((_: Delivery) => Effect.succeed(Number.NaN))
      const { outcome } = yield* Effect.provide(Deliveries.run(chain, identified("a")), Logger.layer([throwing]))
      assert.strictEqual(outcome?._tag, "Ack")
      assert.strictEqual(lines.length, 1)
      assert.include(lines[0], "Idempotency on orders: the request was done")
    }).pipe(Effect.provide(memory)))

  it("W4 S two requests share a key of the store only where group, channel, caller and key are the same", () => {
    const text = fc.string({ unit: fc.constantFrom("a", "1", "\n", ":", "2:") })
    const named = text.filter((key) => key !== "")
    const requests = fc.record({ group: text, channel: text, caller: text, key: named })
    const keyOf = async (request: { group: string; channel: string; caller: string; key: string }) => {
      let seen = ""
      const chain = Idempotency.middleware({ caller: () => request.caller, key: () => request.key })((_: Delivery) =>
        Effect.void
      )
      await Effect.runPromise(
        runChain(chain, deliver({ group: request.group, channel: request.channel })).pipe(
          Effect.provideService(Idempotency.Store, {
            claim: ({ key }) => {
              seen = key
              return Exit.succeed({ _tag: "Claimed", token: 1 })
            },
            complete: () => Exit.succeed(true),
            extend: () => Exit.succeed(true),
            release: () => Exit.void
          })
        )
      )
      return seen
    }
    return fc.assert(
      fc.asyncProperty(requests, requests, async (one, other) => {
        const same = JSON.stringify(one) === JSON.stringify(other)
        assert.strictEqual(await keyOf(one) === await keyOf(other), same)
      }),
      {
        numRuns: 300,
        examples: [[
          { group: "g", channel: "c", caller: "acme\nx", key: "y" },
          { group: "g", channel: "c", caller: "acme", key: "x\ny" }
        ]]
      }
    )
  })
})
