/**
 * Calls of amqplib as Effects, with typed errors and a time limit.
 */
import type { BrokerError } from "@millrace/core"
import { Effect } from "effect"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError

/** The names that a request concerns. */
export interface Where {
  readonly channel?: string | undefined
  readonly queue?: string | undefined
}

/** Calls amqplib and maps its error to a `BrokerError`. */
export const attempt = <A>(
  resolved: ResolvedOptions,
  operation: Failed["operation"],
  call: () => Promise<A>,
  where?: Where
): Effect.Effect<A, Failed> =>
  Effect.tryPromise({
    try: call,
    catch: (error) => Errors.fromUnknown(error, operation, { ...resolved.place, ...where })
  })

/** Calls amqplib like `attempt`; fails with `Lost` without an answer within `requestTimeout`. */
export const ask = <A>(
  resolved: ResolvedOptions,
  operation: Failed["operation"],
  call: () => Promise<A>,
  where?: Where
): Effect.Effect<A, Failed> =>
  Effect.timeoutOrElse(attempt(resolved, operation, call, where), {
    duration: resolved.requestTimeout,
    orElse: () =>
      Effect.fail(Errors.make(
        operation,
        "Lost",
        `RabbitMQ at ${resolved.place.nodes} did not answer within ${resolved.requestTimeout} ms: it may be overloaded, or short of memory or disk.`
      ))
  })
