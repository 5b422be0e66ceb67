/**
 * Eight middlewares around one handler, read as a message meets them: from the outside in.
 *
 * The compiler follows along. Inside `Auth` there is a `Principal`, inside `Decode` the payload is an `Order`, outside
 * `DeadLetter` there is no `PaymentFailed` any more; and what `fulfilment` needs in the end (stores, keys, a provider of
 * payments) is its type, until `layers.ts` has provided the last of it.
 */
import {
  Audit,
  Auth,
  DeadLetter,
  Decode,
  Lanes,
  type Message,
  Metrics,
  RateLimit,
  Retry,
  Stack,
  Subscription,
  Trace
} from "@millrace/core"
import { Effect } from "effect"
import { type Order, Orders } from "./order.ts"
import { Payments } from "./payments.ts"

const placeOrder = Effect.fn("placeOrder")(function*({ payload }: Message<Order>) {
  const { subject } = yield* Auth.Principal
  yield* Effect.annotateCurrentSpan({ subject, attempt: yield* Retry.Attempt })
  const payments = yield* Payments
  yield* payments.charge(payload)
})

/** Beyond 100 at once, a customer gets 200 orders a second; the others wait for their turn. */
const limits = { limit: 200, window: "1 second", burst: 100 } as const

const pipeline = Stack.start()
  .use(Trace.middleware())
  .use(Audit.middleware({ redact: { fields: ["card"] } }))
  .use(Metrics.middleware())
  .use(DeadLetter.tags("PaymentFailed"))
  .use(Auth.middleware({ scopes: ["orders:write"] }))
  .use(RateLimit.middleware({ ...limits, by: "key", onExceeded: "delay" }))
  .use(Decode.middleware(Orders))
  .use(Retry.middleware({ schedule: Retry.exponential({ base: "10 millis" }) }))

export const fulfilment = Subscription.make(
  Orders,
  { group: "fulfilment", name: "placeOrder", lanes: Lanes.key(256) },
  pipeline.handle(placeOrder)
)
