/**
 * The port between a payload and the bytes of its message: a codec turns values into bytes, and transforms change those bytes
 * (compression, encryption, a store for large bodies); both see the message around the payload.
 */
import { Data, Duration, Effect, Exit } from "effect"
import type { Codec } from "./Codec.ts"
import { type FailureClass, messageOf, tagOf } from "./Failure.ts"
import * as Headers from "./Headers.ts"
import { isDone } from "./isDone.ts"

/** The message around a payload, without its body. */
export interface Metadata {
  /**
   * OpenTelemetry's `messaging.system`, e.g. `kafka`; `http` for requests and answers, and `outbox` for rows that a relay
   * publishes later.
   */
  readonly system: string
  /**
   * The channel that the message is published to, or was first read from: the same for its retries, its dead letter and its
   * replay. No header that a publisher may have written decides it.
   */
  readonly channel: string
  readonly key: string | undefined
  readonly keyBytes: Uint8Array | undefined
  /** The text headers; when encoding, with those of the codecs and transforms before. */
  readonly headers: Headers.Headers
  /** Every header: also binary values, repeated names and upper case. */
  readonly fields: ReadonlyArray<Headers.Field>
  /** 1 at the first delivery, one more at each next one; 1 when encoding. */
  readonly attempt: number
  /** Unix time in milliseconds of the publish; undefined when encoding, and if the broker does not tell. */
  readonly timestamp: number | undefined
}

/** The bytes of a payload, and the headers that they need. */
export interface Encoded {
  readonly bytes: Uint8Array
  /** Text headers to set, with names in lower case; they replace headers of the same names. Default: none. */
  readonly headers?: Headers.Headers | undefined
  /** Header fields to set whose values are no text. Default: none. */
  readonly fields?: ReadonlyArray<Headers.Field> | undefined
}

/** The parts of a `PayloadError`. */
export interface Told {
  /** The name of the codec or transform. */
  readonly codec: string
  /** A sentence that says what to do. It is logged and written into dead letters, so it must hold no value of the body. */
  readonly message: string
  /** The kind of failure in the codec's own words, e.g. `KeyRevoked`. */
  readonly reason?: string | undefined
  /** The wait before the message is read again; an error that has one is retried, whatever its class. */
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}

/**
 * A payload that could not be encoded or decoded.
 *
 * - `poison`: the bytes do not decode
 * - `validation`: the codec does not accept the value
 * - `permanent`: the message will never be read or written, although its bytes may be valid
 * - `dependency`: a registry, a key service or a store does not answer
 */
export class PayloadError extends Data.TaggedError("PayloadError")<{
  readonly failure: Extract<FailureClass, "poison" | "validation" | "permanent" | "dependency">
  readonly codec: string
  readonly message: string
  readonly reason?: string | undefined
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}> {}

const failed = (failure: PayloadError["failure"], told: Told): PayloadError => new PayloadError({ ...told, failure })

/** Makes the error for bytes that do not decode: their message becomes a dead letter. */
export const poison = (told: Told): PayloadError => failed("poison", told)

/** Makes the error for a value that the codec does not accept: nothing is published. */
export const validation = (told: Told): PayloadError => failed("validation", told)

/** Makes the error for a message that will never be read or written, e.g. by a revoked key: it becomes a dead letter. */
export const permanent = (told: Told): PayloadError => failed("permanent", told)

/**
 * Makes the error for a registry, a key service or a store that does not answer: the message is read again after `retryAfter`
 * (default: 5 seconds) and spends no attempt.
 */
export const dependency = (told: Told): PayloadError =>
  failed("dependency", { ...told, retryAfter: told.retryAfter ?? Duration.seconds(5) })

const TypeId = "~@millrace/core/PayloadCodec"

