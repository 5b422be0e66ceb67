/**
 * Runs a handler under a claim: heartbeats, storing the answer, and releasing the key.
 */
import { Clock, Effect, Exit } from "effect"
import { isInstance } from "../../message/Failure.ts"
import type { Envelope } from "../../message/Message.ts"
import * as Outcome from "../../message/Outcome.ts"
import * as Eager from "../../pipeline/Eager.ts"
import type { Handler } from "../../pipeline/Handler.ts"
import type * as Middleware from "../../pipeline/Middleware.ts"
import { type Codec, kept } from "./answer.ts"
import { type IdempotencyError, IdempotencyLost } from "./errors.ts"
import { answeredWithin, heartbeat, monotonic } from "./lease.ts"
import type { IdempotencyStore } from "./store.ts"

type Returns = Middleware.Returns<IdempotencyError>
type Store = IdempotencyStore["Service"]

/** Whether an answer completes the message; any other releases the key, and the message may be redelivered. */
const isDone = (answer: unknown): boolean =>
  !Outcome.isOutcome(answer) || answer._tag === "Ack" || answer._tag === "Reject"

/** Rolls back the transaction of an answer that does not complete the message, or reports a failure. */
class Unfinished {
  readonly answer: Middleware.Result
  constructor(answer: Middleware.Result) {
    this.answer = answer
  }
}

/** Options of `claimed`; times in milliseconds. */
export interface Options<M> {
  readonly next: Handler<M, Middleware.Result, Middleware.Failure, Middleware.Services>
  readonly lease: number
  readonly keep: number
  readonly codec: Codec
  readonly isFailure: ((answer: Middleware.Result) => boolean) | undefined
}

/**
 * Makes the function that runs the handler for a claim: message, store, key, token, and the monotonic time of the claim's
 * request, undefined if the store answered synchronously.
 */
export const claimed =
  <M extends Envelope>({ codec, isFailure, keep, lease, next }: Options<M>) =>
  (message: M, store: Store, id: string, token: number, asked: number | undefined): Returns => {
    const { channel } = message
    const lost = () => Exit.fail(new IdempotencyLost({ channel }))
    // waits at most one lease for the store: the key is free after that anyway, and no earlier without the store
    const release = Effect.suspend(() => Effect.ignore(answeredWithin(store.release(id, token), lease)))

    const complete = (answer: Middleware.Result): Returns =>
      isDone(answer)
        ? Effect.flatMapEager(
          kept(message, codec, answer),
          (bytes) =>
            Effect.flatMapEager(
              store.complete(id, token, bytes, keep),
              (isKept): Returns => isKept ? Exit.succeed(answer) : lost()
            )
        )
        : Effect.as(release, answer)

    let isCompleting = false

    /** Runs the handler and stores its answer in one transaction. */
    const together = (within: NonNullable<Store["transaction"]>): Returns => {
      const handled = Effect.suspend(() => next(message))
      const answered = Effect.flatMap(handled, (answer): Middleware.Returns<IdempotencyError | Unfinished> => {
        isCompleting = isDone(answer)
        if (!isCompleting || isFailure?.(answer) === true) return Exit.fail(new Unfinished(answer))
        return complete(answer)
      })
      return Effect.catch(
        within(answered),
        (error): Returns => isInstance(error, Unfinished) ? complete(error.answer) : Exit.fail(error)
      )
    }

    const { transaction } = store
    const result = transaction === undefined ? next(message) : together(transaction)
    if (Eager.isDone(result)) {
      return result._tag === "Success" ? complete(result.value) : Effect.andThen(release, result)
    }
    let pending = true
    // an interruption may come before the chain's first step: then only this hook releases the claim
    message.after(() => pending ? release : undefined)
    return Effect.flatMapEager(Eager.service(Clock.Clock), (clock) => {
      const extend = Effect.suspend(() => store.extend(id, token, lease))
      const since = asked ?? monotonic(clock)
      let isOurs = true
      const over = Effect.flatMap(heartbeat({ clock, lease, since, extend }), (end) => {
        // `extend` is refused if the answer was stored meanwhile: the claim is completed, and nothing is lost
        if (end === "refused" && isCompleting) return Effect.never
        isOurs = false
        return lost()
      })
      const whole = transaction !== undefined ? result : Effect.flatMap(result, (answer) => {
        isCompleting = isDone(answer)
        return complete(answer)
      })
      return Effect.onExitPrimitive(Effect.raceFirst(whole, over), (exit) => {
        pending = false
        // a key whose answer may be stored, or whose claim this handler has lost, is left to its lease
        const mayBeKept = transaction === undefined && isCompleting
        return exit._tag === "Success" || mayBeKept || !isOurs ? undefined : release
      })
    })
  }
