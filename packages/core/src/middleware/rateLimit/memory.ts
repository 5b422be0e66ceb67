/**
 * Keeps rate limits in the memory of this process, bounded, and answers synchronously.
 */
import { Clock, Effect, Exit, Layer } from "effect"
import { Table } from "./gcra.ts"
import { type Charge, check, type Decision, isBucket, type Policy, type Verdict } from "./policy.ts"
import * as State from "./state.ts"
import { RateLimitStore } from "./store.ts"

/** Limits the size of a memory store. */
export interface MemoryOptions {
  /** The most keys of each policy; an integer from 1. Default: 100,000. */
  readonly capacity?: number | undefined
}

/** How many used keys are examined for one to evict when a new key comes and there is no room. */
const looks = 16

/** Holds the states of all keys of one policy, and one shared state of all keys without room. */
class States {
  private readonly policy: Policy
  private readonly capacity: number
  private readonly states = new Map<string, State.State>()
  private readonly keys: Array<string> = []
  private hand = 0
  private crowd: State.State = []

  constructor(policy: Policy, capacity: number) {
    this.policy = policy
    this.capacity = capacity
  }

  get(key: string): State.State {
    // a new key starts from the shared state: it may have been counted there before
    return this.states.get(key) ?? this.crowd
  }

  set(key: string, state: State.State, now: number): void {
    if (this.states.has(key) || this.makeRoom(key, now)) this.states.set(key, state)
    else this.crowd = state
  }

  private makeRoom(key: string, now: number): boolean {
    if (this.keys.length < this.capacity) {
      this.keys.push(key)
      return true
    }
    for (let i = 0; i < looks; i++) {
      const slot = this.hand
      this.hand = slot + 1 === this.keys.length ? 0 : slot + 1
      const old = this.keys[slot]!
      // the key equals one never seen: eviction changes no answer
      if (State.resetOf(this.policy, this.states.get(old)!, now) > 0) continue
      this.states.delete(old)
      this.keys[slot] = key
      return true
    }
    return false
  }

  /** Changes the state of a key and the shared state, since the key may have taken its place there. */
  change(key: string, next: (state: State.State) => State.State | undefined): boolean {
    const own = this.states.get(key)
    const changed = own === undefined ? undefined : next(own)
    if (changed !== undefined) this.states.set(key, changed)
    const crowd = this.crowd.length === 0 ? undefined : next(this.crowd)
    if (crowd !== undefined) this.crowd = crowd
    return changed !== undefined || crowd !== undefined
  }
}

/** The counts of one policy. */
class Counts {
  readonly table: Table | undefined
  readonly states: States | undefined

  constructor(policy: Policy, capacity: number, now: number) {
    this.table = isBucket(policy.algorithm) ? new Table(policy, capacity, now) : undefined
    this.states = this.table === undefined ? new States(policy, capacity) : undefined
  }

  wait(charge: Charge, now: number): number {
    return this.table?.ask(charge.key, now, charge.cost)
      ?? State.waitOf(charge, this.states!.get(charge.key), now)
  }

  spend(charge: Charge, now: number, wait: number, isOwn: boolean, lease: number): void {
    if (charge.cost === 0) return
    if (this.table === undefined) {
      const states = this.states!
      states.set(charge.key, State.spendOf(charge, states.get(charge.key), now, wait, isOwn, lease), now)
    } else if (isOwn) this.table.take(charge.key, now, Infinity, charge.cost)
    else this.table.spend(charge.key, now, charge.cost, wait)
  }

  verdict({ key, policy }: Charge, now: number, wait: number): Verdict {
    if (this.table === undefined) return State.verdictOf(policy, this.states!.get(key), now, wait)
    this.table.ask(key, now, 0)
    return { wait, remaining: this.table.remaining, reset: this.table.reset }
  }
}

class Memory {
  private readonly capacity: number
  private readonly clock: Clock.Clock
  private readonly counts = new Map<string, Counts>()
  private last = 0
  private shift = 0
  private lease = 0

