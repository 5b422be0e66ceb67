/**
 * The store of tasks: their records, results, attempts and times. `@millrace/tasks` is the interface for programs.
 *
 * Databases implement `Table`, rows that are written by compare and set; `make` turns a table into a store, so that every
 * store decides alike.
 */
import { Clock, Context, Effect, Exit, Layer } from "effect"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Memory from "./memory.ts"
import { type Content, isEnd, type Record, type State, TaskStoreUnavailable, type While } from "./record.ts"
import type { Row, Table } from "./table.ts"
import * as Transitions from "./transitions.ts"

export {
  type Attempt,
  type Content,
  isEnd,
  mostAttempts,
  type Problem,
  type Record,
  type State,
  TaskStoreUnavailable,
  type While
} from "./record.ts"
export type { DueRow, Insertion, NewRow, Row, Save, Table } from "./table.ts"
export type { Begin, Ending, Refused } from "./transitions.ts"
export { Watchers } from "./Watchers.ts"

/** A task to be stored; times in milliseconds. */
export interface NewTask {
  readonly id: string
  /** Whether the caller chose the id, so that an existing task of the id may be another one. */
  readonly isNamed: boolean
  readonly queue: string
  readonly task: string
  readonly payload: Uint8Array
  readonly key?: string | undefined
  readonly headers: { readonly [name: string]: string }
  readonly metadata?: { readonly [name: string]: string } | undefined
  /** When the task is to be published by a dispatcher: after a time, or at a Unix time. */
  readonly due: { readonly after: number } | { readonly at: number }
  readonly expires: number | undefined
  readonly keep: number
  readonly unique?: { readonly key: string; readonly while: While; readonly millis: number | undefined } | undefined
  /** A hash of task and payload, compared if the id exists. */
  readonly digest?: string | undefined
}

/**
 * The answer to a new task.
 *
 * - `Inserted`: the task is stored
 * - `Joined`: the task of `id` stands in its place, by its id or by its unique key
 * - `Mismatch`: the id belongs to a task with another name or payload
 */
export type Inserted =
  | { readonly _tag: "Inserted" }
  | { readonly _tag: "Joined"; readonly id: string }
  | { readonly _tag: "Mismatch" }

/** A task whose time has come. */
export interface DueTask {
  readonly id: string
  readonly queue: string
  readonly task: string
  readonly key: string | undefined
  readonly headers: { readonly [name: string]: string }
  readonly payload: Uint8Array
}

/** The attempt of a worker. */
export interface Held {
  readonly id: string
  /** The name of the task. */
  readonly task: string
  /** The fencing token: a later attempt has a larger one. */
  readonly token: number
  /** The number of the attempt, from 1. */
  readonly attempt: number
}

/** The answer to the begin of an attempt; `Missing` if the store has no such task. */
export type Begun =
  | { readonly _tag: "Begun"; readonly held: Held }
  | { readonly _tag: "Missing" }
  | Transitions.Refused

/** The tasks to find. */
export interface Query {
  readonly queue: string
  readonly task?: string | undefined
  readonly states?: ReadonlyArray<State> | undefined
  /** Entries that the metadata must have. */
  readonly metadata?: { readonly [name: string]: string } | undefined
  /** The id after which the search begins, in the order of the ids. */
  readonly after?: string | undefined
  /** The most records to return. */
  readonly limit: number
}

