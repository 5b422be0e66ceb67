import { Channel, DeadLetter, DeadLetters, Decode, MemoryBroker } from "@millrace/core"
import { Publisher, Retry, Stack, Subscription } from "@millrace/core"
import { Console, Data, Effect, Schedule, Schema, Stream } from "effect"

const Order = Schema.Struct({ customer: Schema.String, item: Schema.String })
const Orders = Channel.make("orders", { payload: Order, key: (order) => order.customer })

class Busy extends Data.TaggedError("Busy")<{}> {
  readonly failure = "transient"
}
class SoldOut extends Data.TaggedError("SoldOut")<{ readonly item: string }> {}

const placeOrder = Effect.fn("placeOrder")(function*(order: typeof Order.Type) {
  const attempt = yield* Retry.Attempt
  if (order.item === "moon") return yield* new SoldOut({ item: order.item })
  if (order.item === "lamp" && attempt < 3) return yield* new Busy()
  yield* Console.log(`${order.customer} gets a ${order.item}, at attempt ${attempt}`)
})

const handler = Stack.start()
  .use(DeadLetter.tags("SoldOut"))
  .use(Decode.middleware(Orders))
  .use(Retry.middleware({ schedule: Retry.exponential({ base: "10 millis" }), while: { tags: ["Busy"] } }))
  .handle((message) => placeOrder(message.payload))

const orders = Subscription.make(Orders, { group: "shop", name: "placeOrder" }, handler)

const program = Effect.gen(function*() {
  const { health } = yield* Subscription.run(orders)
  yield* Publisher.make(Orders).publishAll(["desk", "lamp", "moon"].map((item) => ({ customer: "ada", item })))
  yield* Effect.repeat(health, { until: ({ settled }) => settled === 3, schedule: Schedule.spaced("5 millis") })
  const letters = yield* Stream.runCollect(DeadLetters.list("orders.dead-letters"))
  for (const { delivery, errorType } of letters) yield* Console.log(`${delivery.key} gets none: ${errorType}`)
})

await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(MemoryBroker.layer())))
// => ada gets a desk, at attempt 1
// => ada gets a lamp, at attempt 3
// => ada gets none: SoldOut
