/**
 * Delayed retries for brokers without delays: one retry channel for each delay, each with a reader that holds a message until it
 * is due.
 */
import { type Clock, Duration, Exit } from "effect"
import type { Consumer } from "../../broker/Broker.ts"
import * as Retries from "../../broker/Retries.ts"
import type { Delivery } from "../../message/Message.ts"
import * as Outcome from "../../message/Outcome.ts"
import { readable } from "../../message/readable.ts"
import { isDue } from "./DelayQueue.ts"
import { type Limits, RetryPolicy, type Verdict } from "./RetryPolicy.ts"

/** The retry channels of a subscription. */
export class RetryChannels {
  /** The channel of each delay. */
  readonly channels: ReadonlyArray<string>
  readonly delays: Retries.Delayed["delays"]
  readonly group: string
  private readonly clock: Clock.Clock
  /** Tells whether the subscription reads a channel. */
  private readonly owns: (channel: string) => boolean
  private readonly early = new WeakSet<Outcome.Outcome>()

  constructor(
    consumer: Pick<Consumer<never>, "channel" | "group" | "pattern">,
    retries: Retries.Delayed,
    clock: Clock.Clock
  ) {
    const prefix = retries.prefix ?? `${consumer.channel}.${consumer.group}`
    this.delays = retries.delays
    this.channels = retries.delays.map((_, i) => Retries.channelOf(prefix, i + 1))
    this.group = consumer.group
    this.clock = clock
    const { channel, pattern } = consumer
    this.owns = pattern === undefined ? (name) => name === channel : (name) => pattern.match(name) !== undefined
  }

  /**
   * Reads a message of a retry channel; undefined if another program published it, or if its headers name a channel that the
   * subscription does not read: a program that may write here must not choose the channel that handlers and codecs see.
   */
  read(waiting: Delivery): Retries.Waiting | undefined {
    const found = Retries.read(waiting, this.group)
    return found !== undefined && this.owns(found.original.channel) ? found : undefined
  }

  /** Tells whether a message was only passed on because it is not due: its handler did not run. */
  isEarly(outcome: Outcome.Outcome): boolean {
    return this.early.has(outcome)
  }

  /** When the reader of a retry channel must handle a message: at its due time, or earlier, to pass it to the next channel. */
  due(waiting: Delivery, tier: number): number {
    const found = this.found(waiting)
    if (found === undefined) return 0
    const here = found.at + this.delays[tier - 1]!
    return found.due - here < this.delays[0] ? found.due : here
  }

  /** Parses a message of a retry channel; undefined if its driver cannot read it, or another program published it. */
  private found(waiting: Delivery): Retries.Waiting | undefined {
    return readable(() => this.read(waiting), undefined)
  }

  /** Makes the consumer of a retry channel: it runs the subscription's handler with the message as in its original channel. */
  consumer<R>(consumer: Consumer<R>, tier: number): Consumer<R> {
    return {
      ...consumer,
      channel: this.channels[tier - 1]!,
      pattern: undefined,
      // a group reads one channel: members that join and leave here must not rebalance the readers of other channels
      group: `${consumer.group}.retry-${tier}`,
      from: "earliest",
      deadLetterChannel: undefined,
      handle: (waiting) => {
        const found = this.read(waiting)
        if (found === undefined) return Exit.succeed(Outcome.DeadLetter(new Error(`${waiting.channel} holds retries`)))
        const { due, original } = found
        const now = this.clock.currentTimeMillisUnsafe()
        if (!isDue(due, now)) {
          const early = Outcome.Retry({ after: Duration.millis(due - now) })
          this.early.add(early)
          return Exit.succeed(early)
        }
        // the handler registers hooks on the original, and the engine runs the hooks of the waiting message
        original.hooks = waiting.hooks = []
        return consumer.handle(original)
      },
      deadLetter: (waiting, error, at, form) =>
        consumer.deadLetter(this.found(waiting)?.original ?? waiting, error, at, form)
    }
  }
}

/** A source of a subscription: `tier` is 0 for its own channel, and counts its retry channels from 1. */
export interface RetryTier {
  readonly channels: RetryChannels
  readonly tier: number
}

/** Publishes a failed message to the next retry channel, and its lane continues; a short wait named by its error holds it. */
export class ChannelRetries extends RetryPolicy {
  private readonly channels: RetryChannels
  private readonly tier: number

  constructor(limits: Limits, brokerWritesDeadLetters: boolean, { channels, tier }: RetryTier) {
    super(limits, brokerWritesDeadLetters)
    this.channels = channels
    this.tier = tier
  }

  protected retry(delivery: Delivery, outcome: Outcome.Retry, error: unknown, now: number): Verdict {
    const { channels: { delays }, limits: { hold } } = this
    const found = this.tier === 0 ? undefined : this.channels.read(delivery)
    const failures = found?.failures ?? 0
    const waited = this.costOf(delivery)?.waited ?? found?.named ?? 0
    if (found !== undefined && !isDue(found.due, now)) {
      // the handler did not run: pass the message to the channel nearest to its due time
      return this.pass(delivery, outcome, error, found, waited, found.due - now, now)
    }
    const named = this.named(outcome)
    if (named !== undefined) {
      const sum = waited + named
      return sum > hold.retryAfter
        ? this.tooLong(error, sum)
        : this.pass(delivery, outcome, error, found, sum, named, now)
    }
    const delay = delays[failures]
    if (delay === undefined) return this.giveUpSince(error, `${delays.length + 1} attempts failed`)
    return this.publish(delivery, outcome, error, found, failures + 1, {
      failures: failures + 1,
      named: waited,
      at: now,
      due: now + delay
    })
  }

  /** Delays a message without spending a retry: in its lane if the wait is shorter than any channel's delay. */
  private pass(
    delivery: Delivery,
    outcome: Outcome.Retry,
    error: unknown,
    found: Retries.Waiting | undefined,
    waited: number,
    after: number,
    now: number
  ): Verdict {
    const { delays } = this.channels
    if (after < delays[0]) {
      return { _tag: "Hold", outcome, after, cost: { ...this.costBefore(delivery, now), waited, error } }
    }
    // use the longest delay that does not exceed `after`; the message waits the remainder afterwards
    const tier = delays.findLastIndex((delay) => delay <= after) + 1
    return this.publish(delivery, outcome, error, found, tier, {
      failures: found?.failures ?? 0,
      named: waited,
      at: now,
      due: now + after
    })
  }

  private publish(
    delivery: Delivery,
    outcome: Outcome.Retry,
    error: unknown,
    found: Retries.Waiting | undefined,
    tier: number,
    progress: Omit<Retries.Progress, "attempts">
  ): Verdict {
    // a message that is not due was only passed on
    const ran = found === undefined || isDue(found.due, progress.at) ? delivery.attempts : delivery.attempts - 1
    const outgoing = Retries.toOutgoing(found?.original ?? delivery, this.channels.channels[tier - 1]!, {
      ...progress,
      attempts: (found?.attempts ?? 0) + ran
    })
    return { _tag: "Publish", outcome, outgoing, error }
  }
}
