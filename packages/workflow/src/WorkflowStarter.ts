/**
 * The interface between messages and an engine of workflows: start, status, signal, cancel and result of an execution. Each
 * engine is a Layer that provides it.
 */
import { Context, Data, type Duration, type Effect } from "effect"

/** An execution: the name of its workflow, and its id. */
export interface Target {
  readonly workflow: string
  readonly execution: string
}

/** A request to start an execution. Equal ids are the same execution: an engine runs it once. */
export interface Start extends Target {
  /** JSON. */
  readonly payload: string
  /** A hash of the payload, kept by engines that can show it. */
  readonly fingerprint: string
  /** Identifies the message that starts the execution, kept by engines that can show it. */
  readonly startedBy: string
  /** Correlation, causation, principal and trace context, by header: the activities get them. */
  readonly headers: { readonly [name: string]: string }
}

/** The end of an execution, its values as JSON. */
export type Closed =
  | { readonly _tag: "Completed"; readonly value: string }
  | {
    readonly _tag: "Failed"
    /** The workflow's own error as JSON; undefined for any other failure. */
    readonly error: string | undefined
    readonly message: string
  }
  | { readonly _tag: "Cancelled" }

/** The state of an execution. */
export type Status = { readonly _tag: "Missing" } | { readonly _tag: "Running" } | Closed

/**
 * The answer of an engine to a start.
 *
 * - `Created`: this call has started the execution
 * - `Exists`: an execution of this id was started before; with the message and the fingerprint, if the engine keeps them
 */
export type Accepted =
  | { readonly _tag: "Created" }
  | {
    readonly _tag: "Exists"
    readonly status: Status
    readonly startedBy?: string | undefined
    readonly fingerprint?: string | undefined
  }

/**
 * The engine is unavailable (class `dependency`), or has refused the call because of its load (class `throttled`): the message
 * is redelivered.
 */
export class WorkflowUnavailable extends Data.TaggedError("WorkflowUnavailable")<{
  readonly failure: "dependency" | "throttled"
  /** The failure and how to fix it. */
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}> {}

/**
 * The request can never succeed: its key, payload or workflow is not valid. Class `permanent`, so the message is
 * dead-lettered.
 */
export class WorkflowRefused extends Data.TaggedError("WorkflowRefused")<{
  readonly reason: "key" | "payload" | "size" | "workflow" | "signal" | "closed"
  readonly message: string
  readonly cause?: unknown
}> {
  readonly failure = "permanent" as const
}

/** The execution of a signal or a cancellation does not exist; class `transient`, since its start may be on its way. */
export class WorkflowMissing extends Data.TaggedError("WorkflowMissing")<Target> {
  readonly failure = "transient" as const
  override get message(): string {
    return `There is no execution ${this.execution} of the workflow ${this.workflow}: start it before it is signalled`
  }
}

/** The errors of every call. */
export type CallError = WorkflowUnavailable | WorkflowRefused

/** An engine of workflows. A call that fails as unavailable may have reached the engine: repeat it. */
class WorkflowStarter extends Context.Service<WorkflowStarter, {
  /** Starts an execution, unless one of its id was started before. Durable when it succeeds. */
  readonly start: (request: Start) => Effect.Effect<Accepted, CallError>
  readonly status: (target: Target) => Effect.Effect<Status, CallError>
  /** Sends a signal with a payload of JSON to a running execution. Durable when it succeeds. */
  readonly signal: (target: Target, name: string, payload: string) => Effect.Effect<void, CallError | WorkflowMissing>
  /** Asks an execution to end; its compensations run. */
  readonly cancel: (target: Target) => Effect.Effect<void, CallError | WorkflowMissing>
  /** Ends an execution without asking it. */
  readonly terminate: (target: Target) => Effect.Effect<void, CallError | WorkflowMissing>
  /** Waits for the end of an execution. */
  readonly result: (target: Target) => Effect.Effect<Closed, CallError | WorkflowMissing>
}>()("@millrace/workflow/WorkflowStarter/Service") {}
export { WorkflowStarter as Service }
