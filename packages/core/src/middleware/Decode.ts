/**
 * Decodes bytes to a typed payload: the channel's codec reads each body once, and the channel's schema checks it once.
 */
import { Data, type Duration, Effect, Exit, type Schema, type SchemaAST, type SchemaIssue } from "effect"
import { received } from "../broker/metadata.ts"
import type { Channel } from "../message/Channel.ts"
import { messageOf, tagOf } from "../message/Failure.ts"
import type { Message, Raw } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Outcome from "../message/Outcome.ts"
import type { Own, PayloadError } from "../message/PayloadCodec.ts"
import { bounded, decoder, explain, type Values } from "../pipeline/compile.ts"
import type { Change, FullConfig } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"

/**
 * The body was not read as a payload of its channel. Class `poison` if the bytes cannot be read (not UTF-8, not JSON), class
 * `validation` if the schema refuses them, or if a null body was not expected; both are dead-lettered. A codec that reads more
 * than bytes adds `permanent` (a revoked key; dead-lettered) and `dependency` (its registry, key service or store is down; the
 * message is read again after `retryAfter` and spends no attempt).
 *
 * Neither `message` nor `path` holds a value of the body, and both are bounded.
 */
export class DecodeError extends Data.TaggedError("DecodeError")<{
  readonly failure: PayloadError["failure"]
  readonly channel: string
  readonly message: string
  /** The kind of failure in the codec's own words, e.g. `KeyRevoked`. */
  readonly reason?: string | undefined
  readonly retryAfter?: Duration.Duration | undefined
  /** The place that the schema refuses, e.g. `lines[0].sku`; empty at the root. */
  readonly path: string
  /** The schema's own issue. Its texts may hold values, so it is not enumerable. */
  readonly issue?: SchemaIssue.Issue | undefined
  /** The codec's own error. Its cause may hold values, so it is not enumerable. */
  readonly refusal?: PayloadError | undefined
}> {}

/** The handling of a null body, which deletes a key in a compacted topic. */
export type Tombstone = "refuse" | "acknowledge" | "pass"

/** Options of `middleware`. */
export interface Options<T extends Tombstone = Tombstone> {
  /**
   * A null body fails with a `DecodeError` (`refuse`, the default), is acknowledged without the handler (`acknowledge`), or
   * reaches the handler with the payload `undefined` (`pass`).
   */
  readonly tombstone?: T | undefined
  /**
   * The handling of a channel without a schema: `pass` (the default) applies only the codec of `Channel.unchecked` and
   * passes the bytes of `Channel.bytes` as they are; `refuse` throws a RangeError when the middleware is built.
   */
  readonly withoutSchema?: "pass" | "refuse" | undefined
}

/** The payload that the inner handler gets. */
export type Payload<P, T extends Tombstone> = P | ("pass" extends T ? undefined : never)

/** The answers in the handler's place. */
export type Answers<T extends Tombstone> = "acknowledge" extends T ? Outcome.Ack : never

const unreadable = (channel: string, cause: unknown, length: number): DecodeError => {
  // takes only the position from the codec's message, which may quote the body
  const place = / at position \d+/.exec(messageOf(cause))?.[0] ?? ""
  return new DecodeError({
    failure: "poison",
    channel,
    path: "",
    message: `The body (${length} bytes) cannot be read as the codec of ${channel} asks: ${
      cause instanceof Error ? tagOf(cause) : "failed"
    }${place}`
  })
}

const refused = (
  channel: string,
  schema: { readonly ast: SchemaAST.AST },
  issue: SchemaIssue.Issue,
  value: unknown
): DecodeError => {
  const { message, path } = explain(issue, schema, { value })
  const error = new DecodeError({
    failure: "validation",
    channel,
    path,
    message: `Not a payload of ${channel}: ${message}${path === "" ? "" : ` at ${path}`}`
  })
  // a check's message may hold the value: not enumerable, so that printing the error does not print it
  return Object.defineProperty(error, "issue", { value: issue, enumerable: false })
}

const unread = (channel: string, refusal: PayloadError): DecodeError => {
  const error = new DecodeError({
    failure: refusal.failure,
    channel,
    path: "",
    message: `The body of a message of ${channel} was not read: ${bounded(refusal.message)}`,
    reason: refusal.reason,
    retryAfter: refusal.retryAfter
  })
  return Object.defineProperty(error, "refusal", { value: refusal, enumerable: false })
}

