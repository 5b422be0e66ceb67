/**
 * Extends claims of messages, for brokers that redeliver messages not settled in time: three times in the life of a claim.
 */
import { type Cause, Clock, type Context, Effect, type Fiber, Option } from "effect"
import type { BrokerError } from "../../driver/BrokerError.ts"
import { called } from "./guard.ts"
import type { LeaseState } from "./LeaseState.ts"

/** The claims of the open leases. */
export class Claims {
  private readonly context: Context.Context<never>
  private readonly lapsed: (lease: LeaseState, cause: Cause.Cause<unknown>) => void
  private readonly fibers = new WeakMap<LeaseState, Fiber.Fiber<void>>()

  /** `lapsed` is called if no call has extended the claims of a lease in time: the broker may then redeliver its messages. */
  constructor(context: Context.Context<never>, lapsed: (lease: LeaseState, cause: Cause.Cause<unknown>) => void) {
    this.context = context
    this.lapsed = lapsed
  }

  /** Extends the claims of a lease until the lease ends, if its broker has claims. */
  keep(state: LeaseState): void {
    const { claim, extend } = state.lease
    if (extend === undefined || claim === undefined) return
    const wait = claim / 3
    const call = Effect.suspend((): Effect.Effect<unknown, BrokerError> => {
      const open = Array.from(state.open())
      return open.length === 0 ? Effect.void : called(() => extend(open))
    })
    // a call without an answer in time is a lost one
    const answered = (limit: number) =>
      Effect.flatMap(
        Effect.timeoutOption(call, limit),
        (answer) => Option.isSome(answer) ? Effect.void : Effect.fail("The broker did not answer in time.")
      )
    // milliseconds until the claims count as lapsed, somewhat before the broker redelivers
    const left = (since: number, now: number): number => since + claim * 0.9 - now
    // the claims last from the last successful call; a lost call is repeated sooner than the next call is due
    const from = (since: number, next: number): Effect.Effect<void> =>
      Effect.sleep(next).pipe(
        Effect.andThen(Clock.currentTimeMillis),
        Effect.flatMap((now) =>
          Effect.matchCauseEffect(answered(Math.max(1, Math.min(wait, left(since, now)))), {
            onSuccess: () => from(now, wait),
            onFailure: (cause) =>
              Effect.flatMap(Clock.currentTimeMillis, (then) => {
                const rest = left(since, then)
                return rest > 1
                  ? from(since, Math.min(claim / 10, rest))
                  : Effect.sync(() => this.lapsed(state, cause))
              })
          })
        )
      )
    this.fibers.set(
      state,
      Effect.runForkWith(this.context)(Effect.flatMap(Clock.currentTimeMillis, (now) => from(now, wait)))
    )
  }

  end(state: LeaseState): void {
    this.fibers.get(state)?.interruptUnsafe()
  }
}
