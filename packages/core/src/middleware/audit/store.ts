/**
 * The rows of an audit store, its queries and its errors.
 */
import { Context, Data, Duration, type Effect, Exit } from "effect"
import type { Envelope } from "../../message/Message.ts"

/** The result of a message: a consumer's outcome; of any other message `done` or `failed`. */
export type Status = "done" | "retried" | "deadLettered" | "rejected" | "released" | "failed"

/** The data of one message, before the store gives it an id. */
export interface Entry {
  readonly kind: Envelope["kind"]
  readonly channel: string
  /** Undefined for a message without a partition. */
  readonly partition: number | undefined
  readonly position: number | undefined
  readonly key: string | undefined
  /** The beginning of the body with its secrets replaced; undefined for a null body, or if no body is kept. */
  readonly body: string | undefined
  /** The subscription's name. */
  readonly handler: string | undefined
  /** 1 at the first delivery. */
  readonly attempt: number | undefined
  /** Unix time in milliseconds. */
  readonly startedAt: number
  /** Unix time in milliseconds: `startedAt` and the duration, regardless of changes of the wall clock in between. */
  readonly completedAt: number
  /** Milliseconds of the monotonic clock, from 0, with fractions. */
  readonly duration: number
  readonly status: Status
  readonly errorTag: string | undefined
  readonly errorMessage: string | undefined
}

/** A stored entry. */
export interface Row extends Entry {
  /** Unique in its store. */
  readonly id: string
}

/** Selects rows; all conditions must hold. */
export interface Filter {
  /** Completed at this Unix time in milliseconds or later. */
  readonly from?: number | undefined
  /** Completed before this Unix time in milliseconds. */
  readonly to?: number | undefined
  readonly channel?: string | undefined
  readonly status?: Status | undefined
  readonly handler?: string | undefined
}

/** Selects rows, their order and their number. */
export interface Query extends Filter {
  /** By time of completion, then by the order in which the rows were appended. Default: `newest` first. */
  readonly order?: "newest" | "oldest" | undefined
  /** An integer from 1 to 10,000. Default: 100. */
  readonly limit?: number | undefined
  /** Continues after a page: its `next`. */
  readonly after?: string | undefined
}

/** A page of rows. */
export interface Page {
  readonly rows: ReadonlyArray<Row>
  /** The cursor for `after`; undefined on the last page. */
  readonly next: string | undefined
}

/**
 * The reason of a store's failure.
 *
 * - `Unreachable`: no answer at the address
 * - `Credentials`: user, password or certificate refused
 * - `Permission`: the user, or the process, lacks the permission
 * - `NotFound`: the database or the folder does not exist
 * - `Full`: no space is left
 * - `ReadOnly`: the file or the database takes no writes
 * - `Busy`: locked by another connection or process
 * - `Corrupt`: the file is no database, or a damaged one
 * - `Lost`: the connection, or the writing thread, ended during the call
 * - `Invalid`: an option or a query that no store accepts, or a schema newer than this program
 * - `Unknown`: anything else
 */
export type Reason =
  | "Unreachable"
  | "Credentials"
  | "Permission"
  | "NotFound"
  | "Full"
  | "ReadOnly"
  | "Busy"
  | "Corrupt"
  | "Lost"
  | "Invalid"
  | "Unknown"

/**
 * The audit store failed; class `dependency`, and `retryAfter` is 5 seconds: the message is redelivered until its row is
 * stored. It is never dead-lettered for this error, since a dead letter would be an acknowledgement without a row.
 */
export class AuditError extends Data.TaggedError("AuditError")<{
  readonly operation: "open" | "append" | "query" | "count" | "prune"
  readonly reason: Reason
  /** The failure and how to fix it, with secrets redacted. */
  readonly message: string
  readonly cause?: unknown
}> {
  readonly failure = "dependency" as const
  readonly retryAfter = Duration.seconds(5)
}

/** Keeps audit rows. */
export class AuditStore extends Context.Service<AuditStore, {
  /**
   * Completes when the row is as durable as the store makes it. Rows that are written together get the same effect
   * object. The write starts with the call, whether the effect runs or not.
   */
  readonly append: (entry: Entry) => Effect.Effect<void, AuditError>
  readonly query: (query?: Query) => Effect.Effect<Page, AuditError>
  readonly count: (filter?: Filter) => Effect.Effect<number, AuditError>
  /** Removes the rows completed before a Unix time in milliseconds, and returns their number. */
  readonly prune: (options: { readonly before: number }) => Effect.Effect<number, AuditError>
}>()("@millrace/core/Audit/Store") {}

/** The position of a row in the order of `Query`, in the format of `Page.next`. */
export const cursorOf = (row: Row): string => `${row.completedAt}_${row.id}`

/** Checks a query and applies its defaults, for authors of stores; fails with reason `Invalid` if it is out of range. */
export const readQuery = (query: Query = {}): Effect.Effect<
  {
    readonly order: "newest" | "oldest"
    readonly limit: number
    readonly after: { readonly completedAt: number; readonly id: string } | undefined
  },
  AuditError
> => {
  const invalid = (message: string) => Exit.fail(new AuditError({ operation: "query", reason: "Invalid", message }))
  const { after, limit = 100, order = "newest" } = query
  if (!Number.isInteger(limit) || limit < 1 || limit > 10_000) {
    return invalid(`Audit: limit must be an integer from 1 to 10000, got ${limit}`)
  }
  if (after === undefined) return Exit.succeed({ order, limit, after: undefined })
  const [, completedAt, id] = /^(-?\d+)_(\w+)$/.exec(after) ?? []
  if (completedAt === undefined || id === undefined) {
    return invalid(`Audit: after must be the next of a page, got ${JSON.stringify(after)}`)
  }
  return Exit.succeed({ order, limit, after: { completedAt: Number(completedAt), id } })
}
