import { assert, describe, it } from "@effect/vitest"
import {
  After,
  Audit,
  Auth,
  Broker,
  Channel,
  Correlate,
  DeadLetter,
  Decode,
  type Delivery,
  Eager,
  type Envelope,
  type Failure,
  Filter,
  type Handler,
  Hooks,
  Log,
  MemoryBroker,
  type Message,
  Metrics,
  Middleware,
  Order,
  Outcome,
  Outgoing,
  Publish,
  RateLimit,
  Retry,
  Settlement,
  Subscription,
  Timeout,
  Trace
} from "@millrace/core"
import { Context, Data, Duration, Effect, Exit, Fiber, Layer, Logger, Schedule, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver } from "./support.ts"

class Refused extends Data.TaggedError("Refused")<{}> {}
class Failed extends Data.TaggedError("Failed")<{
  readonly failure: Failure.FailureClass
  readonly retryAfter?: Duration.Duration
}> {}

const Depth = Context.Reference<number>("test/Depth", { defaultValue: () => 0 })

/** What a handler does in one attempt. */
type Act =
  | "succeed"
  | "undefined"
  | "fail"
  | "transient"
  | "validation"
  | "later"
  | "die"
  | "throw"
  | "interrupt"
  | "ack"
  | "dead"

/** How a handler comes to its end. */
type Way = "at once" | "suspended" | "generator" | "asleep"

/** Who calls the chain. */
type Caller = "fiber" | "plain" | "engine"

type Step =
  | { readonly step: "note" | "service" | "header" | "around" | "gate" | "pause" | "Decode" | "Publish" | "Reply" }
  | {
    readonly step:
      | "Timeout"
      | "Filter"
      | "Trace"
      | "Metrics"
      | "Log"
      | "Audit"
      | "Auth"
      | "RateLimit"
      | "Hooks"
      | "Correlate"
  }
  | { readonly step: "Retry"; readonly times: number; readonly defects: "pass" | "retry" }
  | { readonly step: "tags"; readonly tag: string }
  | { readonly step: "classes"; readonly failure: Failure.FailureClass }
  | { readonly step: "attempts"; readonly attempts: number }

interface Case {
  readonly steps: ReadonlyArray<Step>
  /** One act for each attempt in place; the last one stays. */
  readonly acts: ReadonlyArray<Act>
  readonly body: unknown
  readonly gate: boolean
}

type Any = Handler<Message<unknown>, unknown, unknown, unknown>

const end = (act: Act): Exit.Exit<unknown, Refused | Failed> => {
  switch (act) {
    case "succeed":
      return Exit.succeed({ done: true })
    case "undefined":
      return Exit.succeed(undefined)
    case "fail":
      return Exit.fail(new Refused())
    case "transient":
    case "validation":
      return Exit.fail(new Failed({ failure: act }))
    case "later":
      return Exit.fail(new Failed({ failure: "throttled", retryAfter: Duration.millis(5) }))
    case "die":
      return Exit.die("defect")
    case "interrupt":
      return Exit.interrupt()
    case "ack":
      return Exit.succeed(Outcome.Ack)
    case "dead":
      return Exit.succeed(Outcome.DeadLetter("answered"))
    case "throw":
      throw new Error("thrown")
  }
}

const ending = (way: Way, act: Act): Effect.Effect<unknown, Refused | Failed> => {
  switch (way) {
    case "at once":
      return end(act)
    case "suspended":
      return Effect.flatMap(Effect.yieldNow, () => end(act))
    case "asleep":
      return Effect.flatMap(Effect.sleep(1), () => end(act))
    case "generator":
      return Effect.gen(function*() {
        return yield* end(act)
      })
  }
}

const Bodies = Channel.make("orders", { payload: Schema.Struct({ id: Schema.String }) })
const Answers = Channel.unchecked("answers")

