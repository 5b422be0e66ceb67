import {
  Audit,
  Auth,
  Bulkhead,
  Channel,
  CircuitBreaker,
  Correlate,
  DeadLetter,
  Decode,
  type Delivery,
  type Envelope,
  Fallback,
  Filter,
  Hedge,
  Hooks,
  Log,
  MemoryBroker,
  Message,
  Metrics,
  Middleware,
  Outcome,
  Outgoing,
  Parse,
  Publish,
  RateLimit,
  Request,
  Retry,
  Timeout,
  Trace
} from "@millrace/core"
import { MiddlewareLaws } from "@millrace/testing"
import { Cause, Effect, Exit, Schema, SchemaGetter } from "effect"
import { assert } from "vitest"
import { deliver } from "./support.ts"

const Order = Schema.Struct({ id: Schema.String })
const Orders = Channel.make("orders", { payload: Order })

const message = (): Delivery => deliver({ key: "k", body: { id: "1" }, headers: { authorization: "Bearer good" } })

const outgoing = (): Outgoing<Uint8Array> =>
  new Outgoing("orders", new Uint8Array([1]), "k", { authorization: "Bearer good" }).fresh()

/** Both sides that a cross-cutting middleware stands on. */
const everywhere = <R = never>(
  name: string,
  build: () => <M extends Envelope>(
    next: (message: M) => Effect.Effect<unknown, MiddlewareLaws.LawError>
  ) => (message: M) => Effect.Effect<unknown, unknown, R>,
  options: Omit<MiddlewareLaws.Options<Delivery, R, unknown>, "message"> = {}
) => {
  MiddlewareLaws.suite<Delivery, Delivery, R>(`${name} of a consumer`, () => build(), { ...options, message })
  MiddlewareLaws.suite<Outgoing<Uint8Array>, Outgoing<Uint8Array>, R>(`${name} of a publisher`, () => build(), {
    ...options,
    message: outgoing
  })
}

const later = SchemaGetter.transformEffect((order: typeof Order.Type) => Effect.as(Effect.yieldNow, order))

const deadLettered = (exit: Exit.Exit<unknown, unknown>) => {
  assert(Exit.isSuccess(exit) && Outcome.isOutcome(exit.value))
  assert.strictEqual(exit.value._tag, "DeadLetter")
}

everywhere("Pass", () => Middleware.make()({ name: "Pass", stage: "consume" }, (next) => next))

// what every hook may count on: a consumed message's is told what the broker will be told, any other's nothing
everywhere(
  "a hook that reads the outcome",
  () =>
    Middleware.make()({ name: "Reads", stage: "consume" }, (next) => (message) => {
      message.after((exit, outcome) => {
        if (message.kind === "producer") assert.isUndefined(outcome)
        else {assert.strictEqual(
            outcome?._tag,
            exit._tag === "Success" ? "Ack" : Cause.hasInterruptsOnly(exit.cause) ? "Release" : "DeadLetter"
          )}
        return undefined
      })
      return next(message)
    })
)

