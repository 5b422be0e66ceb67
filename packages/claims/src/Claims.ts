/**
 * The claim check: large bodies are written to a store before the publish, and their messages carry a reference. Readers fetch them, and
 * verify length and digest.
 */
import { Eager, OptionCheck, PayloadCodec } from "@millrace/core"
import { Clock, Duration, Effect, Exit, Schema, Stream } from "effect"
import { createHash } from "node:crypto"
import { ClaimStoreUnavailable, Store } from "./ClaimStore.ts"
import { Claim } from "./internal/claim.ts"
import { dayOf } from "./internal/days.ts"
import { channelPart, digestOf, unique } from "./internal/digest.ts"
import {
  type ClaimCorrupt,
  ClaimForeign,
  ClaimInvalid,
  type ClaimMissing,
  ClaimTooLarge,
  corrupt,
  missing
} from "./internal/errors.ts"
import * as Fetching from "./internal/fetching.ts"
import * as Reference from "./internal/reference.ts"
import * as Sqs from "./internal/sqs.ts"

export { ClaimStoreUnavailable } from "./ClaimStore.ts"
export { Claim } from "./internal/claim.ts"
export { ClaimCorrupt, ClaimForeign, ClaimInvalid, ClaimMissing, ClaimTooLarge } from "./internal/errors.ts"
export { header, type Reference } from "./internal/reference.ts"
export { type Options as SqsOptions } from "./internal/sqs.ts"

/** Options of reading. */
export interface ReadOptions {
  /**
   * How long after its write a body may be missing before that is permanent: replication, a store that was restored; from 0. Default: 5
   * minutes.
   */
  readonly grace?: Duration.Input | undefined
  /** The wait of a message before it is read again, while the store does not answer or the body is missing; above 0. Default: 5 seconds. */
  readonly retryAfter?: Duration.Input | undefined
  /** The longest time of one write or read of a whole body, and of the wait for each part of a stream; above 0. Default: 30 seconds. */
  readonly timeout?: Duration.Input | undefined
}

/** Options of `transform`. */
export interface Options extends ReadOptions {
  /** Bodies with more bytes go to the store, measured after compression and encryption; an integer from 0. Default: 256 KiB. */
  readonly threshold?: number | undefined
  /** The most bytes of a body that is read or published as a whole; an integer from 1. Default: 64 MiB. */
  readonly maximumBytes?: number | undefined
  /** Reads pointers of Amazon's extended client for SQS, too. Default: they are read as bodies. */
  readonly sqs?: Sqs.Options | undefined
}

/** The defaults of the options. */
export const defaults: {
  readonly threshold: number
  readonly maximumBytes: number
  readonly grace: Duration.Duration
  readonly retryAfter: Duration.Duration
  readonly timeout: Duration.Duration
} = {
  threshold: 256 * 1024,
  maximumBytes: 64 * 1024 * 1024,
  grace: Duration.minutes(5),
  retryAfter: Duration.seconds(5),
  timeout: Duration.seconds(30)
}

/** The failures of reading a claim. */
export type ReadError = ClaimStoreUnavailable | ClaimMissing | ClaimCorrupt | ClaimForeign

type Failed = ReadError | ClaimInvalid | ClaimTooLarge

const module = "Claims"
const check = OptionCheck.make(module)

const patienceOf = (options: ReadOptions): Fetching.Patience => ({
  grace: check.millis("grace", options.grace ?? defaults.grace, { least: 0 }),
  retryAfter: check.millis("retryAfter", options.retryAfter ?? defaults.retryAfter),
  timeout: check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
})

const told = (error: Failed, retryAfter: number): PayloadCodec.PayloadError =>
  new PayloadCodec.PayloadError({
    failure: error.failure,
    codec: module,
    message: error.message,
    reason: error._tag,
    retryAfter: error.failure === "dependency" ? Duration.millis(retryAfter) : undefined,
    cause: error
  })

/** Gives the failure of a store the wait after which its message is read again: without one, it would spend an attempt. */
const later = <E>(error: E, retryAfter: number): E | ClaimStoreUnavailable =>
  error instanceof ClaimStoreUnavailable
    ? new ClaimStoreUnavailable({
      message: error.message,
      cause: error.cause,
      retryAfter: error.retryAfter ?? Duration.millis(retryAfter)
    })
    : error

