/**
 * Runs tasks: the innermost handler of a subscription to a queue. Every middleware can stand around it.
 *
 * An attempt begins in the store before its implementation runs, under a lease and a fencing token, and ends there before its
 * message is settled. The engine retries and dead-letters as for any message, and the record follows its verdict.
 */
import { Eager, Failure, type Hook, type Message, OptionCheck, Outcome, Redaction, TaskStore } from "@millrace/core"
import { Cause, Clock, Duration, Effect, Exit, Random } from "effect"
import { NotATask, TaskLost, TaskMissing, UnknownTask } from "./internal/errors.ts"
import { names } from "./internal/names.ts"
import type { Task, TaskValueError } from "./Task.ts"

export { NotATask, TaskLost, UnknownTask } from "./internal/errors.ts"

/** The attempt that an implementation runs in. */
export interface Context<in G> {
  readonly id: string
  /** The number of the attempt, from 1. */
  readonly attempt: number
  /** The message that carries the task. */
  readonly message: Message<Uint8Array>
  /** Stores the progress and extends the lease; fails if another attempt has taken over. */
  readonly progress: (
    value: G
  ) => Effect.Effect<void, TaskStore.TaskStoreUnavailable | TaskValueError | TaskLost>
}

/** The errors that end a task as failed: those of its own that carry no class. */
export type Final<E> = E extends Failure.Classified ? never : E

declare const types: unique symbol

/** An implementation of a task, for `handler`. */
export interface Implementation<out E, out R> {
  readonly [types]?: { readonly E: () => E; readonly R: () => R }
  readonly task: string
}

interface Runnable extends Implementation<unknown, unknown> {
  readonly run: (body: Uint8Array, context: Context<unknown>) => Effect.Effect<Ended, unknown, unknown>
  readonly problemOf: (error: unknown) => Effect.Effect<Refusal | undefined, TaskValueError>
  readonly progress: (value: unknown) => Effect.Effect<string, TaskValueError>
}

/** How an implementation has ended the task by itself. */
type Ended =
  | { readonly _tag: "Succeeded"; readonly result: string }
  | { readonly _tag: "Failed"; readonly error: string; readonly problem: TaskStore.Problem }

interface Refusal {
  readonly error: string
  readonly isFinal: boolean
}

/** A run of an implementation, which registers hooks on the message of its attempt. */
class Call<P, G> {
  readonly payload: P
  readonly context: Context<G>
  constructor(payload: P, context: Context<G>) {
    this.payload = payload
    this.context = context
  }
  after(hook: Hook): void {
    this.context.message.after(hook)
  }
}

const decoder = new TextDecoder("utf-8", { fatal: true })

const redaction = Redaction.make()

const problemOf = (error: unknown): TaskStore.Problem => ({
  tag: Failure.tagOf(error),
  message: redaction.text(Failure.messageOf(error, 2_000))
})

/**
 * Implements a task.
 *
 * The implementation's errors: those of the task's own `error` without a class end the task as failed; errors with a class are
 * settled by the subscription, as any handler's, which retries them or writes a dead letter; any other error needs an entry
 * in `settle` of the subscription.
 *
 * **Example** (a worker with one task, two attempts at a time, and a log line for each attempt)
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Lanes, Log, Stack, Subscription } from "@millrace/core"
 * import { Task, Tasks, Worker } from "@millrace/tasks"
 *
 * const Greet = Task.make("greet", { payload: Schema.String, success: Schema.String })
 *
 * const greet = Worker.on(Greet, (name, { attempt }) => Effect.succeed(`Hello ${name} (${attempt})`))
 *
 * const worker = Subscription.make(
 *   Tasks.channel("tasks"),
 *   { group: "workers", lanes: Lanes.unordered(2) },
 *   Stack.start().use(Log.middleware()).handle(Worker.handler([greet]))
 * )
 * ```
 *
 * @category constructors
 */
