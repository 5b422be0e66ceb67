/**
 * Idempotency keys in the memory of one process.
 */
import { Clock, Effect, Exit, Layer } from "effect"
import { type Claim, IdempotencyStore } from "./idempotencyStore.ts"

/** How much a memory store keeps. */
export interface MemoryOptions {
  /** The most keys; an integer from 1. Default: 100,000. */
  readonly capacity?: number | undefined
}

interface Entry {
  readonly token: number
  readonly fingerprint: string
  /** Unix time in milliseconds at which the claim or the result ends. */
  until: number
  result: Uint8Array | undefined
}

const reused: Exit.Exit<Claim> = Exit.succeed({ _tag: "Reused" })

/** How many of the oldest keys are looked at for one that may be forgotten, when a new key comes and there is no room. */
const looks = 16

class Keys {
  private readonly entries = new Map<string, Entry>()
  private readonly capacity: number
  private token = 0

  constructor(capacity: number) {
    this.capacity = capacity
  }

  claim(key: string, fingerprint: string, lease: number, now: number): Exit.Exit<Claim> {
    const entry = this.entries.get(key)
    if (entry !== undefined && entry.until > now) {
      if (entry.fingerprint !== fingerprint) return reused
      return Exit.succeed(
        entry.result === undefined
          ? { _tag: "Running", left: entry.until - now }
          : { _tag: "Completed", result: entry.result }
      )
    }
    if (entry !== undefined) this.entries.delete(key)
    else if (this.entries.size >= this.capacity) this.forget(now)
    const token = ++this.token
    this.entries.set(key, { token, fingerprint, until: now + lease, result: undefined })
    return Exit.succeed({ _tag: "Claimed", token })
  }

  /** The claim of a token, where it still holds. */
  held(key: string, token: number, now: number): Entry | undefined {
    const entry = this.entries.get(key)
    return entry !== undefined && entry.token === token && entry.result === undefined && entry.until > now
      ? entry
      : undefined
  }

  /** Behind all others: the map is in the order in which results end, where all are kept for the same time. */
  complete(key: string, entry: Entry, result: Uint8Array, until: number): void {
    entry.result = result
    entry.until = until
    this.entries.delete(key)
    this.entries.set(key, entry)
  }

  release(key: string, token: number): void {
    const entry = this.entries.get(key)
    if (entry?.token === token && entry.result === undefined) this.entries.delete(key)
  }

  /** What has ended goes, else the oldest result; claims stay, and the map grows beyond its capacity for them. */
  private forget(now: number): void {
    let looked = 0
    for (const [key, entry] of this.entries) {
      if (entry.until <= now || entry.result !== undefined) {
        this.entries.delete(key)
        return
      }
      if (++looked === looks) return
    }
  }
}

/**
 * A store in the memory of this process, answered at once and bounded.
 *
 * A key takes about 200 bytes beside its own text and its result. Beyond `capacity` the oldest result is forgotten before
 * its time, and its request would run again. After a restart nothing is known; each of several processes knows its own.
 *
 * @throws RangeError when `capacity` is out of range
 * @category layers
 */
export const layerMemory = (options: MemoryOptions = {}): Layer.Layer<IdempotencyStore> => {
  const capacity = options.capacity ?? 100_000
  if (!Number.isInteger(capacity) || capacity < 1) {
    throw new RangeError(`Idempotency: capacity must be an integer from 1, got ${capacity}`)
  }
  return Layer.effect(
    IdempotencyStore,
    Effect.map(Clock.Clock, (clock) => {
      const keys = new Keys(capacity)
      const now = () => clock.currentTimeMillisUnsafe()
      return {
        claim: ({ fingerprint, key, lease }) => keys.claim(key, fingerprint, lease, now()),
        complete: (key, token, result, keep) => {
          const entry = keys.held(key, token, now())
          if (entry !== undefined) keys.complete(key, entry, result, now() + keep)
          return Exit.succeed(entry !== undefined)
        },
        extend: (key, token, lease) => {
          const entry = keys.held(key, token, now())
          if (entry !== undefined) entry.until = now() + lease
          return Exit.succeed(entry !== undefined)
        },
        release: (key, token) => {
          keys.release(key, token)
          return Exit.void
        }
      }
    })
  )
}
