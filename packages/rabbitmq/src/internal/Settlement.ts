/**
 * Settles the deliveries of one consumer: batched acknowledgements, returns, and delayed retries.
 */
import type { BrokerError, Driver } from "@millrace/core"
import type { ConsumeMessage } from "amqplib"
import { Duration, Effect, Exit, type Fiber } from "effect"
import type { Acknowledgements } from "./Acknowledgements.ts"
import type { DelayQueues, Waiting } from "./DelayQueues.ts"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"
import * as Requests from "./Requests.ts"

type Failed = BrokerError.BrokerError

// A batch of this many deliveries is acknowledged at once, a smaller one after this many milliseconds, while more settle:
// each acknowledgement is a system call, and costs more than all other work for a message.
const together = 64
const gathering = 4

const gather = Effect.sleep(gathering)

/** The parts of a consumer that a settlement uses. */
export interface Parts {
  readonly resolved: ResolvedOptions
  readonly where: Requests.Where
  readonly acknowledgements: Acknowledgements
  readonly delays: DelayQueues
  readonly prefetch: number
  /** If true, released deliveries return to the queue together, when the channel closes. */
  readonly ordered: boolean
  readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
  /** Offers a delivery once more. */
  readonly offer: (message: ConsumeMessage) => void
}

/** Settles the deliveries of one consumer. */
export class Settlement {
  private readonly parts: Parts
  /**
   * The batch size that is acknowledged at once, at most an eighth of the prefetch: RabbitMQ sends no further deliveries
   * while the prefetch is used up.
   */
  private readonly enough: number
  /** The waits of messages that amqplib cannot copy. */
  private readonly kept = new Set<Fiber.Fiber<void>>()
  /** The next attempts of those messages, by delivery tag. */
  private readonly attempts = new Map<number, number>()

  constructor(parts: Parts) {
    this.parts = parts
    this.enough = Math.max(1, Math.min(together, parts.prefetch >> 3))
  }

  /** Finds the attempt of a delivery that waited in this consumer; undefined for any other. */
  attemptOf(tag: number): number | undefined {
    return this.attempts.size === 0 ? undefined : this.attempts.get(tag)
  }

  /**
   * Settles deliveries. Completes once the acknowledgements are sent, and RabbitMQ has confirmed the copies of delayed
   * retries.
   */
  settle(batch: ReadonlyArray<Driver.Settled>): Effect.Effect<void, Failed> {
    const { acknowledgements, delays, resolved, where } = this.parts
    const done: Array<number> = []
    const released: Array<number> = []
    let waiting: Array<Waiting> | undefined
    for (let i = 0; i < batch.length; i++) {
      const { delivery: each, outcome } = batch[i]!
      // settled twice, or taken back by a channel that has ended
      if (!acknowledgements.has(each.at)) continue
      if (outcome._tag === "Release") released.push(each.at)
      else {
        done.push(each.at)
        if (outcome._tag !== "Retry") continue
        ;(waiting ??= []).push({
          // the consumer makes every delivery of a ConsumeMessage
          message: each.native as ConsumeMessage,
          after: outcome.after === undefined ? 0 : Duration.toMillis(outcome.after),
          attempt: each.attempts,
          channel: each.channel
        })
      }
    }
    if (waiting === undefined) {
      return done.length >= this.enough || released.length > 0
        ? this.tell(done, released)
        : Effect.flatMap(gather, () => this.tell(done, released))
    }
    const copies = waiting
    return Effect.flatMap(
      Effect.tapError(
        Requests.ask(resolved, "settle", () => delays.put(copies), where),
        () => Effect.sync(() => delays.renew())
      ),
      (unwritable) => {
        if (unwritable.length === 0) return this.tell(done, released)
        const tags = new Set(unwritable.map((each) => this.keep(each)))
        return this.tell(done.filter((tag) => !tags.has(tag)), released)
      }
    )
  }

  /** Acknowledges deliveries. */
  acknowledge(tags: ReadonlyArray<number>): void {
    if (this.attempts.size > 0) { for (const tag of tags) this.attempts.delete(tag) }
    this.parts.acknowledgements.acknowledge(tags)
  }

  /** Offers a message that cannot be copied again after its wait, and returns its tag, which stays unacknowledged. */
  private keep({ after, attempt, message }: Waiting): number {
    const { fork, offer, resolved } = this.parts
    const { deliveryTag } = message.fields
    this.attempts.set(deliveryTag, attempt)
    // RabbitMQ closes the channel if a message stays unacknowledged for `consumerTimeout`
    const wait = Math.min(after, resolved.consumerTimeout / 2)
    const fiber = fork(Effect.andThen(Effect.sleep(wait), Effect.sync(() => offer(message))))
    this.kept.add(fiber)
    fiber.addObserver(() => void this.kept.delete(fiber))
    return deliveryTag
  }

  private tell(done: ReadonlyArray<number>, released: ReadonlyArray<number>): Effect.Effect<void, Failed> {
    const { acknowledgements, ordered, resolved, where } = this.parts
    try {
      if (done.length > 0) this.acknowledge(done)
      if (!ordered) { for (const tag of released) acknowledgements.reject(tag) }
      return Exit.void
    } catch (error) {
      return Exit.fail(Errors.fromUnknown(error, "settle", { ...resolved.place, ...where }))
    }
  }

  /** Ends the waits of messages that could not be copied. */
  close(): void {
    for (const fiber of this.kept) fiber.interruptUnsafe()
  }
}
