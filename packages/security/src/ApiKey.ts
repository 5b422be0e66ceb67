/**
 * API keys as credentials: of a key only a hash is stored, and a key that is known costs no question to the store.
 */
import { Auth, Eager, OptionCheck } from "@millrace/core"
import { Clock, Deferred, Duration, Effect, Exit, FiberSet, Layer, Redacted } from "effect"
import { type Entry, entryOf, matching, nobody } from "./internal/apiKeyEntry.ts"
import { ApiKeyStore, type Hasher, hashersOf, type Pepper, type Stored, textOf } from "./internal/apiKeyStore.ts"
import * as Text from "./internal/apiKeyText.ts"

export { ApiKeyStore as Store, type Hashed, layerMemory, type Pepper, type Stored } from "./internal/apiKeyStore.ts"

/** How keys are told, and how long what the store said of them is used. */
export interface Options {
  /** What all keys begin with, e.g. `acme_live`: 3 to 32 small letters, digits and `_`. Every other key is malformed. */
  readonly prefix: string
  /**
   * A secret that is not in the store, of at least 32 bytes: whoever reads the store cannot even tell a key that he guesses.
   * All are tried. Default: none, and hashes are plain SHA-256.
   */
  readonly pepper?: Pepper | undefined
  /** How long one question to the store may take; above 0. Default: 5 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** How long answers of the store are used, and how many. */
  readonly cache?: {
    /** How long what is known of a key is used before the store is asked again: so late a revocation counts. Default: 30 seconds. */
    readonly fresh?: Duration.Input | undefined
    /** How old it may be while the store cannot be asked; from `fresh`. Default: 5 minutes. */
    readonly stale?: Duration.Input | undefined
    /** How long an id is taken for unknown: so late a new key counts that was tried before. Default: 10 seconds. */
    readonly unknown?: Duration.Input | undefined
    /** The most keys that are kept, and the most unknown ids beside them; an integer from 1. Default: 10,000. */
    readonly capacity?: number | undefined
  } | undefined
}

/** What `layer` does where an option is not given. */
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

/** A key that was made: `key` is for its owner, and shown once; `id` and `hash` are for the store. */
export interface Generated {
  readonly id: string
  readonly key: Redacted.Redacted<string>
  readonly hash: string
}

/** Options of `generate`. */
export interface GenerateOptions {
  /** As of `layer`. */
  readonly prefix: string
  /** As of `layer`; of several, the first one hashes. */
  readonly pepper?: Pepper | undefined
  /** The id of a key that is to have a second secret. Default: a new one. */
  readonly id?: string | undefined
}

/**
 * Makes a key: `<prefix>_<id>_<secret><checksum>`, a secret of 256 random bits behind an id of 96, and six letters by which a
 * scanner for leaked secrets tells a key from what looks like one (CRC-32).
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
 * The hash of a key, as a store keeps it; for keys that are there already. It does not look at the key's form.
 *
 * @throws RangeError when the pepper is too short
 */
export const hash = (key: Redacted.Redacted<string>, options: { readonly pepper?: Pepper | undefined } = {}): string =>
  textOf(hashersOf(options.pepper)[0], Redacted.value(key))

const refused = Exit.fail(new Auth.Unauthorized({ reason: "refused" }))
const malformed = Exit.fail(new Auth.Unauthorized({ reason: "malformed" }))
const unheard = Exit.succeed(undefined)
const expired = Exit.fail(new Auth.Unauthorized({ reason: "expired" }))

/** Puts behind all others; the one that was put first makes room. */
const put = <V>(map: Map<string, V>, capacity: number, id: string, value: V): void => {
  if (!map.delete(id) && map.size >= capacity) map.delete(map.keys().next().value!)
  map.set(id, value)
}

const check = OptionCheck.make("ApiKey")

/** After a question that failed the store is left alone for so long, where what is known still holds; milliseconds. */
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
    /** Until when an id is taken for unknown: apart, so that a flood of them drives no key out. */
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

    /** What was known before, while the store cannot be asked. */
    const fallBack = (id: string, error: Auth.AuthUnavailable): Exit.Exit<Entry, Auth.AuthUnavailable> => {
      const entry = known.get(id)
      const now = clock.currentTimeMillisUnsafe()
      if (entry === undefined || now - entry.at >= stale) return Exit.fail(error)
      entry.next = now + pause
      return Exit.succeed(entry)
    }

    /** One question at a time for each id, in the scope of the layer: interrupting whoever waits does not end it. */
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
      // an unknown id, a wrong secret and a revoked key are told from each other by nobody
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
 * A `Verifier` of API keys, for `Auth.middleware({ header: "x-api-key", scheme: "" })`.
 *
 * The store is asked by the key's id, and never sees the secret. What it said is used for `fresh`, so a revocation counts
 * at the latest then; while the store cannot be asked, for `stale`. Messages with the same new key share one question. The
 * time that checking takes does not tell an unknown id from a wrong secret; the time that the store takes is its own.
 *
 * Bounds: `capacity` keys, of about 650 bytes each, and as many unknown ids. No key is kept, only hashes are.
 *
 * Errors: `Unauthorized` (class `auth`) is dead-lettered: `malformed` for what is no key, `expired` for a right secret whose time
 * is over, and `refused` for an unknown id, a wrong secret and a revoked key alike. `AuthUnavailable` (class `dependency`) goes
 * back to the source. None of them holds a part of the key.
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
