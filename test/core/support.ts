import { Deliveries } from "@millrace/testing"
import { Effect, Exit, Tracer } from "effect"
import type { Handler } from "@millrace/core"

export const deliver = Deliveries.make

/** Runs a chain over one message and then its hooks; a failing hook fails a chain that had succeeded. */
export const runChain = <M extends Deliveries.Carrier, A, E, R>(
  handler: Handler<M, A, E, R>,
  message: M
): Effect.Effect<Exit.Exit<A, unknown>, never, R> =>
  Effect.map(
    Deliveries.run(handler, message),
    ({ exit, hooks }) => Exit.isSuccess(exit) && Exit.isFailure(hooks) ? Exit.failCause(hooks.cause) : exit
  )

/** A tracer that keeps its spans, and which of them are roots. */
export const recording = () => {
  const spans: Array<Tracer.NativeSpan> = []
  const roots: Array<boolean> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      roots.push(options.root)
      spans.push(span)
      return span
    }
  })
  return { spans, roots, traced: Effect.provideService(Tracer.Tracer, tracer) }
}
