/**
 * The reason why a middleware or a handler cannot be placed here: a sentence that the compiler prints.
 */
import type { Delivery, Message, Outgoing } from "../message/Message.ts"
import type { AroundMark, ChangeMark, Handler, Refuse } from "./Handler.ts"

/** Infers `T` from an argument, then becomes `Reason`: the compiler prints the sentence alone, as the expected type. */
export type Said<T, Reason> = [T] extends [never] ? T : Reason

/** The message type that a middleware reads, or `never` if `M` is not a middleware. */
export type Reads<M> = M extends AroundMark<infer In, infer _> ? In
  : M extends { readonly "~change": Pick<ChangeMark<infer In, unknown, never>["~change"], "outer"> } ? In
  : never

type Bytes = Message<Uint8Array>

type AtBytes<Who extends string, In> = In extends Bytes
  ? Refuse<`${Who} reads the bytes of another channel than the one whose messages come here.`>
  : Refuse<`${Who} reads a decoded payload, and here the message is still bytes: put it inside Decode.`>

type AtPayload<Who extends string, In> = In extends Bytes
  ? Refuse<`${Who} reads the bytes of a message, and here they are decoded: put it outside Decode.`>
  : Refuse<`${Who} reads another payload than the one that was decoded.`>

type Consumed<Who extends string, In, At> = In extends Outgoing<unknown>
  ? Refuse<`${Who} reads messages that are published, and these are consumed: it belongs into a publisher.`>
  : In extends Delivery
    ? Refuse<`${Who} reads the delivery as the broker made it, and here it is a message: put it outside Parse.`>
  : At extends Bytes ? AtBytes<Who, In>
  : AtPayload<Who, In>

type Published<Who extends string, In> = In extends Message<unknown>
  ? Refuse<`${Who} reads messages that are consumed, and these are published: it belongs into a subscription.`>
  : Refuse<`${Who} reads another payload than the one that is published.`>

/** The reason why a reader of `In` messages cannot take `At` messages. */
export type Misplaced<Who extends string, In, At> = At extends Outgoing<unknown> ? Published<Who, In>
  : At extends Message<unknown> ? Consumed<Who, In, At>
  : Refuse<`${Who} reads other messages than those that come here.`>

type ReadsOf<T> = T extends { readonly handle: (handler: never) => Handler<infer Outer, unknown> } ? Outer : Reads<T>

/** The reason why a publisher of payload `P` cannot use `T`. */
export type NoPublisher<T, P> = [ReadsOf<T>] extends [never]
  ? Refuse<"This is no publish middleware, no stack of them, and no function of the innermost handler of this channel.">
  : Misplaced<T extends (next: never) => unknown ? "This middleware" : "This stack", ReadsOf<T>, Outgoing<P>>

type Foreign<H, At> = H extends Handler<infer In, unknown, unknown, unknown> ? [At] extends [In] ? never : In : never

/** The reason why `H` cannot handle messages of `At`. */
export type NoHandler<H, At> = [Foreign<H, At>] extends [never]
  ? Refuse<"A handler is a function from a message to an Effect.">
  : Misplaced<"This handler", Foreign<H, At>, At>
