/**
 * A lease without a broker: it records what the engine tells it, and answers when the test says so.
 */
import type { BrokerError, Delivery, Driver, Outcome } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Clock, Deferred, Effect, Exit } from "effect"
import { Batch, LeaseState } from "../../packages/core/src/internal/engine/LeaseState.ts"

export interface Options {
  readonly settlement?: "position" | "message" | undefined
  readonly span?: number | undefined
  /** Whether each call waits for `answer`. Default: no, each is answered at once. */
  readonly isSlow?: boolean | undefined
  /** More of the lease. Default: nothing, and partition 0. */
  readonly lease?: Partial<Driver.Lease> | undefined
}

/** A lease and its state in the engine. */
export const fakeLease = ({ isSlow = false, lease: more, settlement = "position", span = 1_000_000 }: Options = {}) =>
  Effect.map(Clock.Clock, (clock) => {
    /** Every call: the position of a commit, or the outcomes of a settle as `position outcome`. */
    const calls: Array<number | ReadonlyArray<string>> = []
    const waiting: Array<Deferred.Deferred<void, BrokerError.BrokerError>> = []
    let told = 0
    let most = 0
    let failure: BrokerError.BrokerError | undefined
    const answered = (): Effect.Effect<void, BrokerError.BrokerError> => {
      if (!isSlow) return failure === undefined ? Exit.void : Exit.fail(failure)
      const call = Deferred.makeUnsafe<void, BrokerError.BrokerError>()
      waiting.push(call)
      most = Math.max(most, waiting.length)
      return Deferred.await(call)
    }
    const lease: Driver.Lease = settlement === "position"
      ? {
        partition: 0,
        commit: (position) => {
          calls.push(position)
          return answered()
        },
        ...more
      }
      : {
        partition: 0,
        settle: (batch) => {
          calls.push(batch.map(({ delivery, outcome }) => `${delivery.position} ${outcome._tag}`))
          return answered()
        },
        ...more
      }
    const state = new LeaseState(lease, span, clock, () => told++)
    return {
      state,
      calls,
      told: () => told,
      /** How many calls the broker had at once. */
      most: () => most,
      /** Answers the oldest call that waits; the fiber that waits for it runs on at its next turn. */
      answer: (exit: Exit.Exit<void, BrokerError.BrokerError> = Exit.void) =>
        Effect.andThen(
          Effect.sync(() => Deferred.doneUnsafe(waiting.shift()!, exit)),
          Effect.yieldNow
        ),
      /** What calls that are answered at once answer from now on. */
      answerWith: (error: BrokerError.BrokerError | undefined) => {
        failure = error
      },
      /** Takes in messages at these positions. */
      take: (...positions: ReadonlyArray<number>): ReadonlyArray<Delivery> => {
        const deliveries = positions.map((position) =>
          Deliveries.make({ position, body: new Uint8Array(1 + position % 5) })
        )
        state.take(deliveries)
        return deliveries
      },
      settle: (delivery: Delivery, outcome: Outcome.Outcome): boolean =>
        delivery.slot instanceof Batch && state.settle(delivery, delivery.slot, outcome)
    }
  })
