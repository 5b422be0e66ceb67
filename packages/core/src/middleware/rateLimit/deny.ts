/**
 * Caches refusals: the store is not called again for a key over its limit before the key can pass.
 */
import { Clock, Effect, Exit, Layer } from "effect"
import { compositeKey } from "../../message/compositeKey.ts"
import { type Charge, check, type Decision } from "./policy.ts"
import { RateLimitStore } from "./store.ts"

/** Limits the memory of `denying`. */
export interface DenyOptions {
  /** The most cached keys; an integer from 1. Default: 10,000. */
  readonly capacity?: number | undefined
}

interface Denied {
  readonly cost: number
  /** The time of the refused call, taken before the store decided. */
  readonly asked: number
  readonly decision: Decision
}

type Service = RateLimitStore["Service"]

/** Returns the only charge of a call whose refusal can be cached: one policy, not `concurrency`, and a cost above 0. */
const single = (charges: ReadonlyArray<Charge>): Charge | undefined => {
  const [first] = charges
  return charges.length === 1 && first !== undefined && first.policy.algorithm !== "concurrency" && first.cost > 0
    ? first
    : undefined
}

const make = (store: Service, capacity: number, clock: Clock.Clock): Service => {
  // in insertion order
  const denied = new Map<string, Denied>()
  const keep = (id: string, entry: Denied): void => {
    denied.delete(id)
    const oldest = denied.size >= capacity ? denied.keys().next().value : undefined
    if (oldest !== undefined) denied.delete(oldest)
    denied.set(id, entry)
  }
  return {
    ...store,
    take: (charges, within) => {
      const charge = single(charges)
      if (charge === undefined) return store.take(charges, within)
      const id = compositeKey(charge.policy.id, charge.key)
      const asked = clock.currentTimeMillisUnsafe()
      const known = denied.get(id)
      if (known !== undefined) {
        const [verdict] = known.decision.verdicts
        const passed = asked - known.asked
        const wait = verdict!.wait - passed
        if (passed >= 0 && wait > within && charge.cost >= known.cost) {
          // a larger cost waits longer; only the store knows how long
          if (charge.cost === known.cost) {
            const reset = Math.max(0, verdict!.reset - passed)
            return Exit.succeed({
              isAdmitted: false,
              wait: wait - within,
              verdicts: [{ wait, remaining: verdict!.remaining, reset }],
              at: known.decision.at + passed,
              lease: 0
            })
          }
        } else if (passed < 0 || wait <= 0) denied.delete(id)
      }
      return Effect.mapEager(store.take(charges, within), (decision) => {
        if (!decision.isAdmitted && Number.isFinite(decision.wait)) keep(id, { cost: charge.cost, asked, decision })
        return decision
      })
    }
  }
}

/**
 * Caches refusals in front of a store, so that a flood of one key does not load the store: a refused call is refused
 * again here until the store's `wait` is over.
 *
 * The cache never changes whether a message passes, since a key over its limit stays over it until then. The wait in a
 * refusal is the store's last answer: callers with a smaller cost may have spent since. The cache answers only calls of
 * one policy with the same cost, and none of `concurrency`, whose places are released. Do not use it with a store whose
 * counts other processes release or delete, as leases are: those keys could pass earlier.
 *
 * @throws RangeError when `capacity` is out of range
 * @category layers
 */
export const denying = (options: DenyOptions = {}): Layer.Layer<RateLimitStore, never, RateLimitStore> => {
  const capacity = check.count("capacity", options.capacity ?? 10_000)
  return Layer.effect(
    RateLimitStore,
    Effect.map(Effect.all([RateLimitStore, Clock.Clock]), ([store, clock]) => make(store, capacity, clock))
  )
}
