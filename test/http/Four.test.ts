import {
  Audit,
  Auth,
  Channel,
  type Envelope,
  Hooks,
  Log,
  MemoryBroker,
  type Message,
  Metrics,
  Publisher,
  RateLimit,
  Retry,
  Timeout,
  Trace,
  TraceContext
} from "@millrace/core"
import type { Handler } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Client, type Request, Server } from "@millrace/http"
import { Deliveries } from "@millrace/testing"
import {
  Clock,
  Context,
  Data,
  Duration,
  Effect,
  Exit,
  Layer,
  Logger,
  Option,
  References,
  Schedule,
  Tracer
} from "effect"
import { FetchHttpClient, HttpClient, HttpClientRequest, HttpRouter } from "effect/http"
import * as fc from "fast-check"
import { post, serve, serveWith } from "./support.ts"

const traceId = "0af7651916cd43dd8448eb211c80319c"
const spanId = "b7ad6b7169203331"

class Flaky extends Data.TaggedError("Flaky")<{}> {
  readonly failure = "transient" as const
}
class Wrong extends Data.TaggedError("Wrong")<{}> {
  readonly failure = "validation" as const
}

/** What happens inside: each call of the handler takes the next one, and the last one stays. */
type Step = "succeed" | "flaky" | "wrong" | "die" | "late"

interface Trail {
  readonly hooks: Array<string>
  readonly calls: Array<string>
  readonly ends: Array<string>
  readonly lines: Array<string>
  readonly spans: Array<Tracer.Span>
  readonly headers: Array<string | undefined>
}

const trail = (): Trail => ({ hooks: [], calls: [], ends: [], lines: [], spans: [], headers: [] })

type Needs = Audit.Store | Metrics.Registry | RateLimit.Store | Auth.Verifier
type Wide =
  | Flaky
  | Wrong
  | RateLimit.RateLimited
  | RateLimit.RateLimitUnavailable
  | Auth.Unauthorized
  | Auth.AuthUnavailable
  | Timeout.TimeoutExceeded
  | Hooks.HookError

type Wrap = <M extends Envelope, A, E, R>(
  next: Handler<M, A, E | Wide, R | Needs>
) => Handler<M, A, E | Wide, R | Needs>

const retry = Schedule.recurs(2)
let current = trail()
const hook = (name: string) => () => Effect.sync(() => void current.hooks.push(name))

/** One value each: what is random is which of them stand around a handler, and in which order. */
const middlewares: Readonly<Record<string, Wrap>> = {
  Trace: Trace.middleware(),
  Audit: Audit.middleware({ body: "none" }),
  Metrics: Metrics.middleware(),
  Auth: Auth.middleware() as Wrap,
  // longer than Retry waits in place
  RateLimit: RateLimit.middleware({ limit: 2, window: "1 day" }),
  Log: Log.middleware(),
  Timeout: Timeout.middleware({ after: "1 hour" }),
  // Wide has errors that are tried again
  Retry: Retry.middleware({ schedule: retry }) as unknown as Wrap,
  Hooks: Hooks.middleware({
    preSend: hook("before"),
    preExecute: hook("before"),
    postSend: hook("after"),
    postExecute: hook("after"),
    onError: hook("error")
  })
}

const names = Object.keys(middlewares)

/** A stack in a good order: Audit asks to stand outside Retry. Innermost first. */
const stacks = fc.shuffledSubarray(names).map((order) => {
  const [audit, again] = [order.indexOf("Audit"), order.indexOf("Retry")]
  return audit >= 0 && audit < again
    ? order.map((name, i) => i === audit ? "Retry" : i === again ? "Audit" : name)
    : order
})

const tagOf = (exit: Exit.Exit<unknown, unknown>): string =>
  Exit.isSuccess(exit)
    ? "success"
    : exit.cause.reasons.map((reason) =>
      reason._tag === "Fail" ? String((reason.error as { _tag: string })._tag) : reason._tag
    ).join()

/** Sleeps of an hour, which end when a handler is late: what a limit does hangs on no machine's speed. */
const limits = new Set<() => void>()

const tooLate = Effect.suspend(() => {
  // the limit is set once the handler has suspended
  setImmediate(() => {
    // what ends may begin another one, which is for the next that is late
    const now = Array.from(limits)
    for (const end of now) end()
  })
  return Effect.never
})

const clockOf = (live: Clock.Clock): Clock.Clock => ({
  currentTimeMillisUnsafe: () => live.currentTimeMillisUnsafe(),
  currentTimeMillis: live.currentTimeMillis,
  currentTimeNanosUnsafe: () => live.currentTimeNanosUnsafe(),
  currentTimeNanos: live.currentTimeNanos,
  monotonicTimeNanosUnsafe: () => live.monotonicTimeNanosUnsafe(),
  monotonicTimeNanos: live.monotonicTimeNanos,
  sleep: (duration) =>
    Duration.toMillis(duration) < 3_600_000 ? live.sleep(duration) : Effect.callback<void>((resume) => {
      const end = () => {
        limits.delete(end)
        resume(Effect.void)
      }
      limits.add(end)
      return Effect.sync(() => limits.delete(end))
    })
})

