/**
 * Authentication and authorization: identifies the sender of a message and checks its scopes.
 *
 * A `Verifier` checks the credential in a header and returns its principal. The credential itself is in no error, no
 * description and no log line of this module.
 */
import { Context, Data, type Duration, Effect, Exit, Layer } from "effect"
import type { Envelope } from "../message/Message.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Around, FullConfig } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import { defaults, type Options, reader } from "./authCredential.ts"

export { defaults, type Options } from "./authCredential.ts"

/** Scopes that a principal must all have; at least one. */
export type Scopes = readonly [string, ...ReadonlyArray<string>]

/**
 * The reason of a refused credential.
 *
 * - `missing`: the header is not there, or is of another scheme
 * - `malformed`: the text does not have the form of a credential
 * - `oversized`: the credential is longer than the verifier reads
 * - `unsupported`: its algorithm is not allowed, or the token demands an extension that the verifier lacks
 * - `type`: the token is for another purpose
 * - `unknownKey`: no key of the issuer could have signed it
 * - `signature`: it was not signed by the key that it names
 * - `expired`, `notYetValid`: its time is over, or has not come
 * - `issuer`, `audience`: the token has another issuer, or another audience
 * - `claims`: a claim is missing or of a wrong type
 * - `refused`: the verifier does not know the credential, or has revoked it
 * - `replayed`: the credential may be used once, and was used before
 */
export type Reason =
  | "missing"
  | "malformed"
  | "oversized"
  | "unsupported"
  | "type"
  | "unknownKey"
  | "signature"
  | "expired"
  | "notYetValid"
  | "issuer"
  | "audience"
  | "claims"
  | "refused"
  | "replayed"

/** The sender is not authenticated; class `auth`, so the message is dead-lettered and never retried. */
export class Unauthorized extends Data.TaggedError("Unauthorized")<{
  readonly reason: Reason
  /** The claim or header that was wrong, if any. */
  readonly claim?: string | undefined
  /** The scheme that the middleware expects, as a challenge names it. Default: `Bearer`. */
  readonly scheme?: string | undefined
}> {
  readonly failure = "auth" as const
  override get message(): string {
    return `The credential was refused: ${this.reason}${this.claim === undefined ? "" : ` (${this.claim})`}`
  }
}

/** The sender lacks a scope; class `auth`, so the message is dead-lettered and never retried. */
export class Forbidden extends Data.TaggedError("Forbidden")<{
  readonly subject: string
  /** The scopes that the principal lacks. */
  readonly missing: ReadonlyArray<string>
}> {
  readonly failure = "auth" as const
  override get message(): string {
    return `${this.subject} lacks the scope ${this.missing.join(", ")}`
  }
}

/** The verifier cannot check the credential now, as keys are unavailable; class `dependency`, so the message is retried. */
export class AuthUnavailable extends Data.TaggedError("AuthUnavailable")<{
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
  /**
   * Set if keys are available and the credential names another key, which may be too new to be known: a message is
   * retried, and a request is refused, as otherwise callers without a valid credential could make a server answer 503.
   */
  readonly isUnknownKey?: boolean | undefined
  readonly cause?: unknown
}> {
  readonly failure = "dependency" as const
}

/** The sender of the message: a service that the handler inside `middleware` may use. */
class AuthPrincipal extends Context.Service<AuthPrincipal, {
  readonly subject: string
  readonly issuer: string | undefined
  readonly scopes: ReadonlyArray<string>
  /** Further data of the credential; of a token, all its claims. */
  readonly claims: { readonly [name: string]: unknown }
}>()("@millrace/core/Auth/Principal") {}
export { AuthPrincipal as Principal }

/** Verifies a credential and returns its principal. */
class AuthVerifier extends Context.Service<AuthVerifier, {
  /** Returns an Exit if it has nothing to fetch or compute. Never puts the credential into an error. */
  readonly verify: (credential: string) => Effect.Effect<AuthPrincipal["Service"], Unauthorized | AuthUnavailable>
}>()("@millrace/core/Auth/Verifier") {}
export { AuthVerifier as Verifier }

const forbidden = (scopes: ReadonlyArray<string>, principal: AuthPrincipal["Service"]): Forbidden | undefined => {
  for (let i = 0; i < scopes.length; i++) {
    if (!principal.scopes.includes(scopes[i]!)) {
      return new Forbidden({
        subject: principal.subject,
        missing: scopes.filter((scope) => !principal.scopes.includes(scope))
      })
    }
  }
  return undefined
}

type Refusal = Unauthorized | AuthUnavailable

/** The overloads of `middleware`: only the one with scopes can fail with `Forbidden`. */
export interface Build {
  (options: Options & { readonly scopes: Scopes }): Around<
    Envelope,
    FullConfig<{ provides: AuthPrincipal; requires: AuthVerifier; fails: Refusal | Forbidden }>
  >
  (options?: Options): Around<Envelope, FullConfig<{ provides: AuthPrincipal; requires: AuthVerifier; fails: Refusal }>>
}

