/**
 * The messages between a SQLite store and its thread, and those of the audit store. The threads load this file without Effect,
 * so it imports types only.
 */
import type { Audit } from "@millrace/core"
import type { Value } from "../audit/columns.ts"
import type { Batch } from "../audit/batch.ts"

/** The thread's options for its file. */
export interface Open {
  readonly filename: string
  readonly synchronous: "full" | "normal"
  /** Milliseconds to wait for a lock that another process holds. */
  readonly busy: number
}

/** A request; the reply has the same id. */
export type Request =
  | { readonly id: number; readonly operation: "append"; readonly batch: Batch }
  | {
    readonly id: number
    readonly operation: "query" | "count"
    readonly sql: string
    readonly values: ReadonlyArray<Value>
  }
  | { readonly id: number; readonly operation: "prune"; readonly before: number; readonly most: number }

/** A row as SQLite reads it. */
export type Record = { readonly [column: string]: Value }

/** An error of SQLite; the thread sends this instead of an Error, which would lose `errcode` in transit. */
export interface Failed {
  readonly reason: Audit.Reason
  readonly message: string
}

/** A thread's answer to the request of this id; 0 answers the opening. */
export interface Answer {
  readonly id: number
  readonly failed?: Failed | undefined
}

/** An answer of the audit store; `rows` are those of a query, `changed` is the count of a prune. */
export interface Reply extends Answer {
  readonly rows?: ReadonlyArray<Record> | undefined
  readonly changed?: number | undefined
}