everywhere("Retry", () => Retry.middleware(), { calls: "several" })
everywhere("Retry of defects", () => Retry.middleware({ defects: "retry", while: { tags: ["Other"] } }), {
  calls: "several"
})
everywhere("Retry.when", () => Retry.when<MiddlewareLaws.LawError>(() => true, { times: 2 }), { calls: "several" })
everywhere("Timeout", () => Timeout.middleware())
everywhere("Trace", () => Trace.middleware())
everywhere("Correlate", () => Correlate.middleware())
everywhere(
  "Correlate that makes ids of its own",
  () => Correlate.middleware({ trust: "never", generate: Effect.as(Effect.yieldNow, "id") })
)
everywhere("Metrics", () => Metrics.middleware(), { layer: Metrics.layer })
everywhere("Log", () => Log.middleware())
everywhere("Audit", () => Audit.middleware(), { layer: Audit.layerMemory() })
everywhere("Auth", () => Auth.middleware(), { layer: Auth.layerMemory({ good: { subject: "ada" } }) })
everywhere("RateLimit", () => RateLimit.middleware({ limit: 100 }), { layer: RateLimit.layerMemory() })
everywhere(
  "RateLimit that delays",
  () => RateLimit.middleware({ limit: 1, onExceeded: "delay", maximumDelay: "1 day" }),
  {
    layer: RateLimit.layerMemory()
  }
)
everywhere("CircuitBreaker", () => CircuitBreaker.middleware({ name: "it" }), { layer: CircuitBreaker.layer() })
everywhere(
  "CircuitBreaker at a rate",
  () => CircuitBreaker.middleware({ name: "it", by: "channel", trip: CircuitBreaker.rate() }),
  { layer: CircuitBreaker.layer() }
)
everywhere("Bulkhead", () => Bulkhead.middleware({ name: "it" }), { layer: Bulkhead.layer })
everywhere("Bulkhead with a queue", () => Bulkhead.middleware({ name: "it", limit: 1, queue: 100 }), {
  layer: Bulkhead.layer
})
everywhere("Hedge", () => Hedge.middleware({ idempotent: true }), { layer: Hedge.layer })
everywhere("Hooks", () =>
  Hooks.middleware({
    preSend: () => Effect.void,
    postSend: () => Effect.void,
    preExecute: () => Effect.yieldNow,
    postExecute: () => Effect.void,
    postSave: () => Effect.yieldNow,
    onError: () => Effect.void
  }))

MiddlewareLaws.suite("Decode", () => Decode.middleware(Orders), { message })
MiddlewareLaws.suite("Decode of a schema that suspends", () =>
  Decode.middleware(Channel.make("orders", {
    payload: Order.pipe(Schema.decode({ decode: later, encode: later }))
  })), { message })
MiddlewareLaws.suite(
  "Parse",
  () => Parse.middleware((delivery) => new Message(delivery, delivery.payload, null, null)),
  {
    message
  }
)
MiddlewareLaws.suite("Filter", () => Filter.middleware((_: Delivery) => true), { message })
MiddlewareLaws.suite(
  "Filter that suspends",
  () => Filter.middleware((_: Delivery) => Effect.as(Effect.yieldNow, true)),
  {
    message
  }
)
MiddlewareLaws.suite("Fallback.classes of others", () => Fallback.classes(["auth"], () => Effect.void), { message })
MiddlewareLaws.suite(
  "Fallback.tags",
  () => Fallback.tags(["LawError"], () => Effect.succeed("instead")),
  { message, failure: (exit) => assert.deepStrictEqual(exit, Exit.succeed("instead")) }
)
MiddlewareLaws.suite("DeadLetter.tags of others", () => DeadLetter.tags("Other"), { message })
MiddlewareLaws.suite("DeadLetter.tags", () => DeadLetter.tags("LawError"), { message, failure: deadLettered })
MiddlewareLaws.suite("DeadLetter.classes", () => DeadLetter.classes("validation"), { message })
MiddlewareLaws.suite("DeadLetter.when", () => DeadLetter.when((_: MiddlewareLaws.LawError): _ is never => true), {
  message,
  failure: deadLettered
})
MiddlewareLaws.suite("DeadLetter.afterAttempts", () => DeadLetter.afterAttempts(1), { message, failure: deadLettered })
MiddlewareLaws.suite("Publish", () => Publish.middleware(Channel.unchecked("answers")), {
  message,
  layer: MemoryBroker.layer()
})
MiddlewareLaws.suite("Publish.reply", () => Publish.reply(), { message, layer: MemoryBroker.layer() })
MiddlewareLaws.suite(
  "Publish.route",
  () => Publish.route({ answers: Channel.unchecked("answers") }, (answer) => answer === 0 ? undefined : "answers"),
  { message, layer: MemoryBroker.layer() }
)
const Asked = Request.make(Channel.unchecked("orders"), { reply: Schema.Unknown })
MiddlewareLaws.suite("Request.answer", () => Request.answer(Asked), { message, layer: MemoryBroker.layer() })
MiddlewareLaws.suite("Request.answer to someone", () => Request.answer(Asked), {
  message: () => deliver({ headers: { "reply-to": "replies" } }),
  layer: MemoryBroker.layer()
})