/** Stores tasks. Every call is atomic, and runs by the store's own clock. */
class TaskStore extends Context.Service<TaskStore, {
  /** Stores a task, unless its id exists or its unique key is held. */
  readonly insert: (task: NewTask) => Effect.Effect<Inserted, TaskStoreUnavailable>
  /** Tells that the message of a task is published, so that no dispatcher publishes it. */
  readonly published: (id: string) => Effect.Effect<void, TaskStoreUnavailable>
  /** Takes tasks whose time has come; `next` is the time in milliseconds until the next one, if it is known. */
  readonly due: (
    limit: number,
    lease: number
  ) => Effect.Effect<
    { readonly tasks: ReadonlyArray<DueTask>; readonly next: number | undefined },
    TaskStoreUnavailable
  >
  /** Begins an attempt, unless the task has ended or another attempt runs. */
  readonly begin: (id: string, request: Transitions.Begin) => Effect.Effect<Begun, TaskStoreUnavailable>
  /** Keeps an attempt for `lease` milliseconds from now, and stores its progress. `lost` if it is no longer the running one. */
  readonly extend: (
    held: Held,
    lease: number,
    progress?: string
  ) => Effect.Effect<"held" | "cancelling" | "lost", TaskStoreUnavailable>
  /** Ends an attempt. False if another attempt has taken over: then nothing has changed. */
  readonly end: (held: Held, ending: Transitions.Ending) => Effect.Effect<boolean, TaskStoreUnavailable>
  readonly cancel: (
    id: string
  ) => Effect.Effect<"cancelled" | "requested" | "ended" | "missing", TaskStoreUnavailable>
  /** Starts a failed, cancelled or expired task again, with all its attempts; false if it is in another state. */
  readonly restart: (id: string) => Effect.Effect<boolean, TaskStoreUnavailable>
  /** Removes a task whose first attempt has not begun; false if there is none. */
  readonly forget: (id: string) => Effect.Effect<boolean, TaskStoreUnavailable>
  readonly read: (id: string) => Effect.Effect<Record | undefined, TaskStoreUnavailable>
  readonly find: (query: Query) => Effect.Effect<ReadonlyArray<Record>, TaskStoreUnavailable>
  /** Calls the listener when the task has ended, has progress or is to be cancelled; returns a function that ends this. */
  readonly watch: (id: string, listener: () => void) => () => void
  /** Whether changes by other processes reach `watch`. */
  readonly isTold: boolean
  /** The rows below the records, for documents of another kind in the same store. */
  readonly table: Table
}>()("@millrace/core/TaskStore") {}

export { TaskStore as Store }

const recordOf = ({ content, createdAt, id, queue, state }: Row): Record => ({
  // written by `make` alone
  ...JSON.parse(content) as Content,
  id,
  queue,
  state,
  createdAt
})

const recordAfter = ({ createdAt, id, queue, state }: Row, { content }: Transitions.Next): Record => ({
  ...content,
  id,
  queue,
  state,
  createdAt
})

/** The unique key is stored in the content, because only a save that releases it needs it. */
interface Stored extends Content {
  readonly uniqueKey?: string | undefined
}

const uniqueKeyOf = ({ queue, task, unique }: NewTask): string | undefined =>
  unique === undefined ? undefined : JSON.stringify([queue, task, unique.key])

/** An attempt with the row as this process has last seen it, and the store's time then. */
interface Seen extends Held {
  row: Row
  record: Record
  /** The store's time at `at`. */
  now: number
  /** Monotonic time in milliseconds. */
  at: number
}

/** How often a change is tried again that another process came before. */
const tries = 32

const contended = new TaskStoreUnavailable({
  message:
    `The record of a task changed ${tries} times while it was being written: too many processes write it at once.`
})

/**
 * Makes a store of a table.
 *
 * @category constructors
 */
