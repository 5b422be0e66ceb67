/**
 * What is said over HTTP and over the broker: orders, their cancellations, and the replies that tell how far an order is.
 */
import { Channel, Parcel, Status } from "@millrace/core"
import { Schema } from "effect"

const Line = Schema.Struct({
  sku: Schema.String.check(Schema.isPattern(/^[a-z0-9-]{1,40}$/, { message: "Expected 1 to 40 of a-z, 0-9 and -" })),
  quantity: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1000 }))
})

/** The body of `POST /orders`. */
export const NewOrder = Schema.Struct({
  customer: Schema.NonEmptyString.check(Schema.isMaxLength(100)),
  lines: Schema.NonEmptyArray(Line).check(Schema.isMaxLength(100))
})
export type NewOrder = typeof NewOrder.Type

export const Order = Schema.Struct({ id: Schema.String, ...NewOrder.fields })
export type Order = typeof Order.Type

const Cancellation = Schema.Struct({ id: Schema.String })

/** Orders that somebody has to work on. */
export const Placed = Channel.make("web.orders", {
  payload: Parcel.make(Order, { data: "required" }),
  key: ({ data }) => data.id
})

/** On a channel of its own, so that it does not wait behind the order. */
export const Cancelled = Channel.make("web.cancellations", {
  payload: Parcel.make(Cancellation, { data: "required" }),
  key: ({ data }) => data.id
})

/** How far an order is: each step of whoever works on it. */
export const Replies = Channel.make("web.replies", {
  payload: Parcel.make(Status.Reply, { data: "required" }),
  key: ({ data }) => data.id
})

export type Reply = Parcel.OpenRequired<Status.Reply>
