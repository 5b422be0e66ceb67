import { Auth, Detached, OptionCheck } from "@millrace/core"
import { boundedText } from "@millrace/core/boundedText"
import { manualRedirects, redirects } from "@millrace/core/manualRedirects"
import { Rereading } from "@millrace/core/rereading"
import { Cause, Clock, Duration, Effect, FiberSet, Redacted, type Scope } from "effect"
import { HttpClient, type HttpClientResponse } from "effect/http"
import * as jose from "jose"
import { isWeak } from "./weakKey.ts"

/** The supported signature algorithms of RFC 7518 and RFC 8037; `none` is not among them. */
export const families = {
  HS: ["HS256", "HS384", "HS512"],
  RSA: ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
  EC: ["ES256", "ES384", "ES512"],
  OKP: ["EdDSA"]
} as const

export type Algorithm = typeof families[keyof typeof families][number]

/** A key that may have signed a token; jose calls `resolve` with the token's header. */
export interface Key {
  /** Differs if any property of the key differs. */
  readonly id: string
  readonly kid: string | undefined
  readonly resolve: jose.JWTVerifyGetKey
}

/** A source of keys. */
export interface Source {
  /** The keys that may have signed a token with this key id; empty if the issuer certainly has no such key. */
  readonly find: (kid: string | undefined) => Effect.Effect<ReadonlyArray<Key>, Auth.AuthUnavailable>
  /** Whether a key is still in the set. */
  readonly has: (id: string) => boolean
}

const fixed = (keys: ReadonlyArray<Key>): Source => ({
  find: (kid) => Effect.succeed(keys.filter((key) => kid === undefined || key.kid === undefined || key.kid === kid)),
  has: () => true
})

/** The limits of a key set, because a token without a key id is tried with each suitable key. */
const most = { keys: 100, bytes: 1024 * 1024 }

/**
 * Makes a separate key set of each key, so that the verifying key is known. jose uses no secret or private key of a set; weak
 * keys are left out.
 */
const keysOf = (set: jose.JSONWebKeySet): ReadonlyArray<Key> => {
  // throws if this is not a key set
  jose.createLocalJWKSet(set)
  if (set.keys.length > most.keys) throw new RangeError(`Jwt: a key set must have at most ${most.keys} keys`)
  return set.keys.filter((jwk) => !isWeak(jwk)).map((jwk) => ({
    id: JSON.stringify(Object.entries(jwk).sort(([a], [b]) => a < b ? -1 : 1)),
    kid: typeof jwk.kid === "string" ? jwk.kid : undefined,
    resolve: jose.createLocalJWKSet({ keys: [jwk] })
  }))
}

/** Makes a source from a local key set. */
export const local = (set: jose.JSONWebKeySet): Source => fixed(keysOf(set))

/** Makes a source from a secret, which must be at least as long as the hash of each algorithm (RFC 7518, 3.2). */
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

/** A public key as PEM (SubjectPublicKeyInfo), as JWK, or as an extractable key object of the runtime; RSA from 2,048 bits. */
export type PublicKey = string | jose.JWK | jose.CryptoKey | jose.KeyObject

const isJwk = (key: Exclude<PublicKey, string>): key is jose.JWK => "kty" in key

/**
 * Imports a public key once for each algorithm, so that a token cannot use the key with another algorithm. Dies with a
 * RangeError if an algorithm does not fit, or the key is not a public key.
 */
