/**
 * Signatures of messages and requests, by Standard Webhooks. A signature proves that a holder of the secret sent these bytes
 * recently, and the replay check accepts each signature once.
 */
import { type Around, Auth, Eager, type Idempotency, Middleware, OptionCheck } from "@millrace/core"
import { compositeKey } from "@millrace/core/compositeKey"
import { Clock, Duration, Effect, Exit, Redacted } from "effect"
import { SecureRandom } from "effect/crypto"
import { compile, type Keys, type Signed } from "./internal/hmacKeys.ts"
import { once } from "./internal/hmacReplay.ts"
import * as Signature from "./internal/signature.ts"

export { type Key, type Keys, type Signed } from "./internal/hmacKeys.ts"
export { type Requested, sign, signChannel, type SignOptions, signRequest, Unsignable } from "./internal/hmacSign.ts"

/** The headers of a signature. */
export const names = Signature.names

/** Options of `verify`. */
export interface Options {
  /** The accepted keys. The verifier tries each until one matches, so a forged message costs one HMAC per key. */
  readonly keys: Keys
  /**
   * The largest difference between the signature's time and now, in both directions; whole seconds from 1. Older messages are
   * refused, so on a broker set at least the longest time that a message may wait there. Default: 5 minutes.
   */
  readonly tolerance?: Duration.Input | undefined
  /**
   * The handling of a repeated signature: `refuse` remembers signatures in `Idempotency.Store`; `allow` lets repetitions pass.
   * Default: `refuse`.
   */
  readonly replay?: "refuse" | "allow" | undefined
}

/** Options without a store: a signature may be repeated while its time is within the tolerance. */
export interface Repeatable extends Options {
  readonly replay: "allow"
}

/** The defaults of the options of `verify`. */
export const defaults: { readonly tolerance: Duration.Duration } = { tolerance: Duration.minutes(5) }

/** Makes a secret of 256 random bits. */
export const generate: Effect.Effect<Redacted.Redacted<string>> = Effect.sync(() =>
  Redacted.make(`whsec_${Buffer.from(SecureRandom.randomBytesUnsafe(32)).toString("base64")}`)
)

type Refusal = Auth.Unauthorized | Auth.AuthUnavailable

const check = OptionCheck.make("Hmac")

const refuse = (reason: Auth.Reason, claim?: string) => Exit.fail(new Auth.Unauthorized({ reason, claim }))

/** The overloads of `verifier`: only with `replay: "allow"`, no store is required. */
export interface BuildVerifier {
  (options: Repeatable): (message: Signed) => Effect.Effect<Auth.Principal["Service"], Refusal>
  (options: Options): (message: Signed) => Effect.Effect<Auth.Principal["Service"], Refusal, Idempotency.Store>
}

/**
 * Makes the check of `verify` as a function, for the option `verify` of `Webhook.handler`.
 *
 * @throws RangeError when an option is out of range, or a secret is invalid
 * @category constructors
 */
export const verifier: BuildVerifier = ((options: Options) => {
  const keys = compile(options.keys)
  check.oneOf("replay", options.replay ?? "refuse", ["refuse", "allow"])
  const tolerance = check.seconds("tolerance", options.tolerance ?? defaults.tolerance)
  const remembers = options.replay !== "allow"
  // a signature is valid for the tolerance before and after its timestamp, plus its own whole second
  const window = (2 * tolerance + 1) * 1000

  return (message: Signed): Effect.Effect<Auth.Principal["Service"], Refusal, Idempotency.Store> =>
    Effect.flatMapEager(Eager.service(Clock.Clock), (clock) => {
      const { headers, payload } = message
      const { [names.id]: id, [names.timestamp]: time, [names.signature]: field } = headers
      if (field === undefined) return refuse("missing", names.signature)
      if (id === undefined) return refuse("missing", names.id)
      if (time === undefined) return refuse("missing", names.timestamp)
      if (!Signature.isId(id)) return refuse("malformed", names.id)
      const timestamp = Signature.secondsOf(time)
      if (timestamp === undefined) return refuse("malformed", names.timestamp)
      const candidates = Signature.candidatesOf(field)
      if (candidates === undefined) return refuse("oversized", names.signature)
      if (candidates.length === 0) return refuse("unsupported", names.signature)
      const now = Math.floor(clock.currentTimeMillisUnsafe() / 1000)
      if (now - timestamp > tolerance) return refuse("expired", names.timestamp)
      if (timestamp - now > tolerance) return refuse("notYetValid", names.timestamp)
      const found = keys.find(({ key }) => Signature.matches(key, id, timestamp, payload, candidates))
      if (found === undefined) return refuse("signature")
      const { principal } = found
      if (!remembers) return Exit.succeed(principal)
      return Effect.mapEager(once(message, compositeKey(principal.subject, id, time), window), () => principal)
    })
  // with `replay: "allow"`, the store is never requested
}) as BuildVerifier

