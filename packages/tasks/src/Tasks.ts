/**
 * Enqueues tasks, waits for their results, cancels, finds and restarts them.
 *
 * A task is stored first and published next. A dispatcher in each process publishes delayed tasks when they are due, by the
 * store's clock, and those whose program died between the two steps.
 */
import { Broker, Channel, Detached, Gather, type Headers, OptionCheck, Publisher, TaskStore } from "@millrace/core"
import { Clock, Context, Deferred, Duration, Effect, Exit, Layer, Random, Stream } from "effect"
import { createHash } from "node:crypto"
import { TaskCancelled, TaskConflict, TaskExpired, TaskFailed, TaskMissing, TaskRefused } from "./internal/errors.ts"
import { longestId, names, priorityHeader } from "./internal/names.ts"
import type { Task, TaskValueError } from "./Task.ts"

export { TaskCancelled, TaskConflict, TaskExpired, TaskFailed, TaskMissing, TaskRefused } from "./internal/errors.ts"

/** Options of `layer`. */
export interface Options {
  /** Whether this process publishes tasks that are due. One process for each store is enough. Default: true. */
  readonly dispatch?: boolean | undefined
  /**
   * How often the dispatcher looks for due tasks of other processes, and a result is read from a store that tells of no changes;
   * from 10 ms. Default: 1 second.
   */
  readonly poll?: Duration.Input | undefined
  /**
   * How long after an enqueue, or after a dispatcher took a task, another dispatcher publishes the task because its message is
   * not known to be published; from 100 ms. Default: 10 seconds.
   */
  readonly handoff?: Duration.Input | undefined
  /**
   * `broker`: tasks may have a priority, and the layer fails with `TaskRefused` on a broker without priorities. Default:
   * `none`.
   */
  readonly priorities?: "none" | "broker" | undefined
}

/** The defaults of `layer`. */
export const defaults: { readonly poll: Duration.Duration; readonly handoff: Duration.Duration } = {
  poll: Duration.seconds(1),
  handoff: Duration.seconds(10)
}

/** The scope of a unique key. */
export interface Unique {
  /** The key: of the tasks of one name and queue, one with this key exists at a time. At most 1,000 characters. */
  readonly by: string
  /** Until the first attempt begins, until the task ends, or for a time from the enqueue. Default: `running`. */
  readonly while?: "pending" | "running" | Duration.Input | undefined
}

/** Options of `enqueue`. */
export interface EnqueueOptions {
  /**
   * The id, of 1 to 255 characters: while its record is kept, the same id with the same payload is the same task. Default: a new
   * one.
   */
  readonly id?: string | undefined
  /** How long the task waits before it is published; from 0. Not together with `at`. */
  readonly delay?: Duration.Input | undefined
  /** When the task is published. Not together with `delay`. */
  readonly at?: Date | undefined
  /** An integer from 0 to 255; RabbitMQ's quorum queues know two levels, below 5 and from 5. Default: none. */
  readonly priority?: number | undefined
  /** Default: the task's key of the payload. */
  readonly key?: string | undefined
  /** How long after the enqueue the first attempt may begin; later the task ends as `expired`. From 1 ms. Default: no limit. */
  readonly expires?: Duration.Input | undefined
  readonly unique?: Unique | undefined
  /** Texts to find the task by. */
  readonly metadata?: { readonly [name: string]: string } | undefined
  readonly headers?: { readonly [name: string]: string } | undefined
}

/** The errors of `enqueue`. */
export type EnqueueError =
  | TaskValueError
  | TaskConflict
  | TaskRefused
  | Publisher.EncodeError
  | TaskStore.TaskStoreUnavailable
  | Effect.Error<ReturnType<Broker.Broker["Service"]["publish"]>>

/** The errors of a result, beside the task's own. */
export type ResultError =
  | TaskFailed
  | TaskCancelled
  | TaskExpired
  | TaskMissing
  | TaskValueError
  | TaskStore.TaskStoreUnavailable

