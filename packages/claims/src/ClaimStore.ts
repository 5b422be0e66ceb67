/**
 * The interface of a store of claims: the bodies that messages refer to.
 */
import { Clock, Context, Data, type Duration, Effect, Layer, type Scope, Stream } from "effect"
import { dayOf, dayOfKey } from "./internal/days.ts"

/**
 * The store does not answer, refuses the credentials, or is full. Class `dependency`: a publish fails, and a message that is read
 * returns to its source; it is never dead-lettered for this reason.
 */
export class ClaimStoreUnavailable extends Data.TaggedError("ClaimStoreUnavailable")<{
  readonly message: string
  readonly cause?: unknown
  readonly retryAfter?: Duration.Duration | undefined
}> {
  readonly failure = "dependency" as const
}

/**
 * Stores bodies under keys.
 *
 * Keys are `YYYY-MM-DD/NAME`, of the UTC day of the write; a NAME has letters, digits, `-`, `_`, `.` and `/`. One key always has the same
 * bytes, also when several processes write it. A body is visible as a whole or not at all. A key without a body is `undefined`, and no
 * error; each other failure is `ClaimStoreUnavailable`.
 */
class ClaimStore extends Context.Service<ClaimStore, {
  /** The name in references, from 1 to 100 characters: a reference to another store is refused. */
  readonly name: string
  /** Writes a body, durably; `sha256` is its digest in hexadecimal, where the caller has it already. */
  readonly write: (key: string, body: Uint8Array, sha256?: string) => Effect.Effect<void, ClaimStoreUnavailable>
  /** Writes the body that a stream has when it ends, durably; a stream that fails leaves nothing visible. */
  readonly writeStream: <E, R>(
    key: string,
    body: Stream.Stream<Uint8Array, E, R>
  ) => Effect.Effect<void, E | ClaimStoreUnavailable, R>
  /** Reads a body, of which no more than its first `most` bytes. */
  readonly read: (key: string, most: number) => Effect.Effect<Uint8Array | undefined, ClaimStoreUnavailable>
  /** Opens a body from an offset, in bytes from 0. */
  readonly open: (
    key: string,
    offset: number
  ) => Effect.Effect<
    Stream.Stream<Uint8Array, ClaimStoreUnavailable> | undefined,
    ClaimStoreUnavailable,
    Scope.Scope
  >
  /**
   * Removes the bodies of the UTC days that ended before a Unix time in milliseconds, and returns how many; also what interrupted
   * writes of those days have left. Undefined where the store itself removes them, by its own rule.
   */
  readonly prune: ((before: number) => Effect.Effect<number, ClaimStoreUnavailable>) | undefined
}>()("ClaimStore") {}

export { ClaimStore as Store }

/** Options of `layerMemory`. */
export interface MemoryOptions {
  /** The name in references. Default: `memory`. */
  readonly name?: string | undefined
}

const joined = <E, R>(body: Stream.Stream<Uint8Array, E, R>): Effect.Effect<Uint8Array, E, R> =>
  Stream.mkUint8Array(body)

/**
 * Provides a store in memory, for tests: its bodies end with the layer, and nothing limits them.
 *
 * @category layers
 */
export const layerMemory = (options: MemoryOptions = {}): Layer.Layer<ClaimStore> =>
  Layer.sync(ClaimStore, () => {
    const bodies = new Map<string, Uint8Array>()
    const write = (key: string, body: Uint8Array) => Effect.sync(() => void bodies.set(key, body.slice()))
    return {
      name: options.name ?? "memory",
      write,
      writeStream: (key, body) => Effect.flatMap(joined(body), (bytes) => write(key, bytes)),
      read: (key, most) => Effect.sync(() => bodies.get(key)?.slice(0, most)),
      open: (key, offset) =>
        Effect.sync(() => {
          const body = bodies.get(key)
          return body === undefined ? undefined : Stream.make(body.slice(offset))
        }),
      prune: (before) =>
        Effect.sync(() => {
          const day = dayOf(before)
          const old = [...bodies.keys()].filter((key) => dayOfKey(key) < day)
          for (const key of old) bodies.delete(key)
          return old.length
        })
    }
  })

/**
 * Removes the bodies of a store that are older than `retention`, in milliseconds: for a schedule of your own, beside the one of the store's
 * layer. Returns how many; 0 where the store removes them by its own rule.
 */
export const prune = (retention: number): Effect.Effect<number, ClaimStoreUnavailable, ClaimStore> =>
  Effect.gen(function*() {
    const store = yield* ClaimStore
    const now = yield* Clock.currentTimeMillis
    return store.prune === undefined ? 0 : yield* store.prune(now - retention)
  })
