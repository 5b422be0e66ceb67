/**
 * A store of idempotency keys that asks for many keys at once: what comes in one turn, or while the last group was asked, is
 * one call of its server.
 */
import { Effect, Exit, type Scope } from "effect"
import * as Gather from "../../pipeline/Gather.ts"
import type { Claim, IdempotencyStore, IdempotencyUnavailable, Request } from "./store.ts"

const nothing = new Uint8Array(0)

/** One call of a store, answered once by `claimed` or `held`. */
export class Operation {
  readonly kind: "claim" | "complete" | "extend" | "release"
  readonly key: string
  /** Of a claim; empty in others. */
  readonly fingerprint: string
  /** Of all but claims; 0 in them. */
  readonly token: number
  /** The lease of a claim or its extension, or how long a result is kept; milliseconds from 1. */
  readonly millis: number
  /** Of a completion; empty in others. */
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

  /** Answers any other call: whether the key was the caller's. */
  held(isHeld: boolean): void {
    this.found = isHeld
  }
}

/** What `grouped` is made of. */
export interface GroupOptions<R> {
  /**
   * Does the operations in their order, each atomically, and answers each of them. Called with 1 to `maximum` operations, never
   * twice at the same time; a key may be among them more than once. It tries again what is worth it.
   */
  readonly write: (operations: ReadonlyArray<Operation>) => Effect.Effect<void, IdempotencyUnavailable, R>
  /** The most operations of one call; an integer from 1. Default: 1024. */
  readonly maximum?: number | undefined
}

/** Results of one call of the server, in bytes; a larger one goes alone. */
const mostBytes = 4 * 1024 * 1024

/** Divides a group so that no part has more bytes than it should. */
const parts = (operations: ReadonlyArray<Operation>): ReadonlyArray<ReadonlyArray<Operation>> => {
  const all: Array<Array<Operation>> = []
  let bytes = Number.POSITIVE_INFINITY
  for (const operation of operations) {
    // its caller has been interrupted, and the server has not been asked yet
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
 * Makes a store of a function that does a group of operations, for stores behind a network or a disk.
 *
 * A group that fails fails its own operations and no others. A claim whose caller is interrupted before its answer comes is
 * given back. Closing the scope does what was asked before.
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
    // the call adds it; no caller awaits it
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
    // what is not a claim is answered by `held`
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
              // a claim is answered by `claimed`
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
