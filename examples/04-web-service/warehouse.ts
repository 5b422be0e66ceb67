/**
 * A warehouse that only pretends: it has everything but `gone-…`, and for `busy-…` it needs a third attempt.
 */
import { Data, Effect } from "effect"
import type { Order } from "./contract.ts"

/** It cannot be asked now. Class `transient`: the order is tried again. */
export class Busy extends Data.TaggedError("Busy")<{ readonly sku: string }> {
  readonly failure = "transient" as const
}

/** Packs an order, and answers what it has not got. */
export const pack = Effect.fn("pack")(function*({ lines }: Order, attempt: number) {
  const busy = lines.find(({ sku }) => sku.startsWith("busy-"))
  if (busy !== undefined && attempt < 3) return yield* new Busy({ sku: busy.sku })
  return lines.filter(({ sku }) => sku.startsWith("gone-")).map(({ sku }) => sku)
})
