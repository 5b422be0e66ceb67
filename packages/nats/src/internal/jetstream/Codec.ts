/**
 * Messages of a consumer, and what their acknowledgement subject says of them.
 *
 * `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>`, and in newer servers a
 * domain and an account's hash before the stream. Source:
 * https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-15.md
 */
import type { Reader } from "@millrace/core"
import type { Msg } from "@nats-io/transport-node"
import { readerOf } from "../Codec.ts"

/** A message that is delivered and not settled. */
export class Token {
  readonly message: Msg
  /** Where it is settled; the one of its last delivery. */
  reply: string
  /** Its sequence in the stream. */
  readonly sequence: number
  /** The number of its last delivery among its own, and among all of the consumer. */
  delivered: number
  count: number
  /** What it was offered with. */
  part: Part | undefined
  isSettled: boolean

  constructor(message: Msg, reply: string, { count, delivered, sequence }: Numbers) {
    this.message = message
    this.reply = reply
    this.sequence = sequence
    this.delivered = delivered
    this.count = count
    this.part = undefined
    this.isSettled = false
  }

  /** It was delivered again. */
  renew(reply: string, { count, delivered }: Numbers): void {
    this.reply = reply
    this.delivered = delivered
    this.count = count
  }
}

/** What was offered at once, as long as something of it is not settled. */
export class Part {
  readonly tokens: ReadonlyArray<Token>
  left: number

  constructor(tokens: ReadonlyArray<Token>) {
    this.tokens = tokens
    this.left = tokens.length
  }
}

/** Where in the words of an acknowledgement subject the number of deliveries is. */
const deliveredAt = (words: ReadonlyArray<string>): number => words.length === 9 ? 4 : 6

const timestamp = ({ reply }: Token): number | undefined => {
  const words = reply.split(".")
  const nanoseconds = Number(words[deliveredAt(words) + 3])
  return Number.isNaN(nanoseconds) ? undefined : Math.floor(nanoseconds / 1e6)
}

/** How a message of a consumer is read. */
export const reader: Reader<Token> = readerOf((token) => token.message, timestamp)

/** What reads the numbers of a consumer's acknowledgement subjects, all of which begin alike. */
export class Numbers {
  delivered = 0
  sequence = 0
  count = 0
  private prefix = "$JS.ACK."
  private length = -1
  private isPlain = false
  private at = 0

  /** Reads the next three numbers; false where it is no acknowledgement subject. */
  read(reply: string): boolean {
    if (this.length < 0 || !reply.startsWith(this.prefix)) {
      const words = reply.split(".")
      if (words.length < 9 || words[0] !== "$JS" || words[1] !== "ACK") return false
      this.prefix = `${words.slice(0, deliveredAt(words)).join(".")}.`
      this.length = this.prefix.length
      this.isPlain = words.length === 9
    }
    this.at = this.length
    this.delivered = this.next(reply)
    this.sequence = this.next(reply)
    this.count = this.next(reply)
    return this.delivered >= 1 && this.sequence >= 1 && this.count >= 1
  }

  /** The word that is a number; 0 where it is none, or the text ends with it. */
  private next(reply: string): number {
    let number = 0
    let code = reply.charCodeAt(this.at)
    while (code >= 48 && code <= 57) {
      number = number * 10 + code - 48
      code = reply.charCodeAt(++this.at)
    }
    this.at++
    return code === 46 ? number : 0
  }

  /**
   * The subject that acknowledges a message, as short as a server takes it: of the last two words, the time and how many are
   * pending, it takes no notice, and they are a quarter of what an acknowledgement weighs. One with a domain stays as it is.
   *
   * Source: `ackReplyInfo` in https://github.com/nats-io/nats-server/blob/main/server/consumer.go
   */
  acknowledging({ count, delivered, reply, sequence }: Token): string {
    return this.isPlain ? `${this.prefix}${delivered}.${sequence}.${count}.0.0` : reply
  }
}
