/**
 * What both programs share: a channel, and a consumer of plain functions behind middlewares.
 */
import { Channel, Decode, MemoryBroker, Plain, Publisher, Retry, Stack, Subscription, Timeout } from "@millrace/core"
import { Schema } from "effect"

/** An order, as a body of JSON. */
export const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
export type Order = typeof Order.Type

const Orders = Channel.make("orders", { payload: Order, key: (order) => order.id })

let attempts = 0

/** A partner that resets every first connection: an error of the network is tried again, whatever library threw it. */
const charge = async (order: Order, signal: AbortSignal): Promise<string> => {
  signal.throwIfAborted()
  attempts++
  if (attempts % 2 === 1) throw Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" })
  return Promise.resolve(`charged ${order.amount} for ${order.id}`)
}

/** Starts the consumer; `publish` and `close` are promises. */
export const start = async (say: (line: string) => void) => {
  const consumer = Subscription.make(
    Orders,
    { group: "billing", name: "charge" },
    Stack.start()
      .use(Decode.middleware(Orders))
      .use(Retry.middleware({ schedule: Retry.exponential({ base: "10 millis" }) }))
      .use(Timeout.middleware({ after: "5 seconds" }))
      .handle(Plain.handler(async ({ payload }, signal) => say(await charge(payload, signal))))
  )
  const program = await Plain.start(MemoryBroker.layer(), consumer)
  const publisher = Publisher.make(Orders)
  return {
    publish: (order: Order) => program.publish(publisher, order),
    close: program.close
  }
}

/** What `start` resolves to. */
export type Billing = Awaited<ReturnType<typeof start>>
