/**
 * Idempotency: a request that comes twice under one key runs once, and the duplicate gets the first answer.
 *
 * A key is claimed before the handler runs, under a lease that a heartbeat keeps alive, and completed with the answer when it
 * has succeeded. Each claim has a token of its own, so an owner whose lease has ended can no longer complete it.
 */
import { Clock, Duration, Effect, Exit, type Schema } from "effect"
import { compositeKey } from "../message/compositeKey.ts"
import type { Envelope } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import type * as Outcome from "../message/Outcome.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { FullConfig, OnAnswer } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import { codecOf, repeated, silent } from "./idempotency/answer.ts"
import { claimed } from "./idempotency/claimed.ts"
import { type IdempotencyError, IdempotencyLost, IdempotencyRefused, IdempotencyRunning } from "./idempotency/errors.ts"
import { monotonic } from "./idempotency/lease.ts"
import { fingerprintOf, keyOf, placeOf } from "./idempotency/request.ts"
import { type Claim, IdempotencyStore, type Request } from "./idempotency/store.ts"

export {
  type IdempotencyError,
  IdempotencyLost,
  IdempotencyRefused,
  IdempotencyRunning,
  IdempotencyUnrepeatable
} from "./idempotency/errors.ts"
export { grouped, type GroupOptions, Operation } from "./idempotency/groups.ts"
export { layerMemory, type MemoryOptions } from "./idempotency/memory.ts"
export { type Claim, IdempotencyStore as Store, IdempotencyUnavailable, type Request } from "./idempotency/store.ts"

/** Options of `middleware`. */
export interface Options<in M extends Envelope = Envelope> {
  /**
   * The key of a request, of 1 to 255 characters. Default: the header `idempotency-key`, quoted or not; on messages, where
   * that is missing, `message-id`.
   */
  readonly key?: ((message: M) => string | undefined) | undefined
  /**
   * Whose key it is, beside the channel and, of a consumer, its group: the same key of another caller is another request.
   * Default: the empty text, so that all callers share their keys.
   */
  readonly caller?: ((message: M) => string) | undefined
  /**
   * What the request says, to tell a key that is used again for something else; undefined where that is not asked. Default:
   * of a message of bytes a hash of its body and its length; of anything else nothing.
   */
  readonly fingerprint?: ((message: M) => string | undefined) | undefined
  /** What becomes of a request without a key: refused, or run as if it could not come twice. Default: `refuse`. */
  readonly missing?: "refuse" | "run" | undefined
  /**
   * What becomes of a request whose key is being handled: it fails with `IdempotencyRunning`, or waits for the answer up to
   * `maximumWait` before it does. Default: `refuse`.
   */
  readonly running?: "refuse" | "wait" | undefined
  /** From 0. Default: 10 seconds. */
  readonly maximumWait?: Duration.Input | undefined
  /** What becomes of a request while the store cannot be asked: it fails, or runs all the same. Default: `refuse`. */
  readonly unavailable?: "refuse" | "run" | undefined
  /**
   * How long a claim holds when its owner gives no sign of life; from 100 ms. A heartbeat is sent every third of it; a handler
   * whose store has not answered for five sixths of it is interrupted. Default: 30 seconds.
   */
  readonly lease?: Duration.Input | undefined
  /** How long an answer is kept; from 1 ms. Default: 24 hours. */
  readonly keep?: Duration.Input | undefined
}

/** Options of `middleware` around a handler that answers. */
export interface AnswerOptions<in M extends Envelope, in out A> extends Options<M> {
  /** How the answer is kept: as JSON, checked by this schema. */
  readonly answer: Schema.ConstraintCodec<A, unknown>
  /** Answers that tell of a failure: they are kept, and the store's transaction is rolled back. Default: none. */
  readonly isFailure?: ((answer: A) => boolean) | undefined
}

