import { assert, describe, it } from "@effect/vitest"
import {
  After,
  Broker,
  Channel,
  Decode,
  type Delivery,
  type Envelope,
  type Handler,
  Headers,
  Hooks,
  Outcome,
  Outgoing,
  Settlement
} from "@millrace/core"
import { Cause, Context, Data, Deferred, Effect, Exit, Fiber, type Layer, pipe } from "effect"
import { TestConsole } from "effect/testing"
import { deliver, runChain } from "./support.ts"

class Broken extends Data.TaggedError("Broken")<{}> {
  readonly failure = "transient" as const
}

class Journal
  extends Context.Service<Journal, { readonly add: (line: string) => Effect.Effect<void> }>()("test/Journal")
{}

const journal = () => {
  const lines: Array<string> = []
  return { lines, add: (line: string) => Effect.sync(() => void lines.push(line)) }
}

/** Every hook, writing its name and what it was told. */
const every = (add: (line: string) => Effect.Effect<void>) => ({
  preSend: (message: Envelope) => add(`preSend ${message.channel}`),
  postSend: (_: Envelope, exit: Exit.Exit<unknown, unknown>) => add(`postSend ${exit._tag}`),
  preExecute: (message: Envelope) => add(`preExecute ${message.channel}`),
  postExecute: (_: Envelope, exit: Exit.Exit<unknown, unknown>) => add(`postExecute ${exit._tag}`),
  postSave: (message: Envelope) => add(`postSave ${message.channel}`),
  onError: (_: Envelope, error: unknown) => add(`onError ${error instanceof Error ? error.name : String(error)}`)
})

const policy: Settlement.Policy = { entries: {}, table: Settlement.table }

const errorOf = (exit: Exit.Exit<unknown, unknown>) => exit._tag === "Failure" ? Cause.squash(exit.cause) : undefined

