/**
 * Activities: the steps of a workflow with effects. An activity is a handler of messages, so every middleware of consumers
 * stands around it: retries, audit, traces, rate limits.
 */
import { type Failure, type Handler, type Message, OptionCheck } from "@millrace/core"
import { Data, Duration, Effect, Exit, Schema } from "effect"
import { Current as Execution } from "./Execution.ts"
import * as Json from "./internal/json.ts"
import { attemptOf } from "./internal/runActivity.ts"

/**
 * An activity failed for good, or for the last time: its error is not one of its schema. A defect of the workflow, which fails
 * with it.
 */
export class ActivityFailed extends Data.TaggedError("ActivityFailed")<{
  readonly activity: string
  readonly message: string
  readonly cause: unknown
}> {}

/** An activity: call it in a workflow by `execute`, or give it to a worker. */
export interface Activity<in P, out A, out E, out R> {
  readonly name: string
  /** Runs the activity as a step of the workflow; a replay gets the recorded result. */
  readonly execute: (payload: P) => Effect.Effect<A, E, R | Execution>
  /** Runs one attempt, for the worker of an engine with retries of its own. */
  readonly attempt: (call: Call) => Effect.Effect<Attempt, never, R>
}

/** A call of an activity by an engine. */
export interface Call {
  readonly workflow: string
  readonly execution: string
  /** Identifies the step in its execution. */
  readonly step: string
  readonly headers: { readonly [name: string]: string }
  /** JSON. */
  readonly payload: string
  /** From 1. */
  readonly attempt: number
}

/**
 * The end of an attempt, its values as JSON.
 *
 * - `Done`: with the result
 * - `Failed`: with an error of the activity's schema, which the workflow gets
 * - `Retry`: a failure that may pass
 * - `Dead`: a failure that lasts
 */
export type Attempt =
  | { readonly _tag: "Done"; readonly value: string }
  | { readonly _tag: "Failed"; readonly error: string; readonly type: string; readonly message: string }
  | { readonly _tag: "Retry"; readonly cause: unknown; readonly after: Duration.Duration | undefined }
  | { readonly _tag: "Dead"; readonly cause: unknown }

/** Options of `make`. */
export interface Options<P, A, E> {
  /** The schema of the payload, which is stored as JSON. */
  readonly payload: Schema.ConstraintCodec<P, unknown>
  /** The schema of the result. Default: no result. */
  readonly success?: Schema.ConstraintCodec<A, unknown> | undefined
  /** The schema of the errors that the workflow gets. Default: none. */
  readonly error?: Schema.ConstraintCodec<E, unknown> | undefined
  /**
   * The most attempts of a step on the engines of Effect; an integer from 1. Temporal counts by the retry policy of the
   * workflow's code. Default: 100.
   */
  readonly attempts?: number | undefined
}

/** The defaults of `make`. */
export const defaults = { attempts: 100 } as const

const backoff = { first: 100, last: 30_000 }

/**
 * Makes an activity of a handler.
 *
 * The message of the handler has the activity's name as its channel, the workflow's name as its group, and the headers of the
 * execution: `Correlate`, `Trace` and `Audit` read them as of any message. Its `message-id` is the id of the step, so an
 * `Idempotency` around the handler has one key for all attempts. Hooks of middlewares run before the step is recorded.
 *
 * Errors of the schema are recorded and given to the workflow. Any other error carries a class: a lasting one (`permanent`,
 * `validation`, `poison`, `auth`, `defect`) fails the workflow with `ActivityFailed`; after any other the handler runs again, after
 * the error's `retryAfter` or 100 ms, doubling up to 30 seconds.
 *
 * **Example** (an activity with a time limit for each of three tries)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { type Message, Retry, Timeout } from "@millrace/core"
 * import { Activity } from "@millrace/workflow"
 *
 * const Charge = Schema.Struct({ card: Schema.String, amount: Schema.Number })
 *
 * const charge = Activity.make(
 *   "charge",
 *   { payload: Charge, success: Schema.String },
 *   pipe(
 *     (message: Message<typeof Charge.Type>) => Effect.succeed(`receipt for ${message.payload.amount}`),
 *     Timeout.middleware({ after: "5 seconds" }),
 *     Retry.middleware()
 *   )
 * )
 * console.log(charge.name) // => charge
 * ```
 *
 * @throws RangeError when the name is empty or an option is out of range
 * @category constructors
 */
export const make = <P, R, A = void, E = never>(
  name: string,
  options: Options<P, A, E>,
  handler: Handler<Message<P>, NoInfer<A>, NoInfer<E> | Failure.Classified, R>
): Activity<P, A, E, R> => {
  if (name === "" || name.length > 100) {
    throw new RangeError(`Activity: name must be 1 to 100 characters, got ${JSON.stringify(name.slice(0, 101))}`)
  }
  const most = OptionCheck.make("Activity").count("attempts", options.attempts ?? defaults.attempts)
  const payloads = Json.codecOf(options.payload)
  // the defaults of A and E are the types of these schemas
  const values = Json.codecOf(options.success ?? (Schema.Void as unknown as Schema.ConstraintCodec<A, unknown>))
  const errors = Json.codecOf(options.error ?? (Schema.Never as unknown as Schema.ConstraintCodec<E, unknown>))
  const attempt = attemptOf({ name, handler, payloads, values, errors })

  const failed = (cause: unknown) =>
    Effect.die(
      new ActivityFailed({
        activity: name,
        message: `The activity ${name} failed: ${cause instanceof Error ? cause.message : String(cause)}`,
        cause
      })
    )

  const settled = (call: Call, pause: number): Effect.Effect<string, string, R> =>
    Effect.flatMap(attempt(call), (end): Effect.Effect<string, string, R> => {
      switch (end._tag) {
        case "Done":
          return Exit.succeed(end.value)
        case "Failed":
          return Exit.fail(end.error)
        case "Dead":
          return failed(end.cause)
        case "Retry":
          return call.attempt >= most ? failed(end.cause) : Effect.flatMap(
            Effect.sleep(end.after ?? Duration.millis(pause)),
            () => settled({ ...call, attempt: call.attempt + 1 }, Math.min(pause * 2, backoff.last))
          )
      }
    })

  const unreadable = (what: string) => (issue: string) =>
    new TypeError(`Activity: the ${what} of ${name} is not one of its schema: ${issue}`)

  return {
    name,
    attempt,
    execute: (payload) =>
      Effect.flatMap(Execution, (execution) =>
        Effect.flatMap(
          Effect.orDie(Effect.mapError(payloads.encode(payload), unreadable("payload"))),
          (text) =>
            Effect.matchEffect(
              execution.step(name, (step) =>
                settled({
                  workflow: execution.workflow,
                  execution: execution.id,
                  step,
                  headers: execution.headers,
                  payload: text,
                  attempt: 1
                }, backoff.first)),
              {
                onSuccess: (value) => Effect.orDie(Effect.mapError(values.decode(value), unreadable("result"))),
                onFailure: (error) =>
                  Effect.flatMap(
                    Effect.orDie(Effect.mapError(errors.decode(error), unreadable("error"))),
                    (error) => Effect.fail(error)
                  )
              }
            )
        ))
  }
}
