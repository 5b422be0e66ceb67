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
      take: (policy, key, within) =>
        Effect.mapEager(store.take(policy, key, within), (wait) => {
          if (wait > 0 && wait <= within) delayed += 1
          return wait
        })
    })
  )
}))

export const layer = layerCounted.pipe(Layer.provide(RateLimit.layerMemory()))
