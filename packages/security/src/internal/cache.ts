import type { Auth } from "@millrace/core"
import type { Exit } from "effect"

/** A token that was verified, and when it holds. */
export interface Entry {
  readonly token: string
  /** The key that verified it. */
  readonly key: string
  /** Unix milliseconds: it holds from `from` on, and before `until`. */
  readonly from: number
  readonly until: number
  readonly verified: Exit.Success<Auth.Principal["Service"]>
  /** Whether it was asked for since the hand last passed. */
  used: boolean
}

/**
 * What finds the entry of a token: 30 bits of its signature, without the last letter, which is not full. Hashing a whole token
 * costs more than all else of a hit. The whole token is compared before an entry holds; of two with the same bits, one in a
 * thousand million pairs, the later is kept.
 */
const markOf = (token: string): number => {
  const end = token.length
  return (token.charCodeAt(end - 2) & 63) | (token.charCodeAt(end - 3) & 63) << 6 |
    (token.charCodeAt(end - 4) & 63) << 12 |
    (token.charCodeAt(end - 5) & 63) << 18 | (token.charCodeAt(end - 6) & 63) << 24
}

/** Verified tokens, at most `capacity`; what was not used since the last round makes room (the CLOCK algorithm). */
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

  /** Drops every token that was verified by a key that is not among these. */
  retain(keys: ReadonlySet<string>): void {
    for (const [mark, entry] of this.entries) if (!keys.has(entry.key)) this.entries.delete(mark)
  }

  delete(entry: Entry): void {
    if (this.get(entry.token) === entry) this.entries.delete(markOf(entry.token))
  }

  /** Two rounds at most: the first takes every mark away. */
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
