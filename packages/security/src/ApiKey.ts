/**
 * API keys as credentials. The store holds only hashes of keys, and a cached key needs no lookup in the store.
 */
import { Auth, Eager, OptionCheck } from "@millrace/core"
import { Clock, Deferred, Duration, Effect, Exit, FiberSet, Layer, Redacted } from "effect"
import { type Entry, entryOf, matching, nobody } from "./internal/apiKeyEntry.ts"
import { ApiKeyStore, type Hasher, hashersOf, type Pepper, type Stored, textOf } from "./internal/apiKeyStore.ts"
import * as Text from "./internal/apiKeyText.ts"

export { ApiKeyStore as Store, type Hashed, layerMemory, type Pepper, type Stored } from "./internal/apiKeyStore.ts"

/** The format of keys, and the caching of the store's answers. */
export interface Options {
  /**
   * The prefix of all keys, e.g. `acme_live`: 3 to 32 lower-case letters, digits and `_`. A key without the prefix is
   * malformed.
   */
  readonly prefix: string
  /**
   * A secret of at least 32 bytes that is not in the store, so a reader of the store cannot verify guessed keys. All given
   * peppers are tried. Default: none; hashes are then plain SHA-256.
   */
  readonly pepper?: Pepper | undefined
  /** The timeout of one lookup in the store; above 0. Default: 5 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** The lifetime and the size of the cache of the store's answers. */
  readonly cache?: {
    /** How long a cached key is used without a lookup, which is also the longest delay of a revocation. Default: 30 seconds. */
    readonly fresh?: Duration.Input | undefined
    /**
     * The highest age of a cached key while the store is unavailable; at least `fresh`. Default: 5 minutes, or `fresh` if
     * longer.
     */
    readonly stale?: Duration.Input | undefined
    /** How long an unknown id is cached, which delays a new key that was used too early. Default: 10 seconds. */
    readonly unknown?: Duration.Input | undefined
    /** The most cached keys, and separately the most cached unknown ids; an integer from 1. Default: 10,000. */
    readonly capacity?: number | undefined
  } | undefined
}

/** The defaults of the options of `layer`. */
export const defaults: {
  readonly timeout: Duration.Duration
  readonly fresh: Duration.Duration
  readonly stale: Duration.Duration
  readonly unknown: Duration.Duration
  readonly capacity: number
} = {
  timeout: Duration.seconds(5),
  fresh: Duration.seconds(30),
  stale: Duration.minutes(5),
  unknown: Duration.seconds(10),
  capacity: 10_000
}

/** A new key: give `key` to its owner once, and put `id` and `hash` into the store. */
export interface Generated {
  readonly id: string
  readonly key: Redacted.Redacted<string>
  readonly hash: string
}

/** Options of `generate`. */
export interface GenerateOptions {
  /** The same as for `layer`. */
  readonly prefix: string
  /** The same as for `layer`; the first of several peppers makes the hash. */
  readonly pepper?: Pepper | undefined
  /** The id of an existing key that gets a second secret. Default: a new id. */
  readonly id?: string | undefined
}

/**
 * Makes a key: `<prefix>_<id>_<secret><checksum>`, with an id of 96 random bits, a secret of 256 random bits, and a CRC-32 in
 * six characters, by which a scanner for leaked secrets recognizes real keys.
 *
 * **Example** (a key for Ada)
 *
 * ```ts
 * import { ApiKey } from "@millrace/security"
 * import { Effect, Redacted } from "effect"
 *
 * const { hash, id, key } = await Effect.runPromise(ApiKey.generate({ prefix: "acme_live" }))
 *
 * console.log(Redacted.value(key).startsWith(`acme_live_${id}_`), Redacted.value(key).length) // => true 77
 * console.log(hash.startsWith("sha256:")) // => true
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const generate = (options: GenerateOptions): Effect.Effect<Generated> => {
  const prefix = Text.prefixOf(options.prefix)
  const [hasher] = hashersOf(options.pepper)
  if (options.id !== undefined && !Text.isId(options.id)) {
    throw new RangeError("ApiKey: id must be one that generate has made, got something else")
  }
  return Effect.sync(() => {
    const id = options.id ?? Text.newId()
    const key = Text.make(prefix, id)
    return { id, key: Redacted.make(key), hash: textOf(hasher, key) }
  })
}

/**
 * Hashes an existing key for the store. Does not check the key's format.
 *
 * @throws RangeError when the pepper is too short
 */
