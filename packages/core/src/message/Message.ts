/**
 * Messages: their content, and the fields that every source has.
 */
import type { Effect, Exit } from "effect"
import type { Correlation } from "./Correlation.ts"
import type { Exchange } from "./Exchange.ts"
import type { Classified } from "./Failure.ts"
import * as Headers from "./Headers.ts"
import type { Outcome } from "./Outcome.ts"

/**
 * Runs once when the whole chain has ended, whatever happened: in reverse order of registration, before the message is
 * settled. What it returns is awaited first, so a message is acknowledged only after it is durable; its failure settles
 * the message as an error of the chain would, except where the message is to run again: then it does, and so do its hooks.
 *
 * `outcome` is always given for a consumed message, as the broker will be told it if no hook fails, and undefined for any
 * other. What a message waits for here keeps its lane shut only if it is not acknowledged: the next message of the key may
 * run first, so what that one must see is done in the chain and not by a hook.
 */
export interface Hook {
  (exit: Exit.Exit<unknown, unknown>, outcome: Outcome | undefined): Effect.Effect<void, Classified> | undefined
}

/**
 * What consumers, publishers, HTTP servers and HTTP clients share; a cross-cutting middleware knows no more than this.
 *
 * `kind` is OpenTelemetry's span kind: it tells extracting (`consumer`, `server`) from injecting (`producer`, `client`).
 */
export interface Envelope {
  readonly kind: "consumer" | "producer" | "server" | "client"
  /**
   * Whether a request was sent for it that has no answer yet and must not be sent twice (RFC 9110, 9.2.2): when it is interrupted,
   * its failure is `permanent`. Left out: no.
   */
  readonly isUnrepeatable?: boolean | undefined
  /** Topic, queue, subject or route. */
  readonly channel: string
  /** The address with parameters that the channel was read or written by; undefined where it has none. */
  readonly template?: string | undefined
  readonly key: string | undefined
  readonly headers: Headers.Headers
  /** A copy with one header more: the only change made by a middleware that does not know the message's type. */
  withHeader(name: string, value: string): this
  /** Registers what must run after, whatever happened. Copies of a message share their hooks. */
  after(hook: Hook): void
  /** Told the ids of the message, where what is answered repeats them: a server's response does. */
  correlated?(ids: Correlation): void
  /** The bytes of the body as far as they have been read, where a body is no payload before: that of a server's request. */
  readonly body?: Uint8Array | undefined
  /** What telemetry shows of a request of HTTP; undefined of all other messages. */
  readonly exchange?: Exchange | undefined
  /**
   * Runs an effect once the answer has been sent to its last byte or its client has gone, where the answer may be a stream that
   * is still read when the chain has ended: of a server's request. Left out: the end of the chain is the end.
   */
  afterAnswer?(effect: Effect.Effect<void>): void
}

declare const of: unique symbol

/**
 * Bytes that know which payload they hold, so that decoding them as another channel does not compile. The mark is optional
 * and exists in types only: plain bytes go wherever marked ones do.
 */
export interface Raw<in out A> extends Uint8Array {
  readonly [of]?: (_: A) => A
}

/** How a driver's native record is read: nothing of it is decoded before it is asked for. One for all its deliveries. */
export interface Reader<in Native> {
  key(native: Native): string | undefined
  keyBytes(native: Native): Uint8Array | undefined
  headers(native: Native): Headers.Headers
  fields(native: Native): ReadonlyArray<Headers.Field>
  /** Unix time in milliseconds at which the message was published, or undefined where the broker does not say. */
  timestamp(native: Native): number | undefined
}

/** What all deliveries of one lease have in common. */
export interface Origin {
  /** OpenTelemetry's `messaging.system`, e.g. `kafka`. */
  readonly system: string
  readonly channel: string
  /** The consumer group. */
  readonly group: string
  readonly partition: number
  /** The address that a subscription with parameters reads, where it reads one: spans and metrics are named by it. */
  readonly template?: string | undefined
  /** The subscription's name, as audit rows, logs and dead letters show it. */
  readonly handler: string
  /** Milliseconds a message may stay in one attempt before the broker gives it to somebody else; Infinity where it never does. */
  readonly holdLimit: number
}

// Fields are declared and not initialized: a class field that is defined and then assigned costs twice, per message.

/** A message on its way through a consumer: bytes outside `Decode`, a decoded value inside. */
export class Message<out P> implements Envelope {
  /** The delivery that it came from: the raw body, and everything the broker said of it. */
  declare readonly delivery: Delivery
  declare readonly payload: P
  // null until decoded, or until a parser or a middleware replaced it
  declare protected _key: string | undefined | null
  declare protected _headers: Headers.Headers | null