  constructor(capacity: number, clock: Clock.Clock) {
    this.capacity = capacity
    this.clock = clock
  }

  /** Reads the clock, and continues from the last reading if the clock was set back. */
  private now(): number {
    const now = this.clock.currentTimeMillisUnsafe()
    if (now < this.last) this.shift += this.last - now
    this.last = now
    return now + this.shift
  }

  private of(policy: Policy, now: number): Counts {
    const known = this.counts.get(policy.id)
    if (known !== undefined) return known
    const made = new Counts(policy, this.capacity, now)
    this.counts.set(policy.id, made)
    return made
  }

  take(charges: ReadonlyArray<Charge>, within: number): Decision {
    const now = this.now()
    const first = charges[0]
    const table = charges.length === 1 ? this.of(first!.policy, now).table : undefined
    if (table === undefined || first === undefined) return this.takeAll(charges, within, now)
    const wait = table.take(first.key, now, within, first.cost)
    const isAdmitted = wait <= within
    return {
      isAdmitted,
      wait: isAdmitted ? wait : wait - within,
      verdicts: [{ wait, remaining: table.remaining, reset: table.reset }],
      at: now,
      lease: 0
    }
  }

  private takeAll(charges: ReadonlyArray<Charge>, within: number, now: number): Decision {
    const counts = charges.map(({ policy }) => this.of(policy, now))
    const waits = charges.map((charge, i) => counts[i]!.wait(charge, now))
    const refused = charges.reduce(
      (most, { policy }, i) => Math.max(most, State.refusalOf(policy, waits[i]!, within)),
      0
    )
    const wait = Math.max(0, ...waits)
    const isAdmitted = refused === 0
    const lease = isAdmitted && charges.some(({ policy }) => policy.algorithm === "concurrency") ? ++this.lease : 0
    if (isAdmitted) charges.forEach((charge, i) => counts[i]!.spend(charge, now, wait, waits[i] === wait, lease))
    return {
      isAdmitted,
      wait: isAdmitted ? wait : refused,
      verdicts: charges.map((charge, i) => counts[i]!.verdict(charge, now, waits[i]!)),
      at: now,
      lease
    }
  }

  renew(charges: ReadonlyArray<Charge>, lease: number): boolean {
    const now = this.now()
    return places(charges).map(({ key, policy }) =>
      this.of(policy, now).states!.change(key, (state) => State.renew(policy, state, lease, now))
    ).every((isHeld) => isHeld)
  }

  release(charges: ReadonlyArray<Charge>, lease: number): void {
    const now = this.now()
    for (const { key, policy } of places(charges)) {
      this.of(policy, now).states!.change(key, (state) => State.release(state, lease))
    }
  }
}

const places = (charges: ReadonlyArray<Charge>) => charges.filter(({ policy }) => policy.algorithm === "concurrency")

/**
 * Keeps rate limits in the memory of this process: exact, synchronous and bounded.
 *
 * A key of a bucket takes about 100 bytes beside its own text, one of a window about 200, one of a log or of concurrency
 * 8 or 16 more for each message that counts. At `capacity`, a new key replaces a key whose full limit is available again,
 * which changes no answer. If 16 examined keys are all in use, the new key shares one count with all other keys without
 * room: such keys get less than the limit, never more. After a restart every key starts anew; each of several processes
 * counts for itself.
 *
 * @throws RangeError when `capacity` is out of range
 * @category layers
 */
export const layerMemory = (options: MemoryOptions = {}): Layer.Layer<RateLimitStore> => {
  const capacity = check.count("capacity", options.capacity ?? 100_000)
  return Layer.effect(
    RateLimitStore,
    Effect.map(Clock.Clock, (clock) => {
      const memory = new Memory(capacity, clock)
      return {
        take: (charges, within) => Exit.succeed(memory.take(charges, within)),
        renew: (charges, lease) => Exit.succeed(memory.renew(charges, lease)),
        release: (charges, lease) => Exit.succeed(memory.release(charges, lease))
      }
    })
  )
}