/** A task that was enqueued. */
export interface Handle<out A, out E, out G> {
  readonly id: string
  /** Whether the enqueue made the task; false if a task of the same id or unique key stands in its place. */
  readonly isNew: boolean
  /** Waits for the result; fails with the task's own error or with the way in which it ended. */
  readonly result: Effect.Effect<A, E | ResultError>
  /** The progress from now on: the newest value each time, until the task ends. */
  readonly progress: Stream.Stream<G, TaskValueError | TaskMissing | TaskStore.TaskStoreUnavailable>
  /** Cancels the task. */
  readonly cancel: Effect.Effect<Cancelled, TaskStore.TaskStoreUnavailable>
  /** Reads the record: its state, its attempts and their errors; undefined if it was removed. */
  readonly record: Effect.Effect<TaskStore.Record | undefined, TaskStore.TaskStoreUnavailable>
}

/**
 * The answer to a cancellation: the task will not run (`cancelled`), its worker was asked to interrupt it (`requested`), it had
 * ended, or the store has no such task.
 */
export type Cancelled = "cancelled" | "requested" | "ended" | "missing"

/** Enqueues and finds tasks; made by `layer`. */
class TasksService extends Context.Service<TasksService, {
  readonly store: TaskStore.Store["Service"]
  /** Milliseconds between two reads of a record whose store tells of no changes. */
  readonly poll: number
  readonly enqueue: <P, A, E, G>(
    task: Task<P, A, E, G>,
    payload: P,
    options: EnqueueOptions
  ) => Effect.Effect<{ readonly id: string; readonly isNew: boolean }, EnqueueError>
}>()("@millrace/tasks/Tasks/Service") {}

export { TasksService as Service }

/**
 * The channel of a queue, for the subscription of its workers.
 *
 * @category constructors
 */
export const channel = (queue: string): Channel.Channel<Uint8Array> =>
  Channel.bytes(queue) as Channel.Channel<Uint8Array>

const check = OptionCheck.make("Tasks.layer")
const ofEnqueue = OptionCheck.make("Tasks.enqueue")

const half = Effect.map(Random.nextIntBetween(0, 36 ** 8 - 1), (number) => number.toString(36).padStart(8, "0"))

/** Checks the options of one enqueue; they are the program's, so a wrong one is a defect of it. */
const checked = (options: EnqueueOptions) => {
  const { at, delay, expires, id, priority, unique } = options
  if (id !== undefined && (id === "" || id.length > longestId)) {
    throw new RangeError(`Tasks.enqueue: id must have 1 to ${longestId} characters, got ${id.length}`)
  }
  if (at !== undefined && delay !== undefined) {
    throw new RangeError("Tasks.enqueue: delay and at exclude each other: give one of them")
  }
  if (at !== undefined && Number.isNaN(at.getTime())) {
    throw new RangeError("Tasks.enqueue: at must be a valid date")
  }
  if (priority !== undefined) ofEnqueue.number("priority", priority, { least: 0, most: 255 })
  const within = unique?.while ?? "running"
  const isWord = within === "pending" || within === "running"
  return {
    delay: delay === undefined ? undefined : ofEnqueue.millis("delay", delay, { least: 0 }),
    expires: expires === undefined ? undefined : ofEnqueue.millis("expires", expires),
    unique: unique === undefined ? undefined : {
      key: unique.by,
      while: isWord ? within : "time" as const,
      millis: isWord ? undefined : ofEnqueue.millis("unique.while", within)
    }
  }
}

/** A hash of name and payload, to compare tasks of one id. */
const digestOf = (task: string, payload: Uint8Array): string =>
  createHash("sha256").update(task).update("\0").update(payload).digest("base64url")

const encoder = new TextEncoder()

const textHeaders = (headers: Headers.Headers): { readonly [name: string]: string } => ({ ...headers })