export const on = <P, A, E, G, X, R>(
  task: Task<P, A, E, G>,
  run: (payload: P, context: Context<G>) => Effect.Effect<A, X, R>
): Implementation<Exclude<X, Final<E>> | TaskValueError, R> => {
  const ahead = Eager.run(({ context, payload }: Call<P, G>) => run(payload, context))
  const implementation: Runnable = {
    task: task.name,
    run: (body, context) => {
      let text: string
      try {
        text = decoder.decode(body)
      } catch {
        text = ""
      }
      return Effect.flatMapEager(
        task.payload.decode(text),
        (payload) =>
          Effect.flatMapEager(ahead(new Call(payload, context)), (value) =>
            Effect.mapEager(
              task.success.encode(value),
              (result): Ended => ({ _tag: "Succeeded", result })
            ))
      )
    },
    problemOf: (error) =>
      task.error.is(error)
        ? Effect.mapEager(task.error.encode(error), (text): Refusal => ({
          error: text,
          isFinal: Failure.classOf(error) === undefined
        }))
        : Exit.succeed(undefined),
    // the type of the context requires progress of the task
    progress: (value) => task.progress.encode(value as G)
  }
  // E and R exist in types only
  return implementation as Implementation<Exclude<X, Final<E>> | TaskValueError, R>
}

/** Options of `handler`. */
export interface Options {
  /** The name of the worker in the list of attempts. Default: `worker`. */
  readonly name?: string | undefined
  /**
   * How long an attempt holds without a heartbeat; from 100 ms. A heartbeat is sent every third of it. A task whose worker has
   * died runs again when its broker redelivers the message and the lease has ended. Default: 30 seconds.
   */
  readonly lease?: Duration.Input | undefined
  /**
   * The most attempts that may begin, those of killed workers included; an integer from 1. The subscription's `hold.attempts`
   * bounds the failed ones. Default: 10.
   */
  readonly attempts?: number | undefined
}

/** The defaults of `handler`. */
export const defaults: { readonly name: string; readonly lease: Duration.Duration; readonly attempts: number } = {
  name: "worker",
  lease: Duration.seconds(30),
  attempts: 10
}

type ErrorsOf<I> = I extends Implementation<infer E, unknown> ? E : never
type ServicesOf<I> = I extends Implementation<unknown, infer R> ? R : never

/** The errors of `handler`, beside those of the implementations. */
export type WorkerError = NotATask | UnknownTask | TaskMissing | TaskLost | TaskStore.TaskStoreUnavailable

/** An attempt that has begun. */
interface Attempt {
  readonly held: TaskStore.Held
  /** How the last run of the implementation ended. */
  ended: Ended | { readonly _tag: "Cancelled" } | undefined
  /** The typed error of the last run, and its text. */
  error: { readonly error: string | undefined; readonly problem: TaskStore.Problem } | undefined
}

/** The end of an attempt in the store, by the outcome that the engine applies. */
const endingOf = (
  { ended, error }: Attempt,
  exit: Exit.Exit<unknown, unknown>,
  outcome: Outcome.Outcome | undefined
): TaskStore.Ending => {
  const problem = () =>
    error?.problem ??
      (exit._tag === "Failure"
        ? problemOf(Cause.squash(exit.cause))
        : { tag: "Unanswered", message: "A middleware settled the message in the place of the task's worker." })
  switch (outcome?._tag) {
    case undefined:
    case "Release":
      return ended?._tag === "Cancelled" ? ended : { _tag: "Released" }
    case "Retry":
      return { _tag: "Retry", problem: problem() }
    case "Ack":
      return ended ?? { _tag: "Failed", problem: problem(), error: error?.error }
    default:
      return { _tag: "Failed", problem: problem(), error: error?.error }
  }
}

let workers = 0

const half = Effect.map(Random.nextIntBetween(0, 36 ** 8 - 1), (number) => number.toString(36).padStart(8, "0"))

/** A text that no other process draws. */
const drawn = Effect.zipWith(half, half, (one, two) => one + two)

/** The events of a task since the start of its run, so that a cancellation before the first wait is seen too. */
class Events {
  private isTold = false
  private wake: (() => void) | undefined
  readonly leave: () => void

  constructor(store: TaskStore.Store["Service"], id: string) {
    this.leave = store.watch(id, () => {
      this.isTold = true
      this.wake?.()
    })
  }