const nowOf = (): Effect.Effect<number> =>
  Effect.mapEager(Eager.service(Clock.Clock), (clock) => clock.currentTimeMillisUnsafe())

/** Writes a whole body under the digest of its bytes: writing it again changes nothing. */
const written = (
  channel: string,
  body: Uint8Array,
  timeout: number
): Effect.Effect<Reference.Reference, ClaimStoreUnavailable, Store> =>
  Effect.flatMapEager(
    Eager.service(Store),
    (store) =>
      Effect.flatMapEager(nowOf(), (time) =>
        Effect.flatMapEager(digestOf(body), (sha256) => {
          const key = `${dayOf(time)}/${channelPart(channel)}-${sha256}`
          return Effect.mapEager(
            Fetching.limited(store.write(key, body, sha256), store.name, timeout),
            () => ({ store: store.name, key, size: body.length, sha256, time })
          )
        }))
  )

const taken = Exit.fail(PayloadCodec.validation({
  codec: module,
  reason: "HeaderTaken",
  message: `The publisher has set ${Reference.header}, which marks references: leave that header out`
}))

const encoded = (reference: Reference.Reference): PayloadCodec.Encoded => ({
  bytes: Reference.encode(reference),
  headers: { [Reference.header]: Reference.version }
})

const tooLarge = (size: number, most: number, failure: "poison" | "validation") =>
  new ClaimTooLarge({
    failure,
    message: `The body has ${size} bytes, and maximumBytes is ${most}: raise it, or use Claims.put and Claims.stream`
  })

/** Reads the payload of a pointer of Amazon's format: it has a length and no digest. */
const pointed = (
  { key, size }: Sqs.Pointer,
  timestamp: number | undefined,
  patience: Fetching.Patience
): Effect.Effect<Uint8Array, Failed, Store> =>
  Effect.flatMapEager(Eager.service(Store), (store) =>
    Effect.flatMap(
      Fetching.limited(store.read(key, size + 1), store.name, patience.timeout),
      (body): Effect.Effect<Uint8Array, Failed> =>
        body === undefined
          ? Effect.flatMapEager(nowOf(), (now) =>
            Exit.fail(missing(
              store.name,
              key,
              timestamp === undefined || Math.abs(now - timestamp) < patience.grace,
              patience.retryAfter
            )))
          : body.length === size
          ? Exit.succeed(body)
          : Exit.fail(corrupt(store.name, key, `has not the ${size} bytes that its pointer says`))
    ))

