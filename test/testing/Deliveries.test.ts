import { assert, describe, it } from "@effect/vitest"
import {
  Channel,
  Decode,
  type Delivery,
  MemoryBroker,
  type Message,
  Middleware,
  Outcome,
  Outgoing
} from "@millrace/core"
import { type Envelope, type Handler, Publisher, Stack, Subscription } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Data, Duration, Effect, Exit, Fiber, Schedule, Schema } from "effect"

class SoldOut extends Data.TaggedError("SoldOut")<{}> {}
class Slow extends Data.TaggedError("Slow")<{}> {
  readonly failure = "transient"
}
class Lost extends Data.TaggedError("Lost")<{}> {
  readonly failure = "dependency"
  readonly retryAfter = Duration.seconds(5)
}

const told = (seen: Array<string>, hook?: Effect.Effect<void, Lost>) =>
  Middleware.make()({ name: "Told", stage: "consume" }, (next) => (message) => {
    message.after((exit, outcome) => {
      seen.push(`${exit._tag} ${outcome?._tag ?? "none"}`)
      return hook
    })
    return next(message)
  })

const endings: ReadonlyArray<readonly [Effect.Effect<unknown, SoldOut | Slow>, string]> = [
  [Effect.void, "Success Ack"],
  [Effect.succeed(Outcome.Reject()), "Success Reject"],
  [Effect.fail(new SoldOut()), "Failure DeadLetter"],
  [Effect.fail(new Slow()), "Failure Retry"],
  [Effect.interrupt, "Failure Release"],
  [Effect.die("bug"), "Failure DeadLetter"]
]

describe("Deliveries", () => {
  it("a delivery says what it was made of, and has defaults for the rest", () => {
    const delivery = Deliveries.make({
      channel: "payments",
      key: "é",
      headers: { "X-Tenant": "7" },
      body: [1, "a"],
      attempt: 3,
      partition: 2,
      position: 9,
      timestamp: undefined,
      group: "g",
      handler: "h",
      system: "kafka",
      holdLimit: 10
    })
    assert.deepStrictEqual(delivery.origin, {
      system: "kafka",
      channel: "payments",
      group: "g",
      partition: 2,
      handler: "h",
      holdLimit: 10
    })
    assert.deepStrictEqual(
      [delivery.key, delivery.attempt, delivery.position, delivery.timestamp, delivery.tombstone],
      ["é", 3, 9, undefined, false]
    )
    assert.deepStrictEqual({ ...delivery.headers }, { "x-tenant": "7" })
    assert.deepStrictEqual(delivery.keyBytes, new TextEncoder().encode("é"))
    assert.strictEqual(new TextDecoder().decode(delivery.raw), `[1,"a"]`)
    assert.strictEqual(new TextDecoder().decode(Deliveries.make().raw), "{}")
    assert.deepStrictEqual(Deliveries.make({ body: new Uint8Array([1]) }).raw, new Uint8Array([1]))
    assert.isTrue(Deliveries.make({ body: null }).tombstone)
    assert.strictEqual(Deliveries.make().timestamp, 0)
  })

  for (const [effect, says] of endings) {
    it.effect(`hooks of a delivery are told what the broker will be told: ${says}`, () =>
      Effect.gen(function*() {
        const seen: Array<string> = []
        const { exit, outcome } = yield* Deliveries.run(told(seen)((_: Envelope) => effect), Deliveries.make())
        assert.deepStrictEqual(seen, [says])
        assert.strictEqual(`${exit._tag} ${outcome._tag}`, says)
      }))
  }

  it.effect("hooks of an outgoing message are told of no outcome", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const message = new Outgoing("orders", 1, undefined, {})
      const ended = yield* Deliveries.run(told(seen)((_: Envelope) => Effect.void), message)
      assert.deepStrictEqual(seen, ["Success none"])
      assert.isUndefined(ended.outcome)
    }))

  it.effect("a hook that fails settles the message, whatever the chain did, and leaves its exit", () =>
    Effect.gen(function*() {
      for (const [effect] of endings) {
        const handler = told([], Effect.fail(new Lost()))((_: Envelope) => effect)
        const { exit, hooks, outcome } = yield* Deliveries.run(handler, Deliveries.make())
        assert.strictEqual(exit._tag, (yield* Effect.exit(effect))._tag)
        assert.deepStrictEqual(hooks, Exit.fail(new Lost()))
        assert.deepStrictEqual(outcome, Outcome.Retry({ after: Duration.seconds(5) }))
      }
    }))

  it.effect("each attempt of a delivery has hooks of its own, also those of a copy", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const handler = told(seen)((_: Message<Uint8Array>) => Effect.void)
      const delivery = Deliveries.make()
      yield* Deliveries.run(handler, delivery)
      yield* Deliveries.run(handler, delivery.withKey("copy"))
      yield* Deliveries.run(handler, delivery)
      assert.strictEqual(seen.length, 3)
    }))

  it.effect("whoever interrupts it waits for the hooks, which hear of a release", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const handler = told(seen, Effect.yieldNow)((_: Envelope) => Effect.never)
      const fiber = yield* Effect.forkChild(Deliveries.run(handler, Deliveries.make()), { startImmediately: true })
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(seen, ["Failure Release"])
    }))

  it.effect("a throw of a handler is a defect, and a throw of an entry a dead letter", () =>
    Effect.gen(function*() {
      const { exit, outcome } = yield* Deliveries.run((_: Delivery): Effect.Effect<void> => {
        throw new Error("bug")
      }, Deliveries.make())
      assert.isTrue(Exit.isFailure(exit))
      assert.strictEqual(outcome._tag, "DeadLetter")
      const thrown = new Error("entry")
      const throwing = Subscription.make(Channel.bytes("orders"), {
        group: "g",
        settle: {
          SoldOut: (): Outcome.Outcome => {
            throw thrown
          }
        }
      }, () => Effect.fail(new SoldOut()))
      assert.deepStrictEqual(yield* Deliveries.settle(throwing, Deliveries.make()), Outcome.DeadLetter(thrown))
    }))

  const Order = Schema.Struct({ id: Schema.String })
  const Orders = Channel.make("orders", { payload: Order })
  const subscription = (seen: Array<string>, handle: Handler<Message<typeof Order.Type>, unknown, SoldOut | Slow>) =>
    Subscription.make(
      Orders,
      { group: "g", settle: { SoldOut: Outcome.Reject() }, hold: { attempts: 2 } },
      Stack.start<Message<Uint8Array>>().use(told(seen)).use(Decode.middleware(Orders)).handle(handle)
    )

  it.live("the engine and `settle` tell hooks the same of every ending", () =>
    Effect.gen(function*() {
      for (const [effect, says] of endings.filter(([, says]) => says !== "Failure Release")) {
        const [alone, engine]: [Array<string>, Array<string>] = [[], []]
        const outcome = yield* Deliveries.settle(
          subscription(alone, () => effect),
          Deliveries.make({ body: { id: "1" } })
        )
        yield* Effect.gen(function*() {
          yield* Subscription.run(subscription(engine, () => effect))
          yield* Publisher.make(Orders).publish({ id: "1" })
          yield* Effect.repeat(Effect.sync(() => engine.length), {
            until: (count) => count > 0,
            schedule: Schedule.spaced("1 millis")
          })
        }).pipe(Effect.scoped, Effect.provide(MemoryBroker.layer()))
        assert.deepStrictEqual(alone, [engine[0]], says)
        assert.strictEqual(alone[0]?.split(" ")[1], outcome._tag)
      }
    }))
})