  /** Waits for the next event, at most so many milliseconds. */
  next(millis: number): Effect.Effect<void> {
    const told = Effect.callback<void>((resume) => {
      if (this.isTold) resume(Effect.void)
      else this.wake = () => resume(Effect.void)
    })
    return Effect.map(Effect.raceFirst(told, Effect.sleep(millis)), () => {
      this.isTold = false
      this.wake = undefined
    })
  }
}

const check = OptionCheck.make("Worker.handler")

/**
 * Makes the handler of a queue of tasks, for `Subscription.make` with `Tasks.channel`.
 *
 * Needs `TaskStore.Store` and the services of the implementations. One message is one attempt; a `Retry` or `Hedge` between the
 * subscription and this handler stays inside that attempt. Messages of tasks that have ended, that were cancelled or have
 * expired are acknowledged without a run; a message whose task runs elsewhere waits for that lease. A task without an
 * implementation here is a dead letter (`UnknownTask`), and so is a message that is no task (`NotATask`) or whose record is
 * gone (`TaskMissing`).
 *
 * While the store is unavailable, messages are retried (class `dependency`).
 *
 * @throws RangeError when an option is out of range, or two implementations have the same task
 * @category constructors
 */
export const handler = <const L extends ReadonlyArray<Implementation<unknown, unknown>>>(
  implementations: L,
  options: Options = {}
): (
  message: Message<Uint8Array>
) => Effect.Effect<
  Outcome.Outcome,
  ErrorsOf<L[number]> | WorkerError,
  ServicesOf<L[number]> | TaskStore.Store
