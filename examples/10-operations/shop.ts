/**
 * A shop whose services fail by a seed: orders are charged and then sent, and one kind of failure follows another.
 */
import { Channel, Decode, Lanes, type Message, Publish, Publisher, Retry, Router, Stack, Trace } from "@millrace/core"
import { Monitor } from "@millrace/monitor"
import { Data, Effect, Random, Ref, Schedule, Schema } from "effect"

const Order = Schema.Struct({ id: Schema.Int, customer: Schema.String, amount: Schema.Int })
type Order = typeof Order.Type

export const Orders = Channel.make("orders", { payload: Order, key: ({ customer }) => customer })
export const Parcels = Channel.make("parcels", { payload: Order, key: ({ customer }) => customer })

export class PaymentDown extends Data.TaggedError("PaymentDown")<{ readonly message: string }> {
  readonly failure = "dependency" as const
}

export class CardRefused extends Data.TaggedError("CardRefused")<{ readonly message: string }> {
  readonly failure = "permanent" as const
}

export class OutOfStock extends Data.TaggedError("OutOfStock")<{ readonly message: string }> {
  readonly failure = "permanent" as const
}

/** The kinds of trouble; the shop is in one of them at a time. */
export const troubles = ["calm", "payment down", "cards refused", "warehouse slow", "out of stock", "bug"] as const
export type Trouble = typeof troubles[number]

/** The trouble of the moment, and the share of calls that it meets. */
export interface Storm {
  readonly trouble: Ref.Ref<Trouble>
  readonly share: number
}

/** Changes the trouble again and again; `calm` comes between two others. */
export const blow = ({ trouble }: Storm, phase: number, say: (trouble: Trouble) => Effect.Effect<void>) =>
  Effect.gen(function*() {
    const next = troubles[yield* Random.nextIntBetween(1, troubles.length - 1)] ?? "calm"
    for (const each of ["calm", next] as const) {
      yield* Ref.set(trouble, each)
      yield* say(each)
      yield* Effect.sleep(phase)
    }
  }).pipe(Effect.forever)

const meets = ({ share, trouble }: Storm, one: Trouble) =>
  Effect.flatMap(
    Ref.get(trouble),
    (now) => now === one ? Effect.map(Random.next, (draw) => draw < share) : Effect.succeed(false)
  )

const charge = (storm: Storm) =>
  Effect.fnUntraced(function*({ payload }: Message<Order>) {
    if (yield* meets(storm, "payment down")) {
      return yield* new PaymentDown({ message: `payments.example.com:443 does not answer for order ${payload.id}` })
    }
    if (yield* meets(storm, "cards refused")) {
      return yield* new CardRefused({ message: `The card of order ${payload.id} was refused` })
    }
    // a defect, as a bug is one
    if (yield* meets(storm, "bug")) {
      return yield* Effect.die(new TypeError(`amount of order ${payload.id} is not a number`))
    }
    yield* Effect.sleep("5 millis")
    return payload
  })

const send = (storm: Storm) =>
  Effect.fnUntraced(function*({ payload }: Message<Order>) {
    if (yield* meets(storm, "out of stock")) {
      return yield* new OutOfStock({ message: `Order ${payload.id} asks for more than the stock` })
    }
    yield* Effect.sleep((yield* meets(storm, "warehouse slow")) ? "1500 millis" : "10 millis")
  })

/** The consumers; one charges and publishes the parcel, the other sends it. */
export const subscriptions = (storm: Storm) => {
  const around = Stack.start().use(Trace.middleware()).use(Monitor.middleware())
  return Router.make({ group: "shop", through: around })
    .add(
      Orders,
      { name: "charge", lanes: Lanes.key(16) },
      Stack.start()
        .use(Decode.middleware(Orders))
        .use(Retry.middleware({ schedule: Schedule.exponential("50 millis"), times: 2 }))
        .use(Publish.middleware(Parcels))
        .handle(charge(storm))
    )
    .add(
      Parcels,
      { name: "send", lanes: Lanes.key(16) },
      Stack.start().use(Decode.middleware(Parcels)).handle(send(storm))
    )
    .subscriptions
}

const orders = Publisher.make(Orders)

/** Places orders, so many a second. */
export const place = (rate: number) => {
  let id = 0
  return Effect.gen(function*() {
    yield* orders.publish({
      id: ++id,
      customer: `customer ${yield* Random.nextIntBetween(1, 40)}`,
      amount: yield* Random.nextIntBetween(1, 500)
    })
  }).pipe(Effect.repeat(Schedule.spaced(1000 / rate)), Effect.asVoid)
}
