/**
 * Credentials that expire: tokens of an identity provider, passwords that a vault rotates, signatures of a cloud.
 *
 * A driver asks for them at each connection, and at 80 % of their life for connections that are open. Connections that ask at
 * the same time share one request.
 */
import { Cause, Clock, type Context, Effect, Exit, Fiber, Random } from "effect"
import { messageOf, tagOf } from "../message/Failure.ts"
import * as Redaction from "../telemetry/Redaction.ts"
import { without } from "../telemetry/secretsIn.ts"
import { effectOf } from "../pipeline/Eager.ts"
import * as Lost from "../telemetry/Lost.ts"
import * as BrokerError from "./BrokerError.ts"

/** Credentials, and when they end. */
export interface Issued {
  /** When they end: a `Date`, or Unix time in milliseconds. Default: unknown; open connections ask again every 5 minutes. */
  readonly expiresAt?: Date | number | undefined
}

/** Obtains credentials, e.g. from an identity provider. Its error is told in logs by its tag and message, secrets replaced. */
export type Source<A extends Issued> = Effect.Effect<A, unknown>

/** How a driver obtains, checks and hides its credentials. */
export interface Options<A extends Issued> {
  /** OpenTelemetry's `messaging.system`. */
  readonly system: string
  /** The system in error texts: `Kafka`, `RabbitMQ`. */
  readonly product: string
  readonly source: Source<A>
  /** Why the server could never take these, as the end of a sentence: `has a line break`. Default: nothing is checked. */
  readonly refuse?: ((issued: A) => string | undefined) | undefined
  /** The parts that no log line and no error may show. */
  readonly secrets: (issued: A) => ReadonlyArray<string>
}

/** The credentials of one driver. */
export interface Credentials<A extends Issued> {
  /**
   * Obtains credentials for a connection, within 5 seconds. Fails with reason `Credentials` and class `dependency`, so that
   * the caller tries again, unless the last ones have not ended yet: those are used again, and a Warn line tells why.
   */
  readonly get: Effect.Effect<A, BrokerError.BrokerError>
  /**
   * Never ends: obtains credentials before the present ones end, and hands them to a connection that was opened with
   * `given`. A failure is a Warn line; the next turn tries again after 1 to 60 seconds, with the same credentials where the connection did
   * not take them.
   */
  readonly renew: (given: A, use: (issued: A) => Effect.Effect<void, unknown>) => Effect.Effect<never>
  /** A text without the secrets of the last two credentials. */
  readonly redact: (text: string) => string
  /** Why the last request or renewal failed; undefined after one that succeeded. */
  readonly lastError: () => BrokerError.BrokerError | undefined
}

/** How long a request for credentials may take. */
const patience = "5 seconds"

/** How long credentials without an end are taken to last, and the longest that a timer waits. */
const unknownLife = 5 * 60_000
const longestWait = 24 * 3_600_000

/** The waits between failed requests. */
const shortestRetry = 1000
const longestRetry = 60_000

const backoff = (attempts: number): number => Math.min(longestRetry, shortestRetry * 2 ** (attempts - 1))

interface Held<A> {
  readonly issued: A
  /** Infinity where it is unknown. */
  readonly expiresAt: number
  /** At 80 % of the life, 8 % around it by chance: many processes must not ask in the same second. */
  readonly renewAt: number
}

const endOf = ({ expiresAt }: Issued): number => {
  if (expiresAt === undefined) return Infinity
  const at = typeof expiresAt === "number" ? expiresAt : expiresAt.getTime()
  return Number.isFinite(at) || at === Infinity ? at : NaN
}

const redaction = Redaction.make()

/** Makes the credentials of a driver; asks for nothing yet. */
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
    held = { issued, expiresAt, renewAt: now + life * (0.72 + 0.16 * chance) }
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
      // an observer of a fiber that has ended is called at once
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
      // another connection may have renewed them in the meantime
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
