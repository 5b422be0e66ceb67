/**
 * What an audit store keeps, how it is asked, and how it fails.
 */
import { Context, Data, Duration, type Effect, Exit } from "effect"
import type { Envelope } from "../../message/Message.ts"

/**
 * What became of a message: a consumer's by its outcome, anything else `done` or `failed`.
 */
export type Status = "done" | "retried" | "deadLettered" | "rejected" | "released" | "failed"

/** What is known of one message, before the store gives it an id. */
export interface Entry {
  readonly kind: Envelope["kind"]
  readonly channel: string
  /** Undefined where the message came from no partition. */
  readonly partition: number | undefined
  readonly position: number | undefined
  readonly key: string | undefined
  /** The beginning of the body with its secrets replaced; undefined for a null body, or where none is kept. */
  readonly body: string | undefined
  /** The subscription's name. */
  readonly handler: string | undefined
  /** 1 at the first delivery. */
  readonly attempt: number | undefined
  /** Unix time in milliseconds. */
  readonly startedAt: number
  /** Unix time in milliseconds: `startedAt` and the duration, whatever the wall clock did meanwhile. */
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

/** Which rows; all conditions hold together. */
export interface Filter {
  /** Completed at this Unix time in milliseconds or later. */
  readonly from?: number | undefined
  /** Completed before this Unix time in milliseconds. */
  readonly to?: number | undefined
  readonly channel?: string | undefined
  readonly status?: Status | undefined
  readonly handler?: string | undefined
}

/** Which rows, in which order, and how many. */
export interface Query extends Filter {
  /** By time of completion, then by the order in which they were appended. Default: `newest` first. */
  readonly order?: "newest" | "oldest" | undefined
  /** An integer from 1 to 10,000. Default: 100. */
  readonly limit?: number | undefined
  /** Goes on where a page ended: its `next`. */
  readonly after?: string | undefined
}

/** Some rows. */
export interface Page {
  readonly rows: ReadonlyArray<Row>
  /** What `after` needs to go on; undefined where there are no more. */
  readonly next: string | undefined
}

/**
 * Why a store failed.
 *
 * - `Unreachable`: no answer at the address
 * - `Credentials`: user, password or certificate refused
 * - `Permission`: the user, or the process, may not do this
 * - `NotFound`: the database or the folder does not exist
 * - `Full`: no space is left
 * - `ReadOnly`: the file or the database takes no writes
 * - `Busy`: locked by somebody else
 * - `Corrupt`: the file is no database, or a damaged one
 * - `Lost`: the connection, or the thread that writes, ended in the middle
 * - `Invalid`: an option or a query that no store can take, or a schema newer than this program
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
 * The audit store failed; class `dependency`, and `retryAfter` is 5 seconds: the message whose row it is comes back until the
 * row is stored. It is never given up for it, since a dead letter would be an acknowledgement without a row.
 */
export class AuditError extends Data.TaggedError("AuditError")<{
  readonly operation: "open" | "append" | "query" | "count" | "prune"
  readonly reason: Reason
  /** What happened and what to do, with secrets redacted. */
  readonly message: string
  readonly cause?: unknown
}> {
  readonly failure = "dependency" as const
  readonly retryAfter = Duration.seconds(5)
}

/** Keeps audit rows. */
export class AuditStore extends Context.Service<AuditStore, {
  /**
   * Completes when the row is as durable as the store makes it. Rows that are written together get the same effect object.
   * The row is on its way from the call on, whether the effect is run or not.
   */
  readonly append: (entry: Entry) => Effect.Effect<void, AuditError>
  readonly query: (query?: Query) => Effect.Effect<Page, AuditError>
  readonly count: (filter?: Filter) => Effect.Effect<number, AuditError>
  /** Removes the rows completed before a Unix time in milliseconds, and answers how many there were. */
  readonly prune: (options: { readonly before: number }) => Effect.Effect<number, AuditError>
}>()("@millrace/core/Audit/Store") {}

/** Where a row stands in the order of `Query`, as `Page.next` says it. */
export const cursorOf = (row: Row): string => `${row.completedAt}_${row.id}`

/** A query with its defaults, for authors of stores; fails with reason `Invalid` where it is out of range. */
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
