/**
 * Handlers that pass through several brokers on their way to the engine. Each broker adds its middleware; the first one added
 * is the outermost.
 */
import * as Description from "./Description.ts"
import type { Handler } from "./Handler.ts"

/** The key under which a handler stores its inner handler and middlewares. */
const WrappedId = "~millrace/Wrapped"

interface Wrapped<H> {
  readonly handler: H
  /** Outermost first. */
  readonly layers: ReadonlyArray<(next: H) => H>
}

/** Adds a middleware around the handler, inside all middlewares added before. */
export const add = <M, A, E, R>(
  target: Handler<M, A, E, R> & { readonly [WrappedId]?: Wrapped<Handler<M, A, E, R>> },
  layer: (next: Handler<M, A, E, R>) => Handler<M, A, E, R>,
  steps: ReadonlyArray<Description.Description>
): Handler<M, A, E, R> & Description.Described => {
  const { handler, layers } = target[WrappedId] ?? { handler: target, layers: [] }
  const all = [...layers, layer]
  const of = Description.of(target)
  const outside = of.slice(0, of.length - Description.of(handler).length)
  // composed once, and by the last broker: each middleware is built once for each handler
  let composed: Handler<M, A, E, R> | undefined
  const wrapped: Handler<M, A, E, R> = (message) =>
    (composed ??= all.reduceRight((next, apply) => apply(next), handler))(message)
  Object.defineProperty(wrapped, WrappedId, { value: { handler, layers: all } })
  return Description.describe(wrapped, [...outside, ...steps, ...Description.of(handler)])
}