/** The middleware of a step; what it does is noted in `log`. */
const middlewareOf = (step: Step, i: number, { gate }: Case, way: Way, log: Array<string>): (next: Any) => Any => {
  const note = (text: string): void => void log.push(`${i}:${text}`)
  const noting = (what: string) =>
    Middleware.make()({ name: `Note${i}`, stage: "publish" }, (next) => (message: Envelope) => {
      note(`${what}:${message.channel}`)
      message.after((exit) => void note(`${what}:hook:${exit._tag}`))
      return next(message)
    })
  const built = (): unknown => {
    switch (step.step) {
      case "note":
        return Middleware.make()({ name: `Note${i}`, stage: "consume" }, (next) => (message) => {
          note("in")
          message.after((exit, outcome) => void note(`hook:${exit._tag}:${outcome?._tag}`))
          return Effect.mapEager(next(message), (answer) => {
            note("out")
            return answer
          })
        })
      case "around":
        return Middleware.make()({ name: `Around${i}`, stage: "consume" }, (next) => (message) => {
          note("in")
          return Eager.around(message, next, (exit) => note(`around:${exit._tag}`))
        })
      case "service":
        return Middleware.make()(
          { name: `Service${i}`, stage: "consume" },
          (next) => (message) =>
            Effect.flatMapEager(Eager.service(Depth), (depth) => Eager.provide(Depth, depth + 1, next, message))
        )
      case "header":
        return Middleware.make()(
          { name: `Header${i}`, stage: "consume" },
          (next) => (message) => next(message.withHeader(`h${i}`, "yes"))
        )
      case "gate":
        return Middleware.make()(
          { name: `Gate${i}`, stage: "consume" },
          (next) => (message): Middleware.Returns<Refused> => gate ? next(message) : Effect.fail(new Refused())
        )
      case "pause":
        // suspends as the handler does
        return Middleware.make()(
          { name: `Pause${i}`, stage: "consume" },
          (next) => (message) => Effect.flatMapEager(ending(way, "undefined"), () => next(message))
        )
      case "Decode":
        return Decode.middleware(Bodies)
      case "Publish":
        return Publish.middleware(Answers, { through: noting("published") })
      case "Reply":
        return Publish.reply({ through: noting("replied") })
      case "Timeout":
        return Timeout.middleware({ after: "1 hour" })
      case "Filter":
        return Filter.middleware((_: Message<unknown>) => gate || i % 2 === 0)
      case "Trace":
        return Trace.middleware()
      case "Metrics":
        return Metrics.middleware()
      case "Log":
        return Log.middleware()
      case "Correlate":
        return Correlate.middleware({ generate: Effect.succeed("made") })
      case "Audit":
        return Audit.middleware()
      case "Auth":
        return Auth.middleware()
      case "RateLimit":
        // longer than a suspension takes, and shorter than the wait at which the engine gives up (`hold.retryAfter`)
        return RateLimit.middleware({ limit: gate ? 100 : 1, window: "12 hours" })
      case "Hooks":
        return Hooks.middleware({
          preExecute: () => Effect.sync(() => note("preExecute")),
          postExecute: (_, exit) => Effect.sync(() => note(`postExecute:${exit._tag}`)),
          onError: () => Effect.sync(() => note("onError"))
        })
      case "Retry":
        return Retry.middleware({ schedule: Schedule.spaced(10), times: step.times, defects: step.defects })
      case "tags":
        return DeadLetter.tags(step.tag)
      case "classes":
        return DeadLetter.classes(step.failure)
      case "attempts":
        return DeadLetter.afterAttempts(step.attempts)
    }
  }
  return built() as (next: Any) => Any
}

const policy: Settlement.Policy = { entries: { Refused: Outcome.Retry() }, table: Settlement.table }

const show = (exit: Exit.Exit<unknown, unknown>): string =>
  Exit.isSuccess(exit)
    ? `Success ${Outcome.isOutcome(exit.value) ? exit.value._tag : JSON.stringify(exit.value)}`
    : `Failure ${
      exit.cause.reasons.map((reason) => reason._tag === "Fail" ? `Fail ${tagOf(reason.error)}` : reason._tag)
    }`

const tagOf = (error: unknown): string => String((error as { readonly _tag?: string })._tag)

const headers = { authorization: "Bearer good", "reply-to": "replies" }

