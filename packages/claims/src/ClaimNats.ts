/**
 * Stores claims in an object store of NATS JetStream; needs the packages `@nats-io/obj`, `@nats-io/jetstream` and
 * `@nats-io/transport-node`. Import it as `@millrace/claims/ClaimNats`.
 */
import { type DirectStreamAPI, jetstream, jetstreamManager } from "@nats-io/jetstream"
import { type ObjectInfo, type ObjectStore, Objm, StorageType } from "@nats-io/obj"
import type { NatsConnection } from "@nats-io/transport-node"
import { OptionCheck } from "@millrace/core"
import { Data, Deferred, Duration, Effect, Layer, type Scope, Stream } from "effect"
import { ClaimStoreUnavailable, Store } from "./ClaimStore.ts"
import { nameOf, retentionOf } from "./internal/options.ts"

/** Options of `layer`. */
export interface Options {
  /** Connects; the layer drains the connection when it closes. */
  readonly connect: Effect.Effect<NatsConnection, unknown>
  /** The bucket, created if missing: letters, digits, `-` and `_`. */
  readonly bucket: string
  /**
   * How long bodies are kept, at least; from 1 hour, or `Infinity`. Make it longer than messages, dead letters and unsent rows of an outbox
   * live, or their bodies are gone. A bucket that the layer creates keeps them a day longer; one that keeps them shorter is refused.
   */
  readonly retention: Duration.Input
  /** The name in references, from 1 to 100 characters, the same in all programs. Default: the bucket. */
  readonly name?: string | undefined
  /** The replicas of a bucket that the layer creates; 1 to 5. Default: 1. */
  readonly replicas?: number | undefined
  /** The longest time of one request, of which each part of 128 KiB needs one; from 1 ms. Default: 5 seconds. */
  readonly timeout?: Duration.Input | undefined
}

/** The defaults of `layer`'s options. */
export const defaults: { readonly replicas: number; readonly timeout: Duration.Duration } = {
  replicas: 1,
  timeout: Duration.seconds(5)
}

const module = "ClaimNats"
const day = 86_400_000
const nanos = 1_000_000

const isFound = (info: ObjectInfo | null): info is ObjectInfo => info !== null && !info.deleted

/** The bytes of a stream that JavaScript's readers take. */
const readable = (body: Uint8Array): ReadableStream<Uint8Array> =>
  new ReadableStream({
    start: (controller) => {
      if (body.length > 0) controller.enqueue(body)
      controller.close()
    }
  })

/** Ends the body of a write whose caller was interrupted. */
class Interrupted extends Data.TaggedError("Interrupted") {}

interface Opened {
  readonly bucket: string
  readonly objects: ObjectStore
  readonly direct: DirectStreamAPI
}

const make = (
  name: string,
  { bucket, direct, objects }: Opened,
  timeout: number
): Store["Service"] => {
  const failed = (verb: string) => (cause: unknown) =>
    new ClaimStoreUnavailable({
      message: `The store ${name} cannot ${verb} a body: ${cause instanceof Error ? cause.message : String(cause)}`,
      cause
    })
  const attempt = <A>(verb: string, work: () => Promise<A>): Effect.Effect<A, ClaimStoreUnavailable> =>
    Effect.tryPromise({ try: work, catch: failed(verb) })
  const found = (key: string) =>
    Effect.map(attempt("read", () => objects.info(key)), (info) => isFound(info) ? info : undefined)

  const written = (key: string, body: ReadableStream<Uint8Array>) =>
    attempt("write", async () => {
      const old = await objects.info(key)
      try {
        // another writer of the same bytes must not be replaced: its parts would vanish under its readers
        await objects.put({ name: key }, body, { timeout, previousRevision: old?.revision ?? 0 })
      } catch (cause) {
        if (!isFound(await objects.info(key))) throw cause
      }
    })

  /** The parts of a body, one request for each: the client's own reader has no limit of memory. */
  const partsOf = (info: ObjectInfo): Stream.Stream<Uint8Array, ClaimStoreUnavailable> => {
    const subject = `$O.${bucket}.C.${info.nuid}`
    return Stream.unfold(
      { after: 0, left: info.chunks },
      ({ after, left }) =>
        left === 0 ? Effect.undefined : Effect.map(
          attempt("read", () => direct.getMessage(`OBJ_${bucket}`, { seq: after + 1, next_by_subj: subject })),
          // a part that is missing ends the body, which is then too short
          (message) => message === null ? undefined : [message.data, { after: message.seq, left: left - 1 }] as const
        )
    )
  }

  const from = (info: ObjectInfo, offset: number) => {
    let skipped = offset
    return Stream.map(partsOf(info), (part) => {
      const rest = part.subarray(Math.min(skipped, part.length))
      skipped -= part.length - rest.length
      return rest
    })
  }

  return {
    name,
    write: (key, body) =>
      Effect.flatMap(found(key), (info) => info?.size === body.length ? Effect.void : written(key, readable(body))),
    writeStream: <E, R>(key: string, body: Stream.Stream<Uint8Array, E, R>) => {
      // the client sees a failure as its own, so the stream's is kept
      let failure: { readonly error: E } | undefined
      const isOver = Deferred.makeUnsafe<never, Interrupted>()
      const kept = body.pipe(
        Stream.tapError((error) =>
          Effect.sync(() => {
            failure = { error }
          })
        ),
        // a body that fails makes the client remove its parts
        Stream.interruptWhen(Deferred.await(isOver))
      )
      return Effect.flatMap(Stream.toReadableStreamEffect(kept), (bytes) =>
        Effect.catch(
          Effect.onInterrupt(written(key, bytes), () => Deferred.fail(isOver, new Interrupted())),
          (error): Effect.Effect<void, E | ClaimStoreUnavailable> =>
            Effect.fail(failure === undefined ? error : failure.error)
        ))
    },
    read: (key, most) =>
      Effect.flatMap(found(key), (info) => {
        if (info === undefined) return Effect.undefined
        const parts: Array<Uint8Array> = []
        let seen = 0
        const some = Stream.takeWhile(partsOf(info), (part) => {
          parts.push(part)
          seen += part.length
          return seen < most
        })
        return Effect.map(Stream.runDrain(some), () => Buffer.concat(parts).subarray(0, most))
      }),
    open: (key, offset) => Effect.map(found(key), (info) => info === undefined ? undefined : from(info, offset)),
    prune: undefined
  }
}