/** The most tasks that a dispatcher takes at once. */
const mostDue = 200

const make = (options: Options) => {
  const poll = check.millis("poll", options.poll ?? defaults.poll, { least: 10, most: OptionCheck.longestTimer })
  const handoff = check.millis("handoff", options.handoff ?? defaults.handoff, { least: 100 })
  const priorities = check.oneOf("priorities", options.priorities ?? "none", ["none", "broker"])
  const { dispatch = true } = options

  return Effect.gen(function*() {
    const store = yield* TaskStore.Store
    const broker = yield* Broker.Broker
    const clock = yield* Clock.Clock
    const hasPriorities = broker.capabilities.instructions?.includes(priorityHeader) === true
    if (priorities === "broker" && !hasPriorities) {
      return yield* new TaskRefused({
        message:
          `${broker.system} orders no messages by priority: leave out priorities, and give urgent tasks a queue of their own.`
      })
    }
    const writer = (yield* half) + (yield* half)
    let drawn = 0
    // ids in the order of their time, so that pages of a search come in that order
    const newId = () =>
      `${clock.currentTimeMillisUnsafe().toString(36).padStart(9, "0")}-${writer}-${
        (drawn++).toString(36).padStart(6, "0")
      }`

    const senders = new Map<string, ReturnType<typeof Publisher.sender<Uint8Array>>>()
    const send = (
      queue: string,
      body: Uint8Array,
      key: string | undefined,
      headers: { readonly [name: string]: string }
    ) => {
      let found = senders.get(queue)
      if (found === undefined) senders.set(queue, found = Publisher.sender(channel(queue)))
      const publish = found
      return Effect.provideService(
        Effect.suspend(() => publish(Publisher.message(channel(queue), body, { key, headers }))),
        Broker.Broker,
        broker
      )
    }

    const published = yield* Gather.make<string>({
      write: (ids) =>
        // a task that stays due is published twice, and runs once
        Effect.ignoreCause(Effect.forEach(ids, store.published, { concurrency: "unbounded", discard: true }))
    })

    let sleepsUntil = Number.POSITIVE_INFINITY
    let wake: Deferred.Deferred<void> = Deferred.makeUnsafe()

    const dispatchDue = Effect.gen(function*() {
      const { next, tasks } = yield* store.due(mostDue, handoff)
      yield* Effect.forEach(
        tasks,
        ({ headers, id, key, payload, queue }) =>
          Effect.matchCauseEffect(send(queue, payload, key, headers), {
            onSuccess: () => store.published(id),
            onFailure: (cause) => Effect.logWarning(`Tasks: ${id} was not published, and is tried again`, cause)
          }),
        { concurrency: 32, discard: true }
      )
      return tasks.length === mostDue ? 0 : Math.min(next ?? poll, poll)
    })

    const dispatcher = Effect.forever(
      Effect.flatMap(
        Effect.catchCause(
          dispatchDue,
          (cause) =>
            Effect.as(Effect.logWarning("Tasks: due tasks were not read, and are looked for again", cause), poll)
        ),
        (wait) =>
          Effect.suspend(() => {
            wake = Deferred.makeUnsafe()
            sleepsUntil = clock.currentTimeMillisUnsafe() + wait
            return Effect.raceFirst(Effect.sleep(wait), Deferred.await(wake))
          })
      )
    )
    if (dispatch) yield* Effect.forkScoped(Detached.effect(dispatcher))

    /** Wakes the dispatcher if it would sleep beyond the time of a new task. */
    const isDueIn = (millis: number): void => {
      if (clock.currentTimeMillisUnsafe() + millis < sleepsUntil) Deferred.doneUnsafe(wake, Exit.void)
    }

    const enqueue = <P, A, E, G>(
      task: Task<P, A, E, G>,
      payload: P,
      options: EnqueueOptions
    ): Effect.Effect<{ readonly id: string; readonly isNew: boolean }, EnqueueError> => {
      const { delay, expires, unique } = checked(options)
      const { at, metadata, priority } = options
      if (priority !== undefined && priorities === "none") {
        return Exit.fail(
          new TaskRefused({
            message:
              `The task ${task.name} has a priority, and Tasks.layer was built without: set its priorities to "broker".`
          })
        )
      }
      return Effect.flatMapEager(task.payload.encode(payload), (text) => {
        const body = encoder.encode(text)
        const id = options.id ?? newId()
        const key = options.key ?? task.channel.key?.(payload)
        const outgoing = Publisher.message(channel(task.queue), body, {
          key,
          headers: {
            ...options.headers,
            [names.id]: id,
            [names.task]: task.name,
            "content-type": "application/json",
            ...(priority === undefined ? {} : { [priorityHeader]: String(priority) })
          }
        })
        const headers = textHeaders(outgoing.headers)
        const isDelayed = at !== undefined || (delay !== undefined && delay > 0)
        const stored: TaskStore.NewTask = {
          id,
          isNamed: options.id !== undefined,
          queue: task.queue,
          task: task.name,
          payload: body,
          key,
          headers,
          metadata,
          due: at !== undefined ? { at: at.getTime() } : { after: isDelayed ? delay! : handoff },
          expires,
          keep: task.keep,
          unique,
          digest: options.id === undefined ? undefined : digestOf(task.name, body)
        }
        return Effect.flatMapEager(
          store.insert(stored),
          (inserted): Effect.Effect<{ readonly id: string; readonly isNew: boolean }, EnqueueError> => {
            if (inserted._tag === "Mismatch") return Exit.fail(new TaskConflict({ id, task: task.name }))
            if (inserted._tag === "Joined") return Exit.succeed({ id: inserted.id, isNew: false })
            if (isDelayed) {
              isDueIn(at === undefined ? delay! : at.getTime() - clock.currentTimeMillisUnsafe())
              return Exit.succeed({ id, isNew: true })
            }
            return Effect.matchEffect(send(task.queue, body, key, headers), {
              onSuccess: () => {
                void published.add(id)
                return Effect.succeed({ id, isNew: true })
              },
              onFailure: (error): Effect.Effect<{ readonly id: string; readonly isNew: boolean }, EnqueueError> =>
                // it is stored: a dispatcher publishes it when the broker is back
                error._tag === "BrokerError" && error.retriable
                  ? Effect.succeed({ id, isNew: true })
                  : Effect.andThen(store.forget(id), Effect.fail(error))
            })
          }
        )
      })
    }
    return { store, poll, enqueue }
  })
}

