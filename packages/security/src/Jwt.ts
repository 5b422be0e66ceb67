/**
 * JSON Web Tokens as credentials: jose verifies signatures, the options set the required claims, and a cache serves repeated
 * tokens.
 */
import { Auth } from "@millrace/core"
import { Clock, DateTime, Duration, Effect, Exit, Layer, type Redacted, type Scope } from "effect"
import type { HttpClient } from "effect/http"
import * as jose from "jose"
import { Cache, type Entry } from "./internal/cache.ts"
import { freeze } from "./internal/freeze.ts"
import * as Keys from "./internal/keys.ts"
import { type Chooses, QuickKeys } from "./internal/signedNow.ts"

/** The signature algorithms that may be allowed (RFC 7518, RFC 8037). */
export type Algorithm = Keys.Algorithm

/** A public key as PEM (SubjectPublicKeyInfo), as JWK, or as an extractable key object of the runtime; RSA from 2,048 bits. */
export type PublicKey = Keys.PublicKey

/** A JSON Web Key Set at a URL, and its caching. */
export type RemoteKeys = Keys.Remote

/** Keys that need no network: a key set, one public key, or a secret shared with the issuer (HS256, HS384, HS512). */
export type LocalKeys =
  | { readonly jwks: jose.JSONWebKeySet }
  | { readonly publicKey: PublicKey }
  | { readonly secret: string | Uint8Array | Redacted.Redacted<string | Uint8Array> }

/** The requirements of a token, and the cache of verified tokens. */
export interface Options {
  /** The allowed algorithms, at least one; with a secret only HS algorithms, otherwise only public-key algorithms. */
  readonly algorithms: readonly [Algorithm, ...ReadonlyArray<Algorithm>]
  /** The accepted `iss`, or several. An explicit `undefined` accepts any. */
  readonly issuer: string | ReadonlyArray<string> | undefined
  /** The accepted `aud`, or several, of which the token must have one. An explicit `undefined` accepts any. */
  readonly audience: string | ReadonlyArray<string> | undefined
  /** The largest clock difference between issuer and verifier, in whole seconds from 0. Default: 5 seconds. */
  readonly clockTolerance?: Duration.Input | undefined
  /** The highest age since `iat`, in whole seconds from 1; if set, `iat` is required. Default: no limit except `exp`. */
  readonly maximumTokenAge?: Duration.Input | undefined
  /** Required claims beside `sub`. Default: `exp`. */
  readonly requiredClaims?: ReadonlyArray<string> | undefined
  /**
   * The accepted `typ` headers, compared as media types. If set, a token must have one of them. Default: no `typ`, `JWT` or
   * `at+jwt`, which excludes tokens made for other purposes (RFC 8725, 3.11).
   */
  readonly types?: ReadonlyArray<string> | undefined
  /** The longest accepted token, in characters; an integer from 1. Default: 8,192. */
  readonly maximumLength?: number | undefined
  /** The principal's scopes. Default: the words of `scope`, else of `scp`; each may be a list. */
  readonly scopes?: ((claims: jose.JWTPayload) => ReadonlyArray<string>) | undefined
  /** Whether a token was revoked; called for each use of a token, cached or not. Default: no token is revoked. */
  readonly isRevoked?: ((principal: Auth.Principal["Service"]) => boolean) | undefined
  /** The most cached verified tokens, each of at most `maximumLength`; an integer from 1. Default: 10,000. */
  readonly cache?: { readonly capacity?: number | undefined } | undefined
}

/** The defaults of the options of `layer`. */
export const defaults: {
  readonly clockTolerance: Duration.Duration
  readonly requiredClaims: ReadonlyArray<string>
  readonly types: ReadonlyArray<string>
  readonly maximumLength: number
  readonly capacity: number
} = {
  clockTolerance: Duration.seconds(5),
  requiredClaims: ["exp"],
  types: ["JWT", "at+jwt"],
  maximumLength: 8192,
  capacity: 10_000
}

