import {
  AsyncApi,
  Audit,
  Auth,
  Broker,
  Channel,
  Correlate,
  DeadLetters,
  Decode,
  Description,
  type Envelope,
  Log,
  MemoryBroker,
  type Message,
  Metrics,
  Publisher,
  Redaction,
  Request as Ask,
  Subscription,
  Trace
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Body, Problem, type Request, Server, Sink } from "@millrace/http"
import { Cause, Data, Effect, Exit, Layer, Logger, Metric, pipe, Schema, Stream, Tracer } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { notations } from "../core/secretNotations.ts"
import { post, serve } from "./support.ts"

/** A secret that no other text holds. */
const secret = fc.string({ minLength: 8, maxLength: 24, unit: fc.constantFrom(..."ABCDEF0123456789-_") })
  .map((text) => `S3C${text}RET`)

const planted = "S3C"

/** An order with secrets: by mark, by name, by path, deep inside, and where nothing says so but a pattern. */
const Order = Schema.Struct({
  id: Schema.String,
  amount: Schema.Finite,
  card: Redaction.secret(Schema.String),
  customer: Schema.Struct({ email: Schema.String, name: Schema.String, password: Schema.String }),
  notes: Schema.Array(Schema.Struct({ text: Schema.String, mark: Redaction.secret(Schema.String) })),
  extra: Schema.Unknown
})
const Orders = Channel.make("orders", { payload: Order, key: (order) => order.id })
const paths: Redaction.Options = { schemas: [Order], fields: ["customer.email"] }

class Broken extends Data.TaggedError("Broken")<{ readonly message: string; readonly inner?: unknown }> {
  readonly failure = "permanent" as const
}

interface Plant {
  readonly secret: string
  readonly field: string
  readonly header: string
  readonly noise: string
  /** How texts hold the secret that the program does not know by name. */
  readonly write: (secret: string) => string
  /** What the handler does with the secrets that it holds. */
  readonly end: "answers" | "fails" | "dies" | "throws" | "quotes" | "repeats" | "wrong type" | "no JSON"
}

const plants: fc.Arbitrary<Plant> = fc.record({
  secret,
  field: fc.constantFrom("token", "apiKey", "client_secret", "Pass-Word", "pin", "cookie", "refreshToken"),
  header: fc.constantFrom("authorization", "cookie", "x-api-key", "set-cookie", "proxy-authorization", "my-token"),
  noise: fc.string({ maxLength: 8 }),
  write: fc.constantFrom(...Object.values(notations)),
  end: fc.constantFrom("answers", "fails", "dies", "throws", "quotes", "repeats", "wrong type", "no JSON")
})

const bodyOf = ({ end, field, noise, secret, write }: Plant): string => {
  const extra = {
    [noise]: [{ [field]: { deep: [secret] } }],
    text: JSON.stringify({ [field]: secret }),
    said: write(`${planted}${field}OF-THE-BODY`)
  }
  const order = {
    id: "7",
    amount: 3,
    card: end === "wrong type" ? { [secret]: secret } : secret,
    customer: { email: `${secret}@b.c`, name: noise, password: secret },
    notes: [{ text: noise, mark: secret }],
    extra
  }
  const text = JSON.stringify(order)
  return end === "no JSON" ? text.slice(0, -3) : text
}

const headersOf = ({ header, secret, write }: Plant): Record<string, string> => ({
  referer: `https://a.example/?said=${encodeURIComponent(write(`${planted}-OF-A-HEADER`))}`,
  "correlation-id": "c-1",
  [header]: secret,
  note: `Bearer ${secret}`,
  jwt: `eyJhbGci.${secret}.${secret}`
})

/** Says what it knows, as careless programs do. */
const careless = ({ end, secret, write }: Plant) => (_: unknown): Effect.Effect<unknown, Broken> => {
  switch (end) {
    case "fails":
      return Effect.fail(new Broken({ message: `card ${secret} was refused`, inner: secret }))
    case "dies":
      return Effect.andThen(Effect.yieldNow, Effect.die(new TypeError(`no card ${secret}`)))
    case "throws":
      throw new RangeError(`no card ${secret}`)
    case "quotes":
      return Effect.fail(new Broken({ message: `Unauthorized: Bearer ${secret} of {"card":"${secret}"}` }))
    case "repeats":
      // what another program answered: the message does not have it
      return Effect.fail(new Broken({ message: `it said\n${write(`${planted}-OF-ANOTHER`)}` }))
    default:
      return Effect.succeed({ ok: true, token: secret, said: write(`${planted}-OF-THE-ANSWER`) })
  }
}

