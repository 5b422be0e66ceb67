/**
 * Keeps idempotency keys in the memory of one process.
 */
import { Clock, Effect, Exit, Layer } from "effect"
import * as OptionCheck from "../../message/OptionCheck.ts"
import { DoneKeys, type Mark } from "./done.ts"
import { monotonic } from "./lease.ts"
import { type Claim, IdempotencyStore } from "./store.ts"

/** Limits the size of a memory store. */
export interface MemoryOptions {
  /** The most completed keys; an integer from 1 to 2^30. Default: 100,000, which is 4 MB. */
  readonly capacity?: number | undefined
}

interface Running {
  readonly token: number
  readonly fingerprint: string
  readonly mark: Mark
  /** Monotonic time in milliseconds at which the claim ends. */
  until: number
}

const reused: Exit.Exit<Claim> = Exit.succeed({ _tag: "Reused" })

/** How many of the oldest claims a new claim examines; claims that have ended are removed. */
const looks = 2

class Keys {
  private readonly running = new Map<string, Running>()
  private readonly done: DoneKeys
  private token = 0

  constructor(capacity: number) {
    this.done = new DoneKeys(capacity)
  }

  claim(key: string, fingerprint: string, lease: number, now: number): Exit.Exit<Claim> {
    const { done, running } = this
    const claim = running.get(key)
    if (claim !== undefined && claim.until > now) {
      return claim.fingerprint === fingerprint ? Exit.succeed({ _tag: "Running", left: claim.until - now }) : reused
    }
    const mark = done.markOf(key, fingerprint)
    const place = done.find(mark, now)
    if (place >= 0) {
      return done.isSame(place, mark) ? Exit.succeed({ _tag: "Completed", result: done.resultAt(place) }) : reused
    }
    if (claim !== undefined) running.delete(key)
    this.sweep(now)
    const token = ++this.token
    running.set(key, { token, fingerprint, mark: mark.slice(), until: now + lease })
    return Exit.succeed({ _tag: "Claimed", token })
  }

  /** The claim of a token, if it still holds. */
  held(key: string, token: number, now: number): Running | undefined {
    const claim = this.running.get(key)
    return claim !== undefined && claim.token === token && claim.until > now ? claim : undefined
  }

  /** Moves the claim behind all others, so claims with equal leases stay in the order in which they end. */
  extend(key: string, claim: Running, until: number): void {
    claim.until = until
    this.running.delete(key)
    this.running.set(key, claim)
  }

  complete(key: string, { mark }: Running, result: Uint8Array, until: number, now: number): void {
    this.running.delete(key)
    this.done.add(mark, result, until, now)
  }

  release(key: string, token: number): void {
    if (this.running.get(key)?.token === token) this.running.delete(key)
  }

  /** Removes claims that have ended because their owners died without a release. */
  private sweep(now: number): void {
    let looked = 0
    for (const [key, claim] of this.running) {
      if (claim.until <= now) this.running.delete(key)
      if (++looked === looks) return
    }
  }
}

/**
 * Keeps keys in the memory of this process, synchronous and bounded.
 *
 * A completed key takes about 37 bytes beside its result, as only hashes are kept: 128 bits of the key, under a secret of
 * this process, and 32 bits of its fingerprint. Beyond `capacity` the oldest result is evicted before its time, and its
 * request would run again. Running claims are kept apart, and are not evicted. Time is monotonic: a change of the wall
 * clock ends no claim and no result. A restart loses all keys; each of several processes has its own.
 *
 * @throws RangeError when `capacity` is out of range
 * @category layers
 */
export const layerMemory = (options: MemoryOptions = {}): Layer.Layer<IdempotencyStore> => {
  const capacity = OptionCheck.make("Idempotency").count("capacity", options.capacity ?? 100_000, { most: 2 ** 30 })
  return Layer.effect(
    IdempotencyStore,
    Effect.map(Clock.Clock, (clock) => {
      const keys = new Keys(capacity)
      const now = () => monotonic(clock)
      return {
        claim: ({ fingerprint, key, lease }) => keys.claim(key, fingerprint, lease, now()),
        complete: (key, token, result, keep) => {
          const at = now()
          const claim = keys.held(key, token, at)
          if (claim !== undefined) keys.complete(key, claim, result, at + keep, at)
          return Exit.succeed(claim !== undefined)
        },
        extend: (key, token, lease) => {
          const claim = keys.held(key, token, now())
          if (claim !== undefined) keys.extend(key, claim, now() + lease)
          return Exit.succeed(claim !== undefined)
        },
        release: (key, token) => {
          keys.release(key, token)
          return Exit.void
        }
      }
    })
  )
}
