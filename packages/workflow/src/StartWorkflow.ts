/**
 * Starts a workflow for a message: one execution for each key, whatever is redelivered.
 *
 * The handler writes a claim record with the payload's fingerprint before it starts the execution, and starts it under an id
 * that only the workflow and the key decide. So a message whose process dies between the two finds its record, and the engine
 * finds its execution.
 */
import {
  Description,
  Eager,
  type Envelope,
  type Handler,
  Idempotency,
  Identity,
  OptionCheck,
  Outcome
} from "@millrace/core"
import { compositeKey } from "@millrace/core/compositeKey"
import { Data, Duration, Effect, Exit } from "effect"
import { type ClosedOf, closedOf } from "./internal/closed.ts"
import { headersOf } from "./internal/context.ts"
import { executionId, longestId, nameOf } from "./internal/executionId.ts"
import * as Json from "./internal/json.ts"
import { fingerprintOf, readRecord, type StartRecord, writeRecord } from "./internal/record.ts"
import {
  type CallError,
  type Closed,
  Service,
  type Status,
  type Target,
  WorkflowMissing,
  WorkflowRefused
} from "./WorkflowStarter.ts"
import type { WorkflowType } from "./WorkflowType.ts"

export type { ClosedOf } from "./internal/closed.ts"

/** An execution, as an answer names it. */
export interface Execution {
  /** `WORKFLOW/KEY`, and `WORKFLOW/KEY#2` for the second execution of a key. */
  readonly execution: string
  /** From 1; a restart adds 1. */
  readonly generation: number
}

/** The message has started the execution; its redelivery gets the same answer while the execution runs. */
export interface Started<out Result = undefined> extends Execution {
  readonly _tag: "Started"
  /** The end of the execution, with `await: "result"`. */
  readonly result: Result
}

/** Another message had started the execution, which is running. */
export interface Joined<out Result = undefined> extends Execution {
  readonly _tag: "Joined"
  /** The end of the execution, with `await: "result"`. */
  readonly result: Result
}

/** The execution of the key had ended. */
export interface AlreadyDone<out A, out E> extends Execution {
  readonly _tag: "AlreadyDone"
  readonly result: ClosedOf<A, E>
}

/** The key was used with another payload: nothing was started. */
export interface Mismatch extends Execution {
  readonly _tag: "Mismatch"
}

/** What a handler does while another message's execution of the key runs. */
export type OnRunning = "join" | "terminate" | "fail"
/** What a handler does when the execution of the key has ended. */
export type OnDone = "answer" | "restart" | "restartIfFailed"
/** What becomes of a message whose key was used with another payload. */
export type OnMismatch = "deadLetter" | "join" | "reject"
/** What a handler waits for. */
export type Await = "accepted" | "result"

type ResultOf<A, E, W> = W extends "result" ? ClosedOf<A, E> : undefined

/** The answers of a handler, by its options. */
export type Answer<A, E, X extends OnMismatch = "deadLetter", W extends Await = "accepted"> =
  | Started<ResultOf<A, E, W>>
  | Joined<ResultOf<A, E, W>>
  | AlreadyDone<A, E>
  | (X extends "join" ? Mismatch : X extends "reject" ? Outcome.Reject : never)

/** The errors of a handler, by its options. */
export type StartError<X extends OnMismatch = "deadLetter", O extends OnRunning = "join"> =
  | CallError
  | WorkflowMissing
  | WorkflowBusy
  | Idempotency.IdempotencyUnavailable
  | (X extends "deadLetter" ? WorkflowMismatch : never)
  | (O extends "fail" ? WorkflowRunning : never)

/** The key of a message was used with another payload. Class `validation`, so the message is dead-lettered. */
export class WorkflowMismatch extends Data.TaggedError("WorkflowMismatch")<Target> {
  readonly failure = "validation" as const
  override get message(): string {
    return `The execution ${this.execution} was started with another payload: give this message another key`
  }
}

/** An execution of the key runs, and `onRunning` is `fail`. Class `conflict`, so the message is redelivered. */
export class WorkflowRunning extends Data.TaggedError("WorkflowRunning")<Target> {
  readonly failure = "conflict" as const
  override get message(): string {
    return `The execution ${this.execution} is running`
  }
}

/** Another consumer is starting the execution. Class `conflict`, so the message is redelivered. */
export class WorkflowBusy extends Data.TaggedError("WorkflowBusy")<
  Target & { readonly retryAfter: Duration.Duration }
> {
  readonly failure = "conflict" as const
  override get message(): string {
    return `Another consumer is starting the execution ${this.execution}`
  }
}

/** Options of `handler`. */
export interface Options<
  in M extends Envelope,
  in out P,
  in out A,
  in out E,
  X extends OnMismatch = "deadLetter",
  O extends OnRunning = "join",
  W extends Await = "accepted"
