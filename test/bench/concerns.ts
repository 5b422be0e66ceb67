import {
  Channel,
  Decode,
  type Delivery,
  delivery,
  Eager,
  type Handler,
  type Message,
  Metrics,
  type Origin,
  Trace
} from "@millrace/core"
import { SpanKind } from "@opentelemetry/api"
import { BatchSpanProcessor, NodeTracerProvider } from "@opentelemetry/sdk-trace-node"
import { Ajv } from "ajv"
import { Context, Effect, Exit, Layer, Metric, pipe, Schema, Tracer } from "effect"
import prometheus from "prom-client"
import { z } from "zod"
import { type Bench, measure, type Measured } from "./Bench.ts"
import { Order } from "./stack/work.ts"

const order: typeof Order.Type = {
  id: "order-1",
  customer: { id: 7, name: "A Customer", email: "customer@example.org" },
  card: "4111111111111111",
  total: 129.5,
  currency: "EUR",
  status: "placed",
  items: [{ sku: "A-1", quantity: 2, price: 9.75 }, { sku: "B-2", quantity: 1, price: 110 }],
  createdAt: "2026-11-21T12:00:00Z"
}
const body = new TextEncoder().encode(JSON.stringify(order))

const origin: Origin = {
  system: "memory",
  channel: "orders",
  group: "bench",
  partition: 0,
  handler: "bench",
  holdLimit: Number.POSITIVE_INFINITY
}
const headers = { traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" }
const reader = {
  key: () => "key",
  keyBytes: () => undefined,
  headers: (sampled: boolean) => sampled ? headers : { traceparent: `${headers.traceparent.slice(0, -1)}0` },
  fields: () => [],
  timestamp: () => undefined
}
const delivered = (sampled: boolean): ReadonlyArray<Delivery> =>
  Array.from({ length: 1024 }, (_, i) => delivery(origin, reader, sampled, i, body, 1))

/** A chain as the engine calls it: what is done when a call returns costs no step of a fiber. */
const through = <R>(
  handler: Handler<Delivery, unknown, unknown, R>,
  context: Context.Context<R>,
  deliveries = delivered(true)
) =>
(count: number) => {
  let i = 0
  return Effect.runPromise(Effect.provideContext(
    Effect.whileLoop({
      while: () => i < count,
      step: () => {},
      body: () =>
        Effect.suspend(() => {
          const end = Math.min(i + 256, count)
          while (i < end) {
            const result = handler(deliveries[i++ & 1023]!)
            if (!Eager.isDone(result)) return Effect.asVoid(Effect.exit(result))
            if (result._tag === "Failure") return Exit.failCause(result.cause)
          }
          return Exit.void
        })
    }),
    context
  ))
}

let sum = 0
const add = (total: number) => Exit.succeed(sum += total)
const none = Context.empty()
const decoder = new TextDecoder()
const parsed = (bytes: Uint8Array): unknown => JSON.parse(decoder.decode(bytes))
const orders = Channel.make("orders", { payload: Order })

const decodeOrder = Schema.decodeUnknownSync(Order)
const zodOrder = z.object({
  id: z.string(),
  customer: z.object({ id: z.int(), name: z.string(), email: z.string() }),
  card: z.string(),
  total: z.number(),
  currency: z.enum(["EUR", "USD"]),
  status: z.enum(["placed", "paid", "shipped"]),
  items: z.array(z.object({ sku: z.string(), quantity: z.int(), price: z.number() })),
  createdAt: z.string()
})
const object = (properties: Readonly<Record<string, unknown>>) => ({
  type: "object",
  properties,
  required: Object.keys(properties)
})
const [text, number, integer] = ["string", "number", "integer"].map((type) => ({ type }))
const ajvOrder = new Ajv().compile<typeof Order.Type>(object({
  id: text,
  customer: object({ id: integer, name: text, email: text }),
  card: text,
  total: number,
  currency: { enum: ["EUR", "USD"] },
  status: { enum: ["placed", "paid", "shipped"] },
  items: { type: "array", items: object({ sku: text, quantity: integer, price: number }) },
  createdAt: text
}))

/** A handler that reads the body by itself, in the same loop as ours. */
const reading = (read: (value: unknown) => { readonly total: number }) => () =>
  measure(through((message) => add(read(parsed(message.payload)).total), none))

/** P11: what it costs to check an order of twelve fields, beyond reading its JSON. */
export const validation: Bench = {
  name: "validation",
  about: "an order of twelve fields from bytes to a checked value, beside reading its JSON alone",
  rounds: 3,
  variants: [
    {
      name: "millrace, Decode",
      whose: "millrace",
      run: () =>
        measure(
          through(
            pipe((message: Message<typeof Order.Type>) => add(message.payload.total), Decode.middleware(orders)),
            none
          )
        )
    },
    // unchecked: what every variant pays
    { name: "JSON alone", whose: "limit", run: reading((value) => value as typeof order) },
    { name: "ajv", whose: "peer", run: reading((value) => ajvOrder(value) ? value : order) },
    { name: "zod", whose: "peer", run: reading((value) => zodOrder.parse(value)) },
    { name: "effect Schema", whose: "peer", run: reading((value) => decodeOrder(value)) }
  ],
  goals: [
    {
      id: "P11",
      text: "microseconds beyond reading the JSON",
      target: 0.2,
      better: "lower",
      measured: (of) => of("millrace, Decode").cpu - of("JSON alone").cpu
    },
    {
      id: "P11",
      text: "zod's time beyond reading the JSON, in times ours",
      target: 2.5,
      better: "higher",
      measured: (of) =>
        (of("zod").cpu - of("JSON alone").cpu) / Math.max(0.001, of("millrace, Decode").cpu - of("JSON alone").cpu)
    }
  ]
}

const passing: Handler<Delivery, number> = (message) => add(message.position)

/** Spans in batches of 512, as an exporter takes them; nothing is encoded. */
const recording = () => {
  let batch: Array<Tracer.Span> = []
  class Recorded extends Tracer.NativeSpan {
    override end(...args: Parameters<Tracer.NativeSpan["end"]>): void {
      super.end(...args)
      if (batch.push(this) === 512) batch = []
    }
  }
  return Tracer.make({ span: (options) => new Recorded(options) })
}

const traced = (sampled: boolean) => () =>
  measure(through(Trace.middleware()(passing), Context.make(Tracer.Tracer, recording()), delivered(sampled)))

/** OpenTelemetry's own SDK with the attributes that the conventions ask for; what it exports is thrown away. */
const openTelemetry = async (): Promise<Measured> => {
  const provider = new NodeTracerProvider({
    spanProcessors: [
      new BatchSpanProcessor({
        export: (_spans, done) => done({ code: 0 }),
        shutdown: () => Promise.resolve()
      }, { maxQueueSize: 100_000 })
    ]
  })
  const tracer = provider.getTracer("bench")
  const measured = await measure(through((message) => {
    const span = tracer.startSpan("process orders", {
      kind: SpanKind.CONSUMER,
      attributes: {
        "messaging.system": "memory",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": message.channel,
        "messaging.consumer.group.name": "bench",
        "messaging.destination.partition.id": String(message.partition),
        "messaging.message.body.size": message.payload.length
      }
    })
    const result = passing(message)
    span.end()
    return result
  }, none))
  await provider.shutdown()
  return measured
}

const withMetrics = (): Promise<Measured> =>
  Effect.runPromise(Effect.scoped(Effect.flatMap(
    Layer.build(Metrics.layer),
    (context) => Effect.promise(() => measure(through(Metrics.middleware()(passing), context)))
  )))

/** A counter and a histogram with the same labels, as its documents show it. */
const promClient = (): Promise<Measured> => {
  const registers = [new prometheus.Registry()]
  const labelNames = ["destination", "group", "partition"]
  const count = new prometheus.Counter({ name: "consumed", help: "messages", labelNames, registers })
  const duration = new prometheus.Histogram({ name: "duration", help: "seconds", labelNames, registers })
  return measure(through((message) => {
    const labels = { destination: message.channel, group: "bench", partition: "0" }
    const end = duration.startTimer(labels)
    const result = passing(message)
    count.inc(labels)
    end()
    return result
  }, none))
}

const effectMetric = (): Promise<Measured> => {
  const labels = { destination: "orders", group: "bench", partition: "0" }
  const count = Metric.withAttributes(Metric.counter("consumed"), labels)
  const duration = Metric.withAttributes(Metric.timer("duration"), labels)
  return measure(
    through(
      (message) => Effect.andThen(Metric.update(count, 1), Effect.trackDuration(passing(message), duration)),
      none
    )
  )
}

const beyond = (variant: string) => (of: (variant: string) => Measured) => of(variant).cpu - of("nothing").cpu

/** P12 and P13: what it costs to record a message. */
export const observing: Bench = {
  name: "observing",
  about: "a span, or a count and a duration, for each message, by what records them",
  rounds: 3,
  variants: [
    { name: "millrace, Trace", whose: "millrace", run: traced(true) },
    { name: "millrace, Trace, not sampled", whose: "millrace", run: traced(false) },
    { name: "millrace, Metrics", whose: "millrace", run: withMetrics },
    { name: "nothing", whose: "limit", run: () => measure(through(passing, none)) },
    { name: "OpenTelemetry SDK", whose: "peer", run: openTelemetry },
    { name: "prom-client", whose: "peer", run: promClient },
    { name: "effect Metric", whose: "peer", run: effectMetric }
  ],
  goals: [
    {
      id: "P12",
      text: "microseconds of a span that is recorded and not encoded",
      target: 0.3,
      better: "lower",
      measured: beyond("millrace, Trace")
    },
    {
      id: "P12",
      text: "microseconds of a message that its sender does not sample",
      target: 0.05,
      better: "lower",
      measured: beyond("millrace, Trace, not sampled")
    },
    {
      id: "P13",
      text: "microseconds of counting and timing a message",
      target: 0.02,
      better: "lower",
      measured: beyond("millrace, Metrics")
    }
  ]
}
