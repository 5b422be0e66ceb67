/**
 * One span for each message, by the OpenTelemetry conventions for messaging, through Effect's `Tracer`; W3C Trace Context
 * and Baggage from the headers of incoming messages into the headers of outgoing ones.
 */
import { Context, Effect, Fiber, Random, Tracer } from "effect"
import { Broker } from "../broker/Broker.ts"
import * as Bag from "../message/Baggage.ts"
import * as Detached from "../message/Detached.ts"
import type { Envelope } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Redaction from "../telemetry/Redaction.ts"
import * as TraceContext from "../message/TraceContext.ts"
import { attributesOf, nameOf, placeOf } from "../telemetry/Conventions.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Handler } from "../pipeline/Handler.ts"
import * as Lost from "../telemetry/Lost.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import * as Spans from "../telemetry/Spans.ts"

/**
 * The baggage of the message in handling; messages published inside carry it on. Default: none.
 *
 * **Example** (the tenant of the request)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Trace } from "@millrace/core"
 *
 * const tenant = Effect.map(Trace.Baggage, (baggage) => baggage.get("tenant")?.value)
 * ```
 */
export const Baggage = Detached.reference<Bag.Baggage>("@millrace/core/Trace/Baggage", {
  defaultValue: () => Bag.empty
})

/** Options of `middleware`. */
export interface Options {
  /**
   * The relation of the sender's span to the span of handling: its `parent`, in the same trace, or only a `link` from a
   * trace of its own. Default: `parent`.
   */
  readonly relation?: "parent" | "link" | undefined
  /** The share of new traces that are recorded, from 0 to 1; an incoming trace is decided by its sender. Default: 1. */
  readonly sample?: number | undefined
  /** OpenTelemetry's `messaging.system` of published messages. Default: that of the `Broker` in the context, if any. */
  readonly system?: string | undefined
  /**
   * The name of the span. Default: `process CHANNEL`, `publish CHANNEL`, and for servers and clients the channel. A
   * channel with parameters is named by its address, e.g. `process plant.{machine}.temperature`.
   */
  readonly name?: ((message: Envelope) => string) | undefined
  /** Values to redact in the error of a span, beside the usual names of secrets. Default: nothing more. */
  readonly redact?: Redaction.Options | undefined
  /** Attributes beside those of the conventions. Default: none. */
  readonly attributes?: ((message: Envelope) => Readonly<Record<string, unknown>>) | undefined
}

const linkTo = (span: Tracer.AnySpan | undefined): ReadonlyArray<Tracer.SpanLink> =>
  span === undefined ? [] : [{ span, attributes: {} }]

const inject = <M extends Envelope>(message: M, span: Tracer.AnySpan | undefined, baggage: Bag.Baggage): M => {
  let out = message
  if (span !== undefined && message.headers[TraceContext.names.parent] === undefined) {
    const parent = Lost.attempt("Trace", () => TraceContext.parentOf(span))
    const state = Lost.attempt("Trace", () => TraceContext.stateOf(span))
    if (parent !== undefined) out = out.withHeader(TraceContext.names.parent, parent)
    if (parent !== undefined && state !== undefined) out = out.withHeader(TraceContext.names.state, state)
  }
  if (baggage.size === 0 || message.headers[Bag.name] !== undefined) return out
  const header = Bag.format(baggage)
  return header === undefined ? out : out.withHeader(Bag.name, header)
}

/**
 * Makes one span for each message, which is the parent of every span that the handler makes.
 *
 * Consumers and servers continue the trace of `traceparent` and `tracestate`, publishers and clients write theirs into
 * the headers; headers that the message has already are kept, and then the span links to them. `baggage` becomes
 * `Trace.Baggage` and is written to messages published inside. Malformed headers are ignored. The span ends with the exit
 * of the chain: its error is the chain's, or the dead letter that a middleware answered; an interruption is no error.
 *
 * The span of a consumed message that is retried or becomes a dead letter has an event for it: `millrace.redelivery`
 * (with `millrace.redelivery.delay` in seconds, if the outcome names one) or `millrace.dead_letter` (with `error.type`).
 * Such a span is exported after the engine has decided; its end is still the end of the chain.
 *
 * The middleware makes no span if the tracer is Effect's own, which exports nothing, and none for a trace that its sender
 * does not sample; the trace context is still propagated. A tracer that throws loses its span; this is reported once on
 * standard error, and the message goes on. Nothing leaves or enters E and R.
 *
 * Sources: W3C Trace Context, W3C Baggage, OpenTelemetry semantic conventions for messaging spans (1.44).
 *
 * **Example** (spans to a collector)
 *
 * ```ts
 * import { Effect, Layer, pipe } from "effect"
 * import { FetchHttpClient } from "effect/http"
 * import { Otlp } from "effect/observability"
 * import { type Message, Trace } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<Uint8Array>) => Effect.succeed(message.payload.length),
 *   Trace.middleware({ sample: 0.1 })
 * )
 * const Telemetry = Otlp.layerJson({ baseUrl: "http://localhost:4318", resource: { serviceName: "billing" } }).pipe(
 *   Layer.provide(FetchHttpClient.layer)
 * )
 * ```
 *
 * @throws RangeError when `sample` is not from 0 to 1
 * @category constructors
 */
