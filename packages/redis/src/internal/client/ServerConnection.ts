/**
 * A connection that reopens whenever it ends. A command fails at once while there is none, so no command is sent twice.
 */
import type { BrokerError } from "@millrace/core"
import { Cause, Clock, Deferred, Effect, Exit, type Scope } from "effect"
import * as Connection from "./Connection.ts"
import * as Errors from "./Errors.ts"
import type { Address } from "./Address.ts"
import type { ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError

/** Locates the server before each attempt to connect. */
export interface Target {
  readonly locate: Effect.Effect<Address, Failed>
  /** Fails when the server has moved to another address. Default: never. */
  readonly moved?: ((address: Address) => Effect.Effect<never, Failed>) | undefined
}

const nanosInMilli = 1e6

/** Holds the present connection, or the reason why there is none. */
export class ServerConnection {
  private connection: Connection.Connection | undefined
  private reason: unknown
  private isTried = false
  private lostAt = 0
  private openedAt = 0
  private attempts = 0
  private readonly clock: Clock.Clock
  private readonly onLost: () => void
  /** Completes with the first connection, or fails if the first attempt does. */
  readonly first: Deferred.Deferred<void, Failed>

  constructor(clock: Clock.Clock, onLost: () => void) {
    this.clock = clock
    this.onLost = onLost
    this.first = Deferred.makeUnsafe()
  }

  private get now(): number {
    return Number(this.clock.monotonicTimeNanosUnsafe()) / nanosInMilli
  }

  /** The open connection, if there is one. */
  get open(): Connection.Connection | undefined {
    return this.connection?.isOpen === true ? this.connection : undefined
  }

  /** The error that tells why there is no connection. */
  get missing(): Errors.Unsent {
    return new Errors.Unsent(this.reason)
  }

  /** Whether the first attempt to connect is still running. */
  get isNew(): boolean {
    return !this.isTried
  }

  /** Milliseconds since the connection was lost; 0 while it is open. */
  get downFor(): number {
    return this.open === undefined && this.isTried ? this.now - this.lostAt : 0
  }

  opened(connection: Connection.Connection): void {
    this.connection = connection
    this.reason = undefined
    this.isTried = true
    this.openedAt = this.now
    Deferred.doneUnsafe(this.first, Exit.void)
  }

  /** Records why there is no connection; returns the milliseconds until the next attempt. */
  lost(error: Failed, silence: number): number {
    const { now } = this
    const hadOne = this.openedAt > 0
    // a connection that lasted no longer than 1 second counts as a failed attempt
    this.attempts = hadOne && now - this.openedAt > 1000 ? 0 : this.attempts + 1
    if (hadOne || !this.isTried) this.lostAt = now - silence
    this.openedAt = 0
    this.connection = undefined
    this.reason = error
    this.isTried = true
    Deferred.doneUnsafe(this.first, Exit.fail(error))
    this.onLost()
    return Math.min(500, 25 * 2 ** Math.min(this.attempts, 6))
  }

  /** Closes a connection whose server is no longer primary. */
  drop(connection: Connection.Connection, error: unknown): void {
    if (this.connection !== connection) return
    this.connection = undefined
    this.reason = error
    connection.end()
  }
}

/** Connects and reconnects until interrupted. */
export const keep = (server: ServerConnection, resolved: ResolvedOptions, target: Target): Effect.Effect<never> => {
  const once = Effect.scoped(Effect.gen(function*() {
    const address = yield* target.locate
    const connection = yield* Connection.open(resolved, address)
    server.opened(connection)
    const ended = connection.ended("consume")
    return yield* target.moved === undefined ? ended : Effect.raceFirst(ended, target.moved(address))
  }))
  return Effect.forever(
    Effect.catchCause(once, (cause) => {
      if (Cause.hasInterruptsOnly(cause)) return Effect.interrupt
      // a defect of the client library ends only this connection
      const error = Errors.fromUnknown(Cause.squash(cause), "connect", resolved.place)
      return Effect.sleep(server.lost(error, Errors.isSilence(error) ? resolved.requestTimeout : 0))
    })
  )
}

/** Opens a connection that reopens as long as the scope lives; fails if the first attempt does. */
export const open = (resolved: ResolvedOptions, target: Target): Effect.Effect<ServerConnection, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const server = new ServerConnection(yield* Clock.Clock, () => {})
    yield* Effect.forkScoped(keep(server, resolved, target))
    yield* Deferred.await(server.first)
    return server
  })
