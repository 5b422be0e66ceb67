/**
 * Refusals remembered: a key that is over its limit is not asked about again before it can pass.
 */
import { Clock, Effect, Exit, Layer } from "effect"
import { compositeKey } from "../../message/compositeKey.ts"
import { type Charge, check, type Decision } from "./policy.ts"
import { RateLimitStore } from "./store.ts"

/** How much `denying` keeps. */
export interface DenyOptions {
  /** The most keys that are remembered; an integer from 1. Default: 10,000. */
  readonly capacity?: number | undefined
}

interface Denied {
  readonly cost: number
  /** When the call was made that was refused: before the store decided. */
  readonly asked: number
  readonly decision: Decision
}

type Service = RateLimitStore["Service"]

/** What decides of the first charge: calls of one policy, whose places nobody gives back. */
const single = (charges: ReadonlyArray<Charge>): Charge | undefined => {
  const [first] = charges
  return charges.length === 1 && first !== undefined && first.policy.algorithm !== "concurrency" && first.cost > 0
    ? first
    : undefined
}

const make = (store: Service, capacity: number, clock: Clock.Clock): Service => {
  // in the order of insertion
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
          // a larger cost waits longer, for how long only the store knows
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
 * Puts a memory of refusals before a store, so that a flood of one key costs it nothing: a call that was refused is refused here
 * until the wait that the store said is over.
 *
 * It changes no answer of whether a message passes, as what is over a limit stays so until then. What a refusal says of the time
 * to come back is the store's last word: others who take less at a time may have spent since. Only calls of one policy, and
 * with the same cost, are answered here, and none of `concurrency`, whose places are given back. Not for a store whose counts are
 * given back or deleted by others, as leases are: they could pass earlier.
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