export const middleware = (options: Options = {}) => {
  const check = OptionCheck.make("Trace")
  const relation = check.oneOf("relation", options.relation ?? "parent", ["parent", "link"])
  const sample = check.fraction("sample", options.sample ?? 1)

  const describe = (fiber: Fiber.Fiber<unknown, unknown>, message: Envelope) => ({
    name: (options.name ?? nameOf)(message),
    attributes: {
      ...attributesOf(message, options.system ?? Context.getOrUndefined(fiber.context, Broker)?.system),
      ...placeOf(message),
      ...options.attributes?.(message)
    }
  })
  const redaction = Redaction.make(options.redact)
  const spare = (fiber: Fiber.Fiber<unknown, unknown>): boolean =>
    sample < 1 && fiber.getRef(Random.Random).nextDoubleUnsafe() >= sample

  return Middleware.make()(
    { name: "Trace", stage: "consume", inBatch: "each", shows: { relation, sample } },
    (next) => {
      const within = (message: Envelope, opened: Spans.Open, inner: typeof next): Middleware.Returns =>
        Eager.around(
          message,
          (message) => Eager.provide(Tracer.ParentSpan, opened.span, inner, message),
          (exit) =>
            Lost.attempt("Trace", () =>
              Spans.closeWithOutcome(opened, message, Spans.withoutSecrets(redaction, [message], exit)))
        )

      const receive = (fiber: Fiber.Fiber<unknown, unknown>, message: Envelope): Middleware.Returns => {
        const { headers } = message
        const baggage = headers[Bag.name]
        const inner: typeof next = baggage === undefined
          ? next
          : (message) => Eager.provide(Baggage, Bag.parse(baggage), next, message)
        const remote = TraceContext.fromHeaders(headers)
        const tracer = Spans.tracerOf(fiber)
        if (tracer === undefined || remote?.sampled === false) {
          return remote === undefined ? inner(message) : Eager.provide(Tracer.ParentSpan, remote, inner, message)
        }
        const parent = relation === "parent" ? remote : undefined
        if (parent === undefined && spare(fiber)) {
          const root = TraceContext.unsampledRoot(fiber.getRef(Random.Random))
          return Eager.provide(Tracer.ParentSpan, root, inner, message)
        }
        const links = linkTo(relation === "link" ? remote : undefined)
        const opened = Lost.attempt(
          "Trace",
          () => Spans.open(fiber, tracer, { ...describe(fiber, message), kind: message.kind, parent, links })
        )
        return opened === undefined ? inner(message) : within(message, opened, inner)
      }

      const send = (fiber: Fiber.Fiber<unknown, unknown>, message: Envelope): Middleware.Returns => {
        const ambient = Spans.ambientOf(fiber)
        const baggage = fiber.getRef(Baggage)
        const tracer = Spans.tracerOf(fiber)
        if (tracer === undefined || ambient?.sampled === false) return next(inject(message, ambient, baggage))
        if (ambient === undefined && spare(fiber)) {
          return next(inject(message, TraceContext.unsampledRoot(fiber.getRef(Random.Random)), baggage))
        }
        const given = TraceContext.fromHeaders(message.headers)
        const opened = Lost.attempt("Trace", () =>
          Spans.open(fiber, tracer, {
            ...describe(fiber, message),
            // the conventions: producer only where this span is the context that the message carries
            kind: given === undefined ? message.kind : "client",
            parent: ambient,
            links: linkTo(given)
          }))
        return opened === undefined
          ? next(inject(message, ambient, baggage))
          : within(inject(message, opened.span, baggage), opened, next)
      }

      const handle: Handler<Envelope, Middleware.Result, Middleware.Failure, Middleware.Services> = (message) => {
        const fiber = Fiber.getCurrent()
        if (fiber === undefined) return Effect.suspend(() => handle(message))
        return message.kind === "consumer" || message.kind === "server" ? receive(fiber, message) : send(fiber, message)
      }
      return handle
    }
  )
}

/**
 * Runs an effect inside one span that links to the span of each message of a batch, since a span has one parent and a
 * batch has many. Beyond 128 messages the span counts them and links to the first 128.
 *
 * Nothing leaves or enters E and R; without a tracer the effect runs as it is.
 *
 * **Example** (one write for many messages)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { type Message, Trace } from "@millrace/core"
 *
 * const write = (messages: ReadonlyArray<Message<Uint8Array>>) =>
 *   Effect.log(`writing ${messages.length} rows`).pipe(Trace.batch(messages, { name: "write orders" }))
 * ```
 *
 * @category combinators
 */
export const batch =
  (messages: ReadonlyArray<Envelope>, options: { readonly name?: string | undefined } = {}) =>
  <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.withFiber((fiber): Effect.Effect<A, E, R> => {
      const links = messages.map((message): Tracer.SpanLink | undefined => {
        const span = TraceContext.fromHeaders(message.headers)
        return span === undefined ? undefined : { span, attributes: placeOf(message) }
      })
      return Spans.batch(messages, links, Spans.ambientOf(fiber), options.name)(self)
    })
