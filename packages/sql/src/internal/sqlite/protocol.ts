/**
 * What a SQLite store and its thread say to each other, and what the audit store does. The threads load this file without Effect,
 * so it imports types only.
 */
import type { Audit } from "@millrace/core"
import type { Value } from "../audit/columns.ts"
import type { Batch } from "../audit/batch.ts"

/** How the thread opens its file. */
export interface Open {
  readonly filename: string
  readonly synchronous: "full" | "normal"
  /** Milliseconds to wait for a lock that another process holds. */
  readonly busy: number
}

/** A request, answered by the reply of its id. */
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

/** What SQLite said; the thread sends this and no Error, which would lose `errcode` on its way. */
export interface Failed {
  readonly reason: Audit.Reason
  readonly message: string
}

/** The answer of a thread to the request of this id; 0 answers the opening. */
export interface Answer {
  readonly id: number
  readonly failed?: Failed | undefined
}

/** Of the audit store; `rows` are those of a query, `changed` those of a prune. */
export interface Reply extends Answer {
  readonly rows?: ReadonlyArray<Record> | undefined
  readonly changed?: number | undefined
}
