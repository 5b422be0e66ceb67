/**
 * A tracer that keeps its spans, where a program in service would export them (`Otlp` of `effect/observability`).
 */
import { Context, Effect, Layer, Option, Tracer } from "effect"

export class Spans extends Context.Service<Spans, {
  readonly recorded: ReadonlyArray<Tracer.Span>
}>()("examples/orders/Spans") {}

/** The tracer, and what it has recorded. */
export const layer = Layer.unwrap(Effect.sync(() => {
  const recorded: Array<Tracer.Span> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      if (options.sampled) recorded.push(span)
      return span
    }
  })
  return Layer.merge(Layer.succeed(Spans, { recorded }), Layer.succeed(Tracer.Tracer, tracer))
}))

/** A span and what was done inside it. */
export interface Node {
  readonly span: Tracer.Span
  readonly children: ReadonlyArray<Node>
}

const parentOf = (span: Tracer.Span): string | undefined => Option.getOrUndefined(span.parent)?.spanId

/** The trace with the most spans, as a tree; undefined where there is none. */
export const largest = (recorded: ReadonlyArray<Tracer.Span>): Node | undefined => {
  const traces = Map.groupBy(recorded, ({ traceId }) => traceId)
  const [spans] = [...traces.values()].sort((a, b) => b.length - a.length)
  const root = spans?.find((span) => parentOf(span) === undefined)
  const node = (span: Tracer.Span): Node => ({
    span,
    children: (spans ?? []).filter((each) => parentOf(each) === span.spanId).map(node)
  })
  return root && node(root)
}