/** The stack around a handler that does what a script says, and a probe around both. */
const around =
  (order: ReadonlyArray<string>, scripts: Array<ReadonlyArray<Step>>) =>
  <M extends Envelope, A, E, R>(next: Handler<M, A, E, R>): Handler<M, A, E | Wide, R | Needs> => {
    let script: ReadonlyArray<Step> = []
    let at = 0
    const scripted: Handler<M, A, E | Wide, R | Needs> = (message) => {
      const step = script[Math.min(at++, script.length - 1)] ?? "succeed"
      current.calls.push(step)
      current.headers.push(message.headers[TraceContext.names.parent])
      if (step === "flaky") return Effect.fail(new Flaky())
      if (step === "wrong") return Effect.fail(new Wrong())
      if (step === "die") return Effect.die("broken")
      return step === "late" && order.includes("Timeout") ? tooLate : next(message)
    }
    const stack = order.reduce<Handler<M, A, E | Wide, R | Needs>>((inner, name) => middlewares[name]!(inner), scripted)
    return (message) => {
      script = scripts.shift() ?? []
      at = 0
      return Effect.onExit(stack(message), (exit) => Effect.sync(() => void current.ends.push(tagOf(exit))))
    }
  }

const services = Layer.mergeAll(
  Audit.layerMemory(),
  Metrics.layer,
  RateLimit.layerMemory(),
  Auth.layerMemory({ "a-token": { subject: "ada" } })
)

/** Everything that a kind needs, made anew, and writing to `current`. */
const environment = Effect.gen(function*() {
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      current.spans.push(span)
      return span
    }
  })
  const logger = Logger.make(({ fiber, logLevel }) => {
    const { error, failure, operation, status } = fiber.getRef(References.CurrentLogAnnotations)
    // a server logs what it answers, too
    if (operation !== undefined) current.lines.push(`${logLevel} ${String(status)} ${String(error)} ${String(failure)}`)
  })
  const own = yield* Layer.build(Layer.fresh(services))
  return own.pipe(
    Context.add(Tracer.Tracer, tracer),
    Context.add(Clock.Clock, clockOf(yield* Clock.Clock)),
    Context.add(References.CurrentLoggers, new Set([logger]))
  )
})

interface Run {
  readonly order: ReadonlyArray<string>
  readonly scripts: ReadonlyArray<ReadonlyArray<Step>>
  readonly token: boolean
}

const headersOf = (run: Run): Record<string, string> => ({
  traceparent: `00-${traceId}-${spanId}-01`,
  ...(run.token ? { authorization: "Bearer a-token" } : {})
})

const each = <A, E, R>(run: Run, once: Effect.Effect<A, E, R>) =>
  Effect.forEach(run.scripts, () => Effect.exit(once), { discard: true })

const incoming: ReadonlySet<string> = new Set(["consumer", "server"])

/** What a run left, said in the same words for every kind. */
const left = (kind: Envelope["kind"], run: Run, context: Context.Context<Needs>) =>
  Effect.gen(function*() {
    const page = yield* Effect.flatMap(Audit.Store, (store) => store.query())
    // rows of one millisecond are in no order; and only a consumed message has an outcome
    const rows = page.rows
      .map((row) => `${row.kind === kind} ${row.status === "done" ? "done" : "failed"} ${String(row.errorTag)}`)
      .sort()
    const statistics = yield* Metrics.snapshot
    const named = current.spans.filter(({ name }) => /^(process|publish) |^POST\b/.test(name))
    const spans = named.filter(({ kind }) => kind !== "internal")
    return {
      ends: current.ends,
      calls: current.calls,
      hooks: current.hooks,
      lines: current.lines,
      audit: rows,
      metrics: statistics.map(({ done, errors, failed, inFlight, started }) => ({
        done,
        failed,
        inFlight,
        started,
        errors: errors.map(({ count, tag }) => [tag, count])
      })),
      spans: run.order.includes("Trace")
        ? spans.map(({ status }) => status._tag === "Ended" ? tagOf(status.exit) : "open")
        : [],
      // what comes in is continued, what goes out carries its own span: the same middleware does both
      traced: !run.order.includes("Trace") || (incoming.has(kind)
        ? spans.every((span) => Option.getOrUndefined(span.parent)?.spanId === spanId && span.kind === kind)
        : spans.every((span) =>
          current.calls.length === 0 ||
          current.headers.every((header) => header === undefined || header.includes(span.traceId)) ||
          spans.some((other) => current.headers.some((header) => header?.includes(other.spanId)))
        ))
    }
  }).pipe(Effect.provideContext(context))

