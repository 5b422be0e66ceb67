import { assert, describe, it } from "@effect/vitest"
import {
  Audit,
  Baggage,
  Broker,
  Bulkhead,
  Channel,
  Correlate,
  type Correlation,
  type Delivery,
  Detached,
  Eager,
  Gather,
  Health,
  Hooks,
  Log,
  MemoryBroker,
  type Message,
  Metrics,
  Middleware,
  Outcome,
  Publisher,
  Retry,
  Stack,
  Subscription,
  Trace
} from "@millrace/core"
import { Deliveries, MiddlewareLaws } from "@millrace/testing"
import { Cause, Context, Effect, Exit, Layer, Logger, pipe, References, Tracer } from "effect"
import { TestClock } from "effect/testing"
import { deliver } from "./support.ts"

const Orders = Channel.bytes("orders")

const refuse = (): never => {
  throw new Error("an observer that throws")
}

/** Runs a subscription of a memory broker over keys, and tells what became of the messages. */
const consumed = <R>(
  subscription: Subscription.Subscription<R, Broker.Broker>,
  keys: ReadonlyArray<string>
) =>
  Effect.gen(function*() {
    const memory = yield* MemoryBroker.make({ partitions: 1 })
    return yield* Effect.gen(function*() {
      yield* Subscription.run(subscription)
      yield* Effect.forEach(keys, (key) => Publisher.make(Orders).publish(new Uint8Array(1), { key }))
      yield* TestClock.adjust("10 minutes")
      return { committed: memory.positions("orders", "g"), letters: memory.ends("orders.dead-letters") }
    }).pipe(Effect.scoped, Effect.provideService(Broker.Broker, memory.broker))
  })

