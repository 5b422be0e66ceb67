/**
 * The leases of a worker: opened by the driver, told to the broker after each turn, and ended by a revoke, a loss or a drain.
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

/** What the leases need of their worker. */
export interface Options {
  readonly context: Context.Context<never>
  readonly consumer: Pick<Consumer<never>, "grace" | "inFlight">
  /** Interrupts the running handlers of a lease. */
  readonly interrupt: (lease: LeaseState) => void
  /** Ends the waits of held messages of a lease. */
  readonly cancel: (lease: LeaseState) => void
  /** Stops waiting for durable effects and dead letters of a lease. */
  readonly giveUp: (lease: LeaseState) => void
  /** A lease has ended: nothing is kept of its messages. */
  readonly forget: (lease: LeaseState) => void
  /** A call to the broker has begun and is not answered yet. */
  readonly calls: () => void
  /** The broker refuses a commit, a settlement or claims: the source must start again. */
  readonly failed: (error: unknown) => void
  /** A driver could not be paused or resumed. */
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
  // the lease whose handler is being called; it may end in the middle of that call
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
    // a lease may come while its subscription is paused
    this.turnLease(state)
  }

  /** A handler of a lease is being called, until `left`. */
  entered(lease: LeaseState): void {
    this.calling = lease
  }

  left(lease: LeaseState): void {
    this.calling = undefined
    if (!this.isAwaited) return
    this.isAwaited = false
    lease.ended()
  }

  // ---- what the broker is told

  /** The broker must be told about newly settled messages of a lease. */
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

  /** The broker cannot be told: the source starts again, unless the lease is lost already. */
  private report(lease: LeaseState, cause: Cause.Cause<unknown>): void {
    if (!lease.lost) this.options.failed(Cause.squash(cause))
  }

  /** Pauses or resumes the driver of each lease. */
  turn(): void {
    for (const lease of this.all.values()) this.turnLease(lease)
  }

  /** One call at a time for each lease: a slow pause must not end after the resume that follows it. */
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

  /** The connection has ended: all leases are lost, and interrupted handlers get time to end before redelivery. */
  loseAll(): Effect.Effect<void> {
    return Effect.suspend(() => {
      const leases = Array.from(this.all.values())
      for (const lease of leases) this.lose(lease)
      return Effect.asVoid(Effect.timeoutOption(this.quiet(leases), farewell))
    })
  }

  /** Lets running handlers of these leases finish for `limit` milliseconds, interrupts the rest, and tells the broker the last outcomes. */
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

  /** Completes when no handler, durable effect or dead letter is in progress; the call that asks for it counts, too. */
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

  /** Starts nothing more; running handlers may finish for a while, then they are interrupted; the broker is told the last outcomes. */
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
    // it may end in two ways at once: revoked, and then lost or drained before that was over
    if (!this.all.delete(lease.lease)) return
    lease.end()
    this.claims.end(lease)
    // a call that the broker has not answered by now is not waited for
    this.tells.get(lease)?.interruptUnsafe()
    // a worker that has drained tells no lease any more, and would keep this one
    this.dirty = this.dirty.filter((other) => other !== lease)
    this.room.end(lease)
    this.options.forget(lease)
    this.room.update()
  }
}
