/**
 * Signals a running workflow: a message, or the reply to a request of an activity, resumes it.
 */
import { Description, Eager, type Envelope, type Handler } from "@millrace/core"
import { Effect, Exit, type Schema } from "effect"
import { executionId } from "./internal/executionId.ts"
import * as Json from "./internal/json.ts"
import {
  type CallError,
  Service,
  type Status,
  type Target,
  WorkflowMissing,
  WorkflowRefused
} from "./WorkflowStarter.ts"

/** Options of `handler`. */
export interface Options<in M extends Envelope, in out P> {
  /** The name of the workflow, or its type. */
  readonly workflow: { readonly name: string }
  /** The business key under which the execution was started. */
  readonly key: (message: M) => string | undefined
  /** The name of the signal. */
  readonly signal: string
  /** The schema of the signal's payload. */
  readonly schema: Schema.ConstraintCodec<P, unknown>
  readonly payload: (message: M) => P
}

/** The message has reached the execution. */
export interface Signalled {
  readonly _tag: "Signalled"
  readonly execution: string
}

/**
 * Makes a handler that signals the latest execution of a key.
 *
 * The message is acknowledged when the engine has stored the signal. On the engines of Effect the first signal of a name counts, so
 * a redelivery changes nothing; on Temporal the workflow's code gets each of them.
 *
 * Errors: `WorkflowUnavailable` (class `dependency` or `throttled`) and `WorkflowMissing` (class `transient`: no execution of the
 * key was started) return the message to its source; `WorkflowRefused` (class `permanent`: no key, an invalid payload, or all
 * executions of the key have ended) dead-letters it.
 *
 * **Example** (the carrier's message resumes the order)
 *
 * ```ts
 * import { type Message } from "@millrace/core"
 * import { SignalWorkflow, WorkflowType } from "@millrace/workflow"
 * import { Schema } from "effect"
 *
 * const Fulfil = WorkflowType.make("FulfilOrder", { payload: Schema.String })
 * const collected = SignalWorkflow.handler({
 *   workflow: Fulfil,
 *   signal: "collected",
 *   schema: Schema.String,
 *   key: (message: Message<{ readonly order: string; readonly carrier: string }>) => message.payload.order,
 *   payload: (message: Message<{ readonly order: string; readonly carrier: string }>) => message.payload.carrier
 * })
 * ```
 *
 * @category constructors
 */
export const handler = <M extends Envelope, P>(
  options: Options<M, P>
): Handler<M, Signalled, CallError | WorkflowMissing, Service> & Description.Described => {
  const { name } = options.workflow
  const payloads = Json.codecOf(options.schema)

  type Found = Effect.Effect<Target, CallError | WorkflowMissing>

  /** Finds the last generation of a key that was started. */
  const latest = (starter: Service["Service"], key: string, generation: number, before: Status): Found => {
    const target = { workflow: name, execution: executionId(name, key, generation) }
    return Effect.flatMap(starter.status(target), (status): Found => {
      if (status._tag === "Running") return Exit.succeed(target)
      if (status._tag !== "Missing") return latest(starter, key, generation + 1, status)
      if (before._tag === "Missing") return Exit.fail(new WorkflowMissing(target))
      return Exit.fail(
        new WorkflowRefused({ reason: "closed", message: `Each execution of ${name} for the key has ended` })
      )
    })
  }

  const run = (message: M): Effect.Effect<Signalled, CallError | WorkflowMissing, Service> => {
    const key = options.key(message)
    if (key === undefined || key === "") {
      return Exit.fail(
        new WorkflowRefused({
          reason: "key",
          message: `A signal to ${name} needs a key, and the message on ${message.channel} has none`
        })
      )
    }
    const encoded = Effect.mapErrorEager(payloads.encode(options.payload(message)), (issue) =>
      new WorkflowRefused({
        reason: "signal",
        message: `The payload is not one of the signal ${options.signal}: ${issue}`
      }))
    return Effect.flatMapEager(encoded, (payload) =>
      Effect.flatMapEager(
        Eager.service(Service),
        (starter) =>
          Effect.flatMap(latest(starter, key, 1, { _tag: "Missing" }), (target) =>
            Effect.as(
              starter.signal(target, options.signal, payload),
              { _tag: "Signalled", execution: target.execution } as const
            ))
      ))
  }

  return Description.describe(Eager.guard(run), [{
    name: "SignalWorkflow",
    stage: "handle",
    shows: { workflow: name, signal: options.signal }
  }])
}
