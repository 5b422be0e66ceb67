import { Deliveries } from "@millrace/testing"
import { Effect, Exit } from "effect"
import type { Handler } from "@millrace/core"

export const deliver = Deliveries.make

/** Runs a chain over one message and then its hooks; a failing hook fails a chain that had succeeded. */
export const runChain = <M extends Deliveries.Carrier, A, E, R>(
  handler: Handler<M, A, E, R>,
  message: M
): Effect.Effect<Exit.Exit<A, unknown>, never, R> =>
  Effect.map(
    Deliveries.run(handler, message),
    ({ exit, hooks }) => Exit.isSuccess(exit) && Exit.isFailure(hooks) ? Exit.failCause(hooks.cause) : exit
  )
