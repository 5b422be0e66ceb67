/**
 * Parses a delivery into a message: for custom envelopes, which hold key, headers or body inside the bytes.
 */
import { Data, Effect, Exit } from "effect"
import { tagOf } from "../message/Failure.ts"
import type { Delivery, Message } from "../message/Message.ts"
import type { Change, FullConfig } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"

/** The parser does not accept the delivery; class `poison`, so the delivery is dead-lettered with its original bytes. */
export class ParseError extends Data.TaggedError("ParseError")<{
  readonly channel: string
  /** The error that the parser threw or failed with. */
  readonly cause: unknown
}> {
  readonly failure = "poison" as const
  // parsers quote the text that they fail on, and bodies do not belong in logs: the text is in `cause` only
  override get message(): string {
    return `A delivery of ${this.channel} could not be parsed: ${tagOf(this.cause)}`
  }
}

/**
 * Passes on the message that the parser makes of each delivery.
 *
 * Types: a `Delivery` in, a `Message<Uint8Array>` on; `ParseError` enters E, the requirements of the parser enter R. The
 * parser derives the message from the delivery (`withPayload`, `withKey`, `withHeaders`), which keeps its place in the
 * partition, its hooks and its raw body.
 *
 * Errors: a throw of the parser or a failure of its effect becomes `ParseError` (class `poison`): the delivery is
 * dead-lettered with its own bytes, and the lane goes on. An effect that dies stays a defect.
 *
 * **Example** (the key is inside the body)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { type Message, Parse } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<Uint8Array>) => Effect.succeed(message.key),
 *   Parse.middleware((delivery) => {
 *     const envelope = JSON.parse(new TextDecoder().decode(delivery.payload))
 *     return delivery.withPayload(new TextEncoder().encode(envelope.data)).withKey(envelope.customer)
 *   })
 * )
 * ```
 *
 * @category constructors
 */
export const middleware = <R = never>(
  parse: (delivery: Delivery) => Message<Uint8Array> | Effect.Effect<Message<Uint8Array>, unknown, R>
): Change<Delivery, Message<Uint8Array>, FullConfig<{ requires: R; fails: ParseError }>> =>
  Middleware.change<{ outer: Delivery; inner: Message<Uint8Array> }>()(
    { name: "Parse", stage: "parse", shows: { parser: parse.name || undefined } },
    (next) => (delivery): Middleware.Returns<ParseError, R> => {
      const fail = (cause: unknown) => new ParseError({ channel: delivery.channel, cause })
      let parsed: ReturnType<typeof parse>
      try {
        parsed = parse(delivery)
      } catch (cause) {
        return Exit.fail(fail(cause))
      }
      return Effect.isEffect(parsed)
        ? Effect.flatMapEager(Effect.mapErrorEager(parsed, fail), next)
        : next(parsed)
    }
  )
