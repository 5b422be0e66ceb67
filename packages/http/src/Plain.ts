/**
 * Handlers without Effect: plain functions, and functions that return a promise.
 */
import { Failure, type Handler } from "@millrace/core"
import { Effect, Exit } from "effect"

/** An error that a plain function threw or rejected with, and that says its class. */
export interface Thrown extends Failure.Classified {
  readonly _tag: string
}

/** A plain handler: `signal` is aborted when the chain is interrupted, e.g. by a timeout or since the client has gone. */
export interface Plain<M, A> {
  (message: M, signal: AbortSignal): A | PromiseLike<A>
}

const isThenable = <A>(value: A | PromiseLike<A>): value is PromiseLike<A> =>
  typeof value === "object" && value !== null && "then" in value && typeof value.then === "function"

const ended = (reason: unknown): Exit.Exit<never, Thrown> =>
  // tagOf finds a tag for every error, and settlement and problems ask for no more than the class
  Failure.isClassified(reason) ? Exit.fail(reason as Thrown) : Exit.die(reason)

/**
 * A plain function as a handler, of any source: consumers, servers and clients alike.
 *
 * What it returns, or what its promise resolves to, is the answer. What it throws, or its promise rejects with, is an error of
 * the handler where it carries a class (`failure`), and a defect otherwise. Interrupting the chain aborts the signal and does not
 * wait for the promise.
 *
 * **Example** (an async function behind middlewares)
 *
 * ```ts
 * import { pipe } from "effect"
 * import { type Message, Timeout } from "@millrace/core"
 * import { Plain } from "@millrace/http"
 *
 * const handler = pipe(
 *   Plain.handler(async (message: Message<Uint8Array>) => message.payload.length),
 *   Timeout.middleware({ after: "5 seconds" })
 * )
 * ```
 *
 * @category constructors
 */
export const handler = <M, A>(plain: Plain<M, A>): Handler<M, Awaited<A>, Thrown> => (message) => {
  const controller = new AbortController()
  let result: A | PromiseLike<A>
  try {
    result = plain(message, controller.signal)
  } catch (reason) {
    return ended(reason)
  }
  // what is no promise is its own answer
  if (!isThenable(result)) return Exit.succeed(result as Awaited<A>)
  const promise = result
  return Effect.callback<Awaited<A>, Thrown>((resume) => {
    promise.then(
      (value) => resume(Exit.succeed(value as Awaited<A>)),
      (reason: unknown) => resume(ended(reason))
    )
    return Effect.sync(() => controller.abort())
  })
}