/**
 * Makes the transform that writes large bodies to the store, for `PayloadCodec.through`.
 *
 * A body of at most `threshold` bytes is published as it is. A larger one is written first, under the day, the channel and the digest of its
 * bytes; then its message is published with a reference of some 300 bytes and the header `millrace-claim`. A reader fetches it before
 * decoding, and verifies length and digest. Retries, dead letters and replays carry the reference; no consumer removes a body.
 *
 * Types: `ClaimStore.Store` enters R of publishers, `Decode`, requests and outboxes of the channel. Place: outermost, after compression and
 * encryption; another order does not compile.
 *
 * Errors: a `DecodeError` or `EncodeError` whose `reason` is the tag of an error of this module. Class `dependency`
 * (`ClaimStoreUnavailable`, `ClaimMissing` within `grace`): the message returns to its source, and a publish fails. Class `permanent`
 * (`ClaimMissing` later) and `poison` (`ClaimInvalid`, `ClaimForeign`, `ClaimCorrupt`, `ClaimTooLarge`): the message becomes a dead letter
 * with its reference. Class `validation` (`ClaimTooLarge`, `HeaderTaken`): nothing is published.
 *
 * **Example** (documents in a folder that all processes share)
 *
 * ```ts
 * import { Channel, PayloadCodec } from "@millrace/core"
 * import { ClaimFile, Claims } from "@millrace/claims"
 * import { Schema } from "effect"
 *
 * const Documents = Channel.make("documents", {
 *   payload: Schema.Struct({ id: Schema.String, text: Schema.String }),
 *   codec: PayloadCodec.through(Channel.json, [Claims.transform()])
 * })
 * const store = ClaimFile.layer({ directory: "/mnt/claims", retention: "30 days" })
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const transform = (options: Options = {}): PayloadCodec.Transform<Store, "store"> => {
  const threshold = check.count("threshold", options.threshold ?? defaults.threshold, { least: 0 })
  const maximumBytes = check.count("maximumBytes", options.maximumBytes ?? defaults.maximumBytes)
  const patience = patienceOf(options)
  const { sqs } = options
  if (sqs?.bucket === "") throw new RangeError("Claims: sqs.bucket is needed, and it is empty")
  const failed = (error: Failed) => told(error, patience.retryAfter)

  const fetched = (reference: Reference.Reference, channel: string): Effect.Effect<Uint8Array, Failed, Store> =>
    Effect.flatMapEager(Eager.service(Store), (store): Effect.Effect<Uint8Array, Failed> => {
      const refused = Reference.refusal(reference, channel, store.name)
      if (refused !== undefined) return Exit.fail(refused)
      if (reference.size > maximumBytes) return Exit.fail(tooLarge(reference.size, maximumBytes, "poison"))
      return Effect.flatMapEager(nowOf(), (now) => Fetching.whole(store, reference, now, patience))
    })

  const decodeSqs = (
    bytes: Uint8Array,
    metadata: PayloadCodec.Metadata,
    options: Sqs.Options
  ): Effect.Effect<Uint8Array, Failed, Store> => {
    const mark = Sqs.markOf(metadata.fields)
    if (mark === undefined) return Exit.succeed(bytes)
    const pointer = Sqs.decode(bytes, mark, options)
    if ("_tag" in pointer) return Exit.fail(pointer)
    return pointer.size > maximumBytes
      ? Exit.fail(tooLarge(pointer.size, maximumBytes, "poison"))
      : pointed(pointer, metadata.timestamp, patience)
  }

  return {
    name: module,
    stage: "store",
    encode: (bytes, metadata) => {
      if (metadata.headers[Reference.header] !== undefined) return taken
      if (bytes.length <= threshold) return Exit.succeed({ bytes })
      if (bytes.length > maximumBytes) return Exit.fail(failed(tooLarge(bytes.length, maximumBytes, "validation")))
      return Effect.mapEager(
        Effect.mapErrorEager(written(metadata.channel, bytes, patience.timeout), failed),
        encoded
      )
    },
    decode: (bytes, metadata) => {
      const marked = metadata.headers[Reference.header]
      if (marked === undefined) {
        return sqs === undefined
          ? Exit.succeed(bytes)
          : Effect.mapErrorEager(decodeSqs(bytes, metadata, sqs), failed)
      }
      const reference = Reference.decode(bytes, marked)
      return reference instanceof ClaimInvalid
        ? Exit.fail(failed(reference))
        : Effect.mapErrorEager(fetched(reference, metadata.channel), failed)
    }
  }
}

/** The schema of payloads that are claims, for `Channel.make`. */
export const schema: Schema.declare<Claim> = Schema.declare((value: unknown): value is Claim => value instanceof Claim)

const codecFailed = (error: ClaimForeign | ClaimInvalid) => Exit.fail(told(error, 0))

/**
 * The codec of channels whose payloads are claims: publishers put a body by `Claims.put` and publish its claim, handlers read it by
 * `Claims.stream`, in parts that need not fit into memory.
 *
 * Bodies that were published on the channel by `transform` and `Channel.bytes` are read too, and so are bodies without a reference. A claim
 * of another channel is refused, with class `validation`: put a copy. References that cannot be read, or name another channel, are class
 * `poison`.
 *
 * **Example** (videos)
 *
 * ```ts
 * import { Channel, type Message, Publisher } from "@millrace/core"
 * import { Claims } from "@millrace/claims"
 * import { Effect, Stream } from "effect"
 *
 * const Videos = Channel.make("videos", { payload: Claims.schema, codec: Claims.codec })
 *
 * const upload = <E>(video: Stream.Stream<Uint8Array, E>) =>
 *   Effect.flatMap(Claims.put("videos", video), (claim) => Publisher.make(Videos).publish(claim))
 *
 * const handler = ({ payload }: Message<Claims.Claim>) =>
 *   Stream.runForEach(Claims.stream(payload), (part) => Effect.log(`${part.length} bytes`))
 * ```
 *
 * @category constructors
 */
