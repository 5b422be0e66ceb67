/**
 * The leases of a worker: opened by the driver, reported to the broker after each turn, ended by a revoke, a loss or a drain.
 */
import { Cause, type Context, Effect, type Exit, type Fiber } from "effect"
import type { Consumer } from "../../broker/Broker.ts"
import type { Lease } from "../../driver/Driver.ts"
import { isDone } from "../../pipeline/Eager.ts"
import { Claims } from "./Claims.ts"
import { endLeases, farewell, type InProgress } from "./endLeases.ts"
import { called, fork, isFault } from "./guard.ts"
import type { LeaseState } from "./LeaseState.ts"
import { Room } from "./Room.ts"

/** The dependencies of the leases. */
export interface Options {
  readonly context: Context.Context<never>
  readonly consumer: Pick<Consumer<never>, "grace" | "inFlight">
  /** Interrupts the running handlers of a lease. */
  readonly interrupt: (lease: LeaseState) => void
  /** Ends the waits of held messages of a lease. */
  readonly cancel: (lease: LeaseState) => void
  /** Stops waiting for durable effects and dead letters of a lease. */
  readonly giveUp: (lease: LeaseState) => void
  /** Drops the messages of an ended lease. */
  readonly forget: (lease: LeaseState) => void
  /** Called when a call to the broker has begun and is not answered yet. */
  readonly calls: () => void
  /** Called when the broker refuses a commit, a settlement or claims: the source must restart. */
  readonly failed: (error: unknown) => void
  /** Called when a driver could not be paused or resumed. */
  readonly noted: (error: unknown) => void
}

/** The open leases. */
export class Leases implements InProgress {
  readonly all = new Map<Lease, LeaseState>()
  readonly room: Room
  private readonly options: Options
  private readonly claims: Claims
  private dirty: Array<LeaseState> = []
  private readonly tells = new Map<LeaseState, Fiber.Fiber<unknown, unknown>>()
  // the lease whose handler is being called; the lease may end in the middle of that call
  private calling: LeaseState | undefined
  private isAwaited = false

  constructor(options: Options) {
    this.options = options
    this.room = new Room(options.consumer.inFlight, this.all)
    this.claims = new Claims(options.context, (lease, cause) => this.report(lease, cause))
  }

  open(state: LeaseState): void {
    this.all.set(state.lease, state)
    this.claims.keep(state)
    // a lease may open while its subscription is paused
    this.turnLease(state)
  }

  /** Marks a handler of a lease as being called, until `left`. */
  entered(lease: LeaseState): void {
    this.calling = lease
  }

  left(lease: LeaseState): void {
    this.calling = undefined
    if (!this.isAwaited) return
    this.isAwaited = false
    lease.ended()
  }

  // ---- reports to the broker

  /** Schedules a report of a lease's newly settled messages to the broker. */
  touch(lease: LeaseState): void {
    if (lease.dirty) return
    lease.dirty = true
    this.dirty.push(lease)
  }

  tellAll(): void {
    while (this.dirty.length > 0) {
      const lease = this.dirty.pop()!
      const told = lease.tell()
      if (isDone(told) && told._tag === "Success") continue
      const fiber = fork(this.options.context, told, (exit) => {
        this.tells.delete(lease)
        if (exit._tag === "Failure") this.report(lease, exit.cause)
      })
      if (lease.settlingSince === undefined || fiber === undefined) continue
      this.tells.set(lease, fiber)
      this.options.calls()
    }
  }

  /** Restarts the source after a failed report, unless the lease is lost already. */
  private report(lease: LeaseState, cause: Cause.Cause<unknown>): void {
    if (!lease.lost) this.options.failed(Cause.squash(cause))
  }

  /** Pauses or resumes the driver of each lease. */
  turn(): void {
    for (const lease of this.all.values()) this.turnLease(lease)
  }

  /** Makes one call at a time for each lease: a slow pause must not end after the resume that follows it. */
  private turnLease(lease: LeaseState): void {
    const { isShut } = this.room
    if (lease.turning || lease.paused === isShut) return
    lease.paused = isShut
    const { pause, resume } = lease.lease
    const call = isShut ? pause : resume
    if (call === undefined) return
    lease.turning = true
    fork(this.options.context, called(() => call), (exit: Exit.Exit<void>) => {
      lease.turning = false
      if (isFault(exit)) this.options.noted(Cause.squash(exit.cause))
      if (!lease.stopped) this.turnLease(lease)
    })
  }

  // ---- ends

  close(lease: Lease, how: "revoke" | "lost"): Effect.Effect<void> {
    return Effect.suspend(() => {
      const state = this.all.get(lease)
      if (state === undefined) return Effect.void
      return how === "lost" ? Effect.sync(() => this.lose(state)) : this.revoke(state)
    })
  }

  /** Loses all leases after the connection has ended; interrupted handlers get time to end before redelivery. */
  loseAll(): Effect.Effect<void> {
    return Effect.suspend(() => {
      const leases = Array.from(this.all.values())
      for (const lease of leases) this.lose(lease)
      return Effect.asVoid(Effect.timeoutOption(this.quiet(leases), farewell))
    })
  }

  /** Lets running handlers of these leases finish for `limit` milliseconds, interrupts the rest, settles the last outcomes. */
  end(leases: ReadonlyArray<LeaseState>, limit: number): Effect.Effect<void> {
    for (const lease of leases) {
      lease.stopped = true
      lease.openRoom()
    }
    return Effect.andThen(
      endLeases(this, leases, limit),
      Effect.sync(() => {
        for (const lease of leases) this.forget(lease)
      })
    )
  }

  /** Completes when no handler, durable effect or dead letter is in progress, including the handler that requests this. */
  quiet(leases: ReadonlyArray<LeaseState>): Effect.Effect<void> {
    const { calling } = this
    if (calling !== undefined && !this.isAwaited && leases.includes(calling)) {
      this.isAwaited = true
      calling.began()
    }
    return Effect.forEach(leases, (lease) => lease.whenQuiet, { concurrency: "unbounded", discard: true })
  }

  interrupt(lease: LeaseState): void {
    this.options.interrupt(lease)
  }

  giveUp(lease: LeaseState): void {
    this.options.giveUp(lease)
  }

  private lose(lease: LeaseState): void {
    lease.stopped = true
    lease.lost = true
    // before the interrupt: hooks of interrupted handlers may run
    this.giveUp(lease)
    this.interrupt(lease)
    this.forget(lease)
  }

  /** Starts no more messages, lets running handlers finish within the grace, interrupts the rest, settles the last outcomes. */
  private revoke(lease: LeaseState): Effect.Effect<void> {
    return Effect.suspend(() => {
      lease.stopped = true
      this.options.cancel(lease)
      return Effect.andThen(
        endLeases(this, [lease], this.options.consumer.grace.revoke),
        Effect.sync(() => this.forget(lease))
      )
    })
  }

  private forget(lease: LeaseState): void {
    // a lease may end twice: it may be lost or drained while its revoke is still in progress
    if (!this.all.delete(lease.lease)) return
    lease.end()
    this.claims.end(lease)
    // stop waiting for a call that the broker has not answered by now
    this.tells.get(lease)?.interruptUnsafe()
    // a drained worker reports no lease any more, and would keep this one in memory
    this.dirty = this.dirty.filter((other) => other !== lease)
    this.room.end(lease)
    this.options.forget(lease)
    this.room.update()
  }
}