/**
 * Provides the tasks of a program: needs the broker of the queues and a store.
 *
 * All programs that enqueue or run tasks of a queue use the same store. Fails with `TaskRefused` if the broker lacks what the
 * options ask for.
 *
 * **Example** (tasks in memory, for tests and single processes)
 *
 * ```ts
 * import { Effect, Layer, Schema } from "effect"
 * import { Lanes, MemoryBroker, Subscription, TaskStore } from "@millrace/core"
 * import { Task, Tasks, Worker } from "@millrace/tasks"
 *
 * const Double = Task.make("double", { payload: Schema.Finite, success: Schema.Finite })
 *
 * const worker = Subscription.layer(Subscription.make(
 *   Tasks.channel("tasks"),
 *   { group: "workers", lanes: Lanes.unordered(4) },
 *   Worker.handler([Worker.on(Double, (number) => Effect.succeed(number * 2))])
 * ))
 *
 * const program = Effect.gen(function*() {
 *   const handle = yield* Tasks.enqueue(Double, 21)
 *   return yield* handle.result
 * })
 *
 * const layer = Layer.merge(worker, Tasks.layer()).pipe(Layer.provide([MemoryBroker.layer(), TaskStore.layerMemory()]))
 * console.log(await Effect.runPromise(Effect.provide(program, layer))) // => 42
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (
  options: Options = {}
): Layer.Layer<TasksService, TaskRefused, TaskStore.Store | Broker.Broker> => Layer.effect(TasksService, make(options))

/** Reads the record of a task until `of` finds what the caller waits for: at each change that the store tells, and by poll. */
const following = <A, E>(
  { poll, store }: TasksService["Service"],
  id: string,
  of: (record: TaskStore.Record | undefined) => Exit.Exit<A, E> | undefined
): Effect.Effect<A, E | TaskStore.TaskStoreUnavailable> => {
  const once: Effect.Effect<A, E | TaskStore.TaskStoreUnavailable> = Effect.suspend(() => {
    const changed = Deferred.makeUnsafe<void>()
    // before the read, so that a change after it is told
    const leave = store.watch(id, () => Deferred.doneUnsafe(changed, Exit.void))
    // an event may be lost with its connection
    const wait = Effect.raceFirst(Effect.sleep(store.isTold ? poll * 10 : poll), Deferred.await(changed))
    const found = Effect.flatMap(
      store.read(id),
      (record): Effect.Effect<Exit.Exit<A, E> | undefined> => {
        const exit = of(record)
        return exit === undefined ? Effect.as(wait, undefined) : Effect.succeed(exit)
      }
    )
    return Effect.flatMap(Effect.ensuring(found, Effect.sync(leave)), (exit) => exit ?? once)
  })
  return once
}

