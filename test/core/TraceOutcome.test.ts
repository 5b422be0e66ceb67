import { assert, describe, it } from "@effect/vitest"
import { type Delivery, type Handler, Headers, Outcome, Outgoing, Retry, Trace } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Data, Effect, Fiber, pipe, Tracer } from "effect"
import { TestClock } from "effect/testing"
import { deliver, recording, runChain } from "./support.ts"

class Broken extends Data.TaggedError("Broken")<{}> {
  readonly failure = "poison" as const
}

class Busy extends Data.TaggedError("Busy")<{}> {
  readonly failure = "transient" as const
}

describe("Trace, events of the outcome", () => {
  const spanOf = (handler: Handler<Delivery, unknown, unknown>, message = deliver()) =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      yield* traced(runChain(Trace.middleware()(handler), message))
      assert.strictEqual(spans.length, 1)
      assert.strictEqual(spans[0]!.status._tag, "Ended")
      return spans[0]!
    })

  for (
    const [title, handler, event] of [
      [
        "a failure that is dead-lettered",
        () => Effect.fail(new Broken()),
        ["millrace.dead_letter", { "error.type": "Broken" }]
      ],
      [
        "a dead letter that a middleware answered",
        () => Effect.succeed(Outcome.DeadLetter(new Broken())),
        ["millrace.dead_letter", { "error.type": "Broken" }]
      ],
      ["a dead letter without a reason", () => Effect.succeed(Outcome.DeadLetter()), ["millrace.dead_letter", {}]],
      ["a failure that is tried again", () => Effect.fail(new Busy()), ["millrace.redelivery", {}]],
      [
        "a retry that a middleware answered",
        () => Effect.succeed(Outcome.Retry({ after: "90 seconds" })),
        ["millrace.redelivery", { "millrace.redelivery.delay": 90 }]
      ],
      ["a success", () => Effect.void, undefined],
      ["a rejection", () => Effect.succeed(Outcome.Reject()), undefined],
      ["an acknowledgement", () => Effect.succeed(Outcome.Ack), undefined]
    ] as const
  ) {
    it.effect(`F5 ${title} is told by ${event === undefined ? "no event" : event[0]}`, () =>
      Effect.gen(function*() {
        const span = yield* spanOf(handler)
        assert.deepStrictEqual(
          span.events.map(([name, , attributes]) => ({ name, attributes })),
          event === undefined ? [] : [{ name: event[0], attributes: event[1] }]
        )
      }))
  }

  it.effect("F5 the event is at the end of the chain, and so is the span's end, whatever hooks wait for", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      const chain = Trace.middleware()((message: Delivery) => {
        message.after(() => Effect.sleep("3 seconds"))
        return Effect.andThen(Effect.sleep("2 seconds"), Effect.fail(new Broken()))
      })
      const fiber = yield* Effect.forkChild(traced(runChain(chain, deliver())))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      const span = spans[0]!
      assert.strictEqual(span.status._tag === "Ended" ? span.status.endTime : 0n, 2_000_000_000n)
      assert.strictEqual(span.events[0]?.[1], 2_000_000_000n)
    }))

  it.effect("F5 an attempt that Retry repeated has no event when the message is done", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      let attempt = 0
      const chain = pipe(
        (_: Delivery) => Effect.suspend(() => ++attempt < 3 ? Effect.fail(new Busy()) : Effect.void),
        Trace.middleware(),
        Retry.middleware({ schedule: Retry.exponential({ jitter: 0 }) })
      )
      const fiber = yield* Effect.forkChild(traced(runChain(chain, deliver())))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(spans.map((span) => span.events.length), [0, 0, 0])
      assert.deepStrictEqual(spans.map((span) => span.status._tag === "Ended" ? span.status.exit._tag : undefined), [
        "Failure",
        "Failure",
        "Success"
      ])
    }))

  it.effect("F5 a tracer whose events throw changes no outcome", () =>
    Effect.gen(function*() {
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          span.event = () => {
            throw new Error("no")
          }
          return span
        }
      })
      const { outcome } = yield* Deliveries.run(
        Trace.middleware()((_: Delivery) => Effect.fail(new Busy())),
        deliver()
      ).pipe(Effect.provideService(Tracer.Tracer, tracer))
      assert.strictEqual(outcome?._tag, "Retry")
    }))

  it.effect("F5 a publish that fails ends its span at once, without an event", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      const message = new Outgoing("orders", new Uint8Array(0), undefined, Headers.empty)
      const publish = Trace.middleware()((_: Outgoing<Uint8Array>) => Effect.fail(new Broken()))
      yield* traced(Effect.exit(Effect.suspend(() => publish(message))))
      assert.strictEqual(spans[0]?.status._tag, "Ended")
      assert.deepStrictEqual(spans[0]?.events, [])
    }))
})
