/**
 * One call of a publisher, and how much of its batch was sent and answered.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import { Exit } from "effect"

type Batch = ReadonlyArray<Outgoing<Uint8Array>>
type Failed = BrokerError.BrokerError

/** One call of `publish`. */
export class PublishCall {
  readonly batch: Batch
  /** Its messages go to the queues of their channels' names. */
  readonly isDirect: boolean
  readonly resume: (exit: Exit.Exit<void, Failed>) => void
  readonly since: number
  /** How many of the batch were sent. */
  sent = 0
  /** How many of them were answered. */
  answered = 0
  /** When one was sent or answered last, in rounds of the watch. */
  round = 0
  failure: Failed | undefined
  isOver = false

  constructor(batch: Batch, isDirect: boolean, resume: (exit: Exit.Exit<void, Failed>) => void, since: number) {
    this.batch = batch
    this.isDirect = isDirect
    this.resume = resume
    this.since = since
  }

  end(failure = this.failure): void {
    if (this.isOver) return
    this.isOver = true
    this.resume(failure === undefined ? Exit.void : Exit.fail(failure))
  }
}