/** Encodes and decodes payloads with their messages; needs the services `R`. Made by `make` and `through`. */
export interface PayloadCodec<out R = never> {
  readonly [TypeId]: typeof TypeId
  /** The name in errors and descriptions. */
  readonly name: string
  /** The media type that publishers write into `content-type`; undefined writes none. */
  readonly contentType: string | undefined
  /** The media types that it reads beside its own; routes of HTTP answer 415 to all others. */
  readonly accepts: ReadonlyArray<string>
  readonly values: "json" | "native"
  /** Never throws, as `decode`. The result is an Exit when nothing suspends. */
  readonly encode: (value: unknown, metadata: Metadata) => Effect.Effect<Encoded, PayloadError, R>
  readonly decode: (bytes: Uint8Array, metadata: Metadata) => Effect.Effect<unknown, PayloadError, R>
  /** The plain codec, if there is nothing else between value and bytes. */
  readonly plain: Codec | undefined
  /** The transforms, from the payload outwards. */
  readonly transforms: ReadonlyArray<Transform<R>>
}

/** The parts of a codec of one's own. */
export interface Options<R> {
  /** The name in errors and descriptions. */
  readonly name: string
  /** The media type that publishers write into `content-type`. Default: none is written. */
  readonly contentType?: string | undefined
  /**
   * The media types that it reads beside its own, e.g. `application/*+json`, or `*` for every one; routes of
   * HTTP answer 415 to all others. Default: none.
   */
  readonly accepts?: ReadonlyArray<string> | undefined
  /**
   * The values between schema and codec: `json` is what JSON is made of (a date is a text), `native` what the schema itself
   * encodes to (bytes stay bytes, a bigint stays a bigint). Default: `json`.
   */
  readonly values?: "json" | "native" | undefined
  /** A throw is a value that the codec does not accept. */
  readonly encode: (value: unknown, metadata: Metadata) => Effect.Effect<Encoded, PayloadError, R>
  /** A throw is poison. */
  readonly decode: (bytes: Uint8Array, metadata: Metadata) => Effect.Effect<unknown, PayloadError, R>
}

/**
 * The place of a transform between codec and broker: compression first, encryption around it, and a store for large bodies
 * outermost.
 */
export type Stage = "compress" | "encrypt" | "store"

/** Changes bytes on their way to the broker, and changes them back; needs the services `R`. */
export interface Transform<out R = never, out S extends Stage = Stage> {
  /** The name in errors and descriptions. */
  readonly name: string
  readonly stage: S
  /** Returns the bytes to publish, and the headers that `decode` needs. A throw fails the publish. */
  readonly encode: (bytes: Uint8Array, metadata: Metadata) => Effect.Effect<Encoded, PayloadError, R>
  /** Returns the bytes that `encode` took. A throw is poison. */
  readonly decode: (bytes: Uint8Array, metadata: Metadata) => Effect.Effect<Uint8Array, PayloadError, R>
}

// takes only the position from a library's message, which may quote the body
const placeIn = (cause: unknown): string => / at position \d+/.exec(messageOf(cause))?.[0] ?? ""

const thrownAt = (cause: unknown): string => `${cause instanceof Error ? tagOf(cause) : "failed"}${placeIn(cause)}`

/** Returns the error for a throw of a codec that decodes. */
export const unreadable = (codec: string, bytes: Uint8Array, cause: unknown): PayloadError =>
  poison({
    codec,
    cause,
    message: `The body (${bytes.length} bytes) cannot be read as ${codec} asks: ${thrownAt(cause)}`
  })

const unwritable = (codec: string, cause: unknown): PayloadError =>
  validation({ codec, cause, message: messageOf(cause) || tagOf(cause) })

interface Writes<A, R> {
  (value: A, metadata: Metadata): Effect.Effect<Encoded, PayloadError, R>
}

interface Reads<A, R> {
  (bytes: Uint8Array, metadata: Metadata): Effect.Effect<A, PayloadError, R>
}

const writes = <A, R>(codec: string, encode: Writes<A, R>): Writes<A, R> => (value, metadata) => {
  try {
    return encode(value, metadata)
  } catch (cause) {
    return Exit.fail(unwritable(codec, cause))
  }
}

