/**
 * The context of a message that its workflow keeps: correlation, causation, principal and trace context, as headers.
 */
import { Auth, Baggage, Correlation, type Envelope, Headers, Trace, TraceContext } from "@millrace/core"
import { Context, Fiber, Tracer } from "effect"
import { nameOf } from "./executionId.ts"

/** The header with the subject of the principal that sent the message. */
export const principal = "millrace-principal"

/** Reads the ids that `Correlate` has set, else those of the message itself. */
const idsOf = (message: Envelope): Headers.Headers => {
  const current = Correlation.current()
  if (current !== undefined) return Correlation.linked(Headers.empty)
  const id = message.headers[Correlation.names.flow] ?? message.headers[Correlation.names.correlation]
  const cause = nameOf(message)
  const ids: Record<string, string> = {}
  if (id !== undefined && Correlation.isToken(id)) ids[Correlation.names.correlation] = id
  if (cause !== undefined && Correlation.isToken(cause)) ids[Correlation.names.causation] = cause
  return ids
}

/** Makes the headers that travel with a start or a signal; `more` replaces equal names. */
export const headersOf = (
  message: Envelope,
  more: { readonly [name: string]: string } | undefined
): { readonly [name: string]: string } => {
  const all: Record<string, string> = { ...idsOf(message) }
  const fiber = Fiber.getCurrent()
  if (fiber !== undefined) {
    const span = Context.getOption(fiber.context, Tracer.ParentSpan)
    if (span._tag === "Some") {
      all[TraceContext.names.parent] = TraceContext.parentOf(span.value)
      const state = TraceContext.stateOf(span.value)
      if (state !== undefined) all[TraceContext.names.state] = state
    }
    const baggage = Baggage.format(fiber.getRef(Trace.Baggage))
    if (baggage !== undefined) all[Baggage.name] = baggage
    const sender = Context.getOption(fiber.context, Auth.Principal)
    if (sender._tag === "Some") all[principal] = sender.value.subject
  }
  if (all[TraceContext.names.parent] === undefined) {
    for (const name of [TraceContext.names.parent, TraceContext.names.state]) {
      const value = message.headers[name]
      if (value !== undefined) all[name] = value
    }
  }
  return more === undefined ? all : { ...all, ...Headers.fromRecord(more) }
}
