/**
 * What the services say to each other.
 */
import { Channel } from "@millrace/core"
import { Schema } from "effect"

export const Placed = Schema.TaggedStruct("Placed", { id: Schema.Int, customer: Schema.String, amount: Schema.Finite })
export const Cancelled = Schema.TaggedStruct("Cancelled", { id: Schema.Int, customer: Schema.String })

/** All that happens to orders. */
export const Events = Channel.make("services.events", {
  payload: Schema.Union([Placed, Cancelled]),
  key: (event) => event.customer
})

/** Orders that somebody has to look at. */
export const Approvals = Channel.make("services.approvals", { payload: Placed, key: (order) => order.customer })

export const Mail = Schema.Struct({ to: Schema.String, subject: Schema.String })

/** Mails to be sent. */
export const Mails = Channel.make("services.mails", { payload: Mail })
