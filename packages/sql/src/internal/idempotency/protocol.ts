/**
 * What the SQLite store of idempotency keys and its thread say to each other. The thread loads this file without Effect.
 */
import type { Answer } from "../sqlite/protocol.ts"

/** The operations, as numbers that cross to the thread. */
export const kinds = { claim: 0, complete: 1, extend: 2, release: 3 } as const

/** The answers to a claim. */
export const tags = { Claimed: 0, Completed: 1, Running: 2, Reused: 3 } as const

/** A request, answered by the reply of its id. */
export type Request =
  | {
    readonly id: number
    readonly operation: "ask"
    /** For each operation three numbers: its kind, its token, its milliseconds. */
    readonly numbers: Float64Array<ArrayBuffer>
    /** For each operation its key and its fingerprint. */
    readonly texts: ReadonlyArray<string>
    /** The results of the completions, in their order. */
    readonly results: ReadonlyArray<Uint8Array>
  }
  | { readonly id: number; readonly operation: "prune"; readonly most: number }

/** Of each operation two numbers: of a claim its tag, and its token or what is left; of others 1 or 0. */
export interface Reply extends Answer {
  readonly numbers?: Float64Array<ArrayBuffer> | undefined
  /** What claims have found that were completed, in their order. */
  readonly results?: ReadonlyArray<Uint8Array> | undefined
  /** How many rows a prune removed. */
  readonly removed?: number | undefined
}