describe("observers and wrong code", () => {
  it.effect("H1 in an engine, observers survive every odd error, and the next message runs", () =>
    Effect.gen(function*() {
      for (const [what, make] of MiddlewareLaws.oddErrors) {
        let next = 0
        const odd = make()
        const handler = (message: Message<Uint8Array>) =>
          Effect.suspend((): Effect.Effect<void> => {
            if (message.key === "next") return Effect.sync(() => void (next += 1))
            // an error of code without types may be any value
            return Effect.fail(odd as never)
          })
        const stack = Stack.start().use(Log.middleware({ error: "cause" })).use(Metrics.middleware())
          .use(Audit.middleware())
        const observed = stack.handle(handler)
        let seen: Cause.Cause<unknown> | undefined
        // what a dead letter says of the error is the engine's own matter
        const rejected = (message: Delivery) =>
          Effect.catchCause(observed(message), (cause) => {
            seen = cause
            return Effect.succeed(Outcome.Reject())
          })
        const subscription = Subscription.make(Orders, { group: "g", name: "odd" }, rejected)
        const { committed } = yield* consumed(subscription, ["odd", "next"])
        const reason = seen?.reasons[0]
        assert(reason !== undefined && Cause.isFailReason(reason) && Object.is(reason.error, odd), what)
        assert.strictEqual(next, 1, what)
        assert.deepStrictEqual(committed, [2], what)
      }
    }).pipe(Effect.provide(Layer.mergeAll(Metrics.layer, Audit.layerMemory(), Logger.layer([])))))

  it.effect("F19 a handler that returns nothing keeps no place of a Bulkhead, and its message is a dead letter", () =>
    Effect.gen(function*() {
      let ran = 0
      const handler = pipe(
        (message: Message<Uint8Array>): Effect.Effect<void> => {
          ran += 1
          // code without types
          return message.key === "bad" ? undefined as never : Effect.sleep(1)
        },
        Bulkhead.middleware({ name: "b", limit: 2 }),
        Metrics.middleware()
      )
      const subscription = Subscription.make(Orders, { group: "g", name: "s" }, handler)
      const ended = yield* consumed(subscription, ["bad", "bad", "good", "good"])
      assert.deepStrictEqual({ ran, ...ended }, { ran: 4, committed: [4], letters: [2] })
      const places = yield* Effect.flatMap(Bulkhead.Compartments, ({ snapshot }) => snapshot)
      assert.deepStrictEqual(places.map(({ running }) => running), [0])
      assert.deepStrictEqual((yield* Metrics.snapshot).map(({ inFlight }) => inFlight), [0])
    }).pipe(Effect.provide(Layer.merge(Metrics.layer, Bulkhead.layer))))

  it.effect("F19 what runs after a chain and throws does not change the end of a chain", () =>
    Effect.gen(function*() {
      for (const end of [Exit.succeed(1), Effect.as(Effect.yieldNow, 1)]) {
        const message = deliver()
        const { exit, hooks } = yield* Deliveries.run(
          (inner: Delivery) => Eager.around(inner, () => end, refuse),
          message
        )
        assert.deepStrictEqual(exit, Exit.succeed(1))
        assert.deepStrictEqual(hooks, Exit.void)
      }
    }))

  it.effect("F2 a hook of code without types may return anything; a promise is a defect that says so", () =>
    Effect.gen(function*() {
      const ends = (returned: unknown) =>
        Deliveries.run((message: Delivery) => {
          message.after(() => returned as undefined)
          return Effect.void
        }, deliver())
      for (const returned of [null, 5, "text", {}, new Map()]) {
        assert.strictEqual((yield* ends(returned)).outcome, Outcome.Ack)
      }
      const { hooks } = yield* ends(Promise.reject(new Error("unawaited")))
      assert(Exit.isFailure(hooks))
      assert.match(String(Cause.squash(hooks.cause)), /A hook returned a Promise instead of an Effect/)
    }))

  it.effect("F2 a hook that returns no Effect fails as one that throws", () =>
    Effect.gen(function*() {
      const middleware = Hooks.middleware({ preExecute: (): Effect.Effect<void> => undefined as never })
      const handler = middleware((_: Message<Uint8Array>) => Effect.void)
      const { exit } = yield* Deliveries.run(handler, deliver())
      const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
      assert(error instanceof Hooks.HookError && error.cause instanceof TypeError)
      assert.match(error.cause.message, /The hook preExecute returned undefined instead of an Effect/)
    }))

  it.effect("F2 a middleware that returns no Effect is a defect that says so, in an engine and in a publisher", () =>
    Effect.gen(function*() {
      for (const [answer, text] of [[undefined, "undefined"], [Promise.reject(new Error("unawaited")), "a Promise"]]) {
        const defects: Array<string> = []
        const told = (cause: Cause.Cause<unknown>) => void defects.push(String(Cause.squash(cause)))
        const wrong = () => answer as unknown as Effect.Effect<never>
        const consume = Middleware.make()({ name: "Wrong", stage: "consume" }, () => wrong)
        const delivery = yield* Deliveries.run(consume((_: Message<Uint8Array>) => Effect.void), deliver())
        if (Exit.isFailure(delivery.exit)) told(delivery.exit.cause)

        const memory = yield* MemoryBroker.make({ partitions: 1 })
        const publish = Middleware.make()({ name: "Wrong", stage: "publish" }, () => wrong)
        yield* Publisher.make(Orders, publish).publish(new Uint8Array(1)).pipe(
          Effect.catchCause((cause) => Effect.sync(() => told(cause))),
          Effect.provideService(Broker.Broker, memory.broker)
        )
        assert.deepStrictEqual(
          defects.map((defect) => defect.includes(`The handler returned ${text} instead of an Effect`)),
          [true, true],
          defects.join("; ")
        )
      }
    }))

  it.effect("B9 what a program adds to spans may throw: the span is lost, and the message is settled", () =>
    Effect.gen(function*() {
      const spans = Tracer.make({ span: (options) => new Tracer.NativeSpan(options) })
      const through = [
        Trace.middleware({ name: refuse }),
        Trace.middleware({ attributes: refuse })
      ]
      for (const middleware of through) {
        const { exit, hooks } = yield* Deliveries.run(
          middleware((_: Message<Uint8Array>) => Effect.succeed("done")),
          deliver({ body: { x: 1 }, key: "x" })
        ).pipe(Effect.withTracer(spans))
        assert.deepStrictEqual([exit, hooks], [Exit.succeed("done"), Exit.void])
      }
    }))
})

