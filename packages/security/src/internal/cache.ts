import type { Auth } from "@millrace/core"
import type { Exit } from "effect"

/** A verified token and its period of validity. */
export interface Entry {
  readonly token: string
  /** The id of the key that verified the token. */
  readonly key: string
  /** The first valid time, in Unix milliseconds; `until` is the first invalid one. */
  readonly from: number
  readonly until: number
  readonly verified: Exit.Success<Auth.Principal["Service"]>
  /** Whether the token was used since the hand last passed. */
  used: boolean
}

/**
 * The map key of a token: 6 bits each of five characters of its signature, without the last character, which is not full.
 * Hashing a whole token would cost more than the rest of a hit. `get` compares the whole token; of two tokens with the same key
 * (about one in 245 million pairs, as some characters share their bits), the cache keeps the later.
 */
const markOf = (token: string): number => {
  const end = token.length
  return (token.charCodeAt(end - 2) & 63) | (token.charCodeAt(end - 3) & 63) << 6 |
    (token.charCodeAt(end - 4) & 63) << 12 |
    (token.charCodeAt(end - 5) & 63) << 18 | (token.charCodeAt(end - 6) & 63) << 24
}

/** A cache of at most `capacity` verified tokens; tokens unused since the last round are evicted (the CLOCK algorithm). */
export class Cache {
  readonly capacity: number
  private readonly entries = new Map<number, Entry>()
  private hand = this.entries.entries()

  constructor(capacity: number) {
    this.capacity = capacity
  }

  get size(): number {
    return this.entries.size
  }

  get(token: string): Entry | undefined {
    const entry = this.entries.get(markOf(token))
    if (entry === undefined || entry.token !== token) return undefined
    entry.used = true
    return entry
  }

  put(entry: Entry, now: number): void {
    const mark = markOf(entry.token)
    if (!this.entries.has(mark)) {
      while (this.entries.size >= this.capacity) this.forgetOne(now)
    }
    this.entries.set(mark, entry)
  }

  /** Drops every token whose key is not among these. */
  retain(keys: ReadonlySet<string>): void {
    for (const [mark, entry] of this.entries) if (!keys.has(entry.key)) this.entries.delete(mark)
  }

  delete(entry: Entry): void {
    if (this.get(entry.token) === entry) this.entries.delete(markOf(entry.token))
  }

  /** Evicts one token, in at most two rounds: the first round clears every `used` mark. */
  private forgetOne(now: number): void {
    for (;;) {
      const next = this.hand.next()
      if (next.done === true) {
        this.hand = this.entries.entries()
        continue
      }
      const [mark, entry] = next.value
      if (!entry.used || entry.until <= now) {
        this.entries.delete(mark)
        return
      }
      entry.used = false
    }
  }
}
