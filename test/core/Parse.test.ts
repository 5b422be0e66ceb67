import { Eager, type Message, Parse, Settlement } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import { deliver, runChain } from "./support.ts"

const text = new TextDecoder()
const bytes = new TextEncoder()

const unwrap = Parse.middleware((delivery) => {
  const envelope = JSON.parse(text.decode(delivery.payload))
  return delivery.withPayload(bytes.encode(envelope.data)).withKey(envelope.key).withHeaders({ kind: envelope.kind })
})

const show = (message: Message<Uint8Array>) =>
  Exit.succeed([message.key, message.headers["kind"], text.decode(message.payload), text.decode(message.raw)])

describe("Parse", () => {
  it.effect("F1 key, headers and body are taken out of the bytes, which stay what they were", () =>
    Effect.gen(function*() {
      const body = { key: "ada", kind: "new", data: "hello" }
      const exit = yield* runChain(unwrap(show), deliver({ key: "other", body }))
      assert.deepStrictEqual(exit, Exit.succeed(["ada", "new", "hello", JSON.stringify(body)]))
    }))

  it.effect("F1 F4 the message keeps its place and shares the hooks of its delivery", () =>
    Effect.gen(function*() {
      const ran: Array<string> = []
      const handler = unwrap((message: Message<Uint8Array>) => {
        message.after(() => void ran.push("after"))
        return Exit.succeed([message.partition, message.position, message.attempt, message.channel])
      })
      const message = deliver({ body: { data: "" }, partition: 2, position: 9, attempt: 3 })
      assert.deepStrictEqual(yield* runChain(handler, message), Exit.succeed([2, 9, 3, "orders"]))
      assert.deepStrictEqual(ran, ["after"])
    }))

  it.effect("F1 F14 what cannot be parsed is poison: dead-lettered, with no part of the body in the message of the error", () =>
    Effect.gen(function*() {
      const secret = bytes.encode("card 4111-1111")
      // what JSON.parse and its like throw
      // @effect-diagnostics-next-line globalErrorInEffectFailure:off
      const misread = Effect.fail(new SyntaxError("card 4111-1111"))
      for (
        const broken of [
          unwrap,
          Parse.middleware(() => misread),
          Parse.middleware(() => Effect.andThen(Effect.yieldNow, misread))
        ]
      ) {
        const exit = yield* runChain(broken(show), deliver({ body: secret }))
        assert.isTrue(Exit.isFailure(exit))
        const outcome = Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)
        const error = outcome._tag === "DeadLetter" ? outcome.error : undefined
        assert.instanceOf(error, Parse.ParseError)
        assert.strictEqual((error as Parse.ParseError).failure, "poison")
        assert.strictEqual(
          (error as Parse.ParseError).message,
          "A delivery of orders could not be parsed: SyntaxError"
        )
      }
    }))

  it.effect("F1 a parser that dies is a defect, not poison", () =>
    Effect.gen(function*() {
      const exit = yield* runChain(Parse.middleware(() => Effect.die("bug"))(show), deliver())
      assert.isTrue(Exit.hasDies(exit))
    }))

  it.effect("F19 a plain parser answers at once", () =>
    Effect.sync(() => {
      assert.isTrue(Eager.isDone(Parse.middleware((delivery) => delivery)(show)(deliver())))
    }))
})