  constructor(
    delivery: Delivery | undefined,
    payload: P,
    key: string | undefined | null,
    headers: Headers.Headers | null
  ) {
    // only Delivery, which is its own origin, passes undefined
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
  /** The offset, sequence or delivery tag: grows within a partition. */
  get position(): number {
    return this.delivery.at
  }
  /** 1 at the first delivery, one more at each delivery or delayed retry after it. */
  get attempt(): number {
    return this.delivery.attempts
  }
  get timestamp(): number | undefined {
    return this.delivery.reader.timestamp(this.delivery.native)
  }
  get key(): string | undefined {
    return this._key === null ? this.delivery.ownKey : this._key
  }
  get headers(): Headers.Headers {
    return this._headers ?? this.delivery.ownHeaders
  }
  /** The body as it was published. */
  get raw(): Uint8Array {
    return this.delivery.payload
  }
  withHeader(name: string, value: string): this {
    // `this` may be a Delivery; what leaves is a Message of the same payload, which is all that callers of withHeader see
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
 * A message as the broker delivered it: what receive middlewares and parsers see, and the root of every `Message`.
 *
 * A driver makes one for each native record. Nothing is decoded here; the engine keeps its own books in `slot`, `index` and
 * `hooks`, so that a waiting message costs one object.
 */
export class Delivery<out P extends Uint8Array = Uint8Array> extends Message<P> {
  declare readonly origin: Origin
  declare readonly reader: Reader<never>
  /** The client library's own record. */
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
  get keyBytes(): Uint8Array | undefined {
    return this.reader.keyBytes(this.native)
  }
  /** Every header exactly as it came: repeated names, upper case, null and binary values. */
  get fields(): ReadonlyArray<Headers.Field> {
    return this.reader.fields(this.native)
  }
}

/** Makes a delivery of a driver's native record; `body` null is a tombstone. */
export const delivery = <Native>(
  origin: Origin,
  reader: Reader<Native>,
  native: Native,
  position: number,
  body: Uint8Array | null,
  attempt: number
): Delivery =>
  // the reader and the record it reads are stored side by side, so the pair stays consistent without a type parameter
  new Delivery(origin, reader as Reader<never>, native as never, position, body ?? nothing, attempt, body === null)

const nothing = new Uint8Array(0)

const encoder = new TextEncoder()

interface Books {
  hooks: Array<Hook> | undefined
}

/** A message on its way to a broker: a value outside `Encode`, bytes inside. */
export class Outgoing<out P> implements Envelope {
  declare readonly channel: string
  declare readonly payload: P
  declare readonly key: string | undefined
  declare readonly headers: Headers.Headers
  /** What text cannot hold, for a copy that loses nothing: key bytes that replace `key`, and native fields that replace `headers` of the same name; and where and when it is published. */
  declare readonly native: NativeParts | undefined
  /** The address with parameters that the channel was made of. */
  declare readonly template: string | undefined
  // shared by the copies of one publish; a message that is not being published has none
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
  /** The key as a broker of bytes keeps it. */
  get keyBytes(): Uint8Array | undefined {
    return this.native?.keyBytes ?? (this.key === undefined ? undefined : encoder.encode(this.key))
  }
  /** The headers as a broker of bytes keeps them: native fields, then the text headers whose names none of them has. */
  get fields(): ReadonlyArray<Headers.Field> {
    const native = this.native?.fields
    const text = Headers.toFields(this.headers)
    if (native === undefined || native.length === 0) return text
    const named = new Set(native.map(([name]) => name.toLowerCase()))
    return native.concat(text.filter(([name]) => !named.has(name)))
  }
  withHeader(name: string, value: string): this {
    // no subclass adds a field, so a plain copy is a full one
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
  /** The same message with no hooks yet: one publish. */
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
  withPayload<B>(payload: B): Outgoing<B> {
    return new Outgoing(this.channel, payload, this.key, this.headers, this.native, this.books, this.template)
  }
  after(hook: Hook): void {
    ;((this.books ??= { hooks: undefined }).hooks ??= []).push(hook)
  }
}

/** The parts of a published message beside body, key and text headers. Not every broker takes all of them. */
export interface NativeParts {
  readonly keyBytes?: Uint8Array | undefined
  readonly fields?: ReadonlyArray<Headers.Field> | undefined
  /** A null body: a deletion, in a compacted topic. */
  readonly tombstone?: boolean | undefined
  /** The partition that the message goes to, an integer from 0. Default: by the key, as the broker chooses. */
  readonly partition?: number | undefined
  /** Unix time in milliseconds that the broker keeps as the message's timestamp. Default: when it is published. */
  readonly timestamp?: number | undefined
  /**
   * Whether it is the engine's copy of a consumed message: a dead letter, a delayed retry or a replay. What a driver adds to
   * messages by its options (an expiry, an id against duplicates, the retain flag) it does not add to a copy.
   */
  readonly isCopy?: boolean | undefined
  /** Whether it is an answer, so that its channel is what a caller has named: another client may name a place that is no channel. */
  readonly isReply?: boolean | undefined
}
