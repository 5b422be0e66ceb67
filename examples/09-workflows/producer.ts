/**
 * Publishes orders; every tenth one twice, as an impatient customer does.
 */
import { Publisher } from "@millrace/core"
import { Effect } from "effect"
import { Large, Mixed, type Order, Simple } from "./orders.ts"

/** How many messages `produce` publishes on each channel. */
export const published = (orders: number): number => orders + Math.ceil(orders / 10)

const order = (prefix: string, n: number, amount: number): Order => ({
  id: `${prefix}-${n}`,
  customer: `customer-${n % 7}`,
  amount
})

const simple = Publisher.make(Simple)
const large = Publisher.make(Large)
const mixed = Publisher.make(Mixed)

export const produce = (orders: number) =>
  Effect.forEach(Array.from({ length: orders }, (_, n) => n), (n) => {
    const times = n % 10 === 0 ? 2 : 1
    return Effect.all([
      Effect.replicateEffect(simple.publish(order("simple", n, 20)), times),
      Effect.replicateEffect(large.publish(order("large", n, 2_000)), times),
      // one of five is large, one of five is urgent, and the last of each hundred is declined
      Effect.replicateEffect(
        mixed.publish(
          order("mixed", n, n % 100 === 99 ? 9_500 : n % 5 === 1 ? 5_000 : 20),
          n % 5 === 2 ? { headers: { priority: "high" } } : {}
        ),
        times
      )
    ], { discard: true })
  }, { discard: true })
