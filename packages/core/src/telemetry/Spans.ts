/**
 * The spans of messages and of batches: their start and their end.
 */
import { Cause, Clock, Context, Duration, Effect, Exit, type Fiber, LogLevel, Option, References, Tracer } from "effect"
import * as Correlation from "../message/Correlation.ts"
import { tagOf } from "../message/Failure.ts"
import type { Envelope } from "../message/Message.ts"
import type * as Outcome from "../message/Outcome.ts"
import * as Redaction from "./Redaction.ts"
import { common } from "./Ambient.ts"
import { attributesOf, nameOf } from "./Conventions.ts"
import * as Ending from "./Ending.ts"
import * as Lost from "./Lost.ts"

/** Returns the tracer for spans, or undefined if no exporter reads them. */
export const tracerOf = (fiber: Fiber.Fiber<unknown, unknown>): Tracer.Tracer | undefined => {
  const { tracer, tracerEnabled } = fiber.cache
  if (!tracerEnabled || tracer === undefined || tracer === Tracer.nativeTracer) return undefined
  const level = fiber.getRef(Tracer.CurrentTraceLevel)
  return LogLevel.isGreaterThan(fiber.getRef(Tracer.MinimumTraceLevel), level) ? undefined : tracer
}

/** A started span. */
export interface Open {
  readonly span: Tracer.Span
  /** The clock by which the span started, in nanoseconds; 0 if spans are not timed. */
  readonly now: () => bigint
}

/** Starts a span, with the attributes shared by all spans of the fiber. */
export const open = (fiber: Fiber.Fiber<unknown, unknown>, tracer: Tracer.Tracer, options: {
  readonly name: string
  readonly kind: Tracer.SpanKind
  readonly parent: Tracer.AnySpan | undefined
  readonly links: ReadonlyArray<Tracer.SpanLink>
  readonly attributes: Readonly<Record<string, unknown>>
}): Open => {
  const clock = fiber.getRef(Clock.Clock)
  const now = fiber.getRef(References.TracerTimingEnabled) ? () => clock.currentTimeNanosUnsafe() : () => 0n
  const span = tracer.span({
    name: options.name,
    kind: options.kind,
    parent: Option.fromUndefinedOr(options.parent),
    root: options.parent === undefined,
    links: [...fiber.getRef(References.TracerSpanLinks), ...options.links],
    annotations: Context.empty(),
    startTime: now(),
    sampled: true
  })
  const shared = fiber.getRef(References.TracerSpanAnnotations)
  for (const key in shared) span.attribute(key, shared[key])
  for (const key in options.attributes) span.attribute(key, options.attributes[key])
  const ids = fiber.getRef(Correlation.Current)
  if (ids !== undefined) {
    const named = Correlation.attributesOf(ids, options.kind)
    for (const key in named) span.attribute(key, named[key])
  }
  return { span, now }
}

/**
 * Ends a span by the end of its chain. An answered dead letter is an error, although the chain did not fail; a server's 4xx
 * refusal is not an error, although the chain failed.
 */
export const close = (
  { span }: Open,
  at: bigint,
  exit: Exit.Exit<unknown, unknown>,
  ending: Ending.Ending & { readonly type?: string } = Ending.of(exit)
): void => {
  const { error, status, type = typeof error === "number" ? String(error) : tagOf(error) } = ending
  if (status !== "done") span.attribute("millrace.status", status)
  if (status === "rejected" && exit._tag === "Failure") return span.end(at, Exit.void)
  if (status !== "failed") return span.end(at, exit)
  // a 5xx answer without an error is named by its status
  span.attribute("error.type", type)
  span.end(at, exit._tag === "Failure" ? exit : Exit.fail(error))
}

const addOutcome = ({ span }: Open, at: bigint, outcome: Outcome.Outcome): void => {
  if (outcome._tag === "Retry") {
    const { after } = outcome
    span.event(
      "millrace.redelivery",
      at,
      after === undefined ? {} : { "millrace.redelivery.delay": Duration.toSeconds(after) }
    )
  }
  if (outcome._tag === "DeadLetter") {
    span.event(
      "millrace.dead_letter",
      at,
      outcome.error === undefined ? {} : { "error.type": tagOf(outcome.error) }
    )
  }
}

/**
 * Ends the span of a message: now, or, for a consumed message that may be retried or given up, when its outcome is known.
 */
export const closeWithOutcome = (
  opened: Open,
  message: Envelope,
  exit: Exit.Exit<unknown, unknown>
): void => {
  const at = opened.now()
  const ending = Ending.ofMessage(message, exit)
  const { status, statusCode } = ending
  if (statusCode !== undefined) opened.span.attribute("http.response.status_code", statusCode)
  if (message.kind !== "consumer" || (status !== "failed" && status !== "retried")) {
    return close(
      opened,
      at,
      exit,
      Ending.isStatus(message.kind, statusCode) ? { ...ending, type: String(statusCode) } : ending
    )
  }
  message.after((_, outcome) => {
    try {
      if (outcome !== undefined) addOutcome(opened, at, outcome)
      close(opened, at, exit)
    } catch {
      // a tracer that throws loses its span; the message is still settled
    }
    return undefined
  })
}

/** Returns the current span of the fiber, if it may be the parent of other spans. */
export const ambientOf = (fiber: Fiber.Fiber<unknown, unknown>): Tracer.AnySpan | undefined => {
  const { span } = fiber.cache
  return span === undefined || Context.get(span.annotations, Tracer.DisablePropagation) ? undefined : span
}

/** Makes the exit for a span: its error without the secrets of the messages. */
export const withoutSecrets = (
  redaction: Redaction.Redaction,
  messages: ReadonlyArray<Envelope>,
  exit: Exit.Exit<unknown, unknown>
): Exit.Exit<unknown, unknown> => {
  const { error, status } = Ending.of(exit)
  if (status !== "failed") return exit
  return Exit.failCause(messages.reduce(
    (cause, message) => Redaction.hideCause(redaction, message, cause),
    exit._tag === "Failure" ? exit.cause : Cause.fail(error)
  ))
}

/** Most links of a span: OpenTelemetry's default limit. */
const maximumLinks = 128

const usual = Redaction.make()

/** Runs an effect inside one span linked to the messages of a batch; its attributes are those shared by all messages. */
export const batch = (
  messages: ReadonlyArray<Envelope>,
  links: ReadonlyArray<Tracer.SpanLink | undefined>,
  parent: Tracer.AnySpan | undefined,
  name?: string | undefined
) =>
<A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber): Effect.Effect<A, E, R> => {
    const tracer = tracerOf(fiber)
    const first = messages[0]
    if (tracer === undefined || first === undefined) return self
    const shared = common(messages.map((message) => attributesOf(message, undefined)))
    const opened = Lost.attempt("A span", () =>
      open(fiber, tracer, {
        name: name ?? nameOf(first),
        kind: first.kind,
        parent,
        links: links.slice(0, maximumLinks).filter((link) => link !== undefined),
        attributes: { ...shared, "messaging.batch.message_count": messages.length }
      }))
    if (opened === undefined) return self
    return Effect.acquireUseRelease(
      Effect.succeed(opened),
      ({ span }) => Effect.withParentSpan(self, span),
      (opened, exit) =>
        Effect.sync(() =>
          Lost.attempt("A span", () => close(opened, opened.now(), withoutSecrets(usual, messages, exit)))
        )
    )
  })
