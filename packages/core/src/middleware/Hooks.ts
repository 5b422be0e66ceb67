/**
 * Runs functions at fixed points of a message's processing: before and after sending, before and after execution, after
 * saving, on errors. The hooks are an adapter over the stages; a custom middleware can do all of it, and more.
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

/** The points at which hooks run. */
export type Name = "preSend" | "postSend" | "preExecute" | "postExecute" | "postSave" | "onError"

/** A hook failed or threw; its message settles by `failure`: the class of the hook's error, or `permanent` without one. */
export class HookError extends Data.TaggedError("HookError")<{
  readonly hook: Name
  readonly message: string
  readonly failure: FailureClass
  readonly cause: unknown
}> {}

type Run = Effect.Effect<unknown, unknown, unknown>

/** The hooks, each returning an effect whose result is dropped; all are optional. */
export interface Options {
  /** Before a publisher or a client sends. If it fails, nothing is sent. */
  readonly preSend?: ((message: Envelope) => Run) | undefined
  /** After a send has succeeded or failed. */
  readonly postSend?: ((message: Envelope, exit: Exit.Exit<unknown, unknown>) => Run) | undefined
  /** Before a consumer or a server calls the inner chain. If it fails, the inner chain does not run. */
  readonly preExecute?: ((message: Envelope) => Run) | undefined
  /** After the inner chain has succeeded or failed. */
  readonly postExecute?: ((message: Envelope, exit: Exit.Exit<unknown, unknown>) => Run) | undefined
  /** After the inner chain succeeded and all durable effects are stored, just before the message is settled. */
  readonly postSave?: ((message: Envelope) => Run) | undefined
  /** After the inner chain failed or an inner middleware answered a dead letter, before `postSend` or `postExecute`. */
  readonly onError?: ((message: Envelope, error: unknown) => Run) | undefined
  /** The handling of a failed hook: its message settles as a `HookError`, or the failure is only logged. Default: `settle`. */
  readonly onFailure?: "settle" | "log" | undefined
}

type ServicesOf<F> = F extends (...args: never) => Effect.Effect<unknown, unknown, infer R> ? R : never

/** The effect of the hooks of `O` on a handler's types. */
export type Config<O extends Options> = FullConfig<{
  requires: { readonly [K in Name]: ServicesOf<O[K]> }[Name]
  fails: O extends { readonly onFailure: "log" } ? never : HookError
}>

/**
 * Runs hooks around the inner chain. The hooks' requirements enter R; `HookError` enters E, unless failed hooks are only
 * logged.
 *
 * A hook that fails or throws settles its message and never leaves it waiting: if the inner chain had succeeded, the
 * message fails with a `HookError`; if it had failed, its own error stays and the hook's error is logged. After an
 * interruption or a release no further hook runs: the message is redelivered, and its hooks run then.
 *
 * `postSave` runs after the hooks of inner middlewares (audit rows, stored answers), even if one of those failed, since
 * each receives only the end of the chain. Put this middleware outside of the stores.
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
  // the requirements of the hooks are in O, and a hook's failure is a HookError unless it is logged
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
  // the chain's R has the requirements of every hook; a hook that runs after the chain brings its own context
  const needless = guarded as Effect.Effect<void, HookError>
  return context === undefined ? needless : Effect.provideContext(needless, context)
}
