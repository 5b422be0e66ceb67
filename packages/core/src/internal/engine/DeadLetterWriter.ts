/**
 * Publishes dead letters and delayed retries until the broker has confirmed them. A dead letter that the broker refuses for
 * good is retried in smaller forms; if the broker refuses the smallest, the message is parked or dropped, as its subscription
 * chooses.
 */
import { Cause, type Clock, type Context, Effect, type Exit, type Fiber } from "effect"
import type { Consumer, LaneState } from "../../broker/Broker.ts"
import type { BrokerError } from "../../driver/BrokerError.ts"
import { type Form, forms } from "../../broker/deadLetters/letter.ts"
import * as Instructions from "../../broker/instructions.ts"
import { isAboutMessage, isBrokerError } from "../../broker/refused.ts"
import type { Delivery, Outgoing } from "../../message/Message.ts"
import { isDone } from "../../pipeline/Eager.ts"
import { called, logged } from "./guard.ts"
import { type Lane, leaseOf, type LeaseState } from "./LeaseState.ts"
import type { InFlight } from "./stalls.ts"

type Batch = ReadonlyArray<Outgoing<Uint8Array>>

/** The result: `written` in some form; `refused` for good, a delayed retry; `dropped`, a dead letter refused for good. */
export type Written = "written" | "refused" | "dropped"

/** The dependencies of a writer, beside its fibers' context. */
export interface Options<R> {
  readonly consumer: Pick<Consumer<R>, "name" | "refusedDeadLetter" | "backoff">
  readonly publish: (batch: Batch) => Effect.Effect<void, BrokerError>
  /** Headers that the broker obeys. */
  readonly instructions: ReadonlyArray<string> | undefined
  /** Returns the milliseconds to wait after this many failures. */
  readonly backoff: (failures: number) => number
  readonly clock: Clock.Clock
  /** Receives each failure. */
  readonly failed: (error: unknown) => void
}

/** A message leaving its channel. */
export interface Leaving {
  readonly delivery: Delivery
  readonly kind: "dead letter" | "delayed retry"
  /** Makes the message to publish; a delayed retry has only the form `whole`. */
  readonly compose: (form: Form) => Outgoing<Uint8Array>
}

interface Writing extends Leaving {
  readonly since: number
  readonly lane: Lane | undefined
  state: LaneState
  error: unknown
}

/** The unconfirmed dead letters and delayed retries. */
export class DeadLetterWriter<R> {
  private readonly context: Context.Context<R>
  private readonly options: Options<R>
  private readonly open = new Map<Fiber.Fiber<Written>, Writing>()

  constructor(context: Context.Context<R>, options: Options<R>) {
    this.context = context
    this.options = options
  }

  /**
   * Starts to publish. Returns `true` if the broker confirmed at once, else the effect of this first attempt, for `confirm`.
   */
  publish(leaving: Leaving): Effect.Effect<void, BrokerError> | true {
    const written = this.call(leaving, "whole")
    return isDone(written) && written._tag === "Success" ? true : written
  }

  private call({ compose }: Leaving, form: Form): Effect.Effect<void, BrokerError> {
    const { instructions, publish } = this.options
    return called(() => publish([Instructions.keep(instructions, compose(form))]))
  }

  /** Repeats a publish until the broker confirms it or refuses it for good. The lease stays busy until `ended` is called. */
  confirm(
    leaving: Leaving,
    first: Effect.Effect<void, BrokerError>,
    lane: Lane | undefined,
    ended: (exit: Exit.Exit<Written>) => void
  ): void {
    leaseOf(leaving.delivery).began()
    const writing: Writing = {
      ...leaving,
      lane,
      since: this.options.clock.currentTimeMillisUnsafe(),
      state: leaving.kind,
      error: undefined
    }
    const fiber = Effect.runForkWith(this.context)(this.attempt(writing, first, 0, 1))
    this.open.set(fiber, writing)
    fiber.addObserver((exit) => {
      this.open.delete(fiber)
      ended(exit)
    })
  }

  /** Stops publishing for the messages of a lease. */
  giveUp(lease: LeaseState): void {
    for (const [fiber, { delivery }] of this.open) if (leaseOf(delivery) === lease) fiber.interruptUnsafe()
  }

  *inFlight(): Generator<InFlight> {
    for (const { delivery, error, lane, since, state } of this.open.values()) {
      yield { delivery, error, since, state, behind: lane?.queue.length ?? 0 }
    }
  }

  private again(writing: Writing, form: number, failures: number): Effect.Effect<Written> {
    return Effect.suspend(() => this.attempt(writing, this.call(writing, forms[form]!), form, failures))
  }

  private attempt(
    writing: Writing,
    written: Effect.Effect<void, BrokerError>,
    form: number,
    failures: number
  ): Effect.Effect<Written> {
    return Effect.matchCauseEffect(written, {
      onSuccess: () => this.written(writing, form),
      onFailure: (cause) => this.failed(writing, cause, form, failures)
    })
  }

  private failed(
    writing: Writing,
    cause: Cause.Cause<BrokerError>,
    form: number,
    failures: number
  ): Effect.Effect<Written> {
    const { backoff, consumer } = this.options
    const error = Cause.squash(cause)
    writing.error = error
    this.options.failed(error)
    const refused = refusal(error)
    const isAboutMessage = refused === "message" || refused === "unclear"
    if (isAboutMessage && writing.kind === "delayed retry") return Effect.succeed("refused")
    // a driver may throw because of the message; the body is left out only if the broker refuses the message
    const last = refused === "message" ? forms.length - 1 : refused === "unclear" ? forms.indexOf("bare") : 0
    if (form < last) return this.again(writing, form + 1, failures)
    // an operator fixes a missing channel or a changed password; the message is not lost in the meantime
    if (refused === "message" && consumer.refusedDeadLetter === "drop") return Effect.succeed("dropped")
    const isParked = refused === "message"
    writing.state = isParked ? "parked" : writing.kind
    return this.waiting(writing, cause, isParked ? consumer.backoff.cap : backoff(failures), failures)
  }

  private waiting(
    writing: Writing,
    cause: Cause.Cause<BrokerError>,
    wait: number,
    failures: number
  ): Effect.Effect<Written> {
    const { kind, state } = writing
    const text = state === "parked"
      ? `The broker refuses the ${kind} of ${this.options.consumer.name} in every form; its message is parked`
      : `The ${kind} of ${this.options.consumer.name} could not be written; its message waits`
    return logged(Effect.logError(text, cause)).pipe(
      Effect.andThen(Effect.sleep(wait)),
      Effect.andThen(this.again(writing, 0, failures + 1))
    )
  }

  /** Ends a confirmed publish; a form smaller than the whole is logged in one line. */
  private written({ delivery, error }: Writing, form: number): Effect.Effect<Written> {
    if (form === 0) return Effect.succeed("written")
    const { consumer: { name } } = this.options
    const text = `A dead letter of ${name} was written in the form "${
      forms[form]
    }", since the broker refuses the whole one`
    const place = { channel: delivery.channel, partition: delivery.partition, position: delivery.position }
    return Effect.as(logged(Effect.annotateLogs(Effect.logWarning(text, error), place)), "written")
  }
}

/** Classifies a lasting error: about the message, about its channel, or unclear (e.g. a throw); undefined if retriable. */
const refusal = (error: unknown): "message" | "channel" | "unclear" | undefined => {
  if (!isBrokerError(error)) return "unclear"
  if (error.retriable) return undefined
  if (error.reason === "Unknown") return "unclear"
  return isAboutMessage(error) ? "message" : "channel"
}
