import { Auth, Detached, OptionCheck } from "@millrace/core"
import { manualRedirects, redirects } from "@millrace/core/manualRedirects"
import { Clock, Deferred, Duration, Effect, FiberSet, Redacted, type Scope, Stream } from "effect"
import { HttpClient, type HttpClientResponse } from "effect/http"
import * as jose from "jose"
import { isWeak } from "./weakKey.ts"

/** The signature algorithms of RFC 7518 and RFC 8037 that are taken; `none` is not among them. */
export const families = {
  HS: ["HS256", "HS384", "HS512"],
  RSA: ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
  EC: ["ES256", "ES384", "ES512"],
  OKP: ["EdDSA"]
} as const

export type Algorithm = typeof families[keyof typeof families][number]

/** A key that may have signed a token; jose asks it with the token's header. */
export interface Key {
  /** Differs when anything of the key does. */
  readonly id: string
  readonly kid: string | undefined
  readonly resolve: jose.JWTVerifyGetKey
}

/** Where keys come from. */
export interface Source {
  /** The keys that a token with this header may have been signed by; none where the issuer surely has no such key. */
  readonly find: (kid: string | undefined) => Effect.Effect<ReadonlyArray<Key>, Auth.AuthUnavailable>
  /** Whether a key still counts. */
  readonly has: (id: string) => boolean
}

const fixed = (keys: ReadonlyArray<Key>): Source => ({
  find: (kid) => Effect.succeed(keys.filter((key) => kid === undefined || key.kid === undefined || key.kid === kid)),
  has: () => true
})

/** The most of a set: a token that names no key is tried with each that fits. */
const most = { keys: 100, bytes: 1024 * 1024 }

/**
 * Each key of a set as a set of its own, so that it is known which one verified. jose uses none that is secret or private; keys that
 * protect nothing are left out.
 */
const keysOf = (set: jose.JSONWebKeySet): ReadonlyArray<Key> => {
  // refuses what is no set
  jose.createLocalJWKSet(set)
  if (set.keys.length > most.keys) throw new RangeError(`Jwt: a key set must have at most ${most.keys} keys`)
  return set.keys.filter((jwk) => !isWeak(jwk)).map((jwk) => ({
    id: JSON.stringify(Object.entries(jwk).sort(([a], [b]) => a < b ? -1 : 1)),
    kid: typeof jwk.kid === "string" ? jwk.kid : undefined,
    resolve: jose.createLocalJWKSet({ keys: [jwk] })
  }))
}

/** Keys of a set that is given. */
export const local = (set: jose.JSONWebKeySet): Source => fixed(keysOf(set))

/** A secret as long as the hash of each algorithm, as RFC 7518, 3.2 asks for. */
export const secret = (
  value: string | Uint8Array | Redacted.Redacted<string | Uint8Array>,
  algorithms: ReadonlyArray<Algorithm>
): Source => {
  const plain = Redacted.isRedacted(value) ? Redacted.value(value) : value
  const bytes = typeof plain === "string" ? new TextEncoder().encode(plain) : new Uint8Array(plain)
  for (const algorithm of algorithms) {
    const least = Number(algorithm.slice(2)) / 8
    if (bytes.length < least) {
      throw new RangeError(`Jwt: keys.secret must have at least ${least} bytes for ${algorithm}, got ${bytes.length}`)
    }
  }
  return fixed([{ id: "secret", kid: undefined, resolve: () => bytes }])
}

/** A public key as PEM (SubjectPublicKeyInfo), as JWK, or as the runtime holds it (extractable); RSA from 2,048 bits. */
export type PublicKey = string | jose.JWK | jose.CryptoKey | jose.KeyObject

const isJwk = (key: Exclude<PublicKey, string>): key is jose.JWK => "kty" in key

/**
 * Imports a public key once for each algorithm, so that a token cannot use it with another; dies with a RangeError where one
 * does not fit it, or the key is no public key.
 */
