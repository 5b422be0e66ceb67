/**
 * The program: it does not know which broker it runs on. Orders are published, handled, retried and dead-lettered, and in the
 * end each is accounted for.
 */
import {
  Broker,
  Channel,
  DeadLetters,
  Decode,
  type Delivery,
  type Driver,
  Lanes,
  type Message,
  Publisher,
  Subscription
} from "@millrace/core"
import { Console, Data, Effect, Layer, pipe, Schedule, Schema } from "effect"

const Order = Schema.Struct({ id: Schema.Int, customer: Schema.String, amount: Schema.Finite })

const Orders = Channel.make("any-broker.orders", { payload: Order, key: (order) => order.customer })

class CardDeclined extends Data.TaggedError("CardDeclined")<{ readonly order: number }> {
  readonly failure = "permanent"
}

class BankBusy extends Data.TaggedError("BankBusy")<{}> {
  readonly failure = "transient"
}

/** What became of the orders, by their ids. */
class Books {
  readonly charged = new Set<number>()
  readonly declined = new Set<number>()
  retried = 0
}

const charge = (books: Books) =>
  Effect.fn("charge")(function*({ attempt, payload: { amount, id } }: Message<typeof Order.Type>) {
    if (amount < 0) return yield* new CardDeclined({ order: id })
    if (id % 10 === 0 && attempt === 1) {
      books.retried++
      return yield* new BankBusy()
    }
    books.charged.add(id)
  })

const subscriptions = (books: Books) => [
  Subscription.make(
    Orders,
    { group: "billing", name: "charge", lanes: Lanes.unordered(16), backoff: { base: "100 millis" } },
    pipe(charge(books), Decode.middleware(Orders))
  ),
  Subscription.make(
    Channel.bytes(DeadLetters.channelOf(Orders.name)),
    { group: "support", name: "declined", lanes: Lanes.unordered(16) },
    (letter: Delivery) =>
      Effect.sync(() => void books.declined.add(JSON.parse(new TextDecoder().decode(letter.raw)).id))
  )
]

/** What a broker promises, of what it says that it can do. */
const promise = ({ ordering, persistence, redelivery, settlement }: Driver.Capabilities): string =>
  [
    settlement === "none" ? "never acknowledges: at most once" : `acknowledges by ${settlement}: at least once`,
    ordering === "none" ? "no order" : `order within a ${ordering}`,
    redelivery ? "delivers again what was not done" : "delivers nothing twice",
    persistence ? "messages outlive it" : "messages end with it"
  ].join(", ")

/** Some orders were neither charged nor declined. */
export class Unaccounted extends Data.TaggedError("Unaccounted")<{ readonly message: string }> {}

/** Publishes `count` orders and waits until each is charged or declined. */
export const program = Effect.fnUntraced(function*(count: number) {
  const broker = yield* Broker.Broker
  yield* Console.log(`${broker.system}: ${promise(broker.capabilities)}`)
  yield* broker.declare({ channel: Orders.name })
  yield* broker.declare({ channel: DeadLetters.channelOf(Orders.name) })
  const books = new Books()
  const all = subscriptions(books)
  yield* Layer.build(Layer.mergeAll(Subscription.layer(all[0]!), Subscription.layer(all[1]!)))

  const orders = Publisher.make(Orders)
  const ids = Array.from({ length: count }, (_, i) => i + 1)
  yield* orders.publishAll(
    ids.map((id) => ({ id, customer: `customer ${id % 50}`, amount: id % 25 === 0 ? -1 : id }))
  )
  yield* Console.log(`${count} orders are published and confirmed`)

  const accounted = () => books.charged.size + books.declined.size
  yield* Effect.sync(accounted).pipe(
    Effect.repeat({ until: (n) => n >= count, schedule: Schedule.spaced("20 millis") }),
    Effect.timeoutOption("20 seconds")
  )
  yield* Console.log(
    `${books.charged.size} were charged, ${books.retried} of them at the second attempt; ${books.declined.size} were declined and are dead letters`
  )
  if (accounted() < count) {
    return yield* new Unaccounted({ message: `${count - accounted()} orders are missing after 20 seconds` })
  }
})