/** Everything that a program shows, as text. */
const sinks = () => {
  const out = new Map<string, Array<string>>()
  const into = (sink: string, ...texts: ReadonlyArray<string>) => {
    const all = out.get(sink) ?? []
    all.push(...texts)
    out.set(sink, all)
  }
  const loggers = Logger.layer([
    ...(["json", "logfmt", "pretty"] as const).map((format) =>
      Logger.map(Log.format({ format }), (line) => into(`log as ${format}`, line))
    ),
    // Effect's own, which redact nothing
    Logger.map(Logger.formatJson, (line) => into("Effect's JSON log", line)),
    Logger.map(Logger.formatLogFmt, (line) => into("Effect's logfmt", line))
  ])
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      const end = span.end.bind(span)
      span.end = (at, exit) => {
        end(at, exit)
        into(
          "spans",
          span.name,
          JSON.stringify(Object.fromEntries(span.attributes)),
          JSON.stringify(span.events, (_, value: unknown) => typeof value === "bigint" ? String(value) : value),
          exit._tag === "Failure" ? `${Cause.pretty(exit.cause)} ${JSON.stringify(exit.cause)}` : ""
        )
      }
      return span
    }
  })
  return { out, into, loggers, tracer }
}

const everything = <M extends Envelope, A, E, R>(
  next: (message: M) => Effect.Effect<A, E, R>
) =>
  pipe(
    next,
    Log.middleware({
      body: { characters: 2000 },
      answer: { characters: 2000 },
      headers: "all",
      error: "cause",
      redact: paths
    }),
    Audit.middleware({ body: { characters: 2000 }, redact: paths }),
    Metrics.middleware(),
    Trace.middleware({ redact: paths }),
    Correlate.middleware()
  )

const consume = (plant: Plant) =>
  Effect.gen(function*() {
    const { into, loggers, out, tracer } = sinks()
    yield* Effect.gen(function*() {
      const broker = yield* Broker.Broker
      const handler = pipe(
        careless(plant) as (message: Message<typeof Order.Type>) => Effect.Effect<unknown, Broken>,
        Decode.middleware(Orders),
        everything
      )
      const subscription = Subscription.make(Orders, { group: "g", name: "careless" }, handler)
      into("description", Description.toText(handler), Description.toMermaid(handler))
      into(
        "AsyncAPI",
        JSON.stringify(AsyncApi.document({ title: "t", version: "1", subscriptions: [subscription] }))
      )
      yield* Subscription.run(subscription)
      yield* Publisher.make(Channel.bytes("orders")).publish(new TextEncoder().encode(bodyOf(plant)), {
        headers: headersOf(plant)
      })
      yield* TestClock.adjust("1 minute")
      const letters = yield* Stream.runCollect(DeadLetters.list("orders.dead-letters"))
      assert.strictEqual(letters.length, plant.end === "answers" ? 0 : 1, plant.end)
      for (const { delivery, errorMessage, errorType } of letters) {
        into("dead letters", errorMessage, errorType)
        const own = Object.entries(delivery.headers).filter(([name]) => name.startsWith("dead-letter-"))
        into("dead letters", JSON.stringify(own))
      }
      const store = yield* Audit.Store
      const { rows } = yield* store.query()
      assert.strictEqual(rows.length, 1)
      into("audit", JSON.stringify(rows))
      into("metrics", JSON.stringify((yield* Metric.snapshot).map(({ attributes, id }) => [id, attributes])))
      assert.isDefined(broker)
    }).pipe(
      Effect.scoped,
      Effect.provide(
        Layer.mergeAll(MemoryBroker.layer({ partitions: 1 }), Audit.layerMemory(), Metrics.layer, loggers)
      ),
      Effect.provideService(Tracer.Tracer, tracer)
    )
    return out
  })

const clean = (out: ReadonlyMap<string, ReadonlyArray<string>>, expected: ReadonlyArray<string>) => {
  for (const sink of expected) assert.isNotEmpty(out.get(sink) ?? [], `nothing came to ${sink}`)
  for (const [sink, texts] of out) for (const text of texts) assert.notInclude(text, planted, sink)
}

