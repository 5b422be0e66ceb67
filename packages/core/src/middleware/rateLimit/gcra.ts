/**
 * The generic cell rate algorithm over a bounded number of keys: one number a key, the theoretical arrival time (ITU-T
 * I.371). All arithmetic is on integers: a tick is the fraction of a millisecond in which the interval between two
 * messages and a millisecond are both whole numbers, so no rate drifts and no wait is rounded twice.
 */

const initial = 1024

/** How many used keys are examined for one to evict when a new key comes and the table is full. */
const looks = 16

const divisor = (a: number, b: number): number => b === 0 ? a : divisor(b, a % b)

/** Holds the state of all keys of one policy: about 100 bytes a key beside the key's own text. */
export class Table {
  readonly capacity: number
  /** Ticks in a millisecond. */
  private readonly scale: number
  /** Ticks between two messages at the limit's rate. */
  private readonly interval: number
  /** Ticks until a full burst is available again. */
  private readonly span: number
  /** The millisecond at which ticks are 0: ticks stay exact for 2^53 of them, 285 years at 1,000 a millisecond. */
  private base: number
  private last: number
  private readonly slots = new Map<string, number>()
  private readonly keys: Array<string> = []
  private arrivals: Float64Array
  private hand = 0
  /** The shared arrival time of all keys without a slot. */
  private crowd = 0
  private readonly burst: number
  /** The remaining cost of the last call's key; `reset`: milliseconds until its full burst is available again. */
  remaining = 0
  reset = 0

  constructor(
    policy: { readonly limit: number; readonly window: number; readonly burst: number },
    capacity: number,
    now: number
  ) {
    const common = divisor(policy.limit, policy.window)
    this.scale = policy.limit / common
    this.interval = policy.window / common
    this.burst = policy.burst
    this.span = policy.burst * this.interval
    this.base = now
    this.last = now
    this.capacity = capacity
    this.arrivals = new Float64Array(Math.min(capacity, initial))
  }

  /** The number of keys in the table. */
  get size(): number {
    return this.slots.size
  }

  /**
   * Returns the milliseconds that a message of `key` has to wait at `now`. A wait up to `within` counts the message,
   * whose turn is after that wait; a longer wait changes nothing.
   */
  take(key: string, now: number, within: number, cost = 1): number {
    const at = this.at(now)
    const slot = this.slots.get(key) ?? this.claim(key, at)
    const before = Math.max(at, slot < 0 ? this.crowd : this.arrivals[slot]!)
    const arrival = before + cost * this.interval
    const ahead = arrival - this.span - at
    const wait = ahead <= 0 ? 0 : cost > this.burst ? Infinity : Math.ceil(ahead / this.scale)
    if (wait > within) {
      this.left(before - at)
      return wait
    }
    if (slot < 0) this.crowd = arrival
    else this.arrivals[slot] = arrival
    this.left(arrival - at)
    return wait
  }

  /** Returns the milliseconds that a message of `key` would have to wait, without counting it. */
  ask(key: string, now: number, cost: number): number {
    const at = this.at(now)
    const ahead = Math.max(at, this.arrival(key)) - at
    this.left(ahead)
    const over = ahead + cost * this.interval - this.span
    return over <= 0 ? 0 : cost > this.burst ? Infinity : Math.ceil(over / this.scale)
  }

  /** Counts a message whose turn another policy puts `wait` milliseconds ahead. */
  spend(key: string, now: number, cost: number, wait: number): void {
    const at = this.at(now)
    const slot = this.slots.get(key) ?? this.claim(key, at)
    const before = Math.max(at + wait * this.scale, slot < 0 ? this.crowd : this.arrivals[slot]!)
    const arrival = before + cost * this.interval
    if (slot < 0) this.crowd = arrival
    else this.arrivals[slot] = arrival
    this.left(arrival - at)
  }

  private at(now: number): number {
    // if the clock is set back, ticks continue from the last reading: otherwise every key would wait for the old time
    if (now < this.last) this.base -= this.last - now
    this.last = now
    return (now - this.base) * this.scale
  }

  private left(ahead: number): void {
    this.remaining = Math.max(0, Math.floor((this.span - ahead) / this.interval))
    this.reset = Math.ceil(ahead / this.scale)
  }

  private arrival(key: string): number {
    const slot = this.slots.get(key)
    return slot === undefined ? this.crowd : this.arrivals[slot]!
  }

  /** Takes a slot for a new key; -1 if every examined slot is in use, and the key then shares one state with all such keys. */
  private claim(key: string, at: number): number {
    const slot = this.keys.length < this.capacity ? this.grow() : this.forget(at)
    if (slot < 0) return slot
    this.slots.set(key, slot)
    this.keys[slot] = key
    // the key may have been counted in the shared state: it starts from there, so a slot gives it no second burst
    this.arrivals[slot] = this.crowd
    return slot
  }

  private grow(): number {
    const slot = this.keys.length
    if (slot === this.arrivals.length) {
      const larger = new Float64Array(Math.min(this.capacity, slot * 2))
      larger.set(this.arrivals)
      this.arrivals = larger
    }
    return slot
  }

  /** Evicts a key whose arrival time has passed: its whole burst is available again, so eviction changes no answer. */
  private forget(at: number): number {
    for (let i = 0; i < looks; i++) {
      const slot = this.hand
      this.hand = slot + 1 === this.keys.length ? 0 : slot + 1
      if (this.arrivals[slot]! <= at) {
        this.slots.delete(this.keys[slot]!)
        return slot
      }
    }
    return -1
  }
}
