/**
 * Credentials that expire: tokens of an identity provider, passwords that a vault rotates, signatures of a cloud.
 *
 * A driver obtains credentials for each connection, and renews those of open connections at 80 % of their life. Concurrent
 * connections share one request.
 */
import { Cause, Clock, type Context, Effect, Exit, Fiber, Random } from "effect"
import { messageOf, tagOf } from "../message/Failure.ts"
import * as Redaction from "../telemetry/Redaction.ts"
import { without } from "../telemetry/secretsIn.ts"
import { effectOf } from "../pipeline/Eager.ts"
import * as Lost from "../telemetry/Lost.ts"
import * as BrokerError from "./BrokerError.ts"

/** Credentials with their expiry. */
export interface Issued {
  /**
   * The expiry: a `Date`, or Unix time in milliseconds. Default: unknown; open connections then renew about every 4 minutes.
   */
  readonly expiresAt?: Date | number | undefined
}

/** Obtains credentials, e.g. from an identity provider. Logs show the tag and message of its error, with secrets replaced. */
export type Source<A extends Issued> = Effect.Effect<A, unknown>

/** How a driver obtains, checks and redacts its credentials. */
export interface Options<A extends Issued> {
  /** OpenTelemetry's `messaging.system`. */
  readonly system: string
  /** The system in error texts: `Kafka`, `RabbitMQ`. */
  readonly product: string
  readonly source: Source<A>
  /**
   * The reason why the server can never accept these credentials, as the end of a sentence: `has a line break`. Default: no
   * check.
   */
  readonly refuse?: ((issued: A) => string | undefined) | undefined
  /** The secrets that logs and errors must not show. */
  readonly secrets: (issued: A) => ReadonlyArray<string>
}

/** The credentials of one driver. */
export interface Credentials<A extends Issued> {
  /**
   * Obtains credentials for a connection, within 5 seconds. If the source fails, returns the last credentials with a Warn
   * line unless they have expired; otherwise fails with reason `Credentials` and class `dependency`, so that the caller
   * retries. A `BrokerError` of the source is kept.
   */
  readonly get: Effect.Effect<A, BrokerError.BrokerError>
  /**
   * Runs forever: renews the credentials before they expire, and passes them to a connection that was opened with `given`. A
   * failure is a Warn line; the next attempt follows after 1 to 60 seconds, with the same credentials if the connection
   * refused them.
   */
  readonly renew: (given: A, use: (issued: A) => Effect.Effect<void, unknown>) => Effect.Effect<never>
  /** Removes the secrets of the last two credentials from a text. */
  readonly redact: (text: string) => string
  /** The error of the last request or renewal; undefined after a success. */
  readonly lastError: () => BrokerError.BrokerError | undefined
}

/** The time limit of a request for credentials. */
const patience = "5 seconds"

/** The assumed life of credentials without an expiry, and the longest wait of a timer, in milliseconds. */
const unknownLife = 5 * 60_000
const longestWait = 24 * 3_600_000

/** The shortest and longest backoff between failed requests, in milliseconds. */
const shortestRetry = 1000
const longestRetry = 60_000

const backoff = (attempts: number): number => Math.min(longestRetry, shortestRetry * 2 ** (attempts - 1))

interface Held<A> {
  readonly issued: A
  /** Infinity if unknown. */
  readonly expiresAt: number
  /** 80 % of the life, ± 8 % at random, so that many processes do not renew in the same second. */
  readonly renewAt: number
}

const endOf = ({ expiresAt }: Issued): number => {
  if (expiresAt === undefined) return Infinity
  const at = typeof expiresAt === "number" ? expiresAt : expiresAt.getTime()
  return Number.isFinite(at) || at === Infinity ? at : NaN
}

const redaction = Redaction.make()