describe("Hooks", () => {
  it.effect("F2 what runs around a handler that succeeds, in order; postSave after the stores", () =>
    Effect.gen(function*() {
      const { add, lines } = journal()
      const handler = Hooks.middleware(every(add))((message: Delivery) => {
        message.after(() => Effect.andThen(Effect.yieldNow, add("stored")))
        return add("handler")
      })
      const exit = yield* runChain(handler, deliver())
      assert.strictEqual(exit._tag, "Success")
      assert.deepStrictEqual(lines, [
        "preExecute orders",
        "handler",
        "postExecute Success",
        "stored",
        "postSave orders"
      ])
    }))

  it.effect("F2 what runs around a handler that fails", () =>
    Effect.gen(function*() {
      const { add, lines } = journal()
      const fails: ReadonlyArray<Handler<Delivery, unknown, Broken>> = [
        () => Effect.fail(new Broken()),
        () => Effect.andThen(Effect.yieldNow, Effect.fail(new Broken())),
        () => Effect.succeed(Outcome.DeadLetter(new Broken()))
      ]
      for (const fail of fails) {
        lines.length = 0
        yield* runChain(Hooks.middleware(every(add))(fail), deliver())
        assert.strictEqual(
          lines.join(),
          `preExecute orders,onError Broken,postExecute ${fail === fails[2] ? "Success" : "Failure"}`
        )
      }
      lines.length = 0
      yield* runChain(Hooks.middleware(every(add))((_: Delivery) => Effect.die(new TypeError("no"))), deliver())
      assert.deepStrictEqual(lines, ["preExecute orders", "onError TypeError", "postExecute Failure"])
    }))

  it.effect("F2 a decode failure inside reaches onError", () =>
    Effect.gen(function*() {
      const { add, lines } = journal()
      const handler = pipe(
        (_: unknown) => Effect.void,
        Decode.middleware(Channel.unchecked("orders")),
        Hooks.middleware({ onError: (_, error) => add(String((error as { readonly _tag: string })._tag)) })
      )
      yield* runChain(handler, deliver({ body: new TextEncoder().encode("{") }))
      assert.strictEqual(lines.length, 1)
    }))

  it.effect("F2 what runs around a publish", () =>
    Effect.gen(function*() {
      const { add, lines } = journal()
      const middleware = Hooks.middleware(every(add))
      const outgoing = () => new Outgoing("next", "", undefined, Headers.empty)
      yield* After.around(outgoing(), middleware((_: Outgoing<string>) => add("sent")))
      yield* Effect.exit(After.around(outgoing(), middleware((_: Outgoing<string>) => Effect.fail(new Broken()))))
      assert.deepStrictEqual(lines, [
        "preSend next",
        "sent",
        "postSend Success",
        "preSend next",
        "onError Broken",
        "postSend Failure"
      ])
    }))

  for (
    const [way, fail] of [
      ["fails", () => Effect.fail(new Broken())],
      ["fails after a wait", () => Effect.andThen(Effect.yieldNow, Effect.fail(new Broken()))],
      ["throws", () => {
        throw new TypeError("no")
      }],
      ["dies", () => Effect.die(new TypeError("no"))],
      ["interrupts itself", () => Effect.interrupt]
    ] as ReadonlyArray<readonly [string, () => Effect.Effect<unknown, Broken>]>
  ) {
    for (const name of ["preExecute", "postExecute", "postSave"] as const) {
      it.effect(`F2 ${name} that ${way} settles its message, by its own error`, () =>
        Effect.gen(function*() {
          let ran = 0
          const handler = Hooks.middleware({ [name]: fail })((_: Delivery) => Effect.sync(() => ran += 1))
          const exit = yield* runChain(handler, deliver())
          const error = errorOf(exit)
          assert.instanceOf(error, Hooks.HookError)
          assert.strictEqual((error as Hooks.HookError).hook, name)
          assert.strictEqual(ran, name === "preExecute" ? 0 : 1)
          const outcome = Settlement.ofExit(policy, exit)
          assert.strictEqual(outcome._tag, way.startsWith("fails") ? "Retry" : "DeadLetter")
        }))

      it.effect(`F2 ${name} that ${way} is only logged where that is asked for`, () =>
        Effect.gen(function*() {
          let ran = 0
          const handler = Hooks.middleware({ [name]: fail, onFailure: "log" })((_: Delivery) =>
            Effect.sync(() => ran += 1)
          )
          const exit = yield* runChain(handler, deliver())
          assert.strictEqual(exit._tag, "Success")
          assert.strictEqual(ran, 1)
          const lines = yield* TestConsole.logLines
          assert.include(lines.map(String).join(), `The hook ${name} failed`)
        }))
    }

    for (const name of ["onError", "postExecute"] as const) {
      it.effect(`F2 a failed message keeps its own error when ${name} ${way}`, () =>
        Effect.gen(function*() {
          const own = new Broken()
          const handler = Hooks.middleware({ [name]: fail })((_: Delivery) => Effect.fail(own))
          const exit = yield* runChain(handler, deliver())
          assert.strictEqual(errorOf(exit), own)
          assert.include((yield* TestConsole.logLines).map(String).join(), `The hook ${name} failed`)
        }))
    }
  }

  it.effect("F2 after an interruption no hook runs", () =>
    Effect.gen(function*() {
      const { add, lines } = journal()
      const started = yield* Deferred.make<void>()
      const handler = Hooks.middleware(every(add))((_: Delivery) =>
        Effect.andThen(Deferred.succeed(started, undefined), Effect.never)
      )
      const message = deliver()
      const fiber = yield* Effect.forkChild(Effect.suspend(() => handler(message)))
      yield* Deferred.await(started)
      yield* Effect.yieldNow
      yield* Fiber.interrupt(fiber)
      yield* After.run(message.hooks ?? [], Exit.interrupt(), Outcome.Release)
      assert.deepStrictEqual(lines, ["preExecute orders"])
    }))

  it.effect("F2 after a release that was answered, and an interruption inside, no hook runs", () =>
    Effect.gen(function*() {
      const { add, lines } = journal()
      const released: Handler<Delivery, unknown> = () => Effect.succeed(Outcome.Release)
      const interrupted: Handler<Delivery, unknown> = () => Effect.interrupt
      for (const handler of [released, interrupted]) yield* runChain(Hooks.middleware(every(add))(handler), deliver())
      assert.deepStrictEqual(lines, ["preExecute orders", "preExecute orders"])
    }))

  it.effect("F2 postSave runs for what is acknowledged only", () =>
    Effect.gen(function*() {
      const { add, lines } = journal()
      for (const outcome of [undefined, Outcome.Ack, Outcome.Retry(), Outcome.DeadLetter(), Outcome.Release]) {
        const message = deliver()
        const handler = Hooks.middleware({ postSave: () => add(outcome?._tag ?? "none") })((_: Delivery) => Effect.void)
        const exit = yield* Effect.exit(Effect.suspend(() => handler(message)))
        yield* After.run(message.hooks ?? [], exit, outcome)
      }
      assert.deepStrictEqual(lines, ["none", "Ack"])
    }))

  it.effect("F2 hooks get the services they ask for, also after the chain", () =>
    Effect.gen(function*() {
      const { add, lines } = journal()
      const note = (line: string) => Effect.flatMap(Journal, (journal) => journal.add(line))
      const handler = Hooks.middleware({ preExecute: () => note("pre"), postSave: () => note("save") })(
        (_: Delivery) => Effect.void
      )
      const message = deliver()
      const needs: Effect.Effect<void, Hooks.HookError, Journal> = Effect.suspend(() => handler(message))
      const exit = yield* Effect.exit(Effect.provideService(needs, Journal, { add }))
      // here the service is gone, as it is where an engine runs the hooks
      yield* After.run(message.hooks ?? [], exit, Outcome.Ack)
      assert.deepStrictEqual(lines, ["pre", "save"])
    }))

  it("F2 types: a HookError enters E unless it is only logged", () => {
    const plain = (_: Delivery) => Effect.void
    const logged: Handler<Delivery, void> = Hooks.middleware({ preExecute: () => Effect.void, onFailure: "log" })(plain)
    const settled: Handler<Delivery, void, Hooks.HookError> = Hooks.middleware({ preExecute: () => Effect.void })(plain)
    // @ts-expect-error it can fail
    const wrong: Handler<Delivery, void> = Hooks.middleware({ preExecute: () => Effect.void })(plain)
    const wrapped: Layer.Layer<Broker.Broker, never, Broker.Broker | Journal> = Broker.wrap(
      Hooks.middleware({ postSend: () => Effect.asVoid(Journal) })
    )
    assert.isDefined([logged, settled, wrong, wrapped])
  })
})
