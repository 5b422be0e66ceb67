/**
 * Runs a handler under a claim: its heartbeats, the keeping of its answer, and the release of its key.
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

/** Whether an answer says that the message is done; of any other the key is released, and the message may come again. */
const isDone = (answer: unknown): boolean =>
  !Outcome.isOutcome(answer) || answer._tag === "Ack" || answer._tag === "Reject"

/** Rolls a transaction back whose answer says that the message is not done, or has failed. */
class Unfinished {
  readonly answer: Middleware.Result
  constructor(answer: Middleware.Result) {
    this.answer = answer
  }
}

/** How a handler runs under its claims; times in milliseconds. */
export interface Options<M> {
  readonly next: Handler<M, Middleware.Result, Middleware.Failure, Middleware.Services>
  readonly lease: number
  readonly keep: number
  readonly codec: Codec
  readonly isFailure: ((answer: Middleware.Result) => boolean) | undefined
}

/**
 * Makes the function that runs the handler for a claim: message, store, key, token, and the monotonic time at which the claim was
 * asked for, undefined where the store answered at once.
 */
export const claimed =
  <M extends Envelope>({ codec, isFailure, keep, lease, next }: Options<M>) =>
  (message: M, store: Store, id: string, token: number, asked: number | undefined): Returns => {
    const { channel } = message
    const lost = () => Exit.fail(new IdempotencyLost({ channel }))
    // a store that does not answer frees the key at the end of its lease, and until then nothing else would
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

    /** The handler and the keeping of its answer, or neither. */
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
    // the chain may be interrupted before its first step: then only the hook knows of the claim
    message.after(() => pending ? release : undefined)
    return Effect.flatMapEager(Eager.service(Clock.Clock), (clock) => {
      const extend = Effect.suspend(() => store.extend(id, token, lease))
      const since = asked ?? monotonic(clock)
      let isOurs = true
      const over = Effect.flatMap(heartbeat({ clock, lease, since, extend }), (end) => {
        // an answer that is kept while its claim is extended ends the claim, and nothing is lost
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
        // a key whose answer may be kept, or that is not this handler's any more, is left to its lease
        const mayBeKept = transaction === undefined && isCompleting
        return exit._tag === "Success" || mayBeKept || !isOurs ? undefined : release
      })
    })
  }