describe("ids that are made by an effect", () => {
  const generates: ReadonlyArray<readonly [string, Effect.Effect<string>]> = [
    ["at once", Exit.succeed("own-1")],
    ["in a step", Effect.sync(() => "own-1")],
    ["later", Effect.as(Effect.yieldNow, "own-1")],
    ["by a promise", Effect.promise(() => Promise.resolve("own-1"))]
  ]

  for (const [how, generate] of generates) {
    it.effect(`B9 a made id reaches the handler, its lines and what it publishes: ${how}`, () =>
      Effect.gen(function*() {
        const lines: Array<unknown> = []
        const logger = Logger.make(({ fiber }) =>
          void lines.push(fiber.getRef(References.CurrentLogAnnotations)["correlationId"])
        )
        const seen: Array<string | undefined> = []
        const inside = (_: unknown) =>
          Effect.gen(function*() {
            yield* Effect.log("working")
            seen.push((yield* Correlate.Current)?.id)
          })
        const handler = Correlate.middleware({ generate })(inside)
        yield* Deliveries.run(handler, deliver()).pipe(Effect.provide(Logger.layer([logger])))
        const out = Publisher.message(Orders, new Uint8Array(1)).fresh()
        yield* Deliveries.run(handler, out).pipe(Effect.provide(Logger.layer([logger])))
        yield* Effect.gen(function*() {
          yield* Subscription.run(Subscription.make(Orders, { group: "g", name: "s" }, handler))
          yield* Publisher.make(Orders).publish(new Uint8Array(1))
          // a promise is outside of virtual time
          yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
          yield* TestClock.adjust(0)
        }).pipe(Effect.scoped, Effect.provide(Layer.merge(MemoryBroker.layer(), Logger.layer([logger]))))
        assert.deepStrictEqual(seen, ["own-1", "own-1", "own-1"])
        assert.deepStrictEqual(lines, ["own-1", "own-1", "own-1"])
      }))
  }

  it.effect("F19 the kit ends what suspends on a fiber of its own, as the engine does", () =>
    Effect.gen(function*() {
      const fibers = new Set<number>()
      const note = Effect.withFiber((fiber) => Effect.sync(() => void fibers.add(fiber.id)))
      yield* Deliveries.run((_: Delivery) => Effect.andThen(Effect.yieldNow, note), deliver())
      yield* note
      assert.strictEqual(fibers.size, 2)
    }))
})

describe("what outlives a request", () => {
  const correlation: Correlation.Correlation = {
    id: "r-1",
    causation: undefined,
    upstream: undefined,
    replaced: undefined
  }
  const span = Tracer.externalSpan({ spanId: "0000000000000001", traceId: "00000000000000000000000000000001" })

  /** As inside the handling of a request. */
  const inRequest = <A, E, R>(self: Effect.Effect<A, E, R>) =>
    self.pipe(
      Effect.annotateLogs({ request: "r-1" }),
      Effect.withLogSpan("request"),
      Effect.annotateSpans({ request: "r-1" }),
      Effect.linkSpans(span),
      Effect.provideService(Tracer.ParentSpan, span),
      Effect.provideService(Correlate.Current, correlation),
      Effect.provideService(Retry.Attempt, 3),
      Effect.provideService(Trace.Baggage, Baggage.parse("tenant=7"))
    )

  /** What a fiber has of a request. */
  const found = Effect.contextWith((context: Context.Context<never>) =>
    Effect.succeed({
      correlation: Context.get(context, Correlate.Current)?.id,
      annotations: { ...Context.get(context, References.CurrentLogAnnotations) },
      logSpans: Context.get(context, References.CurrentLogSpans).length,
      spanAnnotations: { ...Context.get(context, References.TracerSpanAnnotations) },
      links: Context.get(context, References.TracerSpanLinks).length,
      span: Context.getOption(context, Tracer.ParentSpan)._tag,
      attempt: Context.get(context, Retry.Attempt),
      baggage: Context.get(context, Trace.Baggage).size
    })
  )

  const nothing: Effect.Success<typeof found> = {
    correlation: undefined,
    annotations: {},
    logSpans: 0,
    spanAnnotations: {},
    links: 0,
    span: "None",
    attempt: 1,
    baggage: 0
  }

  class Mark extends Context.Service<Mark, string>()("test/Mark") {}

  it.effect("B9 a detached context has the services of the request, and nothing that is the request's own", () =>
    Effect.gen(function*() {
      const inside = yield* inRequest(found)
      for (const key of Object.keys(nothing) as Array<keyof typeof nothing>) {
        assert.notDeepEqual(inside[key], nothing[key], key)
      }
      assert.deepStrictEqual(yield* inRequest(Detached.effect(found)), nothing)
      const mark = yield* inRequest(Detached.effect(Effect.service(Mark)))
      assert.strictEqual(mark, "kept")
    }).pipe(Effect.provideService(Mark, "kept")))

  it.effect("B9 a gather and a check of health that are started inside a request do not carry it on", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const note = Effect.map(found, (each) => void seen.push(each))
      const rows = yield* inRequest(Gather.make({ write: () => note }))
      yield* inRequest(rows.add("a"))
      const health = yield* inRequest(
        Layer.build(Health.layer([Health.check({ name: "it", check: note, refresh: "1 minute" })]))
      )
      yield* inRequest(Effect.provideContext(Health.report(), health))
      assert.deepStrictEqual(seen, [nothing, nothing])
    }).pipe(Effect.scoped))
})
