/**
 * What the engine has of a consumer and has not settled, and what it has settled not long ago.
 */
import type { Delivery } from "@millrace/core"
import { Part, type Token } from "./Codec.ts"

// settled messages that are remembered, where order matters
const mostPast = 4096

export class Unsettled {
  private readonly parts = new Set<Part>()
  private readonly isOrdered: boolean
  /** The sequences of the last parts of which all is settled, where order matters. */
  private readonly past: Array<ReadonlyArray<number>> = []
  private pastCount = 0

  constructor(isOrdered: boolean) {
    this.isOrdered = isOrdered
  }

  get size(): number {
    return this.parts.size
  }

  /** A batch that is offered. */
  add(batch: ReadonlyArray<Delivery>): void {
    const part = new Part(batch.map(({ native }): Token => native))
    for (const token of part.tokens) token.part = part
    this.parts.add(part)
  }

  settled(token: Token): void {
    const { part } = token
    if (token.isSettled || part === undefined) return
    token.isSettled = true
    if (--part.left > 0) return
    this.parts.delete(part)
    if (!this.isOrdered) return
    this.past.push(part.tokens.map(({ sequence }) => sequence))
    this.pastCount += part.tokens.length
    while (this.pastCount > mostPast) this.pastCount -= this.past.shift()!.length
  }

  /** Whether it was settled here, not too long ago. */
  hasSettled(sequence: number): boolean {
    for (const { tokens } of this.parts) if (tokens.some((token) => token.sequence === sequence)) return true
    return this.past.some((sequences) => sequences.includes(sequence))
  }

  /** All that is not settled, in the order in which it came. */
  get tokens(): Array<Token> {
    const found: Array<Token> = []
    for (const { tokens } of this.parts) for (const token of tokens) if (!token.isSettled) found.push(token)
    return found
  }
}