export const publicKey = (key: PublicKey, algorithms: ReadonlyArray<Algorithm>): Effect.Effect<Source> =>
  Effect.promise(async () => {
    const imported = new Map<string, jose.CryptoKey>()
    for (const algorithm of algorithms) {
      try {
        imported.set(algorithm, await importOne(key, algorithm))
      } catch {
        // what jose says may quote the key
        throw new RangeError(
          `Jwt: keys.publicKey must be an extractable public key for ${algorithm}, got something else`
        )
      }
    }
    return fixed([{
      id: "public",
      kid: typeof key === "object" && isJwk(key) ? key.kid : undefined,
      resolve: ({ alg }) => imported.get(alg)!
    }])
  })

const importOne = async (key: PublicKey, algorithm: Algorithm): Promise<jose.CryptoKey> => {
  // by way of its JWK, whose import looks at the kind of key and at the curve
  const found = typeof key === "string"
    ? await jose.importSPKI(key, algorithm)
    : await jose.importJWK(isJwk(key) ? key : await jose.exportJWK(key), algorithm)
  if (found instanceof Uint8Array || found.type !== "public") throw new TypeError("not a public key")
  if ("modulusLength" in found.algorithm && Number(found.algorithm.modulusLength) < 2048) {
    throw new TypeError("too short")
  }
  if (isWeak(await jose.exportJWK(found))) throw new TypeError("weak")
  return found
}

/** Keys at an address. */
export interface Remote {
  /** Where the JSON Web Key Set is; https, or http of this machine. */
  readonly url: string | URL
  /**
   * How often it is read again at least; above 0. A set that says how long it is fresh (`max-age`) is read again after that, but not
   * within the cool-down. Default: 10 minutes.
   */
  readonly refresh?: Duration.Input | undefined
  /** The least time between two readings, whatever tokens ask for; above 0. Default: 30 seconds. */
  readonly cooldown?: Duration.Input | undefined
  /** How long one reading may take; above 0. Default: 5 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** How long the last good set holds while it cannot be read again; above 0. Default: 24 hours. */
  readonly keep?: Duration.Input | undefined
}

/** What `Remote` means where an option is not given. */
export const defaults = {
  refresh: Duration.minutes(10),
  cooldown: Duration.seconds(30),
  timeout: Duration.seconds(5),
  keep: Duration.hours(24)
}

/** The checks of the options of `Jwt`. */
export const check = OptionCheck.make("Jwt")

const addressOf = (url: string | URL): URL => {
  if (!URL.canParse(String(url))) throw new RangeError("Jwt: keys.url must be an address, got something else")
  const address = new URL(url)
  const here = ["localhost", "127.0.0.1", "[::1]"].includes(address.hostname)
  if (address.protocol === "https:" || (address.protocol === "http:" && here)) return address
  throw new RangeError(`Jwt: keys.url must be https, got ${address.protocol}//${address.host}`)
}

/** Reads a body, and stops when it is longer than a key set is. */
const bodyOf = (response: HttpClientResponse.HttpClientResponse) =>
  Effect.suspend(() => {
    const chunks: Array<Uint8Array> = []
    let left = most.bytes
    return Effect.map(
      Stream.runForEach(response.stream, (chunk) => {
        left -= chunk.length
        chunks.push(chunk)
        return left < 0 ? Effect.fail("too long") : Effect.void
      }),
      () => Buffer.concat(chunks).toString()
    )
  })

/** Milliseconds for which an answer says that it is fresh (RFC 9111, 4.2.1); undefined where it does not, or is never. */
const freshOf = (response: HttpClientResponse.HttpClientResponse): number | undefined => {
  const { age, "cache-control": control = "" } = response.headers
  const stated = /(?:^|[\s,])max-age="?(\d{1,9})/i.exec(control)?.[1]
  if (stated === undefined) return undefined
  const left = Number(stated) - (Number(age) || 0)
  return left > 0 ? left * 1000 : undefined
}

/**
 * Keys at an address, read at once and then every `refresh`, on a fiber of the scope; `onChange` is told the ids that count.
 *
 * Only a reading begun since can say that a key does not exist: a token with an unknown key id waits for one, or is told to
 * come back after the cool-down. So a key that was rotated a moment ago loses no message.
 */
