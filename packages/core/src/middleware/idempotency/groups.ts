/**
 * A store of idempotency keys that groups its operations: those of one turn, or those that arrive during the previous
 * call of the server, are one call.
 */
import { Effect, Exit, type Scope } from "effect"
import * as Gather from "../../pipeline/Gather.ts"
import type { Claim, IdempotencyStore, IdempotencyUnavailable, Request } from "./store.ts"

const nothing = new Uint8Array(0)

/** One call of a store, answered once by `claimed` or `held`. */
export class Operation {
  readonly kind: "claim" | "complete" | "extend" | "release"
  readonly key: string
  /** The fingerprint of a claim; empty for other kinds. */
  readonly fingerprint: string
  /** The token of the claim; 0 for the kind `claim`. */
  readonly token: number
  /** The lease of a claim or its extension, or the time to keep a result; milliseconds from 1, and 0 for a release. */
  readonly millis: number
  /** The result of a completion; empty for other kinds. */
  readonly result: Uint8Array
  /** Whether the caller was interrupted before the answer. */
  isAbandoned = false
  found: Claim | boolean | undefined
  failure: IdempotencyUnavailable | undefined

  constructor(
    kind: Operation["kind"],
    key: string,
    fingerprint: string,
    token: number,
    millis: number,
    result: Uint8Array
  ) {
    this.kind = kind
    this.key = key
    this.fingerprint = fingerprint
    this.token = token
    this.millis = millis
    this.result = result
  }

  /** Answers a claim. */
  claimed(claim: Claim): void {
    this.found = claim
  }

  /** Answers any other call: whether the caller held the key. */
  held(isHeld: boolean): void {
    this.found = isHeld
  }
}

/** Options of `grouped`. */
export interface GroupOptions<R> {
  /**
   * Performs the operations in their order, each atomically, and answers each of them. Called with 1 to `maximum`
   * operations, never twice at the same time; a key may occur more than once. Retries transient failures itself.
   */
  readonly write: (operations: ReadonlyArray<Operation>) => Effect.Effect<void, IdempotencyUnavailable, R>
  /** The most operations of one call; an integer from 1. Default: 1024. */
  readonly maximum?: number | undefined
}

/** The most bytes of results in one call of the server; a larger result is sent alone. */
const mostBytes = 4 * 1024 * 1024

/** Splits a group so that no part has more bytes than `mostBytes`. */
const parts = (operations: ReadonlyArray<Operation>): ReadonlyArray<ReadonlyArray<Operation>> => {
  const all: Array<Array<Operation>> = []
  let bytes = Number.POSITIVE_INFINITY
  for (const operation of operations) {
    // the caller was interrupted before the call of the server
    if (operation.isAbandoned) continue
    bytes += operation.result.length
    if (bytes > mostBytes) {
      all.push([])
      bytes = operation.result.length
    }
    all.at(-1)!.push(operation)
  }
  return all
}

const milliseconds = (millis: number): number =>
  Math.max(1, Math.min(Math.ceil(millis), Number.MAX_SAFE_INTEGER / 1024))

/**
 * Makes a store from a function that performs a group of operations, for stores behind a network or a disk.
 *
 * A failed group fails its own operations and no others. A claim whose caller is interrupted before its answer is
 * released. Closing the scope first performs the operations requested before.
 *
 * **Example** (a store that keeps nothing, so each request runs)
 *
 * ```ts
 * import { Idempotency } from "@millrace/core"
 * import { Effect, Layer } from "effect"
 *
 * let token = 0
 * const layer = Layer.effect(
 *   Idempotency.Store,
 *   Idempotency.grouped({
 *     write: (operations) =>
 *       Effect.sync(() => {
 *         for (const operation of operations) {
 *           if (operation.kind === "claim") operation.claimed({ _tag: "Claimed", token: ++token })
 *           else operation.held(true)
 *         }
 *       })
 *   })
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const grouped = <R = never>(
  options: GroupOptions<R>
): Effect.Effect<IdempotencyStore["Service"], never, R | Scope.Scope> => {
  const giveBack = (operation: Operation): void => {
    const claim = operation.found
    if (typeof claim !== "object" || claim._tag !== "Claimed") return
    operation.found = undefined
    // assigned before the first call; no caller awaits the release
    void gather.add(new Operation("release", operation.key, "", claim.token, 0, nothing))
  }

  const writePart = (part: ReadonlyArray<Operation>) =>
    Effect.match(options.write(part), {
      onSuccess: () => {
        for (const operation of part) if (operation.isAbandoned) giveBack(operation)
      },
      onFailure: (error) => {
        for (const operation of part) operation.failure = error
      }
    })

  const answered = (operation: Operation): Exit.Exit<Claim | boolean, IdempotencyUnavailable> =>
    operation.failure === undefined ? Exit.succeed(operation.found!) : Exit.fail(operation.failure)

  let gather: Gather.Gather<Operation, never>

  const asked = (operation: Operation): Effect.Effect<boolean, IdempotencyUnavailable> =>
    // `held` answers all operations except claims
    Effect.flatMap(gather.add(operation), () => answered(operation) as Exit.Exit<boolean, IdempotencyUnavailable>)

  return Effect.map(
    Gather.make<Operation, never, R>({
      maximum: options.maximum,
      write: (operations) => Effect.forEach(parts(operations), writePart, { discard: true })
    }),
    (made) => {
      gather = made
      return {
        claim: ({ fingerprint, key, lease }: Request) =>
          Effect.suspend(() => {
            const operation = new Operation("claim", key, fingerprint, 0, milliseconds(lease), nothing)
            return Effect.onInterrupt(
              // `claimed` answers claims
              Effect.flatMap(gather.add(operation), () =>
                answered(operation) as Exit.Exit<Claim, IdempotencyUnavailable>),
              () =>
                Effect.sync(() => {
                  operation.isAbandoned = true
                  giveBack(operation)
                })
            )
          }),
        complete: (key, token, result, keep) =>
          Effect.suspend(() => asked(new Operation("complete", key, "", token, milliseconds(keep), result))),
        extend: (key, token, lease) =>
          Effect.suspend(() => asked(new Operation("extend", key, "", token, milliseconds(lease), nothing))),
        release: (key, token) =>
          Effect.asVoid(Effect.suspend(() => asked(new Operation("release", key, "", token, 0, nothing))))
      }
    }
  )
}
