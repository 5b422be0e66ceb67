/**
 * The intake of a running subscription, for what may have to pause it from inside: a breaker, a kill switch, a handler.
 */
import { Context } from "effect"

/** Why an intake is paused. */
export interface Pause {
  /** Who paused it, and why, in words for whoever looks at its health. */
  readonly by: string
  /** Unix time in milliseconds at which it goes on by itself; undefined where somebody has to resume it. */
  readonly until: number | undefined
}

/**
 * The intake of a subscription. It goes on when nobody pauses it any more: each pauses for himself, and `Running.pause` is one
 * of them.
 *
 * While it is paused no message is taken and none of those taken is started; what runs goes on, the group is not left and
 * nothing is lost.
 */
export interface Intake {
  /**
   * Pauses at once: the handler that calls it is the last that starts. `owner` tells who; pausing again replaces what the
   * same owner said before. `milliseconds`: after which it goes on by itself; default: never.
   */
  readonly pause: (owner: object, by: string, milliseconds?: number) => void
  /** Takes back the pause of an owner; does nothing where there is none. */
  readonly resume: (owner: object) => void
  /** Who pauses it now. */
  readonly pauses: () => ReadonlyArray<Pause>
}

const none: ReadonlyArray<Pause> = []

const open: Intake = { pause: () => {}, resume: () => {}, pauses: () => none }

/**
 * The intake of the subscription whose message is being handled; outside of one, an intake that cannot be paused.
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
