import { Effect, Exit } from "effect"
import {
  After,
  Delivery,
  type Envelope,
  type Handler,
  Headers,
  type Origin,
  Outcome,
  type Reader
} from "@millrace/core"

interface Native {
  readonly key: string | undefined
  readonly headers: Headers.Headers
}

const reader: Reader<Native> = {
  key: (native) => native.key,
  keyBytes: (native) => native.key === undefined ? undefined : new TextEncoder().encode(native.key),
  headers: (native) => native.headers,
  fields: (native) => Headers.toFields(native.headers),
  timestamp: () => 0
}

const originOf = (options: Partial<Origin>): Origin => ({
  system: "memory",
  channel: "orders",
  group: "billing",
  partition: 0,
  handler: "placeOrder",
  holdLimit: Infinity,
  ...options
})

/** A delivery without a broker; a body that is no bytes is written as JSON. */
export const deliver = (
  options: Partial<Origin> & {
    readonly key?: string | undefined
    readonly headers?: { readonly [name: string]: string } | undefined
    readonly body?: unknown
    readonly position?: number | undefined
    readonly attempt?: number | undefined
    readonly tombstone?: boolean | undefined
  } = {}
): Delivery => {
  const { attempt, body, headers, key, position, tombstone, ...origin } = options
  const native: Native = { key, headers: Headers.fromRecord(headers ?? {}) }
  const bytes = body instanceof Uint8Array ? body : new TextEncoder().encode(JSON.stringify(body ?? {}))
  return new Delivery(
    originOf(origin),
    reader as Reader<never>,
    native as never,
    position ?? 0,
    tombstone === true ? new Uint8Array(0) : bytes,
    attempt ?? 1,
    tombstone ?? false
  )
}

/** Runs a chain over one message and then its hooks, as a source does; a failing hook fails a chain that had succeeded. */
export const runChain = <M extends Envelope & { readonly hooks?: Delivery["hooks"] }, A, E, R>(
  handler: Handler<M, A, E, R>,
  message: M
): Effect.Effect<Exit.Exit<A, unknown>, never, R> =>
  Effect.flatMap(Effect.exit(Effect.suspend(() => handler(message))), (exit: Exit.Exit<A, unknown>) => {
    const outcome = exit._tag === "Success" && Outcome.isOutcome(exit.value) ? exit.value : undefined
    return Effect.map(
      Effect.exit(After.run(message.hooks ?? [], exit, outcome)),
      (hooks) => exit._tag === "Success" && hooks._tag === "Failure" ? Exit.failCause(hooks.cause) : exit
    )
  })