/**
 * Passes messages whose credential the `Verifier` accepts, and gives their `Principal` to the handler.
 *
 * Types: any message in, the same message on; `Principal` leaves R, `Verifier` enters it; `Unauthorized` and
 * `AuthUnavailable` enter E, and `Forbidden` where `scopes` are given, all of which the principal must have.
 *
 * Errors: `Unauthorized` and `Forbidden` (class `auth`) are dead-lettered; `AuthUnavailable` (class `dependency`) returns
 * the message to its source. Source: RFC 6750 for the form of the header.
 *
 * **Example** (orders from known customers)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Auth, type Message } from "@millrace/core"
 *
 * const greet = (_message: Message<Uint8Array>) => Effect.map(Auth.Principal, (principal) => `hello ${principal.subject}`)
 *
 * const handler = pipe(greet, Auth.middleware({ scopes: ["orders:write"] }))
 *
 * const known = Auth.layerMemory({ "a-token": { subject: "ada", scopes: ["orders:write"] } })
 * ```
 *
 * @throws RangeError when the header is empty or the scheme is no token
 * @category constructors
 */
export const middleware: Build = ((options: Options & { readonly scopes?: Scopes } = {}) => {
  const credentialOf = reader(options)
  const scopes = options.scopes ?? []
  const scheme = options.scheme === "" ? "ApiKey" : options.scheme
  const isBearer = scheme === undefined || scheme.toLowerCase() === "bearer"
  const named = (error: Refusal): Refusal =>
    isBearer || error._tag !== "Unauthorized"
      ? error
      : new Unauthorized({ reason: error.reason, claim: error.claim, scheme })
  const missing = named(new Unauthorized({ reason: "missing" }))
  return Middleware.make<{ provides: AuthPrincipal }>()({
    name: "Auth",
    stage: "consume",
    shows: {
      header: options.header ?? defaults.header,
      scheme: (options.scheme ?? defaults.scheme) || undefined,
      scopes: options.scopes
    },
    order: [{
      outside: "Idempotency",
      because: "an answer kept for one caller must not be replayed to another who was never authenticated"
    }]
  }, (next) => {
    const pass = (
      message: Envelope,
      principal: AuthPrincipal["Service"]
    ): Middleware.Returns<Forbidden> => {
      const refused = forbidden(scopes, principal)
      return refused === undefined ? Eager.provide(AuthPrincipal, principal, next, message) : Exit.fail(refused)
    }
    const refuse = (message: Envelope, error: Refusal): Refusal =>
      message.kind === "server" && error._tag === "AuthUnavailable" && error.isUnknownKey === true
        ? new Unauthorized({ reason: "unknownKey", claim: "kid" })
        : error
    return (message): Middleware.Returns<Refusal | Forbidden, AuthVerifier> => {
      const credential = credentialOf(message)
      if (credential === undefined) return Exit.fail(missing)
      return Effect.flatMapEager(Eager.service(AuthVerifier), (verifier) => {
        const verified = verifier.verify(credential)
        // no closure for a credential that is verified synchronously
        return Eager.isDone(verified) && verified._tag === "Success"
          ? pass(message, verified.value)
          : Effect.flatMapEager(
            Effect.mapErrorEager(verified, (error) => named(refuse(message, error))),
            (principal) => pass(message, principal)
          )
      })
    }
  })
  // without scopes none can be missing, so that overload does not fail with Forbidden
}) as Build

/**
 * Passes messages whose principal has all of the scopes; for one handler of several that share an authenticated stack.
 *
 * Types: any message in, the same message on; `Principal` enters R, which `middleware` outside removes; `Forbidden`
 * enters E.
 *
 * Errors: `Forbidden` (class `auth`) is dead-lettered.
 *
 * **Example** (one handler that requires a further scope)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Auth, type Message } from "@millrace/core"
 *
 * const refund = pipe(
 *   (_message: Message<Uint8Array>) => Effect.succeed("refunded"),
 *   Auth.scopes("orders:refund"),
 *   Auth.middleware()
 * )
 * ```
 *
 * @category constructors
 */
export const scopes = (
  ...scopes: Scopes
): Around<Envelope, FullConfig<{ requires: AuthPrincipal; fails: Forbidden }>> =>
  Middleware.make()(
    {
      name: "Scopes",
      stage: "consume",
      shows: { scopes },
      order: [{ inside: "Auth", because: "there is no principal to ask before the message is authenticated" }]
    },
    (next) => (message) =>
      Effect.flatMapEager(Eager.service(AuthPrincipal), (principal): Middleware.Returns<Forbidden> => {
        const refused = forbidden(scopes, principal)
        return refused === undefined ? next(message) : Exit.fail(refused)
      })
  )

/** A principal of `layerMemory`. */
export interface Known {
  readonly subject: string
  readonly issuer?: string | undefined
  readonly scopes?: ReadonlyArray<string> | undefined
  readonly claims?: { readonly [name: string]: unknown } | undefined
}

/**
 * Verifies the given credentials, for tests and local programs: compares them in plain text and not in constant time.
 *
 * @category layers
 */
export const layerMemory = (credentials: { readonly [credential: string]: Known }): Layer.Layer<AuthVerifier> => {
  const known = new Map(
    Object.entries(credentials).map(([credential, each]) => [
      credential,
      Exit.succeed({
        subject: each.subject,
        issuer: each.issuer,
        scopes: each.scopes ?? [],
        claims: each.claims ?? { sub: each.subject }
      })
    ])
  )
  return Layer.succeed(AuthVerifier, {
    verify: (credential) => known.get(credential) ?? Exit.fail(new Unauthorized({ reason: "refused" }))
  })
}