> => {
  const lease = check.millis("lease", options.lease ?? defaults.lease, { least: 100, most: OptionCheck.longestTimer })
  const attempts = check.count("attempts", options.attempts ?? defaults.attempts)
  const worker = options.name ?? defaults.name
  const known = new Map<string, Runnable>()
  for (const each of implementations) {
    if (known.has(each.task)) throw new RangeError(`Worker.handler: the task ${each.task} is implemented twice`)
    // `on` makes all implementations
    known.set(each.task, each as Runnable)
  }
  // the runs of one delivery share its attempt
  const open = new WeakMap<object, Attempt>()
  let owner: string | undefined
  let begun = 0

  const ownerOf = (): Effect.Effect<string> => {
    if (owner !== undefined) return Exit.succeed(`${owner}-${begun++}`)
    return Effect.flatMapEager(drawn, (text) => {
      owner ??= `${text}-${workers++}`
      return Exit.succeed(`${owner}-${begun++}`)
    })
  }

  /** Extends the lease until the attempt is to end: because it was cancelled, or lost. */
  const keep = (
    store: TaskStore.Store["Service"],
    held: TaskStore.Held,
    events: Events,
    clock: Clock.Clock
  ): Effect.Effect<"cancelled", TaskLost> => {
    const { id, task } = held
    const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
    const lost = Effect.fail(new TaskLost({ id, task }))
    const beat = (since: number): Effect.Effect<"cancelled", TaskLost> =>
      Effect.flatMap(events.next(lease / 3), () => {
        const at = now()
        return Effect.flatMap(
          Effect.exit(Effect.timeoutOption(store.extend(held, lease), lease / 2)),
          (exit): Effect.Effect<"cancelled", TaskLost> => {
            const answer = exit._tag === "Success" && exit.value._tag === "Some" ? exit.value.value : undefined
            if (answer === "held") return beat(at)
            if (answer === "cancelling") return Effect.succeed("cancelled")
            return answer === "lost" || now() - since > lease * 5 / 6 ? lost : beat(since)
          }
        )
      })
    return beat(now())
  }

  const run = (
    store: TaskStore.Store["Service"],
    message: Message<Uint8Array>,
    attempt: Attempt
  ): Effect.Effect<Outcome.Outcome, unknown, unknown> => {
    const { held } = attempt
    const implementation = known.get(held.task)
    if (implementation === undefined) return Exit.fail(new UnknownTask({ id: held.id, task: held.task }))
    attempt.ended = undefined
    attempt.error = undefined
    const context: Context<unknown> = {
      id: held.id,
      attempt: held.attempt,
      message,
      progress: (value) =>
        Effect.flatMap(implementation.progress(value), (text) =>
          Effect.flatMap(
            store.extend(held, lease, text),
            (answer): Effect.Effect<void, TaskLost> => answer === "lost" ? Effect.fail(new TaskLost(held)) : Effect.void
          ))
    }
    const events = new Events(store, held.id)
    const result = implementation.run(message.payload, context)
    if (Eager.isDone(result)) {
      events.leave()
      return over(attempt, implementation, result)
    }
    message.after(() => {
      events.leave()
      return undefined
    })
    return Effect.flatMapEager(Eager.service(Clock.Clock), (clock) =>
      Effect.flatMap(
        Effect.exit(Effect.raceFirst(result, keep(store, held, events, clock))),
        (exit): Effect.Effect<Outcome.Outcome, unknown> => {
          if (exit._tag === "Success" && exit.value === "cancelled") {
            attempt.ended = { _tag: "Cancelled" }
            return Exit.succeed(Outcome.Ack)
          }
          // the case above is the only text
          return over(attempt, implementation, exit as Exit.Exit<Ended, unknown>)
        }
      ))
  }

  /** Keeps the end of a run for the attempt. */
  const over = (
    attempt: Attempt,
    { problemOf: typed }: Runnable,
    exit: Exit.Exit<Ended, unknown>
  ): Effect.Effect<Outcome.Outcome, unknown> => {
    if (exit._tag === "Success") {
      attempt.ended = exit.value
      return Exit.succeed(Outcome.Ack)
    }
    const reason = exit.cause.reasons.find(Cause.isFailReason)
    if (reason === undefined) return Exit.failCause(exit.cause)
    const { error } = reason
    return Effect.flatMapEager(typed(error), (refusal): Effect.Effect<Outcome.Outcome, unknown> => {
      const problem = problemOf(error)
      if (refusal?.isFinal === true) {
        attempt.ended = { _tag: "Failed", error: refusal.error, problem }
        return Exit.succeed(Outcome.Ack)
      }
      attempt.error = { error: refusal?.error, problem }
      return Exit.failCause(exit.cause)
    })
  }

  const begin = (
    store: TaskStore.Store["Service"],
    message: Message<Uint8Array>,
    id: string,
    task: string
  ): Effect.Effect<Outcome.Outcome, unknown, unknown> =>
    Effect.flatMapEager(
      Effect.flatMapEager(ownerOf(), (owner) => store.begin(id, { worker, owner, lease, attempts })),
      (begun): Effect.Effect<Outcome.Outcome, unknown, unknown> => {
        switch (begun._tag) {
          case "Begun": {
            const attempt: Attempt = { held: begun.held, ended: undefined, error: undefined }
            open.set(message.delivery, attempt)
            message.after((exit, outcome) => {
              open.delete(message.delivery)
              // false: another attempt has taken over, and its end counts
              return Effect.asVoid(store.end(attempt.held, endingOf(attempt, exit, outcome)))
            })
            return run(store, message, attempt)
          }
          case "Running":
            return Exit.succeed(Outcome.Retry({ after: Math.ceil(begun.left) }))
          case "Ended":
            return Exit.succeed(Outcome.Ack)
          case "Exhausted":
            return Exit.succeed(
              Outcome.DeadLetter(new Error(`The task began ${begun.attempts} times and never ended.`))
            )
          case "Missing":
            return Exit.fail(new TaskMissing({ id, task }))
        }
      }
    )

  const tasks = (message: Message<Uint8Array>): Effect.Effect<Outcome.Outcome, unknown, unknown> => {
    const { [names.id]: id, [names.task]: task } = message.headers
    if (id === undefined || task === undefined) return Exit.fail(new NotATask({ channel: message.channel }))
    return Effect.flatMapEager(Eager.service(TaskStore.Store), (store) => {
      const attempt = open.get(message.delivery)
      return attempt === undefined ? begin(store, message, id, task) : run(store, message, attempt)
    })
  }
  // errors and services are those of the implementations, which exist in types only
  return tasks as ReturnType<typeof handler<L>>
}