export const hash = (key: Redacted.Redacted<string>, options: { readonly pepper?: Pepper | undefined } = {}): string =>
  textOf(hashersOf(options.pepper)[0], Redacted.value(key))

const refused = Exit.fail(new Auth.Unauthorized({ reason: "refused" }))
const malformed = Exit.fail(new Auth.Unauthorized({ reason: "malformed" }))
const unheard = Exit.succeed(undefined)
const expired = Exit.fail(new Auth.Unauthorized({ reason: "expired" }))

/** Puts an entry last; a full map drops its oldest entry. */
const put = <V>(map: Map<string, V>, capacity: number, id: string, value: V): void => {
  if (!map.delete(id) && map.size >= capacity) map.delete(map.keys().next().value!)
  map.set(id, value)
}

const check = OptionCheck.make("ApiKey")

/** The pause after a failed lookup, during which a cached key is used without a lookup; in milliseconds. */
const pause = 1000

const verifier = (idOf: (key: string) => string | undefined, hashers: ReadonlyArray<Hasher>, options: Options) => {
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout)
  const fresh = check.millis("cache.fresh", options.cache?.fresh ?? defaults.fresh, { least: 0 })
  const stale = check.millis(
    "cache.stale",
    options.cache?.stale ?? Math.max(Duration.toMillis(defaults.stale), fresh),
    {
      least: fresh
    }
  )
  const unknown = check.millis("cache.unknown", options.cache?.unknown ?? defaults.unknown, { least: 0 })
  const capacity = check.count("cache.capacity", options.cache?.capacity ?? defaults.capacity)
  return Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const store = yield* ApiKeyStore
    const fork = yield* FiberSet.makeRuntime<never>()
    const known = new Map<string, Entry>()
    /** Unknown ids with the end of their caching; a separate map, so that a flood of them evicts no key. */
    const missing = new Map<string, number>()
    const asking = new Map<string, Deferred.Deferred<Entry | undefined, Auth.AuthUnavailable>>()

    const keep = (id: string, stored: Stored | undefined): Entry | undefined => {
      const now = clock.currentTimeMillisUnsafe()
      if (stored === undefined) {
        known.delete(id)
        if (unknown > 0) put(missing, capacity, id, now + unknown)
        return undefined
      }
      const entry = entryOf(id, stored, now, fresh)
      missing.delete(id)
      put(known, capacity, id, entry)
      return entry
    }

    /** Returns the cached entry while the store is unavailable. */
    const fallBack = (id: string, error: Auth.AuthUnavailable): Exit.Exit<Entry, Auth.AuthUnavailable> => {
      const entry = known.get(id)
      const now = clock.currentTimeMillisUnsafe()
      if (entry === undefined || now - entry.at >= stale) return Exit.fail(error)
      entry.next = now + pause
      return Exit.succeed(entry)
    }

    /**
     * Looks an id up, with one lookup at a time for each id, in the layer's scope: interrupting a waiting caller does not stop
     * it.
     */
    const ask = (id: string): Effect.Effect<Entry | undefined, Auth.AuthUnavailable> => {
      const running = asking.get(id)
      if (running !== undefined) return Deferred.await(running)
      const found = store.find(id)
      if (Eager.isDone(found)) {
        return Effect.catchEager(Effect.mapEager(found, (stored) => keep(id, stored)), (error) => fallBack(id, error))
      }
      const begun = Deferred.makeUnsafe<Entry | undefined, Auth.AuthUnavailable>()
      asking.set(id, begun)
      const late = () =>
        Effect.fail(
          new Auth.AuthUnavailable({
            message: `The store of API keys did not answer within ${Duration.format(Duration.millis(timeout))}`
          })
        )
      fork(
        Effect.timeoutOrElse(found, { duration: timeout, orElse: late }).pipe(
          Effect.map((stored) => keep(id, stored)),
          Effect.catch((error) => fallBack(id, error)),
          Effect.onExit((exit) =>
            Effect.sync(() => {
              asking.delete(id)
              Deferred.doneUnsafe(begun, exit)
            })
          )
        )
      )
      return Deferred.await(begun)
    }

    const find = (id: string): Effect.Effect<Entry | undefined, Auth.AuthUnavailable> => {
      const now = clock.currentTimeMillisUnsafe()
      const entry = known.get(id)
      if (entry !== undefined && now < entry.next) return Exit.succeed(entry)
      const until = missing.get(id)
      return until !== undefined && now < until ? unheard : ask(id)
    }

    const check = (key: string, entry: Entry | undefined): Exit.Exit<Auth.Principal["Service"], Auth.Unauthorized> => {
      const until = matching(entry?.secrets ?? nobody, hashers.map(({ digest }) => digest(key)))
      // a client cannot distinguish an unknown id, a wrong secret and a revoked key
      if (entry === undefined || until === undefined || entry.revoked) return refused
      return clock.currentTimeMillisUnsafe() < Math.min(until, entry.until) ? entry.principal : expired
    }

    return Auth.Verifier.of({
      verify: (key) => {
        const id = idOf(key)
        return id === undefined ? malformed : Effect.flatMapEager(find(id), (entry) => check(key, entry))
      }
    })
  })
}

