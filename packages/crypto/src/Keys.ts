/**
 * The keys of encrypted bodies: one key encrypts, all others of the set only decrypt, and a revoked key does neither.
 */
import { Failure } from "@millrace/core"
import { Clock, Config, Context, Effect, Layer, Redacted } from "effect"
import { randomBytes } from "node:crypto"
import { readFile, stat } from "node:fs/promises"
import { KeysUnavailable } from "./internal/errors.ts"
import {
  type DataKeyOptions,
  dataKeysOf,
  fixed,
  refreshed,
  type Ring,
  type SourceOptions,
  timesOf
} from "./internal/keyRing.ts"
import { compile, type KeySet, parse } from "./internal/keySet.ts"

export { KeysUnavailable } from "./internal/errors.ts"
export { type DataKeyOptions, defaults, type SourceOptions } from "./internal/keyRing.ts"
export { type KeySet, type Secret } from "./internal/keySet.ts"

/** The keys of a process. Made by the layers of this module; `Encryption` uses it. */
class KeysRing extends Context.Service<KeysRing, Ring>()("@millrace/crypto/Keys/Ring") {}
export { KeysRing as Ring }

/** Options of every layer. */
export interface Options {
  /** The data keys, which are derived from the writing key and encrypt the bodies. */
  readonly dataKey?: DataKeyOptions | undefined
}

/** Makes a secret of 32 random bytes, in base64url. */
export const generate: Effect.Effect<Redacted.Redacted<string>> = Effect.sync(() =>
  Redacted.make(randomBytes(32).toString("base64url"))
)

/**
 * Reads a JSON Web Key Set (RFC 7517) of keys with `kty` `oct`, `kid` and `k`. The first key that is not revoked and whose
 * `key_ops`, if it has any, contain `encrypt` is the writing key. A key with the member `revoked` is revoked, and needs no `k`.
 *
 * **Example** (the old key still reads)
 *
 * ```ts
 * import { Keys } from "@millrace/crypto"
 *
 * const set = Keys.fromJson(`{ "keys": [
 *   { "kid": "2026-12", "kty": "oct", "k": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8" },
 *   { "kid": "2026-06", "kty": "oct", "k": "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA" },
 *   { "kid": "2025-12", "kty": "oct", "revoked": { "revoked_at": 1767225600 } }
 * ] }`)
 * console.log(set.writing, Object.keys(set.keys).length) // => 2026-12 3
 * ```
 *
 * @throws RangeError when the text is no such set; the error quotes no secret
 */
export const fromJson = (text: string): KeySet => parse(text)

const ringOf = (set: KeySet, options: Options): Effect.Effect<Ring> => {
  const compiled = compile(set)
  const dataKeys = dataKeysOf(options.dataKey)
  return Effect.map(Clock.Clock, (clock) => fixed(compiled, dataKeys(clock)))
}

/** Options of `layerMemory`. */
export interface MemoryOptions<Id extends string> extends Options {
  /** Secrets by key id: 32 bytes, or their base64 or base64url; `"revoked"` for a key whose bodies are refused. */
  readonly keys: { readonly [id in Id]: KeySet["keys"][string] }
  /** The id of the key that encrypts. */
  readonly writing: NoInfer<Id>
}

/**
 * Makes a set of keys that never changes.
 *
 * **Example** (a rotation: the new key writes, the old one still reads)
 *
 * ```ts
 * import { Keys } from "@millrace/crypto"
 * import { Effect } from "effect"
 *
 * const [older, newer] = await Effect.runPromise(Effect.all([Keys.generate, Keys.generate]))
 * const keys = Keys.layerMemory({ keys: { "2026-12": newer, "2026-06": older }, writing: "2026-12" })
 * ```
 *
 * @throws RangeError when an id or a secret is invalid, the writing key is revoked, or an option is out of range
 * @category layers
 */
