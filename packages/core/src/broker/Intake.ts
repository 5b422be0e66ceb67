/**
 * The intake of a running subscription, which a circuit breaker, a kill switch or a handler can pause from inside.
 */
import { Context } from "effect"

/** One pause of an intake. */
export interface Pause {
  /** The owner of the pause and its reason, as text for readers of the health. */
  readonly by: string
  /** Unix time in milliseconds at which the pause ends by itself; undefined if its owner must resume the intake. */
  readonly until: number | undefined
}

/**
 * The intake of a subscription. Each owner pauses and resumes for itself, `Running.pause` included; the intake is open when
 * no pause is left.
 *
 * While the intake is paused, the subscription takes no message and starts none of those taken. Running handlers continue,
 * the subscription stays in its group, and no message is lost.
 */
export interface Intake {
  /**
   * Pauses at once: no handler starts after the caller's. `owner` identifies the pause; another call of the same owner
   * replaces its first. `milliseconds`: the length of the pause; default: until `resume`.
   */
  readonly pause: (owner: object, by: string, milliseconds?: number) => void
  /** Ends the pause of an owner; does nothing if there is none. */
  readonly resume: (owner: object) => void
  /** Returns the present pauses. */
  readonly pauses: () => ReadonlyArray<Pause>
}

const none: ReadonlyArray<Pause> = []

const open: Intake = { pause: () => {}, resume: () => {}, pauses: () => none }

/**
 * The intake of the subscription whose message is being handled. Outside of a handler, an intake that ignores pauses.
 *
 * **Example** (a handler that stops for a minute when its disk is full)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Intake, type Message } from "@millrace/core"
 *
 * const disk = { isFull: (): boolean => false }
 *
 * const handler = (message: Message<Uint8Array>) =>
 *   Effect.map(Intake.Intake, (intake) => {
 *     if (disk.isFull()) intake.pause(disk, "the disk is full", 60_000)
 *     return message.payload.length
 *   })
 * ```
 */
export const Intake = Context.Reference<Intake>("@millrace/core/Intake", { defaultValue: () => open })