> {
  readonly workflow: WorkflowType<P, A, E>
  /** The payload of the workflow. */
  readonly payload: (message: M) => P
  /**
   * The business key: of equal keys one execution runs. Its id may have 1,000 bytes. Default: the id of the message
   * (`Identity.of`); a message without any is refused.
   */
  readonly key?: ((message: M) => string | undefined) | undefined
  /** Headers beside correlation, causation, principal and trace context that the activities get. Default: none. */
  readonly headers?: ((message: M) => { readonly [name: string]: string }) | undefined
  /**
   * While another message's execution of the key runs: `join` answers `Joined`, `terminate` ends it and starts the next
   * generation, `fail` returns the message to its source. Default: `join`.
   */
  readonly onRunning?: O | undefined
  /**
   * When the execution of the key has ended: `answer` answers `AlreadyDone` with the result, `restart` starts the next
   * generation, `restartIfFailed` does so unless it has completed. A message never restarts the execution that it has started
   * itself. Default: `answer`.
   */
  readonly onDone?: OnDone | undefined
  /**
   * When the key was used with another payload: `deadLetter` fails with `WorkflowMismatch`, `join` answers `Mismatch`, `reject`
   * rejects the message. Default: `deadLetter`.
   */
  readonly onMismatch?: X | undefined
  /** `accepted`: answers when the start is durable; `result`: answers when the execution has ended. Default: `accepted`. */
  readonly await?: W | undefined
  /** How long a record of a key is kept: as long as the engine keeps its executions; from 1 ms. Default: 7 days. */
  readonly keep?: Duration.Input | undefined
  /** How long the record of a process that dies while it writes the record blocks others; from 100 ms. Default: 10 seconds. */
  readonly lease?: Duration.Input | undefined
  /** The most bytes of a payload as JSON; an integer from 1. Default: 2,097,152 (2 MiB, the limit of Temporal). */
  readonly maximumPayload?: number | undefined
}

/** The defaults of `handler`. */
export const defaults: {
  readonly onRunning: "join"
  readonly onDone: "answer"
  readonly onMismatch: "deadLetter"
  readonly await: "accepted"
  readonly keep: Duration.Duration
  readonly lease: Duration.Duration
  readonly maximumPayload: number
} = {
  onRunning: "join",
  onDone: "answer",
  onMismatch: "deadLetter",
  await: "accepted",
  keep: Duration.days(7),
  lease: Duration.seconds(10),
  maximumPayload: 2_097_152
}

const check = OptionCheck.make("StartWorkflow")

/** The first and the longest pause between two looks at a record that another consumer writes, in milliseconds. */
const looks = { first: 5, last: 250 }

type Failed = StartError<OnMismatch, OnRunning>
type Needs = Service | Idempotency.Store
type Result<A, E> = Effect.Effect<Answer<A, E, OnMismatch, Await>, Failed, Needs>

/** One message on its way through the generations of its key. */
interface Attempt {
  readonly message: Envelope
  readonly key: string
  readonly payload: string
  readonly fingerprint: string
  readonly by: string
  readonly starter: Service["Service"]
  readonly store: Idempotency.Store["Service"]
}