/** What `middleware` does where an option is not given. */
export const defaults: {
  readonly maximumWait: Duration.Duration
  readonly lease: Duration.Duration
  readonly keep: Duration.Duration
} = { maximumWait: Duration.seconds(10), lease: Duration.seconds(30), keep: Duration.hours(24) }

const longestKey = 255

const check = OptionCheck.make("Idempotency")

type Needs<A> = FullConfig<{ requires: IdempotencyStore; fails: IdempotencyError; answers: A }>

type Idempotent<M, A> = OnAnswer<M, A | Outcome.Outcome, Needs<A>>

const unclaimed = { _tag: "Unclaimed" } as const

/** How soon after its first look a waiting request looks again, and how long it lets it be at most; milliseconds. */
const looks = { first: 10, last: 500 }

/** The forms of `middleware`. */
export interface Build {
  <M extends Envelope, A>(options: AnswerOptions<M, A>): Idempotent<M, A | Outcome.Ack>
  <M extends Envelope = Envelope>(options?: Options<M>): Idempotent<M, void>
}

/**
 * Runs a request once for each key, and gives a duplicate the answer of the first request.
 *
 * Types: any message in, the same message on, around a handler that answers nothing, or what `answer` describes; `Store` enters R,
 * `IdempotencyError` enters E. Outcomes pass, and only `Ack` and `Reject` count as done: a duplicate of either answers nothing,
 * and its message is acknowledged without running.
 *
 * An answer that its schema refuses is passed on, and its key is done all the same: the handler does not run again. A duplicate
 * whose answer was not kept, or was kept by a version of the program whose answers this one cannot read, is acknowledged where
 * it is a consumed message (`Outcome.Ack`), and fails with `IdempotencyUnrepeatable` elsewhere. Each writes a warning to the log.
 *
 * What fails, is interrupted or is to be tried again gives its key back, so a `Retry` stands on either side. The answer is kept
 * before it is passed on; when keeping it fails, the request fails, and runs again once its lease has ended. So effects
 * happen at least once, and twice only if the process dies, or the store is lost, between an effect and its completion: what
 * must happen once writes in one transaction with its completion (a store with `transaction`, as `IdempotencyPostgres` can be),
 * or checks the key itself.
 *
 * In `publishAll` a key may occur once: of a batch that holds it twice nothing is published, and it fails with
 * `IdempotencyRunning`, each time that it is tried.
 *
 * Errors: `IdempotencyRefused` (class `validation`) goes to the dead letters, `IdempotencyRunning` and `IdempotencyLost` (class
 * `conflict`) and `IdempotencyUnavailable` (class `dependency`) go back to the source; `IdempotencyUnrepeatable` (class
 * `permanent`) is no consumer's.
 *
 * Source: the Idempotency-Key draft of the IETF (draft-ietf-httpapi-idempotency-key-header-07); fencing tokens by M. Kleppmann,
 * How to do distributed locking, 2016.
 *
 * **Example** (one payment for each key of each customer)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Idempotency, type Message } from "@millrace/core"
 *
 * const Payment = Schema.Struct({ id: Schema.String })
 *
 * const handler = pipe(
 *   (message: Message<{ readonly customer: string }>) => Effect.succeed({ id: `payment of ${message.payload.customer}` }),
 *   Idempotency.middleware({
 *     answer: Payment,
 *     caller: (message: Message<{ readonly customer: string }>) => message.payload.customer
 *   })
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const middleware: Build = (<M extends Envelope>(
  options: Options<M> & { readonly answer?: unknown; readonly isFailure?: (answer: Middleware.Result) => boolean } = {}
) => {
  const lease = check.millis("lease", options.lease ?? defaults.lease, { least: 100 })
  const keep = check.millis("keep", options.keep ?? defaults.keep)
  const maximumWait = check.millis("maximumWait", options.maximumWait ?? defaults.maximumWait, { least: 0 })
  const wait = check.oneOf("running", options.running ?? "refuse", ["refuse", "wait"]) === "wait" ? maximumWait : 0
  const { caller, fingerprint = fingerprintOf, isFailure, key = keyOf, missing = "refuse", unavailable = "refuse" } =
    options
  check.oneOf("missing", missing, ["refuse", "run"])
  check.oneOf("unavailable", unavailable, ["refuse", "run"])
  const codec = options.answer === undefined
    ? silent
    // one of the two forms of `middleware` gave it
    : codecOf(options.answer as Schema.ConstraintCodec<unknown, unknown>)

  return Middleware.make<{ message: M }>()({
    name: "Idempotency",
    stage: "consume",
    inBatch: "each",
    shows: {
      keep: Duration.format(Duration.millis(keep)),
      lease: Duration.format(Duration.millis(lease)),
      running: wait > 0 ? `wait up to ${Duration.format(Duration.millis(wait))}` : "refuse"
    },
    order: [{ inside: "Auth", because: "a caller that Auth refuses must not take a key" }]
  }, (next) => {
    const owned = claimed({ next, lease, keep, codec, isFailure })

    const decide = (
      message: M,
      store: IdempotencyStore["Service"],
      request: Request,
      claim: Claim | typeof unclaimed,
      since: number | undefined,
      waited: number,
      step: number
    ): Returns => {
      switch (claim._tag) {
        case "Unclaimed":
          return next(message)
        case "Claimed":
          return owned(message, store, request.key, claim.token, since)
        case "Completed":
          return repeated(message, codec, claim.result)
        case "Reused":
          return Exit.fail(new IdempotencyRefused({ channel: message.channel, reason: "reused" }))
        case "Running": {
          if (waited >= wait) {
            return Exit.fail(
              new IdempotencyRunning({ channel: message.channel, retryAfter: Duration.millis(Math.ceil(claim.left)) })
            )
          }
          // a store that counts whole milliseconds may say that none is left, and mean a part of one
          const pause = Math.min(step, wait - waited, Math.max(1, claim.left))
          return Effect.flatMap(
            Effect.sleep(pause),
            () => ask(message, store, request, waited + pause, Math.min(step * 2, looks.last))
          )
        }
      }
    }

    const ask = (
      message: M,
      store: IdempotencyStore["Service"],
      request: Request,
      waited: number,
      step: number
    ): Returns => {
      const claim = store.claim(request)
      const safe = unavailable === "run" ? Effect.catchEager(claim, () => Exit.succeed(unclaimed)) : claim
      if (Eager.isDone(safe)) {
        return Effect.flatMapEager(safe, (found) => decide(message, store, request, found, undefined, waited, step))
      }
      return Effect.flatMap(Clock.Clock, (clock) => {
        // the store begins to count after this
        const since = monotonic(clock)
        return Effect.flatMap(safe, (found): Returns =>
          // no handler begins under a claim that may have ended on its way here
          found._tag === "Claimed" && monotonic(clock) - since >= lease
            ? Exit.fail(new IdempotencyLost({ channel: message.channel }))
            : decide(message, store, request, found, since, waited, step))
      })
    }

    return (message): Returns => {
      const own = key(message)
      if (own === undefined && missing === "run") return next(message)
      if (own === undefined || own === "" || own.length > longestKey) {
        const reason = own === undefined ? "missing" : "invalid"
        return Exit.fail(new IdempotencyRefused({ channel: message.channel, reason }))
      }
      const request: Request = {
        key: `${placeOf(message)}${compositeKey(caller?.(message) ?? "", own)}`,
        fingerprint: fingerprint(message) ?? "",
        lease
      }
      return Effect.flatMapEager(
        Eager.service(IdempotencyStore),
        (store) => ask(message, store, request, 0, looks.first)
      )
    }
  })
  // what is answered is the type of `answer`, which the marks do not know
}) as unknown as Build

type Returns = Middleware.Returns<IdempotencyError, IdempotencyStore, Outcome.Ack>
