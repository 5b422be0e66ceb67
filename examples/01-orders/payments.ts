/**
 * The one thing that a handler of orders needs: somebody who charges cards.
 */
import { Context, Data, Effect, Layer } from "effect"
import type { Order } from "./order.ts"

/** The provider did not answer; class `transient`, so it is worth another try. */
export class PaymentFailed extends Data.TaggedError("PaymentFailed")<{ readonly order: string }> {
  readonly failure = "transient"
  override get message(): string {
    return `No answer from the payment provider for order ${this.order}`
  }
}

/** What the provider remembers of an order. */
export interface Charge {
  readonly calls: number
  readonly charged: number
}

export class Payments extends Context.Service<Payments, {
  readonly charge: (order: Order) => Effect.Effect<void, PaymentFailed>
  /** By order. */
  readonly book: ReadonlyMap<string, Charge>
}>()("examples/orders/Payments") {}

/** Test cards, as payment providers have them: the number decides how often a charge of an order fails. */
export const cards = {
  good: { number: "4242 4242 4242 4242", failures: 0 },
  flaky: { number: "4000 0000 0000 0119", failures: 2 },
  hopeless: { number: "4000 0000 0000 0341", failures: Infinity }
} as const

const failures = new Map<string, number>(Object.values(cards).map(({ failures, number }) => [number, failures]))

/** A provider that answers as the card says. */
export const layerTest = Layer.sync(Payments, () => {
  const book = new Map<string, Charge>()
  return {
    book,
    charge: Effect.fn("charge")(function*({ card, id }) {
      const { calls, charged } = book.get(id) ?? { calls: 0, charged: 0 }
      const fails = calls < (failures.get(card) ?? 0)
      book.set(id, { calls: calls + 1, charged: charged + (fails ? 0 : 1) })
      if (fails) return yield* new PaymentFailed({ order: id })
    })
  }
})
