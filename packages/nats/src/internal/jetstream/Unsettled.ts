/** The offered, unsettled messages of a consumer, and those settled recently. */
import type { Delivery } from "@millrace/core"
import { Part, type Token } from "./Codec.ts"

// the most settled messages that are remembered, where order matters
const mostPast = 4096

export class Unsettled {
  private readonly parts = new Set<Part>()
  private readonly isOrdered: boolean
  /** The sequences of the last fully settled batches, where order matters. */
  private readonly past: Array<ReadonlyArray<number>> = []
  private pastCount = 0

  constructor(isOrdered: boolean) {
    this.isOrdered = isOrdered
  }

  get size(): number {
    return this.parts.size
  }

  /** Adds an offered batch. */
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

  /** Whether the message was offered here and, unless it is among `tokens`, settled recently. */
  hasSettled(sequence: number): boolean {
    for (const { tokens } of this.parts) if (tokens.some((token) => token.sequence === sequence)) return true
    return this.past.some((sequences) => sequences.includes(sequence))
  }

  /** All unsettled messages, in order of arrival. */
  get tokens(): Array<Token> {
    const found: Array<Token> = []
    for (const { tokens } of this.parts) for (const token of tokens) if (!token.isSettled) found.push(token)
    return found
  }
}
