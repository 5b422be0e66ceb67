/**
 * A consumer of a broker without an engine: it records what the broker says, and settles by hand.
 */
import type { BrokerError, Delivery, Driver } from "@millrace/core"
import { Effect, Exit, Scope } from "effect"

/** One batch as it was offered. */
export interface Offer {
  readonly lease: Driver.Lease
  readonly batch: ReadonlyArray<Delivery>
}

export interface Options extends Partial<Driver.ConsumeOptions> {
  /** What an offer waits for before the next batch is read. Default: nothing. */
  readonly room?: Effect.Effect<void> | undefined
  /** What the end of a lease waits for. Default: nothing. */
  readonly end?: Effect.Effect<void> | undefined
  /** Runs at the moment the source is ready. */
  readonly onReady?: (() => void) | undefined
}

/** Starts a consumer, and gives what it has seen so far. */
export const consumer = (driver: Driver.Driver, { end, onReady, room, ...options }: Options = {}) =>
  Effect.gen(function*() {
    const offers: Array<Offer> = []
    const leases = new Map<number, Driver.Lease>()
    const ends: Array<string> = []
    const seen = { ready: 0, polled: 0, opened: 0 }
    const sink: Driver.Sink = {
      ready: () => {
        seen.ready++
        onReady?.()
      },
      polled: () => {
        seen.polled++
      },
      open: (lease) => {
        seen.opened++
        leases.set(lease.partition, lease)
      },
      offer: (lease, batch) => {
        offers.push({ lease, batch })
        return room ?? Exit.void
      },
      settled: () => Effect.void,
      close: (lease, how) => {
        ends.push(`${lease.partition} ${how}`)
        return end ?? Effect.void
      }
    }
    const scope = yield* Scope.make()
    let error: BrokerError.BrokerError | undefined
    let isDone = false
    const fiber = yield* driver.consume({
      channel: "c",
      pattern: undefined,
      group: "g",
      handler: "h",
      from: "earliest",
      ordered: true,
      messages: 1000,
      batch: 100,
      bytes: 1_000_000,
      ...options
    }, sink).pipe(
      Scope.provide(scope),
      Effect.onExit((exit) =>
        Effect.sync(() => {
          isDone = true
          if (exit._tag === "Failure") {
            const reason = exit.cause.reasons.find((reason) => reason._tag === "Fail")
            error = reason?.error
          }
        })
      ),
      Effect.forkDetach({ startImmediately: true })
    )
    return {
      offers,
      leases,
      ends,
      seen,
      error: () => error,
      isDone: () => isDone,
      /** Every message that was offered, as `partition:position` and `*` for each delivery after the first. */
      lines: () =>
        offers.flatMap(({ batch }) =>
          batch.map(({ attempt, partition, position }) => `${partition}:${position}${"*".repeat(attempt - 1)}`)
        ),
      /** Forgets what was offered until now. */
      clear: () => {
        offers.length = 0
      },
      leave: Effect.andThen(
        Effect.suspend(() => {
          fiber.interruptUnsafe()
          return Effect.yieldNow
        }),
        Scope.close(scope, Exit.void)
      )
    }
  })
