/**
 * Orders, the workflow that fulfils a large one, and the steps of it.
 */
import { Channel, Correlate, type Message, Retry, Timeout } from "@millrace/core"
import { Activity, WorkflowType } from "@millrace/workflow"
import { Effect, pipe, Schema } from "effect"

export const Order = Schema.Struct({ id: Schema.String, customer: Schema.String, amount: Schema.Number })
export type Order = typeof Order.Type

/** The channels of the three consumers. */
export const Simple = Channel.make("orders-simple", { payload: Order, key: ({ id }) => id })
export const Large = Channel.make("orders-large", { payload: Order, key: ({ id }) => id })
export const Mixed = Channel.make("orders-mixed", { payload: Order, key: ({ id }) => id })

export class Declined extends Schema.TaggedError<Declined>()("Declined", { reason: Schema.String }) {}

/** The workflow, as its callers know it. */
export const Fulfil = WorkflowType.make("FulfilOrder", { payload: Order, success: Schema.String, error: Declined })

// an activity is a handler, and middlewares stand around it as around a consumer
export const charge = Activity.make(
  "charge",
  { payload: Order, success: Schema.String, error: Declined },
  pipe(
    (message: Message<Order>) =>
      message.payload.amount > 9_000
        ? Effect.fail(new Declined({ reason: "above the limit of the card" }))
        : Effect.succeed(`receipt-${message.payload.id}`),
    Timeout.middleware({ after: "5 seconds" }),
    Retry.middleware(),
    Correlate.middleware()
  )
)

export const ship = Activity.make(
  "ship",
  { payload: Schema.String, success: Schema.String },
  (message: Message<string>) => Effect.succeed(`parcel for ${message.payload}`)
)