type Verified = Auth.Principal["Service"]

const allowed = (algorithms: ReadonlyArray<Algorithm>, withSecret: boolean): ReadonlyArray<Algorithm> => {
  if (algorithms.length === 0) throw new RangeError("Jwt: algorithms must name at least one, got none")
  const all: ReadonlyArray<Algorithm> = Object.values(Keys.families).flat()
  const secret: ReadonlyArray<string> = Keys.families.HS
  for (const algorithm of algorithms) {
    Keys.check.oneOf("each of algorithms", algorithm, all)
    // a public key used as an HMAC secret would let everyone sign (RFC 8725, 2.1)
    if (secret.includes(algorithm) !== withSecret) {
      throw new RangeError(`Jwt: algorithms must be for ${withSecret ? "a secret" : "public keys"}, got ${algorithm}`)
    }
  }
  return algorithms
}

/** A media type without `application/`, in lower case (RFC 7515, 4.1.9). */
const typeOf = (typ: string): string => typ.toLowerCase().replace(/^application\//, "")

/** Base64url of whole bytes in canonical form: unused bits are zero, so each token has exactly one spelling. */
const part = "(?:[\\w-]{4})*(?:[\\w-]{2}(?:[AEIMQUYcgkosw048])|[\\w-][AQgw])?"
const form = new RegExp(`^${part}\\.${part}\\.${part}$`)

type Header = Chooses

/** The header `{"alg":"none"}` of an unsigned token. */
const unsecured = "eyJhbGciOiJub25lIn0"

const text = (value: unknown): value is string => typeof value === "string" && value !== ""

const texts = (value: unknown): value is ReadonlyArray<string> =>
  Array.isArray(value) && value.every((each) => typeof each === "string")

const words = (value: unknown): ReadonlyArray<string> | undefined =>
  value === undefined
    ? []
    : texts(value)
    ? value
    : typeof value === "string"
    ? value.split(" ").filter(text)
    : undefined

/** The first claim of a wrong type; jose checks only the time claims that it needs. */
const wrongClaim = (claims: jose.JWTPayload): string | undefined => {
  if (!text(claims.sub)) return "sub"
  if (claims.iss !== undefined && !text(claims.iss)) return "iss"
  if (claims.jti !== undefined && !text(claims.jti)) return "jti"
  if (claims.aud !== undefined && !text(claims.aud) && !texts(claims.aud)) return "aud"
  for (const time of ["exp", "nbf", "iat"]) {
    if (claims[time] !== undefined && !Number.isFinite(claims[time])) return time
  }
  if (words(claims["scope"]) === undefined) return "scope"
  return words(claims["scp"]) === undefined ? "scp" : undefined
}

const scopesOf = (claims: jose.JWTPayload): ReadonlyArray<string> => words(claims["scope"] ?? claims["scp"]) ?? []

const refusedBy: { readonly [claim: string]: Auth.Reason } = {
  nbf: "notYetValid",
  iat: "notYetValid",
  iss: "issuer",
  aud: "audience"
}

/** Maps jose's error to a reason, without jose's message, which may quote the token. */
const reasonOf = (error: unknown): Auth.Unauthorized => {
  if (error instanceof jose.errors.JWTExpired) return new Auth.Unauthorized({ reason: "expired", claim: error.claim })
  if (error instanceof jose.errors.JWTClaimValidationFailed) {
    const reason = error.reason === "check_failed" ? refusedBy[error.claim] ?? "claims" : "claims"
    return new Auth.Unauthorized({ reason, claim: error.claim })
  }
  if (error instanceof jose.errors.JWSSignatureVerificationFailed) return new Auth.Unauthorized({ reason: "signature" })
  if (error instanceof jose.errors.JOSEAlgNotAllowed || error instanceof jose.errors.JOSENotSupported) {
    return new Auth.Unauthorized({ reason: "unsupported" })
  }
  if (error instanceof jose.errors.JWSInvalid || error instanceof jose.errors.JWTInvalid) {
    return new Auth.Unauthorized({ reason: "malformed" })
  }
  // no key of the set fits the algorithm, or the key is unusable
  return new Auth.Unauthorized({ reason: "unknownKey" })
}

const verifier = (
  options: Options,
  sourceOf: (cache: Cache) => Effect.Effect<Keys.Source, never, HttpClient.HttpClient | Scope.Scope>
) => {
  const algorithms = [...options.algorithms]
  const tolerance = Keys.check.seconds("clockTolerance", options.clockTolerance ?? defaults.clockTolerance, {
    least: 0
  })
  const age = options.maximumTokenAge === undefined
    ? undefined
    : Keys.check.seconds("maximumTokenAge", options.maximumTokenAge)
  const maximumLength = Keys.check.count("maximumLength", options.maximumLength ?? defaults.maximumLength)
  const capacity = Keys.check.count("cache.capacity", options.cache?.capacity ?? defaults.capacity)
  const types = new Set((options.types ?? defaults.types).map(typeOf))
  const isRevoked = options.isRevoked
  const claimsToCheck: jose.JWTClaimVerificationOptions = {
    clockTolerance: tolerance,
    requiredClaims: ["sub", ...options.requiredClaims ?? defaults.requiredClaims],
    ...options.issuer === undefined ? {} : { issuer: [options.issuer].flat() },
    ...options.audience === undefined ? {} : { audience: [options.audience].flat() },
    ...age === undefined ? {} : { maxTokenAge: age }
  }
  const toVerify: jose.JWTVerifyOptions = { algorithms, ...claimsToCheck }

  const refuse = (reason: Auth.Reason, claim?: string) => Exit.fail(new Auth.Unauthorized({ reason, claim }))

  const headerOf = (token: string): Exit.Exit<Header, Auth.Unauthorized> => {
    if (token.length > maximumLength) return refuse("oversized")
    if (!form.test(token)) return refuse("malformed")
    let header: jose.ProtectedHeaderParameters
    try {
      header = jose.decodeProtectedHeader(token)
    } catch {
      return refuse("malformed")
    }
    const { alg, b64, crit, kid, typ } = header
    if (!algorithms.some((algorithm) => algorithm === alg)) return refuse("unsupported", "alg")
    // crit lists extensions that the verifier must understand, and this one understands none
    if (crit !== undefined) return refuse("unsupported", "crit")
    // a JWT must not use an unencoded payload (RFC 7797, 6)
    if (b64 !== undefined) return refuse("unsupported", "b64")
    if (kid !== undefined && typeof kid !== "string") return refuse("malformed", "kid")
    if (typ === undefined ? options.types !== undefined : typeof typ !== "string" || !types.has(typeOf(typ))) {
      return refuse("type", "typ")
    }
    return Exit.succeed({ alg: alg!, kid })
  }

  /** Makes the cache entry of a verified token, valid in the same milliseconds as for jose, which compares whole seconds. */
  const entryOf = (token: string, key: string, claims: jose.JWTPayload, principal: Verified): Entry => {
    const { exp, iat, nbf } = claims
    const old = age === undefined || iat === undefined ? Infinity : Math.floor(iat + age + tolerance) + 1
    const made = age === undefined || iat === undefined ? -Infinity : Math.ceil(iat - tolerance)
    return {
      token,
      key,
      from: Math.max(made, nbf === undefined ? -Infinity : Math.ceil(nbf - tolerance)) * 1000,
      until: Math.min(old, exp === undefined ? Infinity : Math.ceil(exp + tolerance)) * 1000,
      verified: Exit.succeed(principal) as Exit.Success<Verified>,
      used: true
    }
  }

  /** Makes the cache entry of valid claims. */
  const accept = (token: string, key: Keys.Key, claims: jose.JWTPayload): Exit.Exit<Entry, Auth.Unauthorized> => {
    const wrong = wrongClaim(claims)
    if (wrong !== undefined) return refuse("claims", wrong)
    const principal: Verified = freeze({
      subject: claims.sub!,
      issuer: claims.iss,
      scopes: [...(options.scopes ?? scopesOf)(claims)],
      claims
    })
    return Exit.succeed(entryOf(token, key.id, claims, principal))
  }

  const quick = new QuickKeys()

  /**
   * Like `check`, but synchronous: for a single key that has already verified a token with such a header; otherwise undefined.
   */
  const checkNow = (
    token: string,
    header: Header,
    [key, other]: ReadonlyArray<Keys.Key>,
    now: number
  ): Exit.Exit<Entry, Auth.Unauthorized> | undefined => {
    if (key === undefined || other !== undefined) return undefined
    const isSigned = quick.hasSigned(key, header, token)
    if (isSigned === undefined) return undefined
    if (!isSigned) return refuse("signature")
    try {
      // jose checks claims separately only for unsigned tokens; the signature was verified above
      const claims = token.slice(token.indexOf("."), token.lastIndexOf(".") + 1)
      const currentDate = DateTime.toDateUtc(DateTime.makeUnsafe(now))
      return accept(
        token,
        key,
        jose.UnsecuredJWT.decode(`${unsecured}${claims}`, { ...claimsToCheck, currentDate }).payload
      )
    } catch (error) {
      return Exit.fail(reasonOf(error))
    }
  }

  /** Tries each candidate key; reports an invalid signature in preference to a key of another algorithm. */
  const check = async (
    token: string,
    header: Header,
    keys: ReadonlyArray<Keys.Key>,
    now: number
  ): Promise<Exit.Exit<Entry, Auth.Unauthorized>> => {
    const currentDate = DateTime.toDateUtc(DateTime.makeUnsafe(now))
    let found = new Auth.Unauthorized({ reason: "unknownKey", claim: "kid" })
    for (const key of keys) {
      try {
        const { key: used, payload } = await jose.jwtVerify(token, key.resolve, { ...toVerify, currentDate })
        quick.keep(key, header, used)
        return accept(token, key, payload)
      } catch (error) {
        const reason = reasonOf(error)
        if (reason.reason !== "signature" && reason.reason !== "unknownKey") return Exit.fail(reason)
        if (reason.reason === "signature") found = reason
      }
    }
    return Exit.fail(found)
  }

  return Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const cache = new Cache(capacity)
    const source = yield* sourceOf(cache)
    const checking = new Map<string, Promise<Exit.Exit<Entry, Auth.Unauthorized>>>()

    const keep = (exit: Exit.Exit<Entry, Auth.Unauthorized>, now: number): Exit.Exit<Entry, Auth.Unauthorized> => {
      if (exit._tag === "Success" && source.has(exit.value.key)) cache.put(exit.value, now)
      return exit
    }

    /** Messages with the same new token share one check; the map holds only the checks in progress. */
    const checkOnce = (token: string, header: Header, keys: ReadonlyArray<Keys.Key>) => {
      const running = checking.get(token)
      if (running !== undefined) return running
      const now = clock.currentTimeMillisUnsafe()
      const begun = check(token, header, keys, now).then((exit) => keep(exit, now)).finally(() =>
        checking.delete(token)
      )
      checking.set(token, begun)
      return begun
    }

    const use = (entry: Entry): Exit.Exit<Verified, Auth.Unauthorized> => {
      const now = clock.currentTimeMillisUnsafe()
      if (now >= entry.until) {
        cache.delete(entry)
        return refuse("expired")
      }
      if (now < entry.from) return refuse("notYetValid")
      return isRevoked !== undefined && isRevoked(entry.verified.value) ? refuse("refused") : entry.verified
    }

    const miss = (token: string): Effect.Effect<Verified, Auth.Unauthorized | Auth.AuthUnavailable> =>
      Effect.flatMapEager(
        headerOf(token),
        (header) =>
          Effect.flatMapEager(source.find(header.kid), (keys) => {
            const now = clock.currentTimeMillisUnsafe()
            const exit = checkNow(token, header, keys, now)
            return exit === undefined
              ? Effect.flatMap(Effect.flatten(Effect.promise(() => checkOnce(token, header, keys))), use)
              : Effect.flatMapEager(keep(exit, now), use)
          })
      )

    return Auth.Verifier.of({
      verify: (token) => {
        const entry = cache.get(token)
        return entry === undefined ? miss(token) : use(entry)
      }
    })
  })
}