describe("secrets", () => {
  it.effect(
    "H5 B10 no planted secret reaches a log, a span, an audit row, a metric, a dead letter's reason or a document",
    () =>
      Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(plants, async (plant) => {
            const out = await Effect.runPromise(Effect.provide(consume(plant), TestClock.layer()))
            clean(out, [
              "log as json",
              "log as logfmt",
              "log as pretty",
              "spans",
              "audit",
              "metrics",
              "description",
              "AsyncAPI"
            ])
            if (plant.end !== "answers") clean(out, ["dead letters"])
          }),
          { numRuns: 200 }
        )
      ),
    60_000
  )

  it.live(
    "H5 H19 no planted secret reaches an HTTP answer, a problem document, or what the server logs and traces",
    () =>
      Effect.gen(function*() {
        const { into, loggers, out, tracer } = sinks()
        let plant: Plant | undefined
        const handler = (request: Request<typeof Order.Type>) => careless(plant!)(request)
        const guarded = pipe(handler, Body.json(Order), everything)
        const context = yield* Layer.build(Layer.mergeAll(Audit.layerMemory(), Metrics.layer))
        const base = yield* Effect.provide(
          serve(Server.route("POST", "/orders", (request: Request) =>
            Effect.suspend(() => guarded(request)).pipe(
              Effect.provideContext(context),
              Effect.provideService(Tracer.Tracer, tracer)
            ))),
          loggers
        )
        yield* Effect.promise(() =>
          fc.assert(
            fc.asyncProperty(plants, async (each) => {
              plant = each
              const answer = await post(base, "/orders", bodyOf(each), headersOf(each))
              assert.strictEqual(answer.status < 400, each.end === "answers")
              if (each.end !== "answers") into("problem", answer.text, JSON.stringify(answer.headers))
              clean(out, ["log as json", "log as logfmt", "log as pretty", "spans"])
              for (const texts of out.values()) texts.splice(0, texts.length - 1)
            }),
            { numRuns: 200 }
          )
        )
        const store = yield* Effect.provideContext(Audit.Store, context)
        into("audit", JSON.stringify(yield* store.query()))
        into("metrics", JSON.stringify((yield* Metric.snapshot).map(({ attributes, id }) => [id, attributes])))
        clean(out, ["problem", "audit", "metrics"])
      }),
    60_000
  )

  it.effect(
    "H5 H19 no planted secret reaches a reply, an error envelope, or the errors of codecs",
    () =>
      Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(plants, async (plant) => {
            const { into, loggers, out } = sinks()
            const Price = Ask.make(Orders, { reply: Schema.Struct({ ok: Schema.Boolean }) })
            const handler = pipe(
              careless(plant) as (
                message: Message<typeof Order.Type>
              ) => Effect.Effect<{ readonly ok: boolean }, Broken>,
              Decode.middleware(Orders),
              Ask.answer(Price)
            )
            const program = Effect.gen(function*() {
              yield* Subscription.run(Subscription.make(Orders, { group: "g", name: "answers" }, handler))
              const exit = yield* Effect.exit(
                Publisher.make(Orders).publish(JSON.parse(bodyOf({ ...plant, end: "wrong type" })))
              )
              assert.isTrue(Exit.isFailure(exit))
              into("codec", Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "")
              yield* Publisher.make(Channel.bytes("orders")).publish(new TextEncoder().encode(bodyOf(plant)), {
                headers: { ...headersOf(plant), "reply-to": "replies" }
              })
              yield* TestClock.adjust("1 minute")
              const broker = yield* Broker.Broker
              const replies = yield* Stream.runCollect(broker.browse("replies"))
              assert.strictEqual(replies.length, 1)
              for (const { headers, raw } of replies) {
                into("reply", new TextDecoder().decode(raw), JSON.stringify(headers))
              }
              const error = new Broken({ message: plant.secret, inner: plant.secret })
              into("envelope", JSON.stringify(Problem.envelope(Problem.defaults, error)))
            })
            await Effect.runPromise(program.pipe(
              Effect.scoped,
              Effect.provide(Layer.mergeAll(MemoryBroker.layer({ partitions: 1 }), loggers, TestClock.layer()))
            ))
            clean(out, ["codec", "reply", "envelope"])
          }),
          { numRuns: 200 }
        )
      ),
    60_000
  )

  it.effect("H5 what only the channel's schema calls a secret is hidden in the reason of a dead letter", () =>
    Effect.gen(function*() {
      const Patient = Schema.Struct({ name: Redaction.secret(Schema.String) })
      const Patients = Channel.make("patients", { payload: Patient })
      const handler = pipe(
        ({ payload }: Message<typeof Patient.Type>) =>
          Effect.fail(new Broken({ message: `there is a ${payload.name} already` })),
        Decode.middleware(Patients)
      )
      yield* Subscription.run(Subscription.make(Patients, { group: "g" }, handler))
      yield* Publisher.make(Patients).publish({ name: "S3CRET" })
      yield* TestClock.adjust("1 second")
      const [letter] = yield* Stream.runCollect(DeadLetters.list("patients.dead-letters"))
      assert.strictEqual(letter?.errorMessage, "there is a <redacted> already")
    }).pipe(Effect.scoped, Effect.provide(MemoryBroker.layer({ partitions: 1 }))))

  it("H5 a description shows no credential of a destination", () => {
    const sink = Sink.handler({
      url: "https://example.com/hooks/{key}",
      headers: { authorization: "Bearer S3CRET", "x-api-key": "S3CRET" }
    })
    const handler = pipe(sink, Auth.middleware(), everything)
    for (const text of [Description.toText(handler), Description.toMermaid(handler)]) assert.notInclude(text, planted)
  })
})
