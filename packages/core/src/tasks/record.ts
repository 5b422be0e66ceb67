/**
 * The record of a task: its state, its attempts and its result, as every store keeps them.
 */
import { Data, type Duration } from "effect"

/**
 * The state of a task.
 *
 * - `pending`: no attempt has begun; the task waits for its time or for a worker
 * - `running`: an attempt runs
 * - `retrying`: an attempt has failed, and the next one has not begun
 * - `succeeded`, `failed`, `cancelled`, `expired`: the task has ended
 */
export type State = "pending" | "running" | "retrying" | "succeeded" | "failed" | "cancelled" | "expired"

/** Tells whether a state is final. */
export const isEnd = (state: State): boolean => state !== "pending" && state !== "running" && state !== "retrying"

/** One attempt of a task. Times are Unix time in milliseconds, by the store's clock. */
export interface Attempt {
  /** From 1. */
  readonly number: number
  readonly worker: string
  readonly startedAt: number
  /** Undefined while the attempt runs. */
  readonly endedAt: number | undefined
  /** How the attempt ended; `lost` if its worker's lease ended first. */
  readonly ending?: "succeeded" | "failed" | "cancelled" | "released" | "lost" | undefined
  /** The error of a failed attempt: its tag and its message, without secrets. */
  readonly error?: Problem | undefined
}

/** An error as text. */
export interface Problem {
  readonly tag: string
  readonly message: string
}

/** The limit of uniqueness: until the first attempt begins, until the task ends, or for a time. */
export type While = "pending" | "running" | "time"

/** The part of a record that a store keeps as one JSON text. */
export interface Content {
  readonly task: string
  readonly key?: string | undefined
  readonly headers: { readonly [name: string]: string }
  readonly metadata?: { readonly [name: string]: string } | undefined
  /** Milliseconds after the enqueue in which the first attempt must begin. */
  readonly expires: number | undefined
  /** Milliseconds for which the record is kept after the end of the task. */
  readonly keep: number
  readonly uniqueWhile?: While | undefined
  /** The hash of the payload, if the caller named the id. */
  readonly digest?: string | undefined
  /** The fencing token of the last attempt: each attempt has a larger one. */
  readonly token: number
  /** The name of the last attempt's owner; unique for each attempt. */
  readonly owner?: string | undefined
  /** Unix time in milliseconds until which the running attempt's lease holds. */
  readonly leaseUntil: number | undefined
  /** How many attempts have begun since the task was enqueued, or started again. */
  readonly begun: number
  /** The last attempts, oldest first; at most `mostAttempts`. */
  readonly attempts: ReadonlyArray<Attempt>
  /** Whether a running attempt is to be interrupted. */
  readonly isCancelling?: boolean | undefined
  /** The encoded result, as JSON. */
  readonly result?: string | undefined
  /** The encoded error of the task's own type, as JSON. */
  readonly error?: string | undefined
  /** The reason of a failure, as text. */
  readonly problem?: Problem | undefined
  /** The last encoded progress, as JSON, and its number from 1. */
  readonly progress?: string | undefined
  readonly progressNumber: number | undefined
  readonly endedAt: number | undefined
}

/** The record of a task. */
export interface Record extends Content {
  readonly id: string
  readonly queue: string
  readonly state: State
  /** Unix time in milliseconds of the enqueue, by the store's clock. */
  readonly createdAt: number
}

/** The most attempts that a record lists; older ones are dropped. */
export const mostAttempts = 100

/** The store of tasks is unavailable; class `dependency`, so messages are retried. */
export class TaskStoreUnavailable extends Data.TaggedError("TaskStoreUnavailable")<{
  /** The failure and how to fix it, with secrets redacted. */
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}> {
  readonly failure = "dependency" as const
}