const beforeIdempotency = {
  outside: "Idempotency",
  because: "an answer kept for one caller must not be replayed to another who was never authenticated"
} as const

/** The overloads of `verify`. */
export interface BuildVerify {
  (options: Repeatable): Around<Signed, Middleware.ConfigOf<Provides, Effect.Effect<never, Refusal>>>
  (options: Options): Around<Signed, Middleware.ConfigOf<Provides, Effect.Effect<never, Refusal, Idempotency.Store>>>
}

type Provides = { readonly provides: Auth.Principal }

/**
 * Verifies that a message was signed with one of the keys, and provides the key's name to the handler as its `Principal`.
 *
 * Types: takes a message of bytes and passes it on, so place it outside `Decode` and inside `Body.bytes`; `Principal` leaves R;
 * `Unauthorized` and `AuthUnavailable` enter E; `Idempotency.Store` enters R unless `replay` is `allow`.
 *
 * The signature covers `webhook-id`, `webhook-timestamp` and the bytes, but not the channel, the key or any other header: use
 * separate secrets for channels that must not be confused. One of the signatures in `webhook-signature` must match; the
 * verifier accepts at most 16 of scheme `v1` in 4,096 characters, and compares all in constant time.
 *
 * Once a message is done, its signature is remembered for as long as it stays valid: twice the tolerance plus a second. A
 * request with the same signature is refused; a client that retries must sign again. A message is refused if it comes from
 * another partition or position than before, because redelivery comes from the same. A message that failed or will be retried
 * releases its signature. Some brokers count positions anew for each connection (RabbitMQ, MQTT, NATS without JetStream, lists
 * and channels of Redis): there, a redelivery after a crash may be refused, and a copy may pass. Use `replay: "allow"` with
 * `Idempotency` inside for these brokers.
 *
 * Errors: `Unauthorized` (class `auth`) is dead-lettered; `AuthUnavailable` (class `dependency`, the store is unavailable)
 * returns the message to the source. Source: Standard Webhooks 1.0.0.
 *
 * **Example** (events from a partner)
 *
 * ```ts
 * import { Auth, Idempotency, type Message } from "@millrace/core"
 * import { Hmac } from "@millrace/security"
 * import { Deliveries } from "@millrace/testing"
 * import { Effect, pipe } from "effect"
 *
 * const keys: Hmac.Keys = [{ name: "partner", secret: await Effect.runPromise(Hmac.generate) }]
 * const handler = pipe(
 *   (_message: Message<Uint8Array>) => Effect.map(Auth.Principal, (principal) => principal.subject),
 *   Hmac.verify({ keys })
 * )
 * const run = Deliveries.run(handler, Deliveries.make({ body: { forged: true } }))
 * const { outcome } = await Effect.runPromise(Effect.provide(run, Idempotency.layerMemory()))
 * console.log(outcome._tag) // => DeadLetter
 * ```
 *
 * @throws RangeError when an option is out of range, or a secret is invalid
 * @category constructors
 */
export const verify: BuildVerify = ((options: Options) => {
  const principalOf = verifier(options)
  return Middleware.make<{ message: Signed; provides: Auth.Principal }>()(
    {
      name: "Hmac",
      stage: "consume",
      shows: {
        keys: options.keys.map(({ name }) => name),
        tolerance: Duration.format(Duration.fromInputUnsafe(options.tolerance ?? defaults.tolerance)),
        replay: options.replay ?? "refuse"
      },
      order: options.replay === "allow" ? [beforeIdempotency] : [beforeIdempotency, {
        outside: "Retry",
        because: "a second attempt would be a replay of the first"
      }]
    },
    (next) => (message) =>
      Effect.flatMapEager(principalOf(message), (principal) => Eager.provide(Auth.Principal, principal, next, message))
  )
  // as in `verifier`
}) as BuildVerify
