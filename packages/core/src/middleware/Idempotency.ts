/**
 * Idempotency: a request sent twice under one key runs once, and the duplicate gets the first answer.
 *
 * The middleware claims a key before the handler runs, under a lease that a heartbeat renews, and completes it with the
 * answer after a success. Each claim has a token of its own, so an owner whose lease has ended can no longer complete it.
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
   * that is missing, the id of the message (`Identity.of`).
   */
  readonly key?: ((message: M) => string | undefined) | undefined
  /**
   * The caller that owns the key, beside the channel and, of a consumer, its group: the same key of another caller is
   * another request. Default: the empty text, so that all callers share their keys.
   */
  readonly caller?: ((message: M) => string) | undefined
  /**
   * A fingerprint of the request's content, which detects a key reused for another request; undefined skips the check.
   * Default: for a message of bytes a hash of its body and its length; for any other message none.
   */
  readonly fingerprint?: ((message: M) => string | undefined) | undefined
  /** The handling of a request without a key: refused, or run without deduplication. Default: `refuse`. */
  readonly missing?: "refuse" | "run" | undefined
  /**
   * The handling of a request whose key is in use: it fails with `IdempotencyRunning`, or waits for the answer up to
   * `maximumWait` before it does. Default: `refuse`.
   */
  readonly running?: "refuse" | "wait" | undefined
  /** From 0. Default: 10 seconds. */
  readonly maximumWait?: Duration.Input | undefined
  /** The handling of a request while the store is unavailable: it fails, or runs without a claim. Default: `refuse`. */
  readonly unavailable?: "refuse" | "run" | undefined
  /**
   * How long a claim holds without a heartbeat; from 100 ms. A heartbeat is sent every third of it; a handler whose store
   * has not answered for five sixths of it is interrupted. Default: 30 seconds.
   */
  readonly lease?: Duration.Input | undefined
  /** How long an answer is kept; from 1 ms. Default: 24 hours. */
  readonly keep?: Duration.Input | undefined
}

/** Options of `middleware` around a handler that answers. */
export interface AnswerOptions<in M extends Envelope, in out A> extends Options<M> {
  /** The schema of the answer, which is stored as JSON. */
  readonly answer: Schema.ConstraintCodec<A, unknown>
  /** Detects answers that report a failure: they are kept, and the store's transaction is rolled back. Default: none. */
  readonly isFailure?: ((answer: A) => boolean) | undefined
}

/** The defaults of `middleware`. */
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

/** The first and the longest pause between two claims of a waiting request, in milliseconds. */
const looks = { first: 10, last: 500 }

/** The forms of `middleware`. */
export interface Build {
  <M extends Envelope, A>(options: AnswerOptions<M, A>): Idempotent<M, A | Outcome.Ack>
  <M extends Envelope = Envelope>(options?: Options<M>): Idempotent<M, void>
}

/**
 * Runs a request once for each key, and gives a duplicate the answer of the first request.
 *
 * Types: any message in, the same message on, around a handler that answers nothing, or the type of `answer`; `Store`
 * enters R, `IdempotencyError` enters E. Outcomes pass, and only `Ack` and `Reject` count as done: a duplicate of either
 * answers nothing, and its message is acknowledged without running.
 *
 * An answer that its schema refuses is passed on, and its key is still completed: the handler does not run again. A
 * duplicate whose answer was not kept, or was kept by an incompatible version of the program, is acknowledged if it is a
 * consumed message (`Outcome.Ack`), and fails with `IdempotencyUnrepeatable` otherwise. Each writes a warning to the log.
 *
 * A request that fails, is interrupted or is to be retried releases its key, so `Retry` may be placed on either side. The
 * answer is stored before it is passed on; if storing it fails, the request fails, and runs again once its lease has
 * ended. So effects happen at least once, and twice only if the process dies, or the store is lost, between an effect and
 * its completion: effects that must happen once are written in one transaction with the completion (a store with
 * `transaction`, as `IdempotencyPostgres` can be), or check the key themselves.
 *
 * In `publishAll` a key may occur once: a batch that holds a key twice publishes nothing, and fails with
 * `IdempotencyRunning` at every attempt.
 *
 * Errors: `IdempotencyRefused` (class `validation`) is dead-lettered, `IdempotencyRunning` and `IdempotencyLost` (class
 * `conflict`) and `IdempotencyUnavailable` (class `dependency`) return the message to its source; a consumer never gets
 * `IdempotencyUnrepeatable` (class `permanent`).
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
    // an overload of `middleware` gave the schema
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
          // a store that counts whole milliseconds may report 0 left for a fraction of one
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
        // the store's lease starts after this time
        const since = monotonic(clock)
        return Effect.flatMap(safe, (found): Returns =>
          // no handler begins under a claim that may have ended while the store answered
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
  // the answer has the type of `answer`, which the marks do not express
}) as unknown as Build

type Returns = Middleware.Returns<IdempotencyError, IdempotencyStore, Outcome.Ack>