/** The end of a task as an exit; undefined while it has not ended. */
const endOf = <P, A, E, G>(
  task: Task<P, A, E, G>,
  id: string,
  record: TaskStore.Record | undefined
): Exit.Exit<Effect.Effect<A, E | ResultError>> | undefined => {
  const about = { id, task: task.name }
  if (record === undefined) return Exit.succeed(Exit.fail(new TaskMissing(about)))
  switch (record.state) {
    case "succeeded":
      return Exit.succeed(task.success.decode(record.result ?? "null"))
    case "failed":
      return Exit.succeed(
        record.error === undefined
          ? Exit.fail(
            new TaskFailed({
              ...about,
              tag: record.problem?.tag ?? "Unknown",
              message: record.problem?.message ?? "The task failed."
            })
          )
          : Effect.flatMapEager(task.error.decode(record.error), (error) => Exit.fail(error))
      )
    case "cancelled":
      return Exit.succeed(Exit.fail(new TaskCancelled(about)))
    case "expired":
      return Exit.succeed(Exit.fail(new TaskExpired(about)))
    default:
      return undefined
  }
}

const handleOf = <P, A, E, G>(
  service: TasksService["Service"],
  task: Task<P, A, E, G>,
  { id, isNew }: { readonly id: string; readonly isNew: boolean }
): Handle<A, E, G> => ({
  id,
  isNew,
  result: Effect.flatMap(following(service, id, (record) => endOf(task, id, record)), (end) => end),
  progress: Stream.unfold(0, (seen) =>
    Effect.flatMap(
      following(service, id, (record) => {
        if (record === undefined) return Exit.fail(new TaskMissing({ id, task: task.name }))
        const { progress, progressNumber = 0 } = record
        if (progress !== undefined && progressNumber > seen) return Exit.succeed({ progress, progressNumber })
        return TaskStore.isEnd(record.state) ? Exit.succeed(undefined) : undefined
      }),
      (found) =>
        found === undefined
          ? Effect.undefined
          : Effect.map(task.progress.decode(found.progress), (value) => [value, found.progressNumber] as const)
    )),
  // a store acts when it is called
  cancel: Effect.suspend(() => service.store.cancel(id)),
  record: Effect.suspend(() => service.store.read(id))
})

