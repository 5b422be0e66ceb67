/**
 * Functions at the moments of a message's way, for those who think in hooks: before and after sending, before and after
 * execution, after saving, on errors. An adapter over the stages; a middleware of one's own can do all of it, and more.
 */
import { Cause, type Context, Data, Effect, Exit, Fiber } from "effect"
import { classOf, type FailureClass, tagOf } from "../message/Failure.ts"
import type { Envelope } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Eager from "../pipeline/Eager.ts"
import * as Ending from "../telemetry/Ending.ts"
import type { Around, FullConfig } from "../pipeline/Handler.ts"
import * as Lost from "../telemetry/Lost.ts"
import * as Middleware from "../pipeline/Middleware.ts"

/** The moments. */
export type Name = "preSend" | "postSend" | "preExecute" | "postExecute" | "postSave" | "onError"

/** A hook failed or threw; its message settles by `failure`: the class of what the hook failed with, else `permanent`. */
export class HookError extends Data.TaggedError("HookError")<{
  readonly hook: Name
  readonly message: string
  readonly failure: FailureClass
  readonly cause: unknown
}> {}

type Run = Effect.Effect<unknown, unknown, unknown>

/** Functions for the moments, each answering an effect whose result is dropped; every one may be left out. */
export interface Options {
  /** Before a publisher or a client sends. If it fails, nothing is sent. */
  readonly preSend?: ((message: Envelope) => Run) | undefined
  /** When a send has ended, well or not. */
  readonly postSend?: ((message: Envelope, exit: Exit.Exit<unknown, unknown>) => Run) | undefined
  /** Before a consumer or a server goes on to what is inside. If it fails, what is inside does not run. */
  readonly preExecute?: ((message: Envelope) => Run) | undefined
  /** When what is inside has ended, well or not. */
  readonly postExecute?: ((message: Envelope, exit: Exit.Exit<unknown, unknown>) => Run) | undefined
  /** When what is inside succeeded and all that must last is stored, just before the message is settled. */
  readonly postSave?: ((message: Envelope) => Run) | undefined
  /** When it failed or a middleware inside answered a dead letter, before `postSend` or `postExecute`. */
  readonly onError?: ((message: Envelope, error: unknown) => Run) | undefined
  /** What becomes of a hook that fails: its message settles as a `HookError`, or it is only logged. Default: `settle`. */
  readonly onFailure?: "settle" | "log" | undefined
}

type ServicesOf<F> = F extends (...args: never) => Effect.Effect<unknown, unknown, infer R> ? R : never

/** What the hooks of `O` do to a handler's types. */
export type Config<O extends Options> = FullConfig<{
  requires: { readonly [K in Name]: ServicesOf<O[K]> }[Name]
  fails: O extends { readonly onFailure: "log" } ? never : HookError
}>

/**
 * Runs hooks around what is inside. What the hooks need enters R; `HookError` enters E, unless hooks are only logged.
 *
 * A hook that fails or throws settles its message, it never leaves it waiting: where what is inside had succeeded, the
 * message fails with a `HookError`; where that had failed, its own error stays and the hook's is logged. After an
 * interruption no hook runs: the message is delivered again, and its hooks run then.
 *
 * `postSave` runs after the hooks of what stands inside this middleware (audit rows, stored answers), also where one of
 * those failed, since each is told only how the chain ended. Put this middleware outside of the stores.
 *
 * **Example** (telling a dashboard)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Hooks, type Message } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<Uint8Array>) => Effect.succeed(message.payload.length),
 *   Hooks.middleware({
 *     preExecute: (message) => Effect.logDebug(`${message.channel} begins`),
 *     onError: (message, error) => Effect.logWarning(`${message.channel} failed`, error),
 *     onFailure: "log"
 *   })
 * )
 * ```
 *
 * @category constructors
 */
export const middleware = <const O extends Options>(options: O): Around<Envelope, Config<O>> => {
  const { onError, onFailure = "settle", postExecute, postSave, postSend, preExecute, preSend }: Options = options
  OptionCheck.make("Hooks").oneOf("onFailure", onFailure, ["settle", "log"])
  const names = [preSend, postSend, preExecute, postExecute, postSave, onError].filter((hook) => hook !== undefined)

  const described = Middleware.make()(
    { name: "Hooks", stage: "consume", inBatch: "each", shows: { hooks: names.length, onFailure } },
    (next) => (message) => {
      const sends = message.kind === "producer" || message.kind === "client"
      const pre = sends ? preSend : preExecute
      const post = sends ? postSend : postExecute
      const preName = sends ? "preSend" : "preExecute"
      const postName = sends ? "postSend" : "postExecute"
      if (!sends && postSave !== undefined) {
        const context = Fiber.getCurrent()?.context
        message.after((exit, outcome) =>
          Ending.of(exit).status !== "done" || (outcome !== undefined && outcome._tag !== "Ack")
            ? undefined
            : run("postSave", () => postSave(message), onFailure, context)
        )
      }
      const after = (
        exit: Exit.Exit<Middleware.Result, Middleware.Failure>
      ): Middleware.Returns<HookError, unknown> => {
        const { error, status } = Ending.of(exit)
        if (status === "interrupted") return exit
        const mode = status === "failed" ? "log" : onFailure
        const failed = status !== "failed" || onError === undefined
          ? Exit.void
          : run("onError", () => onError(message, error), mode)
        const ended = Effect.flatMapEager(
          failed,
          () => post === undefined ? Exit.void : run(postName, () => post(message, exit), mode)
        )
        return Effect.flatMapEager(ended, () => exit)
      }
      const inside = (): Middleware.Returns<HookError, unknown> =>
        Effect.matchCauseEffectEager(next(message), {
          onSuccess: (value) => after(Exit.succeed(value)),
          onFailure: (cause) => after(Exit.failCause(cause))
        })
      return pre === undefined ? inside() : Effect.flatMapEager(run(preName, () => pre(message), onFailure), inside)
    }
  )
  // the needs of the hooks are in O, and a hook's failure is a HookError unless it is logged
  return described as unknown as Around<Envelope, Config<O>>
}

const run = (
  hook: Name,
  call: () => Run,
  onFailure: "settle" | "log",
  context?: Context.Context<never>
): Effect.Effect<unknown, HookError> => {
  let effect: Run
  try {
    effect = Eager.effectOf(call(), `The hook ${hook}`)
  } catch (defect) {
    effect = Exit.die(defect)
  }
  const guarded = Effect.matchCauseEffectEager(effect, {
    onSuccess: () => Exit.void,
    onFailure: (cause): Effect.Effect<void, HookError> => {
      if (onFailure === "log") {
        return Lost.quietly("A logger", Effect.logWarning(`The hook ${hook} failed; its message goes on`, cause))
      }
      const error = Cause.squash(cause)
      return Exit.fail(
        new HookError({
          hook,
          message: `The hook ${hook} failed: ${tagOf(error)}`,
          failure: classOf(error) ?? "permanent",
          cause: error
        })
      )
    }
  })
  // the chain's R has the needs of every hook; one that runs after the chain brings its context along
  const needless = guarded as Effect.Effect<void, HookError>
  return context === undefined ? needless : Effect.provideContext(needless, context)
}
