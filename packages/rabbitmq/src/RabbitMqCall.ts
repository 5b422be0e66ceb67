/**
 * What a publisher keeps count of: its calls, and what is on its way on a channel.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import type { ConfirmChannel } from "amqplib"
import { Exit } from "effect"
import type * as RabbitMqClient from "./RabbitMqClient.ts"

type Batch = ReadonlyArray<Outgoing<Uint8Array>>
type Failed = BrokerError.BrokerError

/** One call of `publish`. */
export class Call {
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

/** A channel, and what is on its way on it. */
export class Flight {
  readonly opened: RabbitMqClient.Opened<ConfirmChannel>
  /** Until when it is on trial, in milliseconds. */
  readonly trial: number
  messages = 0
  bytes = 0
  /** The one message on its way is longer than any before. */
  isProbing = false

  constructor(opened: RabbitMqClient.Opened<ConfirmChannel>, trial: number) {
    this.opened = opened
    this.trial = trial
  }
}
