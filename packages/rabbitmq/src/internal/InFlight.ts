/**
 * The messages in flight on one channel of a publisher.
 */
import type { ConfirmChannel } from "amqplib"
import type { Opened } from "./Connection.ts"

/** A channel, and its messages in flight. */
export class InFlight {
  readonly opened: Opened<ConfirmChannel>
  /** The end of the channel's trial, in Unix milliseconds; 0 for none. */
  readonly trial: number
  messages = 0
  bytes = 0
  /** Whether the one message in flight is longer than any accepted before. */
  isProbing = false

  constructor(opened: Opened<ConfirmChannel>, trial: number) {
    this.opened = opened
    this.trial = trial
  }
}
