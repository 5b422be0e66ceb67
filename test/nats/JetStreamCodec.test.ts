import { describe, expect, it } from "@effect/vitest"
import { Numbers, Token } from "../../packages/nats/src/internal/jetstream/Codec.ts"
import type { Msg } from "@nats-io/transport-node"
import * as fc from "fast-check"

const word = fc.stringMatching(/^[A-Za-z0-9_-]{1,12}$/)
const number = fc.integer({ min: 1, max: 2 ** 50 })
// nothing of it is read here
const message = {} as Msg

describe("what an acknowledgement subject says", () => {
  it("X5 its numbers are read, and what acknowledges names the same delivery, with a domain or without", () =>
    fc.assert(fc.property(
      fc.record({ stream: word, consumer: word, domain: fc.option(fc.tuple(word, word)) }),
      fc.array(fc.tuple(number, number, number), { minLength: 1, maxLength: 5 }),
      ({ consumer, domain, stream }, replies) => {
        const numbers = new Numbers()
        const head = ["$JS", "ACK", ...(domain ?? []), stream, consumer]
        const tokens = replies.map(([delivered, sequence, count]) => {
          const reply = [...head, delivered, sequence, count, 1_795_288_149_048_123_456n, 7].join(".")
          expect(numbers.read(reply)).toBe(true)
          expect([numbers.delivered, numbers.sequence, numbers.count]).toEqual([delivered, sequence, count])
          return new Token(message, reply, numbers)
        })
        tokens.forEach((token, i) => {
          const words = numbers.acknowledging(token).split(".")
          // servers count the words, and read these
          expect(words.length).toBe(token.reply.split(".").length)
          expect(words.slice(0, -2)).toEqual([...head, ...replies[i]!.map(String)])
        })
      }
    )))

  it("X5 what is no such subject is refused, wherever it ends", () => {
    const numbers = new Numbers()
    const whole = "$JS.ACK.stream.consumer.1.22.333.1795288149048123456.5"
    expect(numbers.read(whole)).toBe(true)
    for (let length = 0; length < "$JS.ACK.stream.consumer.1.22.333.".length; length++) {
      expect(numbers.read(whole.slice(0, length))).toBe(false)
    }
    for (const reply of ["$JS.ACK.stream.consumer.1.x.3.4.5", "$JS.ACK.stream.consumer.0.1.1.4.5", "_INBOX.a"]) {
      expect(numbers.read(reply)).toBe(false)
    }
  })
})