const reads = <A, R>(codec: string, decode: Reads<A, R>): Reads<A, R> => (bytes, metadata) => {
  try {
    return decode(bytes, metadata)
  } catch (cause) {
    return Exit.fail(unreadable(codec, bytes, cause))
  }
}

/**
 * Makes a codec that sees the message around its payload: for ids of schemas in headers, for media types that a publisher
 * chooses, for codecs that ask a service.
 *
 * `encode` and `decode` run on the message's fiber. They may answer an Exit, which costs no step of a fiber, and they read a
 * service by `Eager.service`.
 *
 * @category constructors
 */
export const make = <R = never>(options: Options<R>): PayloadCodec<R> => ({
  [TypeId]: TypeId,
  name: options.name,
  contentType: options.contentType,
  accepts: options.accepts ?? [],
  values: options.values ?? "json",
  encode: writes(options.name, options.encode),
  decode: reads(options.name, options.decode),
  plain: undefined,
  transforms: []
})

/** The codec of raw bytes, for transforms of a channel without a codec. */
export const bytes: PayloadCodec = make({
  name: "bytes",
  values: "native",
  encode: (value) => {
    if (!(value instanceof Uint8Array)) throw new TypeError(`bytes are needed, got ${typeof value}`)
    return Exit.succeed({ bytes: value })
  },
  decode: (bytes) => Exit.succeed(bytes)
})

/** Tells whether a codec is one of this port, and no plain one. */
const isPayloadCodec = <R>(codec: Codec | PayloadCodec<R>): codec is PayloadCodec<R> => TypeId in codec

/** Lifts a plain codec into the port; a codec of the port stays as it is. */
export const of = <R = never>(codec: Codec | PayloadCodec<R>): PayloadCodec<R> =>
  isPayloadCodec(codec) ? codec : {
    ...make<R>({
      name: codec.contentType,
      contentType: codec.contentType,
      values: codec.values,
      encode: (value) => Exit.succeed({ bytes: codec.encode(value) }),
      decode: (bytes) => Exit.succeed(codec.decode(bytes))
    }),
    plain: codec
  }

/** Metadata with the headers that a codec or transform has set. */
class Amended implements Metadata {
  readonly headers: Headers.Headers
  private readonly base: Metadata
  private readonly added: Encoded

  constructor(base: Metadata, added: Encoded) {
    this.base = base
    this.added = added
    this.headers = added.headers === undefined ? base.headers : Headers.merge(base.headers, added.headers)
  }

  get system(): string {
    return this.base.system
  }
  get channel(): string {
    return this.base.channel
  }
  get key(): string | undefined {
    return this.base.key
  }
  get keyBytes(): Uint8Array | undefined {
    return this.base.keyBytes
  }
  get fields(): ReadonlyArray<Headers.Field> {
    const { fields = [], headers = Headers.empty } = this.added
    return Headers.replaceFields(this.base.fields, Headers.toFields(headers).concat(fields))
  }
  get attempt(): number {
    return this.base.attempt
  }
  get timestamp(): number | undefined {
    return this.base.timestamp
  }
}

const amended = (metadata: Metadata, { bytes, fields, headers }: Encoded): Metadata =>
  headers === undefined && fields === undefined ? metadata : new Amended(metadata, { bytes, headers, fields })

/** The headers and fields of two steps; the outer step replaces what the inner one has set under the same name. */
const together = (inner: Encoded, outer: Encoded): Encoded => {
  const { bytes, fields = [], headers = Headers.empty } = outer
  return {
    bytes,
    headers: Headers.merge(inner.headers ?? Headers.empty, headers),
    fields: Headers.replaceFields(inner.fields ?? [], Headers.toFields(headers), fields)
  }
}

const stages: ReadonlyArray<Stage> = ["compress", "encrypt", "store"]