export const publicKey = (key: PublicKey, algorithms: ReadonlyArray<Algorithm>): Effect.Effect<Source> =>
  Effect.promise(async () => {
    const imported = new Map<string, jose.CryptoKey>()
    for (const algorithm of algorithms) {
      try {
        imported.set(algorithm, await importOne(key, algorithm))
      } catch {
        // jose's message may quote the key
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
  // through a JWK, because its import checks the key type and the curve
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

/** Keys at a URL. */
export interface Remote {
  /** The URL of the JSON Web Key Set; https, or http on this host. */
  readonly url: string | URL
  /**
   * The longest time between two fetches; above 0. A set with a shorter `max-age` is fetched again after that time, but not
   * within the cool-down. Default: 10 minutes.
   */
  readonly refresh?: Duration.Input | undefined
  /** The shortest time from any fetch to one that an unknown key id triggers; above 0. Default: 30 seconds. */
  readonly cooldown?: Duration.Input | undefined
  /** The timeout of one fetch; above 0. Default: 5 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** How long the last good set stays in use while fetches fail; above 0. Default: 24 hours. */
  readonly keep?: Duration.Input | undefined
}

/** The defaults of the options of `Remote`. */
export const defaults = {
  refresh: Duration.minutes(10),
  cooldown: Duration.seconds(30),
  timeout: Duration.seconds(5),
  keep: Duration.hours(24)
}

/** The option checks of `Jwt`. */
export const check = OptionCheck.make("Jwt")

const addressOf = (url: string | URL): URL => {
  if (!URL.canParse(String(url))) throw new RangeError("Jwt: keys.url must be an address, got something else")
  const address = new URL(url)
  const here = ["localhost", "127.0.0.1", "[::1]"].includes(address.hostname)
  if (address.protocol === "https:" || (address.protocol === "http:" && here)) return address
  throw new RangeError(`Jwt: keys.url must be https, got ${address.protocol}//${address.host}`)
}

/** The remaining freshness of an answer, in milliseconds (RFC 9111, 4.2.1); undefined if not stated or already over. */
const freshOf = (response: HttpClientResponse.HttpClientResponse): number | undefined => {
  const { age, "cache-control": control = "" } = response.headers
  const stated = /(?:^|[\s,])max-age="?(\d{1,9})/i.exec(control)?.[1]
  if (stated === undefined) return undefined
  const left = Number(stated) - (Number(age) || 0)
  return left > 0 ? left * 1000 : undefined
}

const why = {
  unreadable: "cannot be read",
  before: "were read before this key was asked for",
  older: "were asked for before this key was"
} as const

/**
 * Makes a source of keys at a URL, fetched at once and then every `refresh` on a fiber of the scope; `onChange` receives the
 * ids of the current keys.
 *
 * Cached keys never prove that a key does not exist. A token with an unknown key id waits for the fetch in progress, else for a
 * new one; during the cool-down the token fails with `AuthUnavailable` and the time to retry after. So a set cached before a
 * key rotation refuses no message.
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
    let ids: ReadonlySet<string> = new Set()
    let fresh: number | undefined

    // a trusted URL does not make its redirect target trusted, which may be plain http on any host
    const download = manualRedirects(http.get(address, { accept: "application/jwk-set+json, application/json" })).pipe(
      Effect.filterOrFail(
        ({ status }) => status === 200,
        ({ status }) => redirects.has(status) ? `status ${status}, a redirect: correct keys.url` : `status ${status}`
      ),
      Effect.flatMap((response) =>
        Effect.flatMap(
          boundedText(response, most.bytes, "too long"),
          (body) =>
            Effect.try(() => {
              // throws if the body is not a key set
              const found = keysOf(JSON.parse(body) as jose.JSONWebKeySet)
              fresh = freshOf(response)
              return found
            })
        )
      ),
      Effect.timeout(timeout)
    )

    const source = new Rereading<ReadonlyArray<Key>, Auth.AuthUnavailable>({
      load: download,
      cooldown,
      keep,
      clock,
      fork,
      onChange: (found) => {
        ids = new Set(found?.map((key) => key.id))
        onChange(ids)
      },
      error: (reason, wait, hasValue, cause) => {
        const error = cause === undefined ? undefined : Cause.squash(cause)
        return unavailable(`${why[reason]}${typeof error === "string" ? ` (${error})` : ""}`, wait, hasValue, error)
      }
    })

    const find: Source["find"] = (kid) =>
      Effect.map(
        source.find((keys) => {
          const suitable = keys.filter((key) => kid === undefined || key.kid === kid)
          return suitable.length === 0 ? undefined : suitable
        }),
        (found) => found ?? []
      )

    const readAndWait = Effect.matchEffect(source.read, {
      onSuccess: () => Effect.sleep(Math.min(refresh, Math.max(cooldown, fresh ?? Infinity))),
      onFailure: () => Effect.sleep(Math.min(cooldown, refresh))
    })
    fork(Detached.effect(Effect.forever(readAndWait)))
    return { find, has: (id) => ids.has(id) }
  })
}
