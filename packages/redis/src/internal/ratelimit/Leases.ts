/**
 * Reserves tokens of rate limits in Redis and spends them in this process. A process reserves only when its tokens do not
 * suffice, so its unspent tokens of a key never exceed one lease, or one message's cost. Over any time, the passed messages
 * cost at most the tokens reserved in it, plus one earlier lease of each process.
 */
import type { RateLimit } from "@millrace/core"
import { type Clock, Deferred, Effect, Exit, type Scope } from "effect"

type Store = RateLimit.Store["Service"]
type Failed = RateLimit.RateLimitUnavailable

/** The size of leases, and the calls that reserve and return tokens. */
export interface LeaseOptions {
  readonly tokens: number
  readonly capacity: number
  readonly clock: Clock.Clock
  /** Answers granted, wait, time, remaining, reset. */
  readonly reserve: (charge: RateLimit.Charge, most: number) => Effect.Effect<ReadonlyArray<number>, Failed>
  readonly giveBack: (charge: RateLimit.Charge) => Effect.Effect<unknown, Failed>
}

/** The tokens of a key. */
class Pool {
  readonly charge: RateLimit.Charge
  tokens = 0
  /** Milliseconds until the whole limit is available again, as last reported by the server. */
  reset = 0
  /** The tokens that the running reservation needs; callers that arrive meanwhile wait for that reservation. */
  asked = 0
  asking: Deferred.Deferred<ReadonlyArray<number>, Failed> | undefined

  constructor(charge: RateLimit.Charge) {
    this.charge = charge
  }
}

/** Makes a store that spends reserved tokens locally where possible. */
export const leased = (store: Store, options: LeaseOptions): Effect.Effect<Store, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { capacity, clock, giveBack, reserve, tokens } = options
    const policies = new Map<string, Map<string, Pool>>()
    let size = 0
    let isClosed = false

    const back = (pool: Pool) => {
      const cost = pool.tokens
      pool.tokens = 0
      return cost === 0 ? Effect.void : Effect.ignore(giveBack({ ...pool.charge, cost }))
    }
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        isClosed = true
        const pools = Array.from(policies.values(), (each) => Array.from(each.values())).flat()
        return Effect.forEach(pools, back, { concurrency: 64, discard: true })
      })
    )

    const poolOf = (charge: RateLimit.Charge): Pool | undefined => {
      let pools = policies.get(charge.policy.id)
      if (pools === undefined) policies.set(charge.policy.id, pools = new Map())
      const known = pools.get(charge.key)
      if (known !== undefined) return known
      if (size >= capacity) {
        // evict the policy's oldest key with its tokens: fewer messages pass, never more
        const oldest = pools.entries().next().value
        if (oldest === undefined || oldest[1].asking !== undefined) return undefined
        pools.delete(oldest[0])
        size--
      }
      const made = new Pool({ ...charge, cost: 1 })
      pools.set(charge.key, made)
      size++
      return made
    }

    const spent = (pool: Pool, cost: number): Exit.Exit<RateLimit.Decision> => {
      pool.tokens -= cost
      return Exit.succeed({
        isAdmitted: true,
        wait: 0,
        verdicts: [{ wait: 0, remaining: pool.tokens, reset: pool.reset }],
        at: clock.currentTimeMillisUnsafe(),
        lease: 0
      })
    }

    /** Reserves the missing tokens, so that the pool holds no more than a lease, or the cost of the message. */
    const fill = (pool: Pool, charge: RateLimit.Charge): Effect.Effect<ReadonlyArray<number>, Failed> =>
      Effect.suspend(() => {
        const asking = Deferred.makeUnsafe<ReadonlyArray<number>, Failed>()
        pool.asking = asking
        const share = Math.max(1, Math.min(tokens, Math.floor(charge.policy.burst / 10)))
        const missing = charge.cost - pool.tokens
        pool.asked = missing
        const asked = reserve({ ...charge, cost: missing }, Math.max(missing, share - pool.tokens))
        // keep or return the reserved tokens, even if the caller was interrupted
        return Effect.uninterruptible(Effect.onExit(asked, (exit) => {
          pool.asking = undefined
          if (exit._tag === "Success") {
            pool.tokens += exit.value[0]!
            pool.reset = exit.value[4]!
          }
          Deferred.doneUnsafe(asking, exit)
          return isClosed ? back(pool) : Effect.void
        }))
      })

    const refused = (
      pool: Pool,
      [, wait, at, remaining, reset]: ReadonlyArray<number>,
      charges: ReadonlyArray<RateLimit.Charge>,
      within: number
    ): Effect.Effect<RateLimit.Decision, Failed> =>
      // the server keeps a turn that the caller may wait for
      within > 0
        ? store.take(charges, within)
        : Exit.succeed({
          isAdmitted: false,
          wait: wait!,
          verdicts: [{ wait: wait!, remaining: remaining! + pool.tokens, reset: reset! }],
          at: at!,
          lease: 0
        })

    const ask = (
      pool: Pool,
      charge: RateLimit.Charge,
      charges: ReadonlyArray<RateLimit.Charge>,
      within: number
    ): Effect.Effect<RateLimit.Decision, Failed> => {
      if (pool.tokens >= charge.cost) return spent(pool, charge.cost)
      if (pool.asking !== undefined) {
        const asked = pool.asked
        return Effect.flatMap(Deferred.await(pool.asking), (answer) =>
          // a refusal of the same or a smaller amount a moment ago also holds for this caller
          answer[0] === 0 && asked <= charge.cost - pool.tokens
            ? refused(pool, answer, charges, within)
            : Effect.suspend(() => ask(pool, charge, charges, within)))
      }
      return Effect.flatMap(fill(pool, charge), (answer) =>
        answer[0]! > 0
          ? Effect.suspend(() => ask(pool, charge, charges, within))
          : refused(pool, answer, charges, within))
    }

    return {
      ...store,
      take: (charges, within) => {
        const charge = charges[0]
        if (charges.length !== 1 || charge === undefined || isClosed) return store.take(charges, within)
        const { cost, policy } = charge
        if (cost === 0 || cost > policy.burst || policy.algorithm !== "gcra" && policy.algorithm !== "tokenBucket") {
          return store.take(charges, within)
        }
        const pool = poolOf(charge)
        return pool === undefined ? store.take(charges, within) : ask(pool, charge, charges, within)
      }
    }
  })
