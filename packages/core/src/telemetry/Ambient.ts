/**
 * The services of messages that are handled together. Services that differ keep messages apart; references that only name
 * one message (its ids, span, log annotations, baggage and attempt) do not: the whole gets those that all messages share.
 */
import { Clock, Context, Random, References, Scope, Tracer } from "effect"
import * as Correlation from "../message/Correlation.ts"
import type { Envelope } from "../message/Message.ts"

type Services = ReadonlyMap<string, unknown>

const annotations = References.CurrentLogAnnotations.key

/** Keys of the references that say which message is handled. */
const naming: ReadonlyArray<string> = [
  Correlation.Current.key,
  Tracer.ParentSpan.key,
  // those of middlewares, which this folder does not import
  "@millrace/core/Trace/Baggage",
  "@millrace/core/Retry/Attempt"
]

/** Keys of the references, and of the one service, that do not keep messages apart. */
const ambient: ReadonlyArray<string> = [
  ...naming,
  annotations,
  // the whole has a scope of its own
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

/** Compares the services of messages, and remembers the service that kept the last two apart. */
export class Comparison {
  /** The key of that service; undefined as long as all messages had the same services. */
  differed: string | undefined

  /** Whether messages with these services may be handled together: each service is the same object in both. */
  isSame(one: Context.Context<never>, other: Context.Context<never>): boolean {
    if (one === other) return true
    const a: Services = one.mapUnsafe
    const b: Services = other.mapUnsafe
    // most often the same service differs again
    if (this.differed !== undefined && a.get(this.differed) !== b.get(this.differed)) return false
    const found = missing(a, b) ?? missing(b, a)
    if (found !== undefined) this.differed = found
    return found === undefined
  }
}

/** A message with the services that the middlewares outside gave it. */
export interface Held<M> {
  readonly message: M
  readonly context: Context.Context<never>
}

/** What all of the records say. */
export const common = (all: ReadonlyArray<Readonly<Record<string, unknown>> | undefined>): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(all[0] ?? {}).filter(([name, value]) => all.every((each) => each?.[name] === value))
  )

/** The most messages that are named on log lines. */
const mostNamed = 128

/** The ids of the whole: the flow that all messages belong to, else a new one; no message alone has caused it. */
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
 * The services of messages that are handled together: those that they share. References that differ are left out, but for
 * the ids: of messages of several flows they are those of a new flow, and each log line names all messages as `causationIds`.
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

/** The services of `context`, with the ids, span, baggage and attempt of one message, and its log annotations added. */
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

/** The spans of messages that differ from each other, those alone that are sampled; undefined where all have the same one. */
export const spansOf = (members: ReadonlyArray<Held<Envelope>>): ReadonlyArray<Tracer.AnySpan> | undefined => {
  const spans = members.map(({ context }) => Context.getOrUndefined(context, Tracer.ParentSpan))
  if (spans.every((span) => span === spans[0])) return undefined
  return [...new Set(spans)].filter((span): span is Tracer.AnySpan => span?.sampled === true)
}