/**
 * Makes a handler that starts one execution for each key.
 *
 * Types: answers `Started`, `Joined` or `AlreadyDone`, with `onMismatch: "join"` also `Mismatch`; needs the engine
 * (`WorkflowStarter.Service`) and a store of keys (`Idempotency.Store`), in which the records are kept.
 *
 * The message is acknowledged when record and start are durable. Of equal keys exactly one message is answered `Started`, for as
 * long as the store keeps the record; without it the engine still runs one execution for each id.
 *
 * Errors: `WorkflowUnavailable` (class `dependency` or `throttled`), `WorkflowBusy`, `WorkflowRunning` (class `conflict`) and
 * `IdempotencyUnavailable` (class `dependency`) return the message to its source; `WorkflowRefused` (class `permanent`: an
 * invalid key, payload or workflow) and `WorkflowMismatch` (class `validation`) dead-letter it.
 *
 * **Example** (an order starts its workflow; the duplicate joins it)
 *
 * ```ts
 * import { Deliveries } from "@millrace/testing"
 * import { Idempotency, type Message } from "@millrace/core"
 * import { EffectWorkflows, StartWorkflow, WorkflowType } from "@millrace/workflow"
 * import { Effect, Layer, Schema } from "effect"
 *
 * const Fulfil = WorkflowType.make("FulfilOrder", { payload: Schema.Struct({ order: Schema.String }) })
 * const start = StartWorkflow.handler({
 *   workflow: Fulfil,
 *   key: (message: Message<Uint8Array>) => message.key,
 *   payload: (message: Message<Uint8Array>) => ({ order: message.key ?? "" })
 * })
 *
 * const live = Layer.merge(
 *   EffectWorkflows.layerMemory(EffectWorkflows.implement(Fulfil, () => Effect.never)),
 *   Idempotency.layerMemory()
 * )
 * const program = Effect.gen(function*() {
 *   const first = yield* start(Deliveries.make({ key: "7", position: 1 }))
 *   const second = yield* start(Deliveries.make({ key: "7", position: 2 }))
 *   console.log(first._tag, first.execution, second._tag) // => Started FulfilOrder/7 Joined
 * })
 * await Effect.runPromise(Effect.scoped(Effect.provide(program, live)))
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const handler = <
  M extends Envelope,
  P,
  A,
  E,
  const X extends OnMismatch = "deadLetter",
  const O extends OnRunning = "join",
  const W extends Await = "accepted"
>(
  options: Options<M, P, A, E, X, O, W>
): Handler<M, Answer<A, E, X, W>, StartError<X, O>, Needs> & Description.Described => {
  const { workflow } = options
  const onRunning: OnRunning = check.oneOf("onRunning", options.onRunning ?? defaults.onRunning, [
    "join",
    "terminate",
    "fail"
  ])
  const onDone = check.oneOf("onDone", options.onDone ?? defaults.onDone, ["answer", "restart", "restartIfFailed"])
  const onMismatch: OnMismatch = check.oneOf("onMismatch", options.onMismatch ?? defaults.onMismatch, [
    "deadLetter",
    "join",
    "reject"
  ])
  const waits: Await = check.oneOf("await", options.await ?? defaults.await, ["accepted", "result"])
  const keep = check.millis("keep", options.keep ?? defaults.keep)
  const lease = check.millis("lease", options.lease ?? defaults.lease, { least: 100 })
  const maximumPayload = check.count("maximumPayload", options.maximumPayload ?? defaults.maximumPayload)
  const payloads = Json.codecOf(workflow.payload)
  const ends = closedOf(workflow)
  const key: (message: M) => string | undefined = options.key ?? Identity.of

  const targetOf = ({ key }: Attempt, generation: number): Target => ({
    workflow: workflow.name,
    execution: executionId(workflow.name, key, generation)
  })

  /** Answers for an execution that runs. */
  const runs = (attempt: Attempt, generation: number, isMine: boolean): Result<A, E> => {
    const target = targetOf(attempt, generation)
    const answer = <R>(result: R): Started<R> | Joined<R> => ({
      _tag: isMine ? "Started" : "Joined",
      execution: target.execution,
      generation,
      result
    })
    return waits === "accepted"
      ? Exit.succeed(answer(undefined))
      : Effect.flatMap(attempt.starter.result(target), (closed) => Effect.map(ends(closed), answer))
  }

  const mismatch = (attempt: Attempt, generation: number): Result<A, E> => {
    const target = targetOf(attempt, generation)
    const error = new WorkflowMismatch(target)
    switch (onMismatch) {
      case "deadLetter":
        return Exit.fail(error)
      case "reject":
        return Exit.succeed(Outcome.Reject(error))
      case "join":
        return Exit.succeed({ _tag: "Mismatch", execution: target.execution, generation })
    }
  }

  /** Answers for an execution that was started before: `isOwn` if by this very message. */
  const existing = (
    attempt: Attempt,
    generation: number,
    status: Status,
    isSame: boolean,
    isOwn: boolean,
    isMine: boolean
  ): Result<A, E> => {
    const target = targetOf(attempt, generation)
    switch (status._tag) {
      case "Missing":
        return Exit.fail(new WorkflowMissing(target))
      case "Running": {
        if (!isSame) return mismatch(attempt, generation)
        if (isOwn || onRunning === "join") return runs(attempt, generation, isMine)
        if (onRunning === "fail") return Exit.fail(new WorkflowRunning(target))
        return Effect.flatMap(
          // it may have ended meanwhile, which is as good
          Effect.catchTag(attempt.starter.terminate(target), "WorkflowMissing", () => Effect.void),
          () => claim(attempt, generation + 1, looks.first)
        )
      }
      default:
        return ended(attempt, generation, status, isSame, isOwn)
    }
  }

  const ended = (
    attempt: Attempt,
    generation: number,
    closed: Closed,
    isSame: boolean,
    isOwn: boolean
  ): Result<A, E> => {
    const restarts = onDone === "restart" || (onDone === "restartIfFailed" && closed._tag !== "Completed")
    if (restarts && !isOwn) return claim(attempt, generation + 1, looks.first)
    if (!isSame) return mismatch(attempt, generation)
    return Effect.mapEager(ends(closed), (result): AlreadyDone<A, E> => ({
      _tag: "AlreadyDone",
      execution: targetOf(attempt, generation).execution,
      generation,
      result
    }))
  }

  /** Starts the execution of a record: `isFresh` if this message has just written it. */
  const start = (attempt: Attempt, generation: number, record: StartRecord, isFresh: boolean): Result<A, E> => {
    const isOwn = record.by === attempt.by && attempt.by !== ""
    const isMine = isFresh || isOwn
    const target = targetOf(attempt, generation)
    if (record.fingerprint !== attempt.fingerprint) {
      return onDone === "answer" ? mismatch(attempt, generation) : Effect.flatMap(
        attempt.starter.status(target),
        (status) =>
          // the message of the record is about to start it
          status._tag === "Missing"
            ? mismatch(attempt, generation)
            : existing(attempt, generation, status, false, isOwn, isMine)
      )
    }
    return Effect.flatMapEager(
      attempt.starter.start({
        ...target,
        payload: attempt.payload,
        fingerprint: attempt.fingerprint,
        startedBy: record.by,
        headers: headersOf(attempt.message, options.headers?.(attempt.message as M))
      }),
      (accepted): Result<A, E> => {
        if (accepted._tag === "Created") return runs(attempt, generation, isMine)
        // an engine that knows more than the record: the store had lost its records
        const isStranger = accepted.startedBy !== undefined && accepted.startedBy !== record.by
        const isSame = accepted.fingerprint === undefined || accepted.fingerprint === attempt.fingerprint
        const isByMe = accepted.startedBy === undefined
          ? isOwn && !isFresh
          : attempt.by !== "" && accepted.startedBy === attempt.by
        return existing(attempt, generation, accepted.status, isSame, isByMe, isMine && !isStranger)
      }
    )
  }

  const claim = (attempt: Attempt, generation: number, pause: number): Result<A, E> => {
    const { store } = attempt
    const id = compositeKey("workflow", workflow.name, attempt.key, String(generation))
    return Effect.flatMapEager(store.claim({ key: id, fingerprint: "", lease }), (found): Result<A, E> => {
      switch (found._tag) {
        case "Claimed": {
          const record = { fingerprint: attempt.fingerprint, by: attempt.by }
          return Effect.flatMapEager(
            store.complete(id, found.token, writeRecord(record), keep),
            // the lease ended while the store wrote: look again
            (isKept) => isKept ? start(attempt, generation, record, true) : claim(attempt, generation, pause)
          )
        }
        case "Completed":
          return start(attempt, generation, readRecord(found.result), false)
        // not possible, since no claim has a fingerprint
        case "Reused":
          return mismatch(attempt, generation)
        case "Running":
          return pause > looks.last
            ? Exit.fail(
              new WorkflowBusy({ ...targetOf(attempt, generation), retryAfter: Duration.millis(Math.ceil(found.left)) })
            )
            : Effect.flatMap(
              Effect.sleep(Math.max(1, Math.min(pause, found.left))),
              () => claim(attempt, generation, pause * 2)
            )
      }
    })
  }

  const refuse = (reason: WorkflowRefused["reason"], message: string) =>
    Exit.fail(new WorkflowRefused({ reason, message }))

  const run = (message: M): Result<A, E> => {
    const own = key(message)
    if (own === undefined || own === "") {
      return refuse("key", `The workflow ${workflow.name} needs a key, and the message on ${message.channel} has none`)
    }
    // room for the number of a generation
    const bytes = Buffer.byteLength(executionId(workflow.name, own, 1_000_000))
    if (bytes > longestId) {
      return refuse(
        "key",
        `The execution id of ${workflow.name} would have ${bytes} bytes; the most are ${longestId}: choose a shorter key`
      )
    }
    const encoded = Effect.mapErrorEager(payloads.encode(options.payload(message)), (issue) =>
      new WorkflowRefused({
        reason: "payload",
        message: `The payload is not one of the workflow ${workflow.name}: ${issue}`
      }))
    return Effect.flatMapEager(encoded, (payload): Result<A, E> => {
      const size = Buffer.byteLength(payload)
      if (size > maximumPayload) {
        return refuse(
          "size",
          `The payload of ${workflow.name} has ${size} bytes of JSON; the most are ${maximumPayload}: pass a reference to it`
        )
      }
      return Effect.flatMapEager(
        Eager.service(Idempotency.Store),
        (store) =>
          Effect.flatMapEager(Eager.service(Service), (starter) => {
            const by = nameOf(message) ?? ""
            const attempt = { message, key: own, payload, fingerprint: fingerprintOf(payload), by, starter, store }
            return claim(attempt, 1, looks.first)
          })
      )
    })
  }

  const described = Description.describe(Eager.guard(run), [{
    name: "StartWorkflow",
    stage: "handle",
    shows: { workflow: workflow.name, onRunning, onDone, onMismatch, await: waits }
  }])
  // the options decide which answers and errors are possible
  return described as unknown as Handler<M, Answer<A, E, X, W>, StartError<X, O>, Needs> & Description.Described
}