export const make = (table: Table, clock: Clock.Clock): TaskStore["Service"] => {
  const monotonic = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6

  const keepOf = ({ content, state }: Transitions.Next): number | undefined => isEnd(state) ? content.keep : undefined

  /** A write, and the row that it leaves. */
  const writing = (row: Row, next: Transitions.Next) => {
    const { isDue, releases, state, tells } = next
    const { id, queue, version } = row
    const stored: Stored = next.content
    const content = JSON.stringify(stored)
    return {
      after: { ...row, state, version: version + 1, content },
      save: table.save({
        id,
        queue,
        version,
        state,
        content,
        isDue,
        releases: releases ? stored.uniqueKey : undefined,
        keep: keepOf(next),
        tells
      })
    }
  }

  /** Reads a row, decides, and writes; again while another process writes first. */
  const change = <A>(
    id: string,
    decide: (
      record: Record,
      now: number,
      row: Row
    ) => { readonly answer: A; readonly next?: Transitions.Next | undefined },
    missing: A,
    left = tries
  ): Effect.Effect<A, TaskStoreUnavailable> =>
    Effect.flatMapEager(table.load(id), ({ now, row }): Effect.Effect<A, TaskStoreUnavailable> => {
      if (row === undefined) return Exit.succeed(missing)
      const { answer, next } = decide(recordOf(row), now, row)
      if (next === undefined) return Exit.succeed(answer)
      return Effect.flatMapEager(writing(row, next).save, (isWritten) =>
        isWritten
          ? Exit.succeed(answer)
          : left > 0
          ? change(id, decide, missing, left - 1)
          : Exit.fail(contended))
    })

  /** Changes the row of an attempt from what this process has last seen; reads it again if another process has changed it. */
  const changeHeld = <A>(
    seen: Seen,
    decide: (record: Record, now: number) => Transitions.Next | undefined,
    answer: (next: Transitions.Next | undefined, record: Record) => A,
    left = tries
  ): Effect.Effect<A, TaskStoreUnavailable> => {
    const next = decide(seen.record, seen.now + monotonic() - seen.at)
    if (next === undefined) return Exit.succeed(answer(undefined, seen.record))
    const { row } = seen
    const { after, save } = writing(row, next)
    return Effect.flatMapEager(save, (isWritten): Effect.Effect<A, TaskStoreUnavailable> => {
      if (isWritten) {
        // or a change beside this one has been seen meanwhile
        if (seen.row === row) {
          seen.row = after
          seen.record = recordAfter(after, next)
        }
        return Exit.succeed(answer(next, seen.record))
      }
      if (left === 0) return Exit.fail(contended)
      const at = monotonic()
      return Effect.flatMapEager(table.load(seen.id), (found): Effect.Effect<A, TaskStoreUnavailable> => {
        if (found.row === undefined) return Exit.succeed(answer(undefined, seen.record))
        seen.row = found.row
        seen.record = recordOf(found.row)
        seen.now = found.now
        seen.at = at
        return changeHeld(seen, decide, answer, left - 1)
      })
    })
  }

  const insert = (task: NewTask): Effect.Effect<Inserted, TaskStoreUnavailable> => {
    const { digest, due, expires, headers, id, isNamed, keep, key, metadata, payload, queue, unique } = task
    const uniqueKey = uniqueKeyOf(task)
    const content: Stored = {
      task: task.task,
      headers,
      keep,
      key,
      metadata,
      expires,
      digest,
      uniqueWhile: unique?.while,
      uniqueKey,
      token: 0,
      begun: 0,
      attempts: [],
      leaseUntil: undefined,
      progressNumber: undefined,
      endedAt: undefined
    }
    const row = {
      id,
      queue,
      payload,
      content: JSON.stringify(content),
      due,
      unique: uniqueKey === undefined ? undefined : { key: uniqueKey, millis: unique!.millis }
    }
    return Effect.flatMapEager(table.insert(row), (inserted): Effect.Effect<Inserted, TaskStoreUnavailable> => {
      if (inserted._tag === "Inserted") return Exit.succeed(inserted)
      if (inserted._tag === "Held") return Exit.succeed({ _tag: "Joined", id: inserted.id })
      // an id that the program drew exists only if the answer to the first try was lost
      if (!isNamed) return Exit.succeed({ _tag: "Inserted" })
      return Effect.mapEager(table.load(id), ({ row }): Inserted => {
        const isSame = row === undefined || recordOf(row).digest === digest
        return isSame ? { _tag: "Joined", id } : { _tag: "Mismatch" }
      })
    })
  }

  const begin = (
    id: string,
    request: Transitions.Begin,
    left: number
  ): Effect.Effect<Begun, TaskStoreUnavailable> => {
    const at = monotonic()
    return Effect.flatMapEager(table.load(id), ({ now, row }): Effect.Effect<Begun, TaskStoreUnavailable> => {
      if (row === undefined) return Exit.succeed({ _tag: "Missing" })
      const record = recordOf(row)
      const { next, refused } = Transitions.begin(record, request, now)
      const begun = (row: Row, record: Record): Begun => {
        if (refused !== undefined) return refused
        const { token } = record
        const attempt = record.attempts.at(-1)!.number
        const held: Seen = { id, task: record.task, token, attempt, row, record, now, at }
        return { _tag: "Begun", held }
      }
      if (next === undefined) return Exit.succeed(begun(row, record))
      const { after, save } = writing(row, next)
      return Effect.flatMapEager(save, (isWritten): Effect.Effect<Begun, TaskStoreUnavailable> =>
        isWritten
          ? Exit.succeed(begun(after, recordAfter(after, next)))
          : left > 0
          ? begin(id, request, left - 1)
          : Exit.fail(contended))
    })
  }

  // `begin` makes every attempt
  const seenOf = (held: Held): Seen => held as Seen

  const find = ({ after = "", limit, metadata = {}, queue, states, task }: Query) => {
    const wanted = Object.entries(metadata)
    const isWanted = (record: Record) =>
      (task === undefined || record.task === task) && (states === undefined || states.includes(record.state)) &&
      wanted.every(([name, value]) => record.metadata?.[name] === value)
    const page = 500
    const from = (
      after: string,
      found: ReadonlyArray<Record>
    ): Effect.Effect<ReadonlyArray<Record>, TaskStoreUnavailable> =>
      Effect.flatMap(table.scan(queue, after, page), (rows) => {
        const all = [...found, ...rows.map(recordOf).filter(isWanted)]
        return rows.length < page || all.length >= limit
          ? Effect.succeed(all.slice(0, limit))
          : from(rows.at(-1)!.id, all)
      })
    return from(after, [])
  }

  return {
    insert,
    published: table.published,
    due: (limit, lease) =>
      Effect.mapEager(table.due(limit, lease), ({ next, rows }) => ({
        next,
        tasks: rows.map(({ content, id, payload, queue }) => {
          const { headers, key, task }: Content = JSON.parse(content)
          return { id, queue, task, key, headers, payload }
        })
      })),
    begin: (id, request) => begin(id, request, tries),
    extend: (held, lease, progress) =>
      changeHeld(
        seenOf(held),
        (record, now) => Transitions.extend(record, held.token, lease, progress, now),
        (next) => next === undefined ? "lost" : next.content.isCancelling === true ? "cancelling" : "held"
      ),
    end: (held, ending) =>
      changeHeld(
        seenOf(held),
        (record, now) => Transitions.end(record, held.token, ending, now),
        // or the answer to the write was lost: only this attempt could have ended the task under its token
        (next, record) =>
          next !== undefined ||
          (record.token === held.token && record.state !== "running" && record.state !== "pending")
      ),
    cancel: (id) => change<"cancelled" | "requested" | "ended" | "missing">(id, Transitions.cancel, "missing"),
    restart: (id) =>
      change(id, (record) => {
        const next = Transitions.restart(record)
        return { answer: next !== undefined, next }
      }, false),
    forget: (id) =>
      Effect.flatMapEager(table.load(id), ({ row }): Effect.Effect<boolean, TaskStoreUnavailable> => {
        if (row === undefined || row.state !== "pending") return Exit.succeed(false)
        const { uniqueKey }: Stored = JSON.parse(row.content)
        return table.remove(id, row.queue, row.version, uniqueKey)
      }),
    read: (id) => Effect.mapEager(table.load(id), ({ row }) => row === undefined ? undefined : recordOf(row)),
    find,
    watch: table.watch,
    isTold: table.isTold,
    table
  }
}

/** Options of `layerMemory`. */
export interface MemoryOptions {
  /** The most tasks; an integer from 1. Beyond it the tasks that ended first are forgotten. Default: 100,000. */
  readonly capacity?: number | undefined
}

/**
 * Keeps tasks in the memory of this process. A restart loses all tasks; each of several processes has its own.
 *
 * @throws RangeError when `capacity` is out of range
 * @category layers
 */
export const layerMemory = (options: MemoryOptions = {}): Layer.Layer<TaskStore> => {
  const capacity = OptionCheck.make("TaskStore").count("capacity", options.capacity ?? 100_000)
  return Layer.effect(TaskStore, Effect.map(Clock.Clock, (clock) => make(Memory.make(clock, capacity), clock)))
}
