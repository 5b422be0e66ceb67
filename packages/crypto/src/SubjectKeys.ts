/**
 * A key for each data subject (a person, a customer): erasing the key makes every value that it encrypted unreadable, in all messages,
 * dead letters and backups at once.
 */
import { OptionCheck } from "@millrace/core"
import { Clock, Context, type Duration, Effect, FiberSet, Layer } from "effect"
import { randomBytes } from "node:crypto"
import * as Encryption from "./Encryption.ts"
import type { KeysUnavailable } from "./internal/errors.ts"
import { type Found, SubjectRing } from "./internal/subjectRing.ts"
import type { Ring } from "./Keys.ts"

/** The keys of data subjects. Made by the layers of this module; `EncryptedField` uses it. */
class SubjectKeysService extends Context.Service<SubjectKeysService, SubjectRing>()(
  "@millrace/crypto/SubjectKeys/Service"
) {}
export { SubjectKeysService as Service }

/**
 * A store of wrapped keys, e.g. a table with a row for each subject. The bytes are encrypted by `Keys.Ring`: the store alone reads
 * no value.
 */
export interface Store<E = never, R = never> {
  /** Returns the bytes of a subject, `"erased"` if it was erased, or undefined if there are none. */
  readonly get: (subject: string) => Effect.Effect<Uint8Array | "erased" | undefined, E, R>
  /** Stores bytes unless the subject has some or is erased, and returns what is stored afterwards. */
  readonly add: (subject: string, bytes: Uint8Array) => Effect.Effect<Uint8Array | "erased", E, R>
  /** Removes the bytes of a subject for good, also from backups, and remembers that it is erased. */
  readonly erase: (subject: string) => Effect.Effect<void, E, R>
}

/** Options of `layer`. */
export interface Options {
  /**
   * How long a key stays in memory; above 0. An erasure in another process takes effect after it. Default: 1 minute.
   */
  readonly age?: Duration.Input | undefined
  /** The most keys in memory; the oldest is dropped; an integer from 1. Default: 10,000. */
  readonly capacity?: number | undefined
  /** The time limit of the store; above 0. Default: 5 seconds. */
  readonly timeout?: Duration.Input | undefined
}

/** The defaults of the options of `layer`. */
export const defaults = { age: "1 minute", capacity: 10_000, timeout: "5 seconds" } as const

const check = OptionCheck.make("SubjectKeys")

const { open, seal } = Encryption.make()

/** The place of a stored key, which binds it to its subject. */
const contextOf = (subject: string): Encryption.Context => ({
  channel: "millrace subject key",
  key: Buffer.from(subject),
  contentType: undefined,
  headers: {}
})

/**
 * Makes the keys of data subjects from a store. A key is made at the first value of its subject, and encrypted by the key set or key
 * management service of `Keys.Ring` before it is stored.
 *
 * Errors: a store that fails or is late makes `KeysUnavailable` (class `dependency`), so messages return to their source.
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = <E = never, R = never>(
  store: Store<E, R>,
  options: Options = {}
): Layer.Layer<SubjectKeysService, never, Ring | R> => {
  const settings = {
    age: check.millis("age", options.age ?? defaults.age),
    capacity: check.count("capacity", options.capacity ?? defaults.capacity),
    timeout: check.millis("timeout", options.timeout ?? defaults.timeout)
  }
  return Layer.effect(
    SubjectKeysService,
    Effect.gen(function*() {
      const context = yield* Effect.context<Ring | R>()
      const clock = yield* Clock.Clock
      const fork = yield* FiberSet.makeRuntime()
      const opened = (subject: string) => (stored: Found): Effect.Effect<Found, Encryption.OpenError, Ring> =>
        stored instanceof Uint8Array ? open(stored, contextOf(subject)) : Effect.succeed(stored)
      return new SubjectRing(
        {
          get: (subject) => Effect.provideContext(Effect.flatMap(store.get(subject), opened(subject)), context),
          add: (subject) =>
            Effect.suspend(() => seal(randomBytes(32), contextOf(subject))).pipe(
              Effect.flatMap((bytes) => store.add(subject, bytes)),
              Effect.flatMap(opened(subject)),
              Effect.provideContext(context)
            ),
          erase: (subject) => Effect.provideContext(store.erase(subject), context)
        },
        settings,
        clock,
        fork
      )
    })
  )
}

/**
 * Makes a store in memory: for tests, since all values of its subjects are lost with the process.
 *
 * @category constructors
 */
export const storeMemory = (): Store => {
  const stored = new Map<string, Uint8Array | "erased">()
  return {
    get: (subject) => Effect.sync(() => stored.get(subject)),
    add: (subject, bytes) =>
      Effect.sync(() => {
        const kept = stored.get(subject) ?? bytes
        stored.set(subject, kept)
        return kept
      }),
    erase: (subject) => Effect.sync(() => void stored.set(subject, "erased"))
  }
}

/**
 * Erases a data subject: its key is removed from the store, and no process reads a value of it any more, at the latest after the
 * option `age`. Its values are not written any more either.
 *
 * Errors: `KeysUnavailable` if the store fails; the key may still be there, erase again.
 *
 * @category destructors
 */
export const erase = (subject: string): Effect.Effect<void, KeysUnavailable, SubjectKeysService> =>
  Effect.flatMap(SubjectKeysService, (keys) => keys.erase(subject))
