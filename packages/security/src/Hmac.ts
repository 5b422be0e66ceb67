/**
 * Signatures of messages and requests, by Standard Webhooks: whoever has the secret sent these bytes, now, and once.
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
  /** The keys that count. Each is tried until one fits, so what nobody signed costs one HMAC for each. */
  readonly keys: Keys
  /**
   * How far the time of the signature may be from now, to both sides; whole seconds from 1. Messages that wait longer are
   * refused: on a broker it must be as long as a message may wait there. Default: 5 minutes.
   */
  readonly tolerance?: Duration.Input | undefined
  /**
   * What becomes of a signature that comes a second time: refused, by what `Idempotency.Store` remembers, or let pass. Default:
   * `refuse`.
   */
  readonly replay?: "refuse" | "allow" | undefined
}

/** Options without a store: a signature may come again as long as its time is right. */
export interface Repeatable extends Options {
  readonly replay: "allow"
}

/** What `verify` does where an option is not given. */
export const defaults: { readonly tolerance: Duration.Duration } = { tolerance: Duration.minutes(5) }

/** Makes a secret of 256 random bits. */
export const generate: Effect.Effect<Redacted.Redacted<string>> = Effect.sync(() =>
  Redacted.make(`whsec_${Buffer.from(SecureRandom.randomBytesUnsafe(32)).toString("base64")}`)
)

type Refusal = Auth.Unauthorized | Auth.AuthUnavailable

const check = OptionCheck.make("Hmac")

const refuse = (reason: Auth.Reason, claim?: string) => Exit.fail(new Auth.Unauthorized({ reason, claim }))

/** The two forms of `verifier`: only the one that lets signatures come again needs no store. */
export interface BuildVerifier {
  (options: Repeatable): (message: Signed) => Effect.Effect<Auth.Principal["Service"], Refusal>
  (options: Options): (message: Signed) => Effect.Effect<Auth.Principal["Service"], Refusal, Idempotency.Store>
}

/**
 * What `verify` asks of a message, as a function: for `Webhook.handler`, whose `verify` it is.
 *
 * @throws RangeError when an option is out of range, or a secret is none
 * @category constructors
 */
export const verifier: BuildVerifier = ((options: Options) => {
  const keys = compile(options.keys)
  check.oneOf("replay", options.replay ?? "refuse", ["refuse", "allow"])
  const tolerance = check.seconds("tolerance", options.tolerance ?? defaults.tolerance)
  const remembers = options.replay !== "allow"
  // it is taken from so long before its time to so long after, and its own second is a whole one
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
  // the form that remembers nothing never asks for the store
}) as BuildVerifier

const beforeIdempotency = {
  outside: "Idempotency",
  because: "an answer kept for one caller must not be replayed to another who was never authenticated"
} as const

/** The two forms of `verify`. */
export interface BuildVerify {
  (options: Repeatable): Around<Signed, Middleware.ConfigOf<Provides, Effect.Effect<never, Refusal>>>
  (options: Options): Around<Signed, Middleware.ConfigOf<Provides, Effect.Effect<never, Refusal, Idempotency.Store>>>
}

type Provides = { readonly provides: Auth.Principal }

/**
 * Lets a message pass that was signed with one of the keys, and gives the key's name to the handler as its `Principal`.
 *
 * Types: a message of bytes in, the same message on, so it stands outside `Decode` and inside `Body.bytes`; `Principal` leaves R;
 * `Unauthorized` and `AuthUnavailable` enter E; `Idempotency.Store` enters R unless `replay` is `allow`.
 *
 * Signed are `webhook-id`, `webhook-timestamp` and the bytes, and neither channel nor key nor any other header: give each channel
 * that must not be mistaken for another a secret of its own. Of several signatures in `webhook-signature` one must fit; at most
 * 16, in 4,096 characters, are looked at, all in constant time.
 *
 * A signature is remembered, once its message is done, for as long as it could come again: twice the tolerance and a second. A
 * request that comes with the same one is refused; a sender that tries again signs again. A message is refused from another
 * place than before (partition and position), since a broker delivers it again from the same; what failed or is to be retried
 * gives its signature back. Where places are counted anew with each connection (RabbitMQ, MQTT, NATS without JetStream, lists and
 * channels of Redis) a place says nothing: what comes again after a crash may be refused, and a copy may pass. There take
 * `replay: "allow"`, and `Idempotency` inside.
 *
 * Errors: `Unauthorized` (class `auth`) is dead-lettered; `AuthUnavailable` (class `dependency`), where the store cannot be asked,
 * goes back to the source. Source: Standard Webhooks 1.0.0.
 *
 * **Example** (events of a partner)
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
 * @throws RangeError when an option is out of range, or a secret is none
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
