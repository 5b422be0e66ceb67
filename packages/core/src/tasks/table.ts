/**
 * The interface below a store of tasks: rows that are written by compare and set. Each database implements it; the states of
 * a task are decided above it, by the same code for all of them.
 */
import type { Effect } from "effect"
import type { State, TaskStoreUnavailable } from "./record.ts"

/** A row of the table. */
export interface Row {
  readonly id: string
  readonly queue: string
  readonly state: State
  /** From 1; one more with each `save`. */
  readonly version: number
  /** Unix time in milliseconds, by the table's clock. */
  readonly createdAt: number
  /** The JSON text of the record's content. */
  readonly content: string
}

/** A row to be inserted. */
export interface NewRow {
  readonly id: string
  readonly queue: string
  readonly payload: Uint8Array
  readonly content: string
  /** When the row is due: milliseconds from now, or Unix time in milliseconds. Undefined: never. */
  readonly due: { readonly after: number } | { readonly at: number } | undefined
  /** The unique key, which one row can hold; for `millis`, or until a save releases it. */
  readonly unique: { readonly key: string; readonly millis: number | undefined } | undefined
}

/** The answer to an insertion: `Exists` if the id is taken, `Held` if the row of `id` holds the unique key. */
export type Insertion =
  | { readonly _tag: "Inserted" }
  | { readonly _tag: "Exists" }
  | { readonly _tag: "Held"; readonly id: string }

/** A change of a row. The row is no longer due, unless `due` is given. */
export interface Save {
  readonly id: string
  readonly queue: string
  /** The version that the row must have. */
  readonly version: number
  readonly state: State
  readonly content: string
  /** Makes the row due at once. */
  readonly isDue?: boolean | undefined
  /** Releases the unique key. */
  readonly releases?: string | undefined
  /** Milliseconds after which the row is removed; undefined: never. */
  readonly keep: number | undefined
  /** Tells the watchers of the row. */
  readonly tells: boolean
}

/** A row whose time has come. */
export interface DueRow {
  readonly id: string
  readonly queue: string
  readonly payload: Uint8Array
  readonly content: string
}

/** Rows by id. Every call is atomic and runs by the table's own clock, which is the same for all processes. */
export interface Table {
  readonly insert: (row: NewRow) => Effect.Effect<Insertion, TaskStoreUnavailable>
  /** Returns a row that is not removed, and the table's time. */
  readonly load: (
    id: string
  ) => Effect.Effect<{ readonly now: number; readonly row: Row | undefined }, TaskStoreUnavailable>
  /** Writes a row if it has the version, and answers whether it had. */
  readonly save: (save: Save) => Effect.Effect<boolean, TaskStoreUnavailable>
  /** Marks rows as published: a pending row is no longer due. */
  readonly published: (id: string) => Effect.Effect<void, TaskStoreUnavailable>
  /**
   * Takes due rows, the earliest first, and makes them due again after `lease` milliseconds. `next` is the time in
   * milliseconds until the next row is due, if one is known.
   */
  readonly due: (
    limit: number,
    lease: number
  ) => Effect.Effect<
    { readonly rows: ReadonlyArray<DueRow>; readonly next: number | undefined },
    TaskStoreUnavailable
  >
  /** Returns rows of a queue whose id is after `after`, in the order of their ids. */
  readonly scan: (
    queue: string,
    after: string,
    limit: number
  ) => Effect.Effect<ReadonlyArray<Row>, TaskStoreUnavailable>
  /** Removes a row that has the version, and releases its unique key. */
  readonly remove: (
    id: string,
    queue: string,
    version: number,
    unique: string | undefined
  ) => Effect.Effect<boolean, TaskStoreUnavailable>
  /** Calls the listener at each save of the row that tells, of any process; returns a function that ends this. */
  readonly watch: (id: string, listener: () => void) => () => void
  /** Whether saves of other processes reach `watch`. */
  readonly isTold: boolean
}