/** The stages that may stand outside of a stage. */
interface Outside {
  readonly compress: Stage
  readonly encrypt: "encrypt" | "store"
  readonly store: "store"
}

declare const refused: unique symbol

/** Nothing is assignable to it: the compiler's message shows the sentence. */
interface Misplaced<Reason extends string> {
  readonly [refused]: Reason
}

/** Refuses transforms in a wrong order, with a sentence. */
export type InOrder<T> = T extends
  readonly [Transform<unknown, infer A>, Transform<unknown, infer B>, ...infer Rest extends ReadonlyArray<unknown>]
  ? B extends Outside[A] ? T extends readonly [unknown, ...infer Next] ? InOrder<Next> : Rest
  : Misplaced<`transforms stand from the payload outwards: compress, encrypt, store; here ${B} comes after ${A}`>
  : unknown

/** The services `R`, which a contextual type does not decide. */
export type Own<R> = [R] extends [infer Services] ? Services : never

/** The services of transforms. */
export type Needs<T> = T extends Transform<infer R> ? R : never

/**
 * Puts transforms around a codec, from the payload outwards: `compress`, then `encrypt`, then `store`. Decoding runs them in
 * reverse. Their needs enter `R`; a wrong order does not compile.
 *
 * @throws RangeError when the transforms stand in a wrong order
 * @category constructors
 */
export const through = <const T extends ReadonlyArray<Transform<unknown>>, R = never>(
  codec: Codec | PayloadCodec<R>,
  transforms: T & InOrder<T>
): PayloadCodec<R | Needs<T[number]>> =>
  // each transform needs a part of R at most
  around(of<R | Needs<T[number]>>(codec), transforms as ReadonlyArray<Transform<R | Needs<T[number]>>>)

const around = <R>(codec: PayloadCodec<R>, transforms: ReadonlyArray<Transform<R>>): PayloadCodec<R> => {
  const made = transforms.reduce(wrapped, codec)
  made.transforms.reduce<Transform<R> | undefined>((before, each) => {
    if (before !== undefined && stages.indexOf(each.stage) < stages.indexOf(before.stage)) {
      throw new RangeError(
        `PayloadCodec: transforms stand from the payload outwards, compress, encrypt, store; ${each.name} (${each.stage}) comes after ${before.name} (${before.stage})`
      )
    }
    return each
  }, undefined)
  return made
}

const wrapped = <R>(inner: PayloadCodec<R>, transform: Transform<R>): PayloadCodec<R> => {
  const encode = writes(transform.name, transform.encode)
  const decode = reads(transform.name, transform.decode)
  const outwards = (encoded: Encoded, metadata: Metadata): Effect.Effect<Encoded, PayloadError, R> => {
    const outer = encode(encoded.bytes, amended(metadata, encoded))
    return encoded.headers === undefined && encoded.fields === undefined
      ? outer
      : Effect.mapEager(outer, (outer) => together(encoded, outer))
  }
  return {
    ...inner,
    name: `${inner.name}, ${transform.name}`,
    // no closure for steps that finish at once
    encode: (value, metadata) => {
      const encoded = inner.encode(value, metadata)
      if (!isDone(encoded)) return Effect.flatMap(encoded, (encoded) => outwards(encoded, metadata))
      return encoded._tag === "Success" ? outwards(encoded.value, metadata) : encoded
    },
    decode: (bytes, metadata) => {
      const decoded = decode(bytes, metadata)
      if (!isDone(decoded)) return Effect.flatMap(decoded, (decoded) => inner.decode(decoded, metadata))
      return decoded._tag === "Success" ? inner.decode(decoded.value, metadata) : decoded
    },
    plain: undefined,
    transforms: [...inner.transforms, transform]
  }
}

/** Puts the transforms of one codec around another. */
export const sameTransforms = <R>(codec: PayloadCodec<R>, inner: Codec): PayloadCodec<R> =>
  around(of<R>(inner), codec.transforms)
