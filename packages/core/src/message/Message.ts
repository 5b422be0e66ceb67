/**
 * Messages: their content, and the fields common to every source.
 */
import type { Effect, Exit } from "effect"
import type { Correlation } from "./Correlation.ts"
import type { Exchange } from "./Exchange.ts"
import type { Classified } from "./Failure.ts"
import * as Headers from "./Headers.ts"
import type { Outcome } from "./Outcome.ts"

/**
 * Runs once when the whole chain has ended, after success, failure and interruption alike: in reverse order of registration,
 * before the message is settled. The returned effect is awaited first, so a message is acknowledged only after its effects
 * are durable; if it fails, the message is settled as for an error of the chain, unless the message runs again, with its hooks.
 *
 * For a consumed message, `outcome` is the outcome that the engine applies if no hook fails; for any other message it is
 * undefined. A message waiting for a hook blocks its lane only if it is not acknowledged: the next message of the key may run
 * first, so do any work that the next message must see in the chain and not in a hook.
 */
export interface Hook {
  (exit: Exit.Exit<unknown, unknown>, outcome: Outcome | undefined): Effect.Effect<void, Classified> | undefined
}

/**
 * The fields shared by consumers, publishers, HTTP servers and HTTP clients; all that a cross-cutting middleware can use.
 *
 * `kind` is OpenTelemetry's span kind: it tells extracting (`consumer`, `server`) from injecting (`producer`, `client`).
 */
export interface Envelope {
  readonly kind: "consumer" | "producer" | "server" | "client"
  /**
   * Whether an unanswered request was sent for this message that must not be sent twice (RFC 9110, 9.2.2): if interrupted, the
   * message fails as `permanent`. Default: no.
   */
  readonly isUnrepeatable?: boolean | undefined
  /** Topic, queue, subject or route. */
  readonly channel: string
  /** The address with parameters by which the channel was read or written; undefined if it has none. */
  readonly template?: string | undefined
  readonly key: string | undefined
  readonly headers: Headers.Headers
  /** Copies the message with one header added or replaced: the only change of a middleware without knowledge of the type. */
  withHeader(name: string, value: string): this
  /** Registers a hook for the end of the chain, which runs after success, failure and interruption. Copies share their hooks. */
  after(hook: Hook): void
  /** Receives the ids of the message, for sources whose answer repeats them, such as a server. */
  correlated?(ids: Correlation): void
  /** The bytes read of the body so far, for sources whose body is not a payload before decoding: a server's request. */
  readonly body?: Uint8Array | undefined
  /** The HTTP request for telemetry; undefined for all other messages. */
  readonly exchange?: Exchange | undefined
  /**
   * Runs an effect once the last byte of the response is sent or the client has disconnected, for responses that may still
   * stream after the chain has ended: a server's request. If absent, the end of the chain is the end.
   */
  afterAnswer?(effect: Effect.Effect<void>): void
}

declare const of: unique symbol

/**
 * Bytes typed with their payload, so that decoding them as another channel does not compile. The mark is optional and exists in
 * types only: plain bytes are accepted wherever marked bytes are.
 */
export interface Raw<in out A> extends Uint8Array {
  readonly [of]?: (_: A) => A
}

/** Reads a driver's native record lazily: decodes nothing before it is needed. All deliveries of a driver share one reader. */
export interface Reader<in Native> {
  key(native: Native): string | undefined
  keyBytes(native: Native): Uint8Array | undefined
  headers(native: Native): Headers.Headers
  fields(native: Native): ReadonlyArray<Headers.Field>
  /** Unix time in milliseconds of the publish, or undefined if the broker does not tell. */
  timestamp(native: Native): number | undefined
}

/** The data shared by all deliveries of one lease. */
export interface Origin {
  /** OpenTelemetry's `messaging.system`, e.g. `kafka`. */
  readonly system: string
  readonly channel: string
  /** The consumer group. */
  readonly group: string
  readonly partition: number
  /** The address with parameters that the subscription reads, if it has parameters: spans and metrics are named by it. */
  readonly template?: string | undefined
  /** The subscription's name in audit rows, logs and dead letters. */
  readonly handler: string
  /** Milliseconds that one attempt may hold a message before the broker redelivers it to another consumer; may be Infinity. */
  readonly holdLimit: number
  /**
   * Whether a position names one message of its partition for ever, in every process, so that it can identify the message.
   * Default: no.
   */
  readonly lasting?: boolean | undefined
}

const nothing = new Uint8Array(0)

const encoder = new TextEncoder()

// Fields are declared and not initialized: defining and then assigning a class field costs twice, per message.

