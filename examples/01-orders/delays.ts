/**
 * A rate limit's store that also counts whom it makes wait: a Layer around a Layer.
 */
import { RateLimit } from "@millrace/core"
import { Context, Effect, Layer } from "effect"

export class Delays extends Context.Service<Delays, {
  readonly delayed: () => number
}>()("examples/orders/Delays") {}

const layerCounted = Layer.effectContext(Effect.gen(function*() {
  const store = yield* RateLimit.Store
  let delayed = 0
  return Context.make(Delays, { delayed: () => delayed }).pipe(
    Context.add(RateLimit.Store, {
      ...store,
      take: (charges, within) =>
        Effect.mapEager(store.take(charges, within), (decision) => {
          if (decision.isAdmitted && decision.wait > 0) delayed += 1
          return decision
        })
    })
  )
}))

export const layer = layerCounted.pipe(Layer.provide(RateLimit.layerMemory()))