const services = () =>
  Layer.mergeAll(
    Auth.layerMemory({ good: { subject: "ada" } }),
    RateLimit.layerMemory(),
    Metrics.layer,
    Audit.layerMemory(),
    MemoryBroker.layer({ partitions: 1 })
  ).pipe(Layer.provideMerge(TestClock.layer()), Layer.provideMerge(Logger.layer([])))

/** The chain of a case, and where it notes what happens. */
const build = (input: Case, way: Way) => {
  const log: Array<string> = []
  let attempt = 0
  const handler: Any = (message) => {
    const act = input.acts[Math.min(attempt++, input.acts.length - 1)]!
    const payload = message.payload instanceof Uint8Array ? "bytes" : JSON.stringify(message.payload)
    const seen = Object.keys(message.headers).filter((name) => /^h\d/.test(name)).sort().join()
    log.push(`handle ${act} ${payload} ${seen}`)
    return Effect.flatMapEager(
      Eager.service(Depth),
      (depth) =>
        Effect.flatMapEager(Eager.service(Retry.Attempt), (attempt) => {
          log.push(`depth ${depth} attempt ${attempt}`)
          return ending(way, act)
        })
    )
  }
  const chain = input.steps.reduceRight<Any>((next, step, i) => middlewareOf(step, i, input, way, log)(next), handler)
  const once = Middleware.make<{ message: Message<unknown> }>()(
    { name: "Once", stage: "receive" },
    (next) => (message): Middleware.Returns<never, never, Outcome.Ack> => {
      if (message.attempt > 1) return Exit.succeed(Outcome.Ack)
      // registered first, so it runs last
      message.after((exit, outcome) => void log.push(`end ${show(exit)} -> ${outcome?._tag}`))
      return next(message)
    }
  )
  return { log, chain: once(chain) }
}

/** Everything that can be seen of one message through a random stack: side effects in their order, exit, outcome. */
const observe = async (input: Case, way: Way, caller: Caller): Promise<ReadonlyArray<string>> => {
  const { chain, log } = build(input, way)
  const body = new TextEncoder().encode(JSON.stringify(input.body))
  const program = caller === "engine"
    ? byEngine(chain, body, () => log.at(-1)?.startsWith("end ") ?? false)
    : alone(chain, deliver({ body, headers }), caller)
  await Effect.runPromise(Effect.provide(program as Effect.Effect<void>, services()))
  return log
}

const alone = (handler: Any, delivery: Delivery, caller: Caller) => {
  // no fiber runs here
  const plain = caller === "plain" ? call(handler, delivery) : Effect.suspend(() => handler(delivery))
  return Effect.gen(function*() {
    const exit = yield* inTime(Effect.exit(plain))
    yield* After.run(delivery.hooks ?? [], exit, Settlement.ofExit(policy, exit))
  })
}

/** What a caller without a fiber does with a chain that throws. */
const call = (handler: Any, delivery: Delivery) => {
  assert.isUndefined(Fiber.getCurrent())
  return handler(delivery)
}

const subscriptionOf = (handler: Any) =>
  Subscription.make(
    Channel.bytes("orders"),
    { group: "g", settle: { Refused: Outcome.Retry() } },
    handler as unknown as Handler<Delivery, unknown, Refused>
  )

const byEngine = (handler: Any, body: Uint8Array, ended: () => boolean) =>
  inTime(Effect.scoped(Effect.gen(function*() {
    yield* Subscription.run(subscriptionOf(handler))
    const broker = yield* Broker.Broker
    yield* broker.publish(new Outgoing("orders", body, undefined, headers))
    yield* Effect.repeat(Effect.sleep("1 second"), { until: ended })
  })))

/** Runs an effect while the clock goes on. */
const inTime = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(effect, { startImmediately: true })
    for (let minutes = 0; fiber.pollUnsafe() === undefined; minutes++) {
      assert.isBelow(minutes, 1000, "it never ends")
      yield* TestClock.adjust("1 minute")
    }
    return yield* Fiber.join(fiber)
  })

