/**
 * The services of messages that are handled together. Different services keep messages apart; references that identify one
 * message (its ids, span, log annotations, baggage and attempt) do not: the batch gets the values shared by all messages.
 */
import { Clock, Context, Random, References, Scope, Tracer } from "effect"
import * as Correlation from "../message/Correlation.ts"
import type { Envelope } from "../message/Message.ts"

type Services = ReadonlyMap<string, unknown>

const annotations = References.CurrentLogAnnotations.key

/** Keys of the references that identify the handled message. */
const naming: ReadonlyArray<string> = [
  Correlation.Current.key,
  Tracer.ParentSpan.key,
  // references of middlewares, which this folder does not import
  "@millrace/core/Trace/Baggage",
  "@millrace/core/Retry/Attempt"
]

/** Keys of the references, and of the one service, that do not keep messages apart. */
const ambient: ReadonlyArray<string> = [
  ...naming,
  annotations,
  // the batch has a scope of its own
  Scope.Scope.key,
  References.CurrentLogSpans.key,
  References.CurrentStackFrame.key,
  References.TracerSpanAnnotations.key,
  References.TracerSpanLinks.key
]

const isAmbient: ReadonlySet<string> = new Set(ambient)

const missing = (from: Services, to: Services): string | undefined => {
  for (const [key, value] of from) if (!isAmbient.has(key) && to.get(key) !== value) return key
  return undefined
}

/** Compares the services of messages, and remembers the last service that kept two messages apart. */
export class Comparison {
  /** The key of that service; undefined as long as all messages had the same services. */
  differed: string | undefined

  /** Tells whether messages with these services may be handled together: each service is the same object in both. */
  isSame(one: Context.Context<never>, other: Context.Context<never>): boolean {
    if (one === other) return true
    const a: Services = one.mapUnsafe
    const b: Services = other.mapUnsafe
    // usually the same service differs again
    if (this.differed !== undefined && a.get(this.differed) !== b.get(this.differed)) return false
    const found = missing(a, b) ?? missing(b, a)
    if (found !== undefined) this.differed = found
    return found === undefined
  }
}

/** A message with the services provided by the middlewares outside. */
export interface Held<M> {
  readonly message: M
  readonly context: Context.Context<never>
}

/** Returns the fields that are equal in all records. */
export const common = (all: ReadonlyArray<Readonly<Record<string, unknown>> | undefined>): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(all[0] ?? {}).filter(([name, value]) => all.every((each) => each?.[name] === value))
  )

/** The most messages named on a log line. */
const mostNamed = 128

/** Makes the ids of a batch: the flow of all messages if they share one, else a new one; no single message caused the batch. */
const idsOf = (
  all: ReadonlyArray<Correlation.Correlation | undefined>,
  context: Context.Context<never>
): Correlation.Correlation => ({
  id: all[0] !== undefined && all.every((each) => each?.id === all[0]!.id)
    ? all[0].id
    : Correlation.uuidV7(
      Context.get(context, Clock.Clock).currentTimeMillisUnsafe(),
      Context.get(context, Random.Random)
    ),
  causation: undefined,
  upstream: undefined,
  replaced: undefined
})

/**
 * Returns the services of a batch: those that all its messages share. Differing references are left out, except the ids:
 * messages of several flows get the ids of a new flow, and each log line lists the messages as `causationIds`.
 */
export const together = (members: ReadonlyArray<Held<Envelope>>): Context.Context<never> => {
  const { context } = members[0]!
  if (members.every((each) => each.context === context)) return context
  const all: ReadonlyArray<Services> = members.map((each) => each.context.mapUnsafe)
  const whole = new Map(all[0])
  const differs = (key: string): boolean => all.some((each) => each.get(key) !== whole.get(key))
  const different = ambient.filter(differs)
  for (const key of different) whole.delete(key)
  const notes = common(all.map((each) => each.get(annotations) as Readonly<Record<string, unknown>> | undefined))
  if (different.includes(Correlation.Current.key)) {
    const found = members.map(({ context }) => Context.get(context, Correlation.Current))
    const ids = idsOf(found, context)
    whole.set(Correlation.Current.key, ids)
    notes["correlationId"] = ids.id
    notes["causationIds"] = found.slice(0, mostNamed).flatMap((each) => each?.causation ?? each?.id ?? [])
  }
  whole.set(annotations, notes)
  return Context.makeUnsafe(whole)
}

/** Adds to `context` the ids, span, baggage, attempt and log annotations of one message. */
export const alone = <R>(context: Context.Context<R>, member: Context.Context<never>): Context.Context<R> => {
  const own: Services = member.mapUnsafe
  const whole = new Map<string, unknown>(context.mapUnsafe)
  for (const key of naming) {
    if (own.has(key)) whole.set(key, own.get(key))
    else whole.delete(key)
  }
  const { causationIds: _, ...notes } = Context.get(context, References.CurrentLogAnnotations)
  whole.set(annotations, { ...notes, ...Context.get(member, References.CurrentLogAnnotations) })
  return Context.makeUnsafe(whole)
}

/** Lists the sampled spans of messages with different spans; undefined if all messages have the same span. */
export const spansOf = (members: ReadonlyArray<Held<Envelope>>): ReadonlyArray<Tracer.AnySpan> | undefined => {
  const spans = members.map(({ context }) => Context.getOrUndefined(context, Tracer.ParentSpan))
  if (spans.every((span) => span === spans[0])) return undefined
  return [...new Set(spans)].filter((span): span is Tracer.AnySpan => span?.sampled === true)
}
