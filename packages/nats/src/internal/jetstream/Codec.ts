/**
 * Messages of a consumer, and the numbers in their acknowledgement subjects.
 *
 * `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>`, and in newer servers a
 * domain and an account's hash before the stream. Source:
 * https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-15.md
 */
import type { Reader } from "@millrace/core"
import type { Msg } from "@nats-io/transport-node"
import { readerOf } from "../Codec.ts"

/** A delivered, unsettled message. */
export class Token {
  readonly message: Msg
  /** The acknowledgement subject of the message's last delivery. */
  reply: string
  /** The message's sequence in the stream. */
  readonly sequence: number
  /** `delivered` counts the deliveries of this message, `count` those of the whole consumer, both as of its last delivery. */
  delivered: number
  count: number
  /** The batch in which the message was offered. */
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

  /** Records a redelivery of the message. */
  renew(reply: string, { count, delivered }: Numbers): void {
    this.reply = reply
    this.delivered = delivered
    this.count = count
  }
}

/** A batch that was offered at once, kept until all of its messages are settled. */
export class Part {
  readonly tokens: ReadonlyArray<Token>
  left: number

  constructor(tokens: ReadonlyArray<Token>) {
    this.tokens = tokens
    this.left = tokens.length
  }
}

/** The index of the delivery count in the words of an acknowledgement subject. */
const deliveredAt = (words: ReadonlyArray<string>): number => words.length === 9 ? 4 : 6

const timestamp = ({ reply }: Token): number | undefined => {
  const words = reply.split(".")
  const nanoseconds = Number(words[deliveredAt(words) + 3])
  return Number.isNaN(nanoseconds) ? undefined : Math.floor(nanoseconds / 1e6)
}

/** Reads a message of a consumer. */
export const reader: Reader<Token> = readerOf((token) => token.message, timestamp)

/** Parses the numbers in the acknowledgement subjects of one consumer, which all share a prefix. */
export class Numbers {
  delivered = 0
  sequence = 0
  count = 0
  private prefix = "$JS.ACK."
  private length = -1
  private isPlain = false
  private at = 0

  /** Reads the next three numbers; returns false if `reply` is not an acknowledgement subject. */
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

  /** Reads the next word as a number; 0 if it is not a number, or if the text ends with it. */
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
   * The shortest subject that acknowledges a message: the server ignores the last two words, the time and the number of
   * pending messages, which are a quarter of an acknowledgement's bytes. A subject with a domain stays as it is.
   *
   * Source: `ackReplyInfo` in https://github.com/nats-io/nats-server/blob/main/server/consumer.go
   */
  acknowledging({ count, delivered, reply, sequence }: Token): string {
    return this.isPlain ? `${this.prefix}${delivered}.${sequence}.${count}.0.0` : reply
  }
}
