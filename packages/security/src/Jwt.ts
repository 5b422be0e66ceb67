/**
 * JSON Web Tokens as credentials: signatures by jose, everything that a token must say by the options, and a cache for tokens
 * that come again.
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

/** A public key as PEM (SubjectPublicKeyInfo), as JWK, or as the runtime holds it (extractable); RSA from 2,048 bits. */
export type PublicKey = Keys.PublicKey

/** A JSON Web Key Set at an address, and how it is kept. */
export type RemoteKeys = Keys.Remote

/** Keys that need no network: a key set, one public key, or a secret shared with the issuer (HS256, HS384, HS512). */
export type LocalKeys =
  | { readonly jwks: jose.JSONWebKeySet }
  | { readonly publicKey: PublicKey }
  | { readonly secret: string | Uint8Array | Redacted.Redacted<string | Uint8Array> }

/** What a token must say, and how verified tokens are kept. */
export interface Options {
  /** The algorithms that are allowed, at least one; either all of them with a secret, or none. */
  readonly algorithms: readonly [Algorithm, ...ReadonlyArray<Algorithm>]
  /** The `iss` that is taken, or several. `undefined`, said on purpose, takes any. */
  readonly issuer: string | ReadonlyArray<string> | undefined
  /** The `aud` of which the token must hold one. `undefined`, said on purpose, takes any. */
  readonly audience: string | ReadonlyArray<string> | undefined
  /** Whole seconds from 0 that the clocks of issuer and verifier may differ. Default: 5 seconds. */
  readonly clockTolerance?: Duration.Input | undefined
  /** Whole seconds from 1 since `iat`; given, `iat` is required. Default: no limit but `exp`. */
  readonly maximumTokenAge?: Duration.Input | undefined
  /** Claims that must be there beside `sub`. Default: `exp`. */
  readonly requiredClaims?: ReadonlyArray<string> | undefined
  /**
   * The `typ` headers that are taken, compared as media types are. Given, a token must have one of them; by default it may have
   * none, `JWT` or `at+jwt`, which keeps out tokens made for other purposes (RFC 8725, 3.11).
   */
  readonly types?: ReadonlyArray<string> | undefined
  /** The longest token that is read, in characters; an integer from 1. Default: 8,192. */
  readonly maximumLength?: number | undefined
  /** The principal's scopes. Default: the words of `scope`, or those of `scp`, which may be a list. */
  readonly scopes?: ((claims: jose.JWTPayload) => ReadonlyArray<string>) | undefined
  /** Asked each time a token is used, cached or not: whether it was revoked. Default: none is. */
  readonly isRevoked?: ((principal: Auth.Principal["Service"]) => boolean) | undefined
  /** The most tokens kept verified, each of at most `maximumLength`; an integer from 1. Default: 10,000. */
  readonly cache?: { readonly capacity?: number | undefined } | undefined
}

/** What `layer` does where an option is not given. */
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
    // a public key taken as the secret of an HMAC would let everyone sign (RFC 8725, 2.1)
    if (secret.includes(algorithm) !== withSecret) {
      throw new RangeError(`Jwt: algorithms must be for ${withSecret ? "a secret" : "public keys"}, got ${algorithm}`)
    }
  }
  return algorithms
}

/** A media type without `application/`, in lower case (RFC 7515, 4.1.9). */
const typeOf = (typ: string): string => typ.toLowerCase().replace(/^application\//, "")

/** Base64url of whole bytes in their one spelling: unused bits are zero, so no other text is the same token. */
const part = "(?:[\\w-]{4})*(?:[\\w-]{2}(?:[AEIMQUYcgkosw048])|[\\w-][AQgw])?"
const form = new RegExp(`^${part}\\.${part}\\.${part}$`)

type Header = Chooses

/** The header `{"alg":"none"}`, of a token without a signature. */
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

/** The first claim of a wrong type; jose has looked at the times it was asked about. */
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

/** What jose found, without its text: that may quote the token. */
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
  // no key of the set fits the algorithm, or it cannot be used at all
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
    // it lists what must be understood, and nothing of that kind is
    if (crit !== undefined) return refuse("unsupported", "crit")
    // a token is never of bare text (RFC 7797, 6)
    if (b64 !== undefined) return refuse("unsupported", "b64")
    if (kid !== undefined && typeof kid !== "string") return refuse("malformed", "kid")
    if (typ === undefined ? options.types !== undefined : typeof typ !== "string" || !types.has(typeOf(typ))) {
      return refuse("type", "typ")
    }
    return Exit.succeed({ alg: alg!, kid })
  }

  /** When a verified token holds, in the milliseconds at which jose, which counts whole seconds, changes its mind. */
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

  /** What claims that hold are kept as. */
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

  /** As `check`, at once: with one key, which has verified a token with such a header; undefined where that is not so. */
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
      // jose checks claims apart from a signature only where there is none: this one was verified above
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

  /** Tries each key that may fit; a signature that no key made says more than a key of another algorithm. */
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

    /** Messages that carry the same new token share one check, and this map is as large as what is checked now. */
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

/** The two forms of `layer`: only keys at an address need a network. */
export interface Build {
  (options: Options & { readonly keys: LocalKeys }): Layer.Layer<Auth.Verifier>
  (options: Options & { readonly keys: RemoteKeys }): Layer.Layer<Auth.Verifier, never, HttpClient.HttpClient>
}

/**
 * A `Verifier` of JSON Web Tokens, for `Auth.middleware`.
 *
 * The subject is `sub`, a string and required. A token that was verified is kept, and answered at once as long as the clock is
 * between `nbf` and `exp`, its key is in the set, and `isRevoked` does not speak against it; refusals are not kept. Times are
 * compared in whole seconds, with `clockTolerance` to both sides. The cache holds the tokens themselves in memory.
 *
 * Keys at an address are read when the layer is built, without waiting for them, and again every `refresh` or when they say
 * so; a token with a key id that is not in the set has them read at once, at most every `cooldown`. While the address does not
 * answer the last good set holds, for `keep` at most. What is longer than 1 MiB, or has more than 100 keys, is no answer.
 *
 * Errors: `Unauthorized` (class `auth`) is dead-lettered; `AuthUnavailable` (class `dependency`), where keys cannot be had or are
 * older than the question, goes back to the source for the rest of the cool-down. Neither holds a part of the token.
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
 * hash, or the address is not https; the layer dies with one when a public key cannot be read
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
  // only the form with an address needs the client
}) as Build

const fixed = (source: Keys.Source) => () => Effect.succeed(source)

const remoteOf = (keys: RemoteKeys) => {
  const open = Keys.remote(keys)
  return (cache: Cache) => open((ids) => cache.retain(ids))
}
