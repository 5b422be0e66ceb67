/**
 * Writes what a message leaves behind, its dead letter or its delayed retry, for as long as it takes.
 */
import { type Context, Effect, Exit, type Fiber } from "effect"
import type { Consumer } from "../broker/Broker.ts"
import type { BrokerError } from "../broker/BrokerError.ts"
import type { Delivery, Outgoing } from "../model/Message.ts"
import { isDone } from "../pipeline/Eager.ts"
import { type Tenure, tenureOf } from "./Tenure.ts"

type Publish = (batch: ReadonlyArray<Outgoing<Uint8Array>>) => Effect.Effect<void, BrokerError>

/** What a writer needs beside its fibers' context. */
export interface Options<R> {
  readonly consumer: Pick<Consumer<R>, "name">
  readonly publish: Publish
  /** Milliseconds to wait after so many failures. */
  readonly backoff: (failures: number) => number
}

/** What is written. */
export type Kind = "dead letter" | "delayed retry"

/** A letter that the broker does not have yet. */
export interface Letter {
  readonly kind: Kind
  readonly delivery: Delivery
  readonly outgoing: Outgoing<Uint8Array>
  /** The first attempt, which is under way or has failed. */
  readonly written: Effect.Effect<void, BrokerError>
}

/** The letters that are being written. */
export class Letters<R> {
  private readonly context: Context.Context<R>
  private readonly options: Options<R>
  private readonly open = new Map<Fiber.Fiber<void, BrokerError>, Tenure>()

  constructor(context: Context.Context<R>, options: Options<R>) {
    this.context = context
    this.options = options
  }

  /** Writes one; undefined where the broker had it at once. */
  write(kind: Kind, delivery: Delivery, outgoing: Outgoing<Uint8Array>): Letter | undefined {
    const written = this.publish(outgoing)
    return isDone(written) && written._tag === "Success" ? undefined : { kind, delivery, outgoing, written }
  }

  /** Goes on until the broker has it. Its lease is busy until `ended` has heard whether it was written or given up. */
  insist(letter: Letter, ended: (isWritten: boolean) => void): void {
    const tenure = tenureOf(letter.delivery)
    tenure.began()
    const fiber = Effect.runForkWith(this.context)(this.attempt(letter, letter.written, 1))
    this.open.set(fiber, tenure)
    fiber.addObserver((exit) => {
      this.open.delete(fiber)
      ended(exit._tag === "Success")
    })
  }

  /** Those of a lease are no longer written. */
  giveUp(tenure: Tenure): void {
    for (const [fiber, own] of this.open) if (own === tenure) fiber.interruptUnsafe()
  }

  private publish(letter: Outgoing<Uint8Array>): Effect.Effect<void, BrokerError> {
    try {
      return this.options.publish([letter])
    } catch (defect) {
      return Exit.die(defect)
    }
  }

  /** Writes until it is written, whatever went wrong; it ends otherwise only when it is interrupted. */
  private attempt(
    letter: Letter,
    written: Effect.Effect<void, BrokerError>,
    failures: number
  ): Effect.Effect<void, BrokerError> {
    const { backoff, consumer } = this.options
    return Effect.catchCause(
      written,
      (cause) =>
        Effect.logError(`The ${letter.kind} of ${consumer.name} could not be written; its message waits`, cause).pipe(
          Effect.andThen(Effect.sleep(backoff(failures))),
          Effect.andThen(Effect.suspend(() => this.attempt(letter, this.publish(letter.outgoing), failures + 1)))
        )
    )
  }
}