/** The overloads of `layer`: only keys at a URL require an HTTP client. */
export interface Build {
  (options: Options & { readonly keys: LocalKeys }): Layer.Layer<Auth.Verifier>
  (options: Options & { readonly keys: RemoteKeys }): Layer.Layer<Auth.Verifier, never, HttpClient.HttpClient>
}

/**
 * Makes a `Verifier` of JSON Web Tokens, for `Auth.middleware`.
 *
 * The subject is `sub`, a required string. A verified token is cached and accepted at once while the clock is between `nbf` and
 * `exp`, its key is in the set, and `isRevoked` does not refuse it; refusals are not cached. Times are compared in whole
 * seconds, with `clockTolerance` in both directions. The cache holds the tokens themselves in memory.
 *
 * The verifier fetches keys at a URL in the background when the layer is built, and again after `refresh`, or earlier if the
 * answer's `max-age` is shorter. A token with an unknown key id triggers a fetch, at most one per `cooldown`. While fetches
 * fail, the last good set stays in use, for at most `keep`. An answer of more than 1 MiB or more than 100 keys counts as
 * failed.
 *
 * Errors: `Unauthorized` (class `auth`) is dead-lettered; `AuthUnavailable` (class `dependency`: keys are unavailable, or were
 * fetched before the token arrived) returns the message to the source for the rest of the cool-down. Neither contains a part of
 * the token.
 *
 * Source: RFC 7519, RFC 8725 (best current practices), jose for signatures.
 *
 * **Example** (tokens of one issuer)
 *
 * ```ts
 * import { Jwt } from "@millrace/security"
 * import { Layer } from "effect"
 * import { FetchHttpClient } from "effect/http"
 *
 * const verifier = Jwt.layer({
 *   keys: { url: "https://issuer.example/.well-known/jwks.json" },
 *   algorithms: ["RS256"],
 *   issuer: "https://issuer.example",
 *   audience: "orders"
 * }).pipe(Layer.provide(FetchHttpClient.layer))
 * ```
 *
 * @throws RangeError when an option is out of range, the algorithms do not fit the kind of key, the secret is shorter than its
 * hash, or the URL is not https; the layer dies with a RangeError when a public key cannot be read
 * @category layers
 */
export const layer: Build = ((options: Options & { readonly keys: LocalKeys | RemoteKeys }) => {
  const { keys } = options
  const algorithms = allowed(options.algorithms, "secret" in keys)
  const sourceOf = "url" in keys
    ? remoteOf(keys)
    : "publicKey" in keys
    ? () => Keys.publicKey(keys.publicKey, algorithms)
    : fixed("secret" in keys ? Keys.secret(keys.secret, algorithms) : Keys.local(keys.jwks))
  return Layer.effect(Auth.Verifier, verifier(options, sourceOf))
  // only keys at a URL require the client
}) as Build

const fixed = (source: Keys.Source) => () => Effect.succeed(source)

const remoteOf = (keys: RemoteKeys) => {
  const open = Keys.remote(keys)
  return (cache: Cache) => open((ids) => cache.retain(ids))
}