const checker = <P>(
  name: string,
  schema: Schema.ConstraintCodec<P, unknown>,
  values: Values
): (value: unknown) => Effect.Effect<P, DecodeError> => {
  const decode = decoder(schema, values)
  return (value) => Effect.mapErrorEager(decode(value), (issue) => refused(name, schema, issue, value))
}

const reader = <P, R>(
  channel: Channel<P, string, unknown, R>
): (message: Message<Uint8Array>) => Effect.Effect<P, DecodeError, R> => {
  const { content, name } = channel
  const { codec } = content
  // a channel of bytes has P = Uint8Array, an unchecked one P = unknown, by construction
  if (codec === undefined) return ({ payload }) => Exit.succeed(payload as unknown as P)
  const check: (value: unknown) => Effect.Effect<P, DecodeError> = content._tag === "schema"
    ? checker(name, content.schema, codec.values)
    : (value) => Exit.succeed(value as P)
  const { plain } = codec
  if (plain === undefined) {
    return (message) =>
      Effect.flatMapEager(
        Effect.mapErrorEager(codec.decode(message.payload, received(message)), (refusal) => unread(name, refusal)),
        check
      )
  }
  return ({ payload }) => {
    let value: unknown
    try {
      value = plain.decode(payload)
    } catch (cause) {
      return Exit.fail(unreadable(name, cause, payload.length))
    }
    return check(value)
  }
}

/**
 * Decodes messages of a channel's bytes to messages of its payload.
 *
 * In: `Message<Raw<P>>`, so bytes of another channel do not compile; inside: `Message<P>`. `DecodeError` enters `E`: its
 * message is settled by its class, and the handler does not see it. The services of the channel's codec enter `R`. The schema
 * is compiled when the pipeline is built.
 *
 * **Example** (a handler of orders)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Channel, Decode, type Message } from "@millrace/core"
 *
 * const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
 * const Orders = Channel.make("orders", { payload: Order })
 *
 * const handler = pipe(
 *   (message: Message<typeof Order.Type>) => Effect.succeed(message.payload.amount),
 *   Decode.middleware(Orders)
 * )
 * ```
 *
 * @throws RangeError when `withoutSchema` is `refuse` and the channel has no schema
 * @category constructors
 */
export const middleware = <P, R, const T extends Tombstone = "refuse">(
  channel: Channel<P, string, unknown, R>,
  options: Options<T> = {}
): Change<
  Message<Raw<P>>,
  Message<Payload<P, T>>,
  // a contextual type must not decide R
  FullConfig<{ requires: Own<R>; fails: DecodeError; answers: Answers<T> }>
> => {
  const { content, name } = channel
  const withoutSchema = OptionCheck.make("Decode").oneOf("withoutSchema", options.withoutSchema ?? "pass", [
    "pass",
    "refuse"
  ])
  if (withoutSchema === "refuse" && content._tag !== "schema") {
    throw new RangeError(`Decode: withoutSchema is "refuse", and the channel ${name} has no schema`)
  }
  const tombstone: Tombstone = options.tombstone ?? "refuse"
  const read = reader(channel)
  const unexpected = () =>
    Exit.fail(
      new DecodeError({
        failure: "validation",
        channel: name,
        path: "",
        message: `Not a payload of ${name}: the body is null, and Decode's tombstone option is "refuse"`
      })
    )
  const change = Middleware.change<{ outer: Message<Raw<P>>; inner: Message<P | undefined> }>()(
    {
      name: "Decode",
      stage: "decode",
      shows: { channel: name, content: content._tag, tombstone: tombstone === "refuse" ? undefined : tombstone }
    },
    (next) => (message): Middleware.Returns<DecodeError, R, Outcome.Ack> => {
      if (message.delivery.tombstone) {
        return tombstone === "refuse"
          ? unexpected()
          : tombstone === "acknowledge"
          ? Exit.succeed(Outcome.Ack)
          : next(message.withPayload(undefined))
      }
      return Effect.flatMapEager(read(message), (payload) => next(message.withPayload(payload)))
    }
  )
  // the `tombstone` option decides whether a handler sees undefined, and whether Ack is answered in its place
  return change as unknown as ReturnType<typeof middleware<P, R, T>>
}
