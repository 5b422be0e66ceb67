/**
 * One call of a publisher, and how much of its batch is sent and confirmed.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import { Exit } from "effect"

type Batch = ReadonlyArray<Outgoing<Uint8Array>>
type Failed = BrokerError.BrokerError

/** One call of `publish`. */
export class PublishCall {
  readonly batch: Batch
  /** Whether its messages go directly to the queues of their channels' names. */
  readonly isDirect: boolean
  readonly resume: (exit: Exit.Exit<void, Failed>) => void
  readonly since: number
  /** The number of messages sent. */
  sent = 0
  /** The number of messages answered by RabbitMQ. */
  answered = 0
  /** The round of the watch in which a message was last sent or answered. */
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
