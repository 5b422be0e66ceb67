/**
 * Delayed retries for brokers that do not delay: a channel for each delay, and a reader of each that holds a message until its
 * time has come.
 */
import { type Clock, Duration, Exit } from "effect"
import type { Consumer } from "../broker/Broker.ts"
import type { Capabilities } from "../broker/Driver.ts"
import * as Retries from "../broker/Retries.ts"
import type { Delivery, Outgoing } from "../model/Message.ts"
import * as Outcome from "../model/Outcome.ts"
import { isDue } from "./Dues.ts"

/** Whether the broker holds what waits for its next attempt: it keeps the count of it, and no lane waits for it. */
export const isNative = (
  { attempts, delay }: Capabilities,
  { lanes, retries }: Pick<Consumer<never>, "lanes" | "retries">
): boolean => delay && attempts && (lanes._tag === "unordered" || retries._tag === "delayed")

/** The way of a message that fails again and again: out of its own channel, and from one retry channel to the next. */
export class Detour {
  /** The channel of each delay. */
  readonly channels: ReadonlyArray<string>
  readonly delays: Retries.Delayed["delays"]
  private readonly group: string
  private readonly clock: Clock.Clock

  constructor(consumer: Pick<Consumer<never>, "channel" | "group">, retries: Retries.Delayed, clock: Clock.Clock) {
    const prefix = retries.prefix ?? `${consumer.channel}.${consumer.group}`
    this.delays = retries.delays
    this.channels = retries.delays.map((_, i) => Retries.channelOf(prefix, i + 1))
    this.group = consumer.group
    this.clock = clock
  }

  /** When the reader of a retry channel has to look at a message: its time, or that of the next channel on its way there. */
  due(waiting: Delivery, level: number): number {
    const found = Retries.read(waiting, this.group)
    if (found === undefined) return 0
    const here = found.at + this.delays[level - 1]!
    return found.due - here < this.delays[0] ? found.due : here
  }

  /** The consumer of a retry channel: what its subscription's consumer does, to the message as it was. */
  consumer<R>(consumer: Consumer<R>, level: number): Consumer<R> {
    return {
      ...consumer,
      channel: this.channels[level - 1]!,
      pattern: undefined,
      // a group reads one channel: what joins and leaves here must not stop the others
      group: `${consumer.group}.retry-${level}`,
      from: "earliest",
      handle: (waiting) => {
        const found = Retries.read(waiting, this.group)
        if (found === undefined) return Exit.succeed(Outcome.DeadLetter(new Error(`${waiting.channel} holds retries`)))
        const { due, original } = found
        const now = this.clock.currentTimeMillisUnsafe()
        if (!isDue(due, now)) return Exit.succeed(Outcome.Retry({ after: Duration.millis(due - now) }))
        // hooks are registered on the one and run by the other
        original.hooks = waiting.hooks = []
        return consumer.handle(original)
      },
      deadLetter: (waiting, error, at) =>
        consumer.deadLetter(Retries.read(waiting, this.group)?.original ?? waiting, error, at)
    }
  }

  /**
   * What becomes of a message that failed: milliseconds that it waits in its place, the message for a retry channel, or
   * undefined where no retry is left. `level` is that of the channel it was read from, 0 for its own.
   */
  next(
    delivery: Delivery,
    level: number,
    outcome: Outcome.Retry,
    now: number
  ): number | Outgoing<Uint8Array> | undefined {
    const found = level === 0 ? undefined : Retries.read(delivery, this.group)
    const failures = found?.failures ?? 0
    const after = outcome.after === undefined ? undefined : Duration.toMillis(outcome.after)
    if (after === undefined) {
      const delay = this.delays[failures]
      return delay === undefined ? undefined : this.send(delivery, found, failures + 1, failures + 1, now, now + delay)
    }
    if (after < this.delays[0]) return after
    // the longest that is not too long; what is left of the time is waited behind it
    const own = this.delays.findLastIndex((delay) => delay <= after) + 1
    return this.send(delivery, found, own, failures, now, now + after)
  }

  private send(
    delivery: Delivery,
    found: Retries.Waiting | undefined,
    level: number,
    failures: number,
    at: number,
    due: number
  ): Outgoing<Uint8Array> {
    // one whose time has not come was only passed on
    const ran = found === undefined || isDue(found.due, at) ? delivery.attempts : delivery.attempts - 1
    return Retries.toOutgoing(found?.original ?? delivery, this.channels[level - 1]!, {
      attempts: (found?.attempts ?? 0) + ran,
      failures,
      at,
      due
    })
  }
}