/**
 * Enqueues a task. It is stored, published to its queue, and runs at least once; its record gets exactly one result.
 *
 * Answers a handle once the task is durable in the store, and published unless it is delayed or the broker is unreachable: then
 * a dispatcher publishes it later. A task whose id or unique key exists joins the existing one (`isNew` is false).
 *
 * Fails with `TaskValueError` if the schema refuses the payload, `TaskConflict` if the id belongs to another payload,
 * `TaskRefused` for a priority without `priorities`, `BrokerError` if the broker refuses the message for good, and
 * `TaskStoreUnavailable`.
 *
 * **Example** (one report for each customer at a time, within the hour)
 *
 * ```ts
 * import { Schema } from "effect"
 * import { Task, Tasks } from "@millrace/tasks"
 *
 * const Report = Task.make("report", { payload: Schema.Struct({ customer: Schema.String }) })
 *
 * const enqueued = Tasks.enqueue(Report, { customer: "c1" }, {
 *   delay: "10 minutes",
 *   expires: "1 hour",
 *   unique: { by: "c1", while: "running" }
 * })
 * ```
 *
 * @throws RangeError when an option is out of range
 */
export const enqueue = <P, A, E, G>(
  task: Task<P, A, E, G>,
  payload: P,
  options: EnqueueOptions = {}
): Effect.Effect<Handle<A, E, G>, EnqueueError, TasksService> =>
  Effect.flatMap(
    TasksService,
    (service) =>
      Effect.mapEager(service.enqueue(task, payload, options), (enqueued) => handleOf(service, task, enqueued))
  )

/** Returns the handle of a task that was enqueued before, here or in another process. */
export const handle = <P, A, E, G>(
  task: Task<P, A, E, G>,
  id: string
): Effect.Effect<Handle<A, E, G>, never, TasksService> =>
  Effect.map(TasksService, (service) => handleOf(service, task, { id, isNew: false }))

/**
 * Cancels a task. One that has not begun never runs; one that runs is interrupted by its worker at the next signal or heartbeat
 * (a third of its lease at most).
 */
export const cancel = (id: string): Effect.Effect<Cancelled, TaskStore.TaskStoreUnavailable, TasksService> =>
  Effect.flatMap(TasksService, ({ store }) => store.cancel(id))

/** Runs a failed, cancelled or expired task again, with all its attempts; false if it is in another state, or missing. */
export const restart = (id: string): Effect.Effect<boolean, TaskStore.TaskStoreUnavailable, TasksService> =>
  Effect.flatMap(TasksService, ({ store }) => store.restart(id))

/** Reads the record of a task; undefined if there is none. */
export const read = (
  id: string
): Effect.Effect<TaskStore.Record | undefined, TaskStore.TaskStoreUnavailable, TasksService> =>
  Effect.flatMap(TasksService, ({ store }) => store.read(id))

/** The tasks to find; every given field must match. */
export interface Query {
  /** Default: `tasks`. */
  readonly queue?: string | undefined
  /** The name of the task. */
  readonly task?: string | undefined
  readonly states?: ReadonlyArray<TaskStore.State> | undefined
  readonly metadata?: { readonly [name: string]: string } | undefined
  /** The id of the last record of the page before. */
  readonly after?: string | undefined
  /** The most records; an integer from 1 to 1,000. Default: 100. */
  readonly limit?: number | undefined
}

const ofFind = OptionCheck.make("Tasks.find")

/**
 * Finds tasks of a queue by name, state and metadata, in the order of their ids, which is that of their enqueues unless ids are
 * given. Reads the records of the queue until the page is full: for people and repairs, not for each message.
 *
 * @throws RangeError when `limit` is out of range
 */
export const find = (
  query: Query = {}
): Effect.Effect<ReadonlyArray<TaskStore.Record>, TaskStore.TaskStoreUnavailable, TasksService> => {
  const limit = ofFind.count("limit", query.limit ?? 100, { most: 1_000 })
  return Effect.flatMap(TasksService, ({ store }) => store.find({ ...query, queue: query.queue ?? "tasks", limit }))
}
