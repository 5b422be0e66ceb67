import { Eager, type Envelope, Filter, type Message, Middleware, Outcome, Settlement } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, pipe } from "effect"
import { deliver, runChain } from "./support.ts"

const policy = { entries: {}, table: Settlement.table }
const keyed = (message: Envelope) => message.key !== undefined
const handled = (_message: Envelope) => Exit.succeed("handled")

describe("Filter", () => {
  it.effect("F1 a message that does not pass is acknowledged without its handler, and is no error", () =>
    Effect.gen(function*() {
      let called = 0
      const handler = Filter.middleware(keyed)((_message: Envelope) => Effect.sync(() => (called++, "handled")))
      assert.deepStrictEqual(yield* runChain(handler, deliver({ key: "a" })), Exit.succeed("handled"))
      assert.deepStrictEqual(yield* runChain(handler, deliver()), Exit.succeed(Outcome.Ack))
      assert.strictEqual(called, 1)
    }))

  it.effect("F1 a filtered message can be rejected with a reason", () =>
    Effect.gen(function*() {
      const handler = Filter.middleware(keyed, { onFiltered: Outcome.Reject("no key") })(handled)
      const exit = yield* runChain(handler, deliver())
      assert.deepStrictEqual(Settlement.ofExit(policy, exit), Outcome.Reject("no key"))
    }))

  it.effect("F3 what stands outside the filter sees what the filter drops", () =>
    Effect.gen(function*() {
      const seen: Array<number> = []
      const count = Middleware.make<{ message: Message<unknown> }>()(
        { name: "Count", stage: "receive" },
        (next) => (message) => {
          seen.push(message.position)
          return next(message)
        }
      )
      const inner: Array<number> = []
      const handler = pipe(
        (message: Message<Uint8Array>) => Effect.sync(() => inner.push(message.position)),
        Filter.middleware((message) => message.position % 2 === 0),
        count
      )
      for (const position of [0, 1, 2, 3]) yield* runChain(handler, deliver({ position }))
      assert.deepStrictEqual(seen, [0, 1, 2, 3])
      assert.deepStrictEqual(inner, [0, 2])
    }))

  it.effect("F4 a predicate reads the whole context of the message", () =>
    Effect.gen(function*() {
      const handler = pipe(
        (_message: Message<Uint8Array>) => Exit.succeed("handled"),
        Filter.middleware((message) =>
          message.channel === "orders" && message.partition === 3 && message.position === 7 && message.attempt === 2 &&
          message.key === "k" && message.headers["kind"] === "new" && message.raw.length === 2
        )
      )
      const message = deliver({
        partition: 3,
        position: 7,
        attempt: 2,
        key: "k",
        headers: { kind: "new" },
        body: new Uint8Array(2)
      })
      assert.deepStrictEqual(yield* runChain(handler, message), Exit.succeed("handled"))
    }))

  it.effect("F1 a predicate may need services and time", () =>
    Effect.gen(function*() {
      class Blocked extends Context.Service<Blocked, ReadonlySet<string>>()("test/Blocked") {}
      const handler = Filter.middleware((message: Envelope) =>
        Effect.gen(function*() {
          yield* Effect.yieldNow
          return !(yield* Blocked).has(message.key ?? "")
        })
      )(handled)
      const run = (key: string) =>
        runChain(handler, deliver({ key })).pipe(Effect.provideService(Blocked, new Set(["bad"])))
      assert.deepStrictEqual(yield* run("bad"), Exit.succeed(Outcome.Ack))
      assert.deepStrictEqual(yield* run("good"), Exit.succeed("handled"))
    }))

  it.effect("F1 a predicate that throws is a defect of the program, and settles as one", () =>
    Effect.gen(function*() {
      const handler = Filter.middleware((_message: Envelope): boolean => {
        throw new Error("broken")
      })(handled)
      const exit = yield* runChain(handler, deliver())
      assert.isTrue(Exit.hasDies(exit))
      assert.strictEqual(Settlement.ofExit(policy, exit)._tag, "DeadLetter")
    }))

  it.effect("F19 a plain predicate answers at once", () =>
    Effect.sync(() => {
      assert.isTrue(Eager.isDone(Filter.middleware(keyed)(handled)(deliver())))
    }))
})
