/**
 * The messages in flight on one channel of a publisher.
 */
import type { ConfirmChannel } from "amqplib"
import type { Opened } from "./Connection.ts"

/** A channel, and what is on its way on it. */
export class InFlight {
  readonly opened: Opened<ConfirmChannel>
  /** Until when it is on trial, in milliseconds. */
  readonly trial: number
  messages = 0
  bytes = 0
  /** The one message on its way is longer than any before. */
  isProbing = false

  constructor(opened: Opened<ConfirmChannel>, trial: number) {
    this.opened = opened
    this.trial = trial
  }
}