export const codec: PayloadCodec.PayloadCodec = PayloadCodec.make({
  name: module,
  values: "native",
  encode: (value, { channel, headers }) => {
    if (!(value instanceof Claim)) throw new TypeError("a claim is needed: make it by Claims.put")
    if (headers[Reference.header] !== undefined) return taken
    if (value.inline !== undefined) return Exit.succeed({ bytes: value.inline })
    if (value.channel !== channel || value.reference === undefined) {
      return codecFailed(
        new ClaimForeign({
          failure: "validation",
          message: `The claim is of the channel ${value.channel}, not of ${channel}: put a copy by Claims.put`
        })
      )
    }
    return Exit.succeed(encoded(value.reference))
  },
  decode: (bytes, { channel, headers }) => {
    const marked = headers[Reference.header]
    if (marked === undefined) return Exit.succeed(Claim.carried(channel, bytes))
    const reference = Reference.decode(bytes, marked)
    if (reference instanceof ClaimInvalid) return codecFailed(reference)
    // the store is compared when the body is read
    const refused = Reference.refusal(reference, channel, reference.store)
    return refused === undefined ? Exit.succeed(Claim.stored(channel, reference)) : codecFailed(refused)
  }
})

/**
 * Writes a body for a channel, and returns its claim. Nothing refers to the body before the claim is published; if it never is, the body is
 * removed with those of its day.
 *
 * `channel` is the name that the claim will be published to. A body of bytes is written under its digest, so that a second write changes
 * nothing; a stream under a name of its own, by parts. Fails with `ClaimStoreUnavailable`, or the stream's own error, and then leaves no
 * body. `timeout` limits the write of bytes; a stream has no limit but those of the store's requests.
 *
 * @throws RangeError when an option is out of range
 */
export const put = <E = never, R = never>(
  channel: string,
  body: Uint8Array | Stream.Stream<Uint8Array, E, R>,
  options: Pick<ReadOptions, "retryAfter" | "timeout"> = {}
): Effect.Effect<Claim, E | ClaimStoreUnavailable, R | Store> => {
  const { retryAfter, timeout } = patienceOf(options)
  const made = body instanceof Uint8Array
    ? Effect.suspend(() => Effect.map(written(channel, body, timeout), (found) => Claim.stored(channel, found)))
    : streamed(channel, body)
  return Effect.mapError(made, (error) => later(error, retryAfter))
}

const streamed = <E, R>(
  channel: string,
  body: Stream.Stream<Uint8Array, E, R>
): Effect.Effect<Claim, E | ClaimStoreUnavailable, R | Store> =>
  Effect.gen(function*() {
    const store = yield* Store
    const time = yield* Clock.currentTimeMillis
    const key = `${dayOf(time)}/${channelPart(channel)}-s${unique()}`
    const hash = createHash("sha256")
    let size = 0
    yield* store.writeStream(
      key,
      Stream.mapEffect(body, (part) => {
        size += part.length
        hash.update(part)
        return Exit.succeed(part)
      })
    )
    return Claim.stored(channel, { store: store.name, key, size, sha256: hash.digest("hex"), time })
  })

/** Options of `stream`. */
export interface StreamOptions extends ReadOptions {
  /** The first byte that is read, from 0; above 0 the digest is not verified. Default: 0. */
  readonly offset?: number | undefined
}

/**
 * Reads the body of a claim in parts, of which one is in memory at a time.
 *
 * The length is verified on the way and the digest at the end: do nothing final before the stream has ended. Fails with
 * `ClaimStoreUnavailable` or `ClaimMissing` (class `dependency`: the message returns to its source), `ClaimMissing` after `grace` (class
 * `permanent`), `ClaimCorrupt` or `ClaimForeign` (class `poison`).
 *
 * @throws RangeError when an option is out of range
 */
export const stream = (claim: Claim, options: StreamOptions = {}): Stream.Stream<Uint8Array, ReadError, Store> => {
  const patience = patienceOf(options)
  const offset = check.count("offset", options.offset ?? 0, { least: 0 })
  const { channel, inline, reference } = claim
  if (inline !== undefined) return Stream.make(inline.subarray(offset))
  if (reference === undefined) return Stream.empty
  const opened = Stream.unwrap(Effect.map(Store, (store): Stream.Stream<Uint8Array, ReadError> => {
    const refused = Reference.refusal(reference, channel, store.name)
    return refused === undefined
      ? Fetching.streamed(store, reference, Math.min(offset, reference.size), Clock.currentTimeMillis, patience)
      : Stream.fail(refused)
  }))
  return Stream.mapError(opened, (error) => later(error, patience.retryAfter))
}
