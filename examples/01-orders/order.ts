/**
 * What is ordered, and over which channel.
 */
import { Channel } from "@millrace/core"
import { Schema } from "effect"

export const Order = Schema.Struct({
  id: Schema.NonEmptyString,
  customer: Schema.NonEmptyString,
  card: Schema.String,
  /** In cents. */
  amount: Schema.Int.check(Schema.isGreaterThan(0))
})
export type Order = typeof Order.Type

/** Orders of one customer are handled in order. */
export const Orders = Channel.make("orders", { payload: Order, key: (order) => order.customer })