type Left = Effect.Success<ReturnType<typeof left>>

const refusals = ["Wrong", "RateLimited", "Unauthorized"]
const refused = new RegExp(`^\\w+ failed (${refusals.join("|")}) `)

/** The same on a server, which answers a client's mistake with 4xx: that is a refusal, and no failure of the server. */
const asServer = (all: Left): Left => ({
  ...all,
  lines: all.lines.map((line) => line.replace(refused, "Info rejected $1 ")),
  spans: all.spans.map((tag) => refusals.includes(tag) ? "success" : tag),
  metrics: all.metrics.map(({ failed, ...rest }) => ({
    ...rest,
    failed: failed -
      rest.errors.reduce((sum, [tag, count]) => sum + (refusals.includes(String(tag)) ? Number(count) : 0), 0)
  }))
})

const Bytes = Channel.bytes("POST /in")

/** The four sources, each as a program would use it. */
const kinds = {
  consumer: (run: Run) =>
    Effect.gen(function*() {
      const context = yield* environment
      const handler = around(run.order, [...run.scripts])((_: Message<Uint8Array>): Effect.Effect<number, Wide> =>
        Effect.succeed(1)
      )
      yield* each(
        run,
        Effect.suspend(() => Deliveries.run(handler, Deliveries.make({ channel: "in", headers: headersOf(run) })))
      ).pipe(Effect.provideContext(context))
      return yield* left("consumer", run, context)
    }),
  producer: (run: Run) =>
    Effect.gen(function*() {
      const context = yield* environment
      const publisher = Publisher.make(
        Bytes,
        (next: Publisher.Innermost<Uint8Array>) => around(run.order, [...run.scripts])(next)
      )
      const headers = headersOf(run)
      delete headers["traceparent"]
      yield* each(run, publisher.publish(new Uint8Array([1]), { headers })).pipe(
        Effect.provideContext(context),
        Effect.provide(MemoryBroker.layer())
      )
      return yield* left("producer", run, context)
    }),
  server: (run: Run) =>
    Effect.gen(function*() {
      const context = yield* environment
      const handler = around(run.order, [...run.scripts])((_: Request): Effect.Effect<number, Wide> =>
        Effect.succeed(1)
      )
      const base = yield* serveWith(
        Server.layer(Server.route("POST", "/in", handler)).pipe(
          HttpRouter.provideRequest(Layer.succeedContext(context))
        )
      )
      yield* each(run, Effect.promise(() => post(base, "/in", {}, headersOf(run))))
      return yield* left("server", run, context)
    }),
  client: (run: Run) =>
    Effect.gen(function*() {
      const context = yield* environment
      const base = yield* serve(Server.route("POST", "/in", () => Effect.succeed("ok")))
      const client = Client.make(yield* HttpClient.HttpClient, (next) => around(run.order, [...run.scripts])(next))
      const headers = headersOf(run)
      delete headers["traceparent"]
      const request = HttpClientRequest.post(`${base}/in`, { headers })
      yield* each(run, Effect.flatMap(client.execute(request), (response) => response.text)).pipe(
        Effect.provideContext(context)
      )
      return yield* left("client", run, context)
    }).pipe(Effect.provide(FetchHttpClient.layer))
}

const runs: fc.Arbitrary<Run> = fc.record({
  order: stacks,
  scripts: fc.array(
    fc.array(
      fc.oneof(
        { weight: 4, arbitrary: fc.constant<Step>("succeed") },
        { weight: 3, arbitrary: fc.constant<Step>("flaky") },
        fc.constant<Step>("wrong"),
        fc.constant<Step>("die"),
        fc.constant<Step>("late")
      ),
      { minLength: 1, maxLength: 4 }
    ),
    { minLength: 1, maxLength: 3 }
  ),
  token: fc.boolean()
})

const once = (kind: keyof typeof kinds, run: Run) =>
  Effect.suspend(() => {
    current = trail()
    return Effect.scoped(kinds[kind](run))
  })

describe("one middleware on four kinds", () => {
  it(
    "X1 any stack of the same values leaves the same effects on a consumer, a publisher, a server and a client",
    async () => {
      let failures = 0
      await fc.assert(
        fc.asyncProperty(runs, async (run) => {
          const consumer = await Effect.runPromise(once("consumer", run))
          failures += consumer.ends.filter((end) => end !== "success").length
          assert.isTrue(consumer.traced)
          assert.isTrue(consumer.audit.every((row) => row.startsWith("true")))
          for (const kind of ["producer", "server", "client"] as const) {
            const expected = kind === "server" ? asServer(consumer) : consumer
            assert.deepStrictEqual(await Effect.runPromise(once(kind, run)), expected, kind)
          }
        }),
        { numRuns: 150 }
      )
      // the property is not about stacks that always succeed
      assert.isAbove(failures, 10)
    },
    60_000
  )
})