const opened = ({ bucket, connect }: Options, replicas: number, retention: number, timeout: number) =>
  Effect.gen(function*() {
    const failed = (cause: unknown) =>
      new ClaimStoreUnavailable({
        message: `${module}: the bucket ${bucket} cannot be opened: ${
          cause instanceof Error ? cause.message : String(cause)
        }`,
        cause
      })
    const attempt = <A>(work: () => Promise<A>) => Effect.tryPromise({ try: work, catch: failed })
    const connection = yield* Effect.acquireRelease(
      Effect.mapError(connect, failed),
      (connection) => Effect.ignore(attempt(() => connection.drain()))
    )
    const manager = yield* attempt(() => jetstreamManager(connection, { timeout }))
    const objm = new Objm(jetstream(connection, { timeout }))
    const ttl = retention === Infinity ? 0 : (retention + day) * nanos
    const objects = yield* attempt(async () => {
      try {
        return await objm.open(bucket)
      } catch {
        return await objm.create(bucket, { ttl, replicas, storage: StorageType.File })
      }
    })
    const status = yield* attempt(() => objects.status())
    if (status.ttl !== 0 && status.ttl < retention * nanos) {
      return yield* Effect.fail(
        new ClaimStoreUnavailable({
          message: `${module}: the bucket ${bucket} keeps bodies for ${
            Duration.format(Duration.millis(status.ttl / nanos))
          }, which is shorter than retention: raise its ttl`
        })
      )
    }
    return { bucket, objects, direct: manager.direct }
  })

/**
 * Provides a store in a bucket of NATS' object store.
 *
 * Provides `ClaimStore.Store`; fails with `ClaimStoreUnavailable` if the bucket cannot be opened or keeps bodies shorter than `retention`. Bodies
 * have parts of 128 KiB and are visible when all are stored; the bucket removes them, and parts of interrupted writes, when their time is
 * over. Other clients of NATS can read them. Each call fails with `ClaimStoreUnavailable` while the server is out of reach, or its
 * storage is full.
 *
 * **Example** (a server of this machine)
 *
 * ```ts
 * import * as ClaimNats from "@millrace/claims/ClaimNats"
 * import { connect } from "@nats-io/transport-node"
 * import { Effect } from "effect"
 *
 * const store = ClaimNats.layer({
 *   connect: Effect.tryPromise(() => connect({ servers: "nats://127.0.0.1:4222", maxReconnectAttempts: -1 })),
 *   bucket: "claims",
 *   retention: "30 days"
 * })
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Store, ClaimStoreUnavailable> => {
  const check = OptionCheck.make(module)
  const { bucket } = options
  if (!/^[-\w]{1,100}$/.test(bucket)) {
    throw new RangeError(`${module}: bucket must be letters, digits, - and _, got ${JSON.stringify(bucket)}`)
  }
  const name = nameOf(module, options.name ?? bucket)
  const retention = retentionOf(module, options.retention)
  const replicas = check.count("replicas", options.replicas ?? defaults.replicas, { most: 5 })
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
  const made: Effect.Effect<Store["Service"], ClaimStoreUnavailable, Scope.Scope> = Effect.map(
    opened(options, replicas, retention, timeout),
    (found) => make(name, found, timeout)
  )
  return Layer.effect(Store, made)
}