export const layerMemory = <const Id extends string>(options: MemoryOptions<Id>): Layer.Layer<KeysRing> =>
  Layer.effect(KeysRing, ringOf({ keys: options.keys, writing: options.writing }, options))

/** Options of `layerConfig`. */
export interface ConfigOptions extends Options {
  /** The setting with the JSON Web Key Set. Default: `ENCRYPTION_KEYS`. */
  readonly keys?: Config.Config<Redacted.Redacted<string>> | undefined
}

/**
 * Makes a set of keys from a setting, by default the environment variable `ENCRYPTION_KEYS`: a JSON Web Key Set as for `fromJson`.
 * It is read once. The layer dies with a RangeError if the setting is no such set.
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layerConfig = (options: ConfigOptions = {}): Layer.Layer<KeysRing, Config.ConfigError> => {
  dataKeysOf(options.dataKey)
  const setting = options.keys ?? Config.Redacted("ENCRYPTION_KEYS")
  return Layer.effect(KeysRing, Effect.flatMap(setting, (text) => ringOf(parse(Redacted.value(text)), options)))
}

/** Options of sources that are read again. */
export interface ReadOptions extends Options, SourceOptions {
  /** The source's name in errors and log lines. Default: `the source`. */
  readonly name?: string | undefined
}

/**
 * Makes a set of keys from a source of your own: a secret manager, a vault, a table. It is read when the layer is built, then every
 * `refresh`, and when a body names a key that is not in the set, at most once per `cooldown`.
 *
 * While reads fail, the last set stays in use for `keep`, and each failure is a Warn line. A message whose key must be asked for
 * then fails with class `dependency` and returns to its source: it becomes no dead letter. A key that the source does not have,
 * in a read that began after the message, is `KeyUnknown`.
 *
 * The layer fails with `KeysUnavailable` if the first read fails. A set is as `layerMemory` has it.
 *
 * **Example** (keys of a secret manager)
 *
 * ```ts
 * import { Keys } from "@millrace/crypto"
 * import { Effect } from "effect"
 * import { HttpClient } from "effect/http"
 *
 * const load = Effect.gen(function*() {
 *   const response = yield* HttpClient.get("https://secrets.example/encryption-keys")
 *   return Keys.fromJson(yield* response.text)
 * })
 * const keys = Keys.layer(load, { name: "secrets.example", refresh: "1 minute" })
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = <R = never>(
  load: Effect.Effect<KeySet, unknown, R>,
  options: ReadOptions = {}
): Layer.Layer<KeysRing, KeysUnavailable, R> => {
  const times = timesOf(options)
  const dataKeys = dataKeysOf(options.dataKey)
  return Layer.effect(
    KeysRing,
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const context = yield* Effect.context<R>()
      const scope = yield* Effect.scope
      const source = Effect.provideContext(load, context)
      return yield* refreshed(options.name ?? "the source", source, times, dataKeys(clock), clock, scope)
    })
  )
}

/** The largest file of keys, in bytes: 1 MiB. */
const maximumFile = 1024 * 1024

const readKeys = (path: string) => async (signal: AbortSignal): Promise<KeySet> => {
  const { size } = await stat(path)
  if (size > maximumFile) throw new RangeError(`Keys: the file must have at most ${maximumFile} bytes, got ${size}`)
  return parse(await readFile(path, { encoding: "utf8", signal }))
}

/**
 * Makes a set of keys from a file with a JSON Web Key Set as for `fromJson`, e.g. a mounted secret of Kubernetes. The file is read
 * again as `layer` says: a rotation needs no restart.
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layerFile = (path: string, options: ReadOptions = {}): Layer.Layer<KeysRing, KeysUnavailable> => {
  // Node's message names the path, and those of the set quote no secret
  const load = Effect.tryPromise({
    try: readKeys(path),
    catch: (cause) => new KeysUnavailable({ message: Failure.messageOf(cause) })
  })
  return layer(load, { ...options, name: options.name ?? path })
}