/** Makes the credentials of a driver; the source does not run yet. */
export const make = <A extends Issued>({ product, refuse, secrets, source, system }: Options<A>): Credentials<A> => {
  let held: Held<A> | undefined
  let pending: Fiber.Fiber<A, BrokerError.BrokerError> | undefined
  let lastError: BrokerError.BrokerError | undefined
  let failures = 0
  let lastRefusal: BrokerError.BrokerError | undefined
  const hidden: Array<ReadonlyArray<string>> = []
  const redact = (text: string) => without(text, hidden.flat())

  const failed = (why: string): BrokerError.BrokerError =>
    BrokerError.make({
      system,
      operation: "connect",
      reason: "Credentials",
      failure: "dependency",
      message: `The credentials for ${product} could not be obtained: ${why}.`
    })

  const accept = (issued: A, now: number, chance: number): Exit.Exit<A, BrokerError.BrokerError> => {
    const expiresAt = endOf(issued)
    if (Number.isNaN(expiresAt)) return Exit.fail(failed("expiresAt is no time"))
    if (expiresAt <= now) return Exit.fail(failed(`they had ended ${Math.round((now - expiresAt) / 1000)} s before`))
    hidden.unshift(secrets(issued).filter((secret) => secret !== ""))
    hidden.splice(2)
    const refused = refuse?.(issued)
    if (refused !== undefined) return Exit.fail(failed(refused))
    const life = expiresAt === Infinity ? unknownLife : expiresAt - now
    // whole milliseconds: a timer that ends before a fraction would find nothing to renew, and wait another second
    held = { issued, expiresAt, renewAt: Math.floor(now + life * (0.72 + 0.16 * chance)) }
    lastError = undefined
    failures = 0
    return Exit.succeed(issued)
  }

  const told = (cause: Cause.Cause<unknown>): BrokerError.BrokerError => {
    const error = Cause.squash(cause)
    if (error instanceof BrokerError.BrokerError) return error
    const message = messageOf(error, 512)
    return failed(`${tagOf(error)}${message === "" ? "" : `: ${redact(redaction.text(message))}`}`)
  }

  const request = Effect.flatMap(
    Effect.all([Clock.Clock, Random.next]),
    ([clock, chance]) =>
      Effect.suspend(() => effectOf(source, "The source of credentials")).pipe(
        Effect.interruptible,
        Effect.timeoutOrElse({
          duration: patience,
          orElse: () => Effect.fail(failed(`nothing came within ${patience}`))
        }),
        Effect.flatMap((issued) => Effect.suspend(() => accept(issued, clock.currentTimeMillisUnsafe(), chance))),
        Effect.catchCause((cause) => {
          const error = told(cause)
          lastError = error
          failures++
          if (held === undefined || held.expiresAt <= clock.currentTimeMillisUnsafe()) return Effect.fail(error)
          const { issued } = held
          const line = Effect.logWarning(`${error.message} The last ones are used until they end.`)
          return Effect.as(Lost.quietly("A logger", line), issued)
        })
      )
  )

  const get = Effect.flatMap(Effect.context<never>(), (context: Context.Context<never>) => {
    if (pending === undefined) {
      const fiber = Effect.runForkWith(context)(request)
      // addObserver calls back at once if the fiber has ended, so set `pending` first
      pending = fiber
      fiber.addObserver(() => pending = undefined)
      return Fiber.join(fiber)
    }
    return Fiber.join(pending)
  })

  const wait = (now: number): number => {
    if (failures > 0) return backoff(failures)
    return Math.min(longestWait, Math.max(shortestRetry, (held?.renewAt ?? now) - now))
  }

  const renew = (given: A, use: (issued: A) => Effect.Effect<void, unknown>): Effect.Effect<never> =>
    Effect.flatMap(Clock.Clock, (clock) => {
      let used = given
      let refusals = 0
      // another connection may have renewed the credentials meanwhile
      const next = Effect.suspend(() =>
        held === undefined || (held.issued === used && held.renewAt <= clock.currentTimeMillisUnsafe())
          ? get
          : Effect.succeed(held.issued)
      )
      const turn = Effect.flatMap(
        next,
        (issued) =>
          issued === used ? Effect.void : Effect.matchCauseEffect(use(issued), {
            onSuccess: () => {
              used = issued
              refusals = 0
              lastRefusal = undefined
              return Effect.void
            },
            onFailure: (cause) => {
              refusals++
              lastRefusal = told(cause)
              return Effect.failCause(cause)
            }
          })
      )
      const guarded = Effect.catchCause(turn, (cause) =>
        Lost.quietly(
          "A logger",
          Effect.logWarning(`An open connection to ${product} has no new credentials: ${told(cause).message}`)
        ))
      const pause = Effect.suspend(() =>
        Effect.sleep(refusals > 0 ? backoff(refusals) : wait(clock.currentTimeMillisUnsafe()))
      )
      return Effect.forever(Effect.andThen(pause, guarded))
    })

  return { get, renew, redact, lastError: () => lastError ?? lastRefusal }
}