/** A consumed message: bytes outside `Decode`, a decoded value inside. */
export class Message<out P> implements Envelope {
  /** The original delivery: the raw body, and all metadata of the broker. */
  declare readonly delivery: Delivery
  declare readonly payload: P
  // null until decoded, or until a parser or a middleware replaces the value
  declare protected _key: string | undefined | null
  declare protected _headers: Headers.Headers | null

  constructor(
    delivery: Delivery | undefined,
    payload: P,
    key: string | undefined | null,
    headers: Headers.Headers | null
  ) {
    // only Delivery, which is its own delivery, passes undefined
    this.delivery = delivery ?? (this as unknown as Delivery)
    this.payload = payload
    this._key = key
    this._headers = headers
  }

  get kind(): "consumer" {
    return "consumer"
  }
  get channel(): string {
    return this.delivery.origin.channel
  }
  get template(): string | undefined {
    return this.delivery.origin.template
  }
  get partition(): number {
    return this.delivery.origin.partition
  }
  /** The offset, sequence or delivery tag; grows within a partition. */
  get position(): number {
    return this.delivery.at
  }
  /** 1 at the first delivery, one more at each redelivery or delayed retry. */
  get attempt(): number {
    return this.delivery.attempts
  }
  get timestamp(): number | undefined {
    return this.delivery.reader.timestamp(this.delivery.native)
  }
  get key(): string | undefined {
    return this._key === null ? this.delivery.ownKey : this._key
  }
  /** The key as bytes: those of the broker, unless a parser or a middleware has replaced the key. */
  get keyBytes(): Uint8Array | undefined {
    const { key } = this
    // a copy may hold the broker's own key, whose bytes need not be text
    if (key === this.delivery.ownKey) return this.delivery.keyBytes
    return key === undefined ? undefined : encoder.encode(key)
  }
  get headers(): Headers.Headers {
    return this._headers ?? this.delivery.ownHeaders
  }
  /** The body as published. */
  get raw(): Uint8Array {
    return this.delivery.payload
  }
  withHeader(name: string, value: string): this {
    // `this` may be a Delivery; the copy is a Message of the same payload, which is all that callers of withHeader see
    return new Message(this.delivery, this.payload, this._key, Headers.set(this.headers, name, value)) as this
  }
  withHeaders(headers: Headers.Headers): Message<P> {
    return new Message(this.delivery, this.payload, this._key, headers)
  }
  withKey(key: string | undefined): Message<P> {
    return new Message(this.delivery, this.payload, key, this._headers)
  }
  withPayload<B>(payload: B): Message<B> {
    return new Message(this.delivery, payload, this._key, this._headers)
  }
  after(hook: Hook): void {
    ;(this.delivery.hooks ??= []).push(hook)
  }
}

/**
 * A message as delivered by the broker: the input of receive middlewares and parsers, and the root of every `Message`.
 *
 * A driver makes one for each native record. The constructor decodes nothing; the engine keeps its own state in `slot`, `index`
 * and `hooks`, so that a waiting message costs one object.
 */
export class Delivery<out P extends Uint8Array = Uint8Array> extends Message<P> {
  declare readonly origin: Origin
  declare readonly reader: Reader<never>
  /** The client library's native record. */
  declare readonly native: never
  declare readonly at: number
  declare attempts: number
  /** Whether the broker delivered a null body: a deletion, in a compacted topic. */
  declare readonly tombstone: boolean
  declare hooks: Array<Hook> | undefined
  declare slot: object | undefined
  declare index: number

  constructor(
    origin: Origin,
    reader: Reader<never>,
    native: never,
    position: number,
    body: P,
    attempt: number,
    tombstone: boolean
  ) {
    super(undefined, body, null, null)
    this.origin = origin
    this.reader = reader
    this.native = native
    this.at = position
    this.attempts = attempt
    this.tombstone = tombstone
    this.hooks = undefined
    this.slot = undefined
    this.index = 0
  }

  get ownKey(): string | undefined {
    if (this._key === null) this._key = this.reader.key(this.native)
    return this._key
  }
  get ownHeaders(): Headers.Headers {
    return this._headers ??= this.reader.headers(this.native)
  }
  override get keyBytes(): Uint8Array | undefined {
    return this.reader.keyBytes(this.native)
  }
  /** Every header exactly as received: repeated names, upper case, null and binary values. */
  get fields(): ReadonlyArray<Headers.Field> {
    return this.reader.fields(this.native)
  }
}

