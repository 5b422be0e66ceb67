/**
 * The messages between the SQLite store of idempotency keys and its thread. The thread loads this file without Effect.
 */
import type { Answer } from "../sqlite/protocol.ts"

/** The operations, as numbers that cross to the thread. */
export const kinds = { claim: 0, complete: 1, extend: 2, release: 3 } as const

/** The answers to a claim. */
export const tags = { Claimed: 0, Completed: 1, Running: 2, Reused: 3 } as const

/** A request; the reply has the same id. */
export type Request =
  | {
    readonly id: number
    readonly operation: "ask"
    /** Three numbers for each operation: its kind, its token, its milliseconds. */
    readonly numbers: Float64Array<ArrayBuffer>
    /** The key and the fingerprint of each operation. */
    readonly texts: ReadonlyArray<string>
    /** The results of the completions, in their order. */
    readonly results: ReadonlyArray<Uint8Array>
  }
  | { readonly id: number; readonly operation: "prune"; readonly most: number }

/** Two numbers for each operation: a claim's tag, and its token or the remaining milliseconds; for other operations 1 or 0. */
export interface Reply extends Answer {
  readonly numbers?: Float64Array<ArrayBuffer> | undefined
  /** The results that claims of completed keys have found, in their order. */
  readonly results?: ReadonlyArray<Uint8Array> | undefined
  /** How many rows a prune removed. */
  readonly removed?: number | undefined
}