/**
 * Makes a `Verifier` of API keys, for `Auth.middleware({ header: "x-api-key", scheme: "" })`.
 *
 * The verifier looks keys up by id, so the store never sees the secret. An answer is cached for `fresh`, the longest delay of a
 * revocation, and for `stale` while the store is unavailable. Messages with the same new key share one lookup. The time of the
 * check is the same for an unknown id and a wrong secret; the time of the store's lookup may differ.
 *
 * Bounds: `capacity` keys, of about 650 bytes each, and as many unknown ids. The cache holds hashes, never keys.
 *
 * Errors: `Unauthorized` (class `auth`) is dead-lettered: `malformed` for text that is not a key, `expired` for a correct but
 * expired secret, and `refused` for an unknown id, a wrong secret and a revoked key alike. `AuthUnavailable` (class
 * `dependency`) returns the message to the source. No error contains a part of the key.
 *
 * **Example** (a key of one customer)
 *
 * ```ts
 * import { Auth, type Message } from "@millrace/core"
 * import { ApiKey } from "@millrace/security"
 * import { Deliveries } from "@millrace/testing"
 * import { Effect, Layer, pipe, Redacted } from "effect"
 *
 * const { hash, id, key } = await Effect.runPromise(ApiKey.generate({ prefix: "acme_live" }))
 * const store = ApiKey.layerMemory(new Map([[id, { hashes: [{ hash }], subject: "ada", scopes: ["orders:write"] }]]))
 * const verifier = ApiKey.layer({ prefix: "acme_live" }).pipe(Layer.provide(store))
 *
 * const handler = pipe(
 *   (_message: Message<Uint8Array>) => Effect.map(Auth.Principal, (principal) => principal.subject),
 *   Auth.middleware({ header: "x-api-key", scheme: "", scopes: ["orders:write"] })
 * )
 * const message = Deliveries.make({ headers: { "x-api-key": Redacted.value(key) } })
 * const { exit } = await Effect.runPromise(Effect.provide(Deliveries.run(handler, message), verifier))
 * console.log(exit._tag === "Success" && exit.value) // => ada
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Auth.Verifier, never, ApiKeyStore> =>
  Layer.effect(
    Auth.Verifier,
    verifier(Text.reader(Text.prefixOf(options.prefix)), hashersOf(options.pepper), options)
  )