const leaf: fc.Arbitrary<Step> = fc.oneof(
  fc.constantFrom<Step>(
    { step: "note" },
    { step: "around" },
    { step: "service" },
    { step: "header" },
    { step: "gate" },
    { step: "pause" },
    { step: "Publish" },
    { step: "Reply" }
  ),
  fc.constantFrom<Step>(
    { step: "Timeout" },
    { step: "Filter" },
    { step: "Trace" },
    { step: "Metrics" },
    { step: "Log" },
    { step: "Audit" },
    { step: "Auth" },
    { step: "RateLimit" },
    { step: "Hooks" },
    { step: "Correlate" }
  ),
  fc.record({
    step: fc.constant("Retry" as const),
    times: fc.integer({ min: 1, max: 2 }),
    defects: fc.constantFrom("pass" as const, "retry" as const)
  }),
  fc.record({ step: fc.constant("tags" as const), tag: fc.constantFrom("Refused", "Failed", "DecodeError") }),
  fc.record({
    step: fc.constant("classes" as const),
    failure: fc.constantFrom<Failure.FailureClass>("transient", "validation", "throttled")
  }),
  fc.record({ step: fc.constant("attempts" as const), attempts: fc.integer({ min: 1, max: 2 }) })
)

/** Stacks of up to eight middlewares in any order, one of them perhaps Decode. */
const stacks: fc.Arbitrary<Case> = fc.record({
  steps: fc.tuple(fc.array(leaf, { maxLength: 7 }), fc.option(fc.nat(7), { nil: undefined })).map(([steps, at]) =>
    at === undefined ? steps : steps.toSpliced(at, 0, { step: "Decode" })
  ),
  acts: fc.array(
    fc.constantFrom<Act>(
      "succeed",
      "undefined",
      "fail",
      "transient",
      "validation",
      "later",
      "die",
      "throw",
      "interrupt",
      "ack",
      "dead"
    ),
    { minLength: 1, maxLength: 3 }
  ),
  body: fc.oneof({ weight: 4, arbitrary: fc.constant({ id: "1" }) }, { weight: 1, arbitrary: fc.constant({ id: 1 }) }),
  gate: fc.oneof({ weight: 4, arbitrary: fc.constant(true) }, { weight: 1, arbitrary: fc.constant(false) })
})

describe("the fast path and the general path", { timeout: 60_000 }, () => {
  const compare = (ways: ReadonlyArray<readonly [Way, Caller]>) => async (input: Case) => {
    const expected = await observe(input, "at once", "fiber")
    assert.match(expected.at(-1) ?? "", /^end /)
    for (const [way, caller] of ways) {
      // the engine retries what is given back outside of a drain, and says so
      const told = expected.map((line) => caller === "engine" ? line.replace("Release", "Retry") : line)
      assert.deepStrictEqual(await observe(input, way, caller), told, `${way}, called by ${caller}`)
    }
  }

  it("F19 give the same exit, side effects, hooks and outcome, whether the handler suspends or not", () =>
    fc.assert(
      fc.asyncProperty(stacks, compare([["suspended", "fiber"], ["generator", "fiber"], ["asleep", "fiber"]])),
      { numRuns: 400 }
    ))

  it("F19 give the same whether a fiber calls the chain or plain code does", () =>
    fc.assert(
      fc.asyncProperty(stacks, compare([["at once", "plain"], ["suspended", "plain"], ["generator", "plain"]])),
      { numRuns: 400 }
    ))

  it("F19, F15, F16 give the same in the engine as alone; stacks in a wrong order are refused before", async () => {
    const same = compare([["at once", "engine"], ["suspended", "engine"], ["generator", "engine"]])
    let ran = 0
    let refused = 0
    await fc.assert(
      fc.asyncProperty(stacks, (input) => {
        const { chain } = build(input, "at once")
        if (Order.violations(chain).length === 0) {
          ran += 1
          return same(input)
        }
        refused += 1
        assert.throws(
          () => subscriptionOf(chain),
          Order.OrderError,
          / must stand (?:in|out)side .* not (?:in|out)side it: /
        )
        return Promise.resolve()
      }),
      { numRuns: 500 }
    )
    assert.isAbove(ran, 100)
    assert.isAbove(refused, 20)
  })
})
