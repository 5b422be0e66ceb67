/**
 * A value of another system that is read again: keys of an issuer, keys of a vault. One read is in flight at a time, the last good
 * value stays in use while reads fail, and a cached value never proves that something does not exist.
 */
import { type Cause, type Clock, Deferred, Effect, Exit } from "effect"
import * as Detached from "./Detached.ts"

/**
 * The reason why there is no answer now.
 *
 * - `unreadable`: the read failed, or the last one did within the cool-down
 * - `before`: the value was read before it was asked, within the cool-down
 * - `older`: the read in flight had begun before it was asked
 */
export type Reason = "unreadable" | "before" | "older"

/** The parts of a value that is read again; times are in milliseconds. */
export interface Options<A, E> {
  readonly load: Effect.Effect<A, unknown>
  /** The shortest time from the start of a read to one that a miss starts. */
  readonly cooldown: number
  /** How long the last good value stays in use while reads fail. */
  readonly keep: number
  readonly clock: Clock.Clock
  /** Runs a read in the scope of its owner, so that the interruption of one caller does not end it for others. */
  readonly fork: (effect: Effect.Effect<void>) => unknown
  /** Called with each value that was read, and with undefined when the last one is dropped; `before` is the last one. */
  readonly onChange: (value: A | undefined, before: A | undefined) => void
  /** Makes the error, with the wait in milliseconds; `hasValue` says that an older value is still in use. */
  readonly error: (reason: Reason, wait: number, hasValue: boolean, cause?: Cause.Cause<unknown>) => E
}

/** A value that is read again. */
export class Rereading<A, E> {
  private readonly options: Options<A, E>
  private value: A | undefined
  private readAt = 0
  private triedAt = -Infinity
  private pending: Deferred.Deferred<void, E> | undefined

  constructor(options: Options<A, E>) {
    this.options = options
  }

  /** The last good value; undefined before the first read, and after `keep` without a good one. */
  get current(): A | undefined {
    return this.value
  }

  private replace(value: A | undefined): void {
    const before = this.value
    this.value = value
    this.options.onChange(value, before)
  }

  private readonly once: Effect.Effect<void, E> = Effect.suspend(() => {
    const { clock, cooldown, error, keep, load } = this.options
    return Effect.matchCauseEffect(load, {
      onSuccess: (value) =>
        Effect.sync(() => {
          this.readAt = clock.currentTimeMillisUnsafe()
          this.replace(value)
        }),
      onFailure: (cause) =>
        Effect.suspend(() => {
          if (this.value !== undefined && clock.currentTimeMillisUnsafe() - this.readAt >= keep) this.replace(undefined)
          return Effect.fail(error("unreadable", cooldown, this.value !== undefined, cause))
        })
    })
  })

  /** Reads, with one read at a time; callers that come meanwhile share it. */
  readonly read: Effect.Effect<void, E> = Effect.suspend(() => {
    if (this.pending !== undefined) return Deferred.await(this.pending)
    const begun = this.pending = Deferred.makeUnsafe<void, E>()
    this.triedAt = this.options.clock.currentTimeMillisUnsafe()
    this.options.fork(Effect.flatMap(Effect.exit(Detached.effect(this.once)), (exit) =>
      Effect.sync(() => {
        this.pending = undefined
        Deferred.doneUnsafe(begun, exit)
      })))
    return Deferred.await(begun)
  })

  /**
   * Picks a part of the value: at once if it is there, else after a read that began after the call; undefined if that read has no such
   * part either. Within the cool-down it fails, with the wait.
   */
  find<B>(pick: (value: A) => B | undefined): Effect.Effect<B | undefined, E> {
    const known = this.value === undefined ? undefined : pick(this.value)
    return known === undefined ? Effect.suspend(() => this.ask(pick)) : Exit.succeed(known)
  }

  private ask<B>(pick: (value: A) => B | undefined): Effect.Effect<B | undefined, E> {
    const { clock, cooldown, error } = this.options
    const now = clock.currentTimeMillisUnsafe()
    const wait = this.triedAt + cooldown - now
    const hasValue = this.value !== undefined
    if (this.pending === undefined && wait > 0) {
      return Effect.fail(error(hasValue ? "before" : "unreadable", wait, hasValue))
    }
    // a read that began earlier may answer with the value from before a change
    const isOlder = this.pending !== undefined && this.triedAt < now
    return Effect.flatMap(this.read, () => {
      const found = this.value === undefined ? undefined : pick(this.value)
      return found === undefined && isOlder ? Effect.fail(error("older", cooldown, true)) : Effect.succeed(found)
    })
  }
}