export const remote = (
  options: Remote
): (
  onChange: (ids: ReadonlySet<string>) => void
) => Effect.Effect<Source, never, HttpClient.HttpClient | Scope.Scope> => {
  const address = addressOf(options.url)
  const refresh = check.millis("keys.refresh", options.refresh ?? defaults.refresh)
  const cooldown = check.millis("keys.cooldown", options.cooldown ?? defaults.cooldown)
  const timeout = check.millis("keys.timeout", options.timeout ?? defaults.timeout)
  const keep = check.millis("keys.keep", options.keep ?? defaults.keep)
  const unavailable = (message: string, wait: number, isUnknownKey: boolean, cause?: unknown) =>
    new Auth.AuthUnavailable({
      message: `The keys at ${address.host} ${message}`,
      retryAfter: Duration.millis(wait),
      isUnknownKey,
      cause
    })
  return Effect.fnUntraced(function*(onChange) {
    const http = yield* HttpClient.HttpClient
    const clock = yield* Clock.Clock
    const fork = yield* FiberSet.makeRuntime<HttpClient.HttpClient>()
    let keys: ReadonlyArray<Key> | undefined
    let ids: ReadonlySet<string> = new Set()
    let readAt = 0
    let fresh: number | undefined
    let triedAt = -Infinity
    let reading: Deferred.Deferred<void, Auth.AuthUnavailable> | undefined

    const replace = (found: ReadonlyArray<Key> | undefined): void => {
      keys = found
      ids = new Set(found?.map((key) => key.id))
      onChange(ids)
    }

    // trust in an address is not trust in where it redirects to, which may be plain http of anybody
    const download = manualRedirects(http.get(address, { accept: "application/jwk-set+json, application/json" })).pipe(
      Effect.filterOrFail(
        ({ status }) => status === 200,
        ({ status }) => redirects.has(status) ? `status ${status}, a redirect: correct keys.url` : `status ${status}`
      ),
      Effect.flatMap((response) =>
        Effect.flatMap(
          bodyOf(response),
          (body) =>
            Effect.try(() => {
              // jose refuses what is no set
              const found = keysOf(JSON.parse(body) as jose.JSONWebKeySet)
              fresh = freshOf(response)
              return found
            })
        )
      ),
      Effect.timeout(timeout)
    )

    const readOnce = Effect.suspend(() => {
      triedAt = clock.currentTimeMillisUnsafe()
      return download
    }).pipe(
      Effect.matchEffect({
        onSuccess: (found) =>
          Effect.sync(() => {
            readAt = clock.currentTimeMillisUnsafe()
            replace(found)
          }),
        onFailure: (cause) =>
          Effect.suspend(() => {
            if (keys !== undefined && clock.currentTimeMillisUnsafe() - readAt >= keep) replace(undefined)
            const why = typeof cause === "string" ? ` (${cause})` : ""
            return Effect.fail(unavailable(`cannot be read${why}`, cooldown, keys !== undefined, cause))
          })
      })
    )

    /** One reading at a time, in the scope of the layer: interrupting whoever waits for it does not end it. */
    const read = Effect.suspend((): Effect.Effect<void, Auth.AuthUnavailable> => {
      if (reading !== undefined) return Deferred.await(reading)
      const begun = reading = Deferred.makeUnsafe<void, Auth.AuthUnavailable>()
      fork(Effect.onExit(Detached.effect(readOnce), (exit) =>
        Effect.sync(() => {
          reading = undefined
          Deferred.doneUnsafe(begun, exit)
        })))
      return Deferred.await(begun)
    })

    const find: Source["find"] = (kid) =>
      Effect.suspend((): ReturnType<Source["find"]> => {
        const known = keys?.filter((key) => kid === undefined || key.kid === kid)
        if (known !== undefined && known.length > 0) return Effect.succeed(known)
        const wait = triedAt + cooldown - clock.currentTimeMillisUnsafe()
        if (reading === undefined && wait > 0) {
          return Effect.fail(
            keys === undefined
              ? unavailable("cannot be read", wait, false)
              : unavailable("were read before this key was asked for", wait, true)
          )
        }
        return Effect.map(read, () => (keys ?? []).filter((key) => kid === undefined || key.kid === kid))
      })

    const readAndWait = Effect.matchEffect(read, {
      onSuccess: () => Effect.sleep(Math.min(refresh, Math.max(cooldown, fresh ?? Infinity))),
      onFailure: () => Effect.sleep(Math.min(cooldown, refresh))
    })
    fork(Detached.effect(Effect.forever(readAndWait)))
    return { find, has: (id) => ids.has(id) }
  })
}