/** Makes a delivery from a driver's native record; a null `body` is a tombstone. */
export const delivery = <Native>(
  origin: Origin,
  reader: Reader<Native>,
  native: Native,
  position: number,
  body: Uint8Array | null,
  attempt: number
): Delivery =>
  // the reader and its record are stored together, so the pair stays consistent without a type parameter
  new Delivery(origin, reader as Reader<never>, native as never, position, body ?? nothing, attempt, body === null)

/** An encoded payload with its headers. */
interface Body {
  readonly bytes: Uint8Array
  readonly headers?: Headers.Headers | undefined
  readonly fields?: ReadonlyArray<Headers.Field> | undefined
}

interface Books {
  hooks: Array<Hook> | undefined
}

/** A message to be published: a value outside `Encode`, bytes inside. */
export class Outgoing<out P> implements Envelope {
  declare readonly channel: string
  declare readonly payload: P
  declare readonly key: string | undefined
  declare readonly headers: Headers.Headers
  /**
   * Parts that text cannot hold, for lossless copies: key bytes that replace `key`, and native fields that replace `headers` of
   * the same name; also the partition and the timestamp.
   */
  declare readonly native: NativeParts | undefined
  /** The address with parameters from which the channel was made. */
  declare readonly template: string | undefined
  // shared by the copies of one publish; undefined for a message that is not being published
  declare protected books: Books | undefined

  constructor(
    channel: string,
    payload: P,
    key: string | undefined,
    headers: Headers.Headers,
    native?: NativeParts | undefined,
    books?: Books | undefined,
    template?: string | undefined
  ) {
    this.channel = channel
    this.payload = payload
    this.key = key
    this.headers = headers
    this.native = native
    this.books = books
    this.template = template
  }

  get kind(): "producer" {
    return "producer"
  }
  get hooks(): ReadonlyArray<Hook> | undefined {
    return this.books?.hooks
  }
  /** The key as bytes, for brokers that store bytes. */
  get keyBytes(): Uint8Array | undefined {
    return this.native?.keyBytes ?? (this.key === undefined ? undefined : encoder.encode(this.key))
  }
  /** The headers for brokers that store bytes: native fields, then the text headers with other names. */
  get fields(): ReadonlyArray<Headers.Field> {
    const native = this.native?.fields
    const text = Headers.toFields(this.headers)
    if (native === undefined || native.length === 0) return text
    const named = new Set(native.map(([name]) => name.toLowerCase()))
    return native.concat(text.filter(([name]) => !named.has(name)))
  }
  withHeader(name: string, value: string): this {
    // no subclass adds a field, so this copy is complete
    return new Outgoing(
      this.channel,
      this.payload,
      this.key,
      Headers.set(this.headers, name, value),
      this.native,
      this.books,
      this.template
    ) as this
  }
  /** Copies the message without hooks, for one publish. */
  fresh(): Outgoing<P> {
    return new Outgoing(
      this.channel,
      this.payload,
      this.key,
      this.headers,
      this.native,
      { hooks: undefined },
      this.template
    )
  }
  /** Copies the message with its encoded payload; headers and fields replace those of the same names. */
  withBody({ bytes, fields = [], headers = Headers.empty }: Body): Outgoing<Uint8Array> {
    const { native } = this
    const own = Headers.replaceFields(native?.fields ?? [], Headers.toFields(headers), fields)
    return new Outgoing(
      this.channel,
      bytes,
      this.key,
      Headers.merge(this.headers, headers),
      own.length === 0 ? native : { ...native, fields: own },
      this.books,
      this.template
    )
  }
  withPayload<B>(payload: B): Outgoing<B> {
    return new Outgoing(this.channel, payload, this.key, this.headers, this.native, this.books, this.template)
  }
  after(hook: Hook): void {
    ;((this.books ??= { hooks: undefined }).hooks ??= []).push(hook)
  }
}

/** The parts of a published message beside body, key and text headers. Not every broker supports all of them. */
export interface NativeParts {
  readonly keyBytes?: Uint8Array | undefined
  readonly fields?: ReadonlyArray<Headers.Field> | undefined
  /** A null body: a deletion, in a compacted topic. */
  readonly tombstone?: boolean | undefined
  /** The target partition, an integer from 0. Default: chosen by the broker from the key. */
  readonly partition?: number | undefined
  /** Unix time in milliseconds that the broker stores as the message's timestamp. Default: the time of the publish. */
  readonly timestamp?: number | undefined
  /**
   * Whether the message is the engine's copy of a consumed message: a dead letter, a delayed retry or a replay. Additions by a
   * driver's options (an expiry, a deduplication id, the retain flag) do not apply to a copy.
   */
  readonly isCopy?: boolean | undefined
  /** Whether the message is a reply: the requester named its channel, and a foreign client may name an invalid channel. */
  readonly isReply?: boolean | undefined
}
