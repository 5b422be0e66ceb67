import { Context, Data, Duration, Effect, pipe, type Schedule, Schema } from "effect"
import { assertType, describe, expectTypeOf, it } from "vitest"
import {
  type Around,
  type Broker,
  type BrokerError,
  Channel,
  DeadLetter,
  Decode,
  Eager,
  type Handler,
  type Message,
  Middleware,
  Outcome,
  type Outgoing,
  Publish,
  Publisher,
  type Raw,
  Retry,
  Stack,
  Subscription
} from "@millrace/core"

const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
type Order = typeof Order.Type
const Invoice = Schema.Struct({ order: Schema.String })
const Orders = Channel.make("orders", { payload: Order, key: (order) => order.id })
const Payments = Channel.make("payments", { payload: Schema.Struct({ iban: Schema.String }) })
const Invoices = Channel.make("invoices", { payload: Invoice })

class OutOfStock extends Schema.TaggedError<OutOfStock>()("OutOfStock", { sku: Schema.String }) {}
class Refused extends Data.TaggedError("Refused")<{ readonly status: number }> {}
class Unauthorized extends Data.TaggedError("Unauthorized")<{}> {
  readonly failure = "auth" as const
}
class Late extends Data.TaggedError("Late")<{}> {
  readonly failure = "throttled" as const
  readonly retryAfter = Duration.seconds(1)
}

class Stock extends Context.Service<Stock, {
  readonly take: (id: string) => Effect.Effect<number, OutOfStock | Refused>
}>()("test/Stock") {}
class User extends Context.Service<User, { readonly name: string }>()("test/User") {}
class Users extends Context.Service<Users, { readonly find: (token: string) => User["Service"] | undefined }>()(
  "test/Users"
) {}

const login = () =>
  Middleware.make<{ provides: User }>()(
    { name: "Login", stage: "consume" },
    (next) => (message) =>
      Effect.flatMap(Users, (users): Middleware.Returns<Unauthorized, User> => {
        const user = users.find(message.headers["authorization"] ?? "")
        return user === undefined ? Effect.fail(new Unauthorized()) : next(message)
      }).pipe(Effect.provideService(User, { name: "" }))
  )

const place = Effect.fn("place")(function*(message: Message<Order>) {
  const user = yield* User
  const stock = yield* Stock
  return yield* stock.take(message.payload.id + user.name)
})

const cannotFail = (message: Message<Order>) => Effect.succeed(message.payload.amount)

type Bytes = Message<Raw<Order>>

describe("X2 services and errors in the types of a pipeline", () => {
  it("X2, F8, F18 a middleware's services leave R, its needs enter R, its errors enter E", () => {
    const piped = pipe(place, login())
    expectTypeOf(piped).toEqualTypeOf<
      Handler<Message<Order>, number, OutOfStock | Refused | Unauthorized, Stock | Users>
    >()
  })

  it("X2 a middleware's own answer enters A, also where a body spells out what it returns", () => {
    const known = () =>
      Middleware.make()(
        { name: "Known", stage: "consume" },
        (next) => (message) =>
          Effect.flatMapEager(Eager.service(Users), (users): Middleware.Returns<Unauthorized, User, Outcome.Reject> => {
            if (message.key === undefined) return Effect.succeed(Outcome.Reject())
            return users.find(message.key) === undefined ? Effect.fail(new Unauthorized()) : next(message)
          })
      )
    expectTypeOf(pipe(cannotFail, known())).toEqualTypeOf<
      Handler<Message<Order>, number | Outcome.Reject, Unauthorized, User | Users>
    >()
  })

  it("X2 pipe and Stack infer the same", () => {
    const piped = pipe(
      place,
      Retry.middleware(),
      Decode.middleware(Orders),
      DeadLetter.tags("OutOfStock"),
      login()
    )
    const stacked = Stack.start<Bytes>()
      .use(login())
      .use(DeadLetter.tags("OutOfStock"))
      .use(Decode.middleware(Orders))
      .use(Retry.middleware())
      .handle(place)
    type Expected = Handler<
      Bytes,
      number | DeadLetter.Answer,
      Refused | Unauthorized | Decode.DecodeError,
      Stock | Users
    >
    expectTypeOf(piped).toEqualTypeOf<Expected>()
    expectTypeOf(stacked).toEqualTypeOf<Expected>()
  })

  it("X2 a handler written in a Stack has its message typed", () => {
    const handler = Stack.start<Bytes>().use(Decode.middleware(Orders)).handle((message) => {
      expectTypeOf(message).toEqualTypeOf<Message<Order>>()
      return Effect.succeed("done")
    })
    expectTypeOf(handler).toEqualTypeOf<Handler<Bytes, string, Decode.DecodeError, never>>()
  })
})

describe("F9, F18 Decode changes the message", () => {
  it("F18 bytes outside, the payload inside", () => {
    expectTypeOf(pipe(cannotFail, Decode.middleware(Orders)))
      .toEqualTypeOf<Handler<Bytes, number, Decode.DecodeError, never>>()
  })

  it("F18 bytes of another channel do not compile", () => {
    // @ts-expect-error place takes orders, not payments
    pipe(place, Decode.middleware(Payments))
    // @ts-expect-error a subscription of payments cannot run a pipeline that decodes orders
    Subscription.make(Payments, { group: "g" }, pipe(cannotFail, Decode.middleware(Orders)))
    // @ts-expect-error decoding twice
    pipe(cannotFail, Decode.middleware(Orders), Decode.middleware(Orders))
  })

  it("F9 channels without a schema: unknown, or bytes", () => {
    pipe((message: Message<unknown>) => Effect.succeed(message.payload), Decode.middleware(Channel.unchecked("any")))
    pipe(
      (message: Message<Uint8Array>) => Effect.succeed(message.payload.length),
      Decode.middleware(Channel.bytes("images"))
    )
    // @ts-expect-error an unchecked payload is unknown
    pipe(cannotFail, Decode.middleware(Channel.unchecked("any")))
  })

  it("F9 the choice for null bodies is in the types", () => {
    const optional = (message: Message<Order | undefined>) => Effect.succeed(message.payload?.amount)
    expectTypeOf(pipe(optional, Decode.middleware(Orders, { tombstone: "pass" })))
      .toEqualTypeOf<Handler<Bytes, number | undefined, Decode.DecodeError, never>>()
    expectTypeOf(pipe(cannotFail, Decode.middleware(Orders, { tombstone: "acknowledge" })))
      .toEqualTypeOf<Handler<Bytes, number | Outcome.Ack, Decode.DecodeError, never>>()
    // @ts-expect-error the payload may be undefined
    pipe(cannotFail, Decode.middleware(Orders, { tombstone: "pass" }))
    const chosen = {} as { readonly tombstone: Decode.Tombstone }
    // @ts-expect-error the choice is not known, so the payload may be undefined
    pipe(cannotFail, Decode.middleware(Orders, chosen))
  })
})

describe("F11 Retry", () => {
  it("F11, F16 around a handler that cannot fail it does not compile, in both forms", () => {
    // @ts-expect-error Retry: this handler cannot fail
    pipe(cannotFail, Retry.middleware())
    // @ts-expect-error Retry: this handler cannot fail
    Stack.start<Message<Order>>().use(Retry.middleware()).handle(cannotFail)
    // @ts-expect-error DeadLetter inside has taken the only errors
    pipe(place, DeadLetter.tags("OutOfStock", "Refused"), Retry.middleware())
  })

  it("F11 leaves E and R as they are", () => {
    expectTypeOf(pipe(place, Retry.middleware({ while: { tags: ["Refused"] } })))
      .toEqualTypeOf<Handler<Message<Order>, number, OutOfStock | Refused, Stock | User>>()
  })

  it("F11 what a schedule needs and fails with is added", () => {
    const schedule = {} as Schedule.Schedule<number, unknown, Late, Users>
    expectTypeOf(pipe(place, Retry.middleware({ schedule })))
      .toEqualTypeOf<Handler<Message<Order>, number, OutOfStock | Refused | Late, Stock | User | Users>>()
  })

  it("F11 a function filters in pipe only, typed by the handler's errors", () => {
    expectTypeOf(pipe(
      place,
      Retry.when((error) => {
        expectTypeOf(error).toEqualTypeOf<OutOfStock | Refused>()
        return error._tag === "Refused"
      })
    )).toEqualTypeOf<Handler<Message<Order>, number, OutOfStock | Refused, Stock | User>>()
    // @ts-expect-error a stack does not know the errors yet
    Stack.start<Message<Order>>().use(Retry.when(() => true))
  })
})

describe("F13 DeadLetter", () => {
  it("F13 tags leave E, and the outcome enters A", () => {
    expectTypeOf(pipe(place, DeadLetter.tags("Refused")))
      .toEqualTypeOf<Handler<Message<Order>, number | DeadLetter.Answer, OutOfStock, Stock | User>>()
  })

  it("F13 classes leave E", () => {
    const both = (_: Message<Order>): Effect.Effect<void, Unauthorized | Late | OutOfStock> => Effect.void
    expectTypeOf(pipe(both, DeadLetter.classes("auth")))
      .toEqualTypeOf<Handler<Message<Order>, void | DeadLetter.Answer, Late | OutOfStock, never>>()
    // @ts-expect-error no such class
    DeadLetter.classes("fatal")
  })

  it("F13 an error of several classes stays in E when one of them is taken", () => {
    expectTypeOf(pipe(cannotFail, Decode.middleware(Orders), DeadLetter.classes("validation")))
      .toEqualTypeOf<Handler<Bytes, number | DeadLetter.Answer, Decode.DecodeError, never>>()
    expectTypeOf(
      pipe(cannotFail, Decode.middleware(Orders), DeadLetter.classes("validation", "poison", "permanent", "dependency"))
    )
      .toEqualTypeOf<Handler<Bytes, number | DeadLetter.Answer, never, never>>()
  })

  it("F13 a type guard, in pipe only", () => {
    expectTypeOf(pipe(place, DeadLetter.when((error) => error._tag === "Refused")))
      .toEqualTypeOf<Handler<Message<Order>, number | DeadLetter.Answer, OutOfStock, Stock | User>>()
    // @ts-expect-error a stack does not know the errors yet
    Stack.start<Message<Order>>().use(DeadLetter.when((error: unknown): error is Refused => error instanceof Refused))
    // @ts-expect-error a function that is no guard
    pipe(place, DeadLetter.when(() => Math.random() > 0.5))
  })

  it("F13 afterAttempts keeps E", () => {
    expectTypeOf(pipe(place, DeadLetter.afterAttempts(3)))
      .toEqualTypeOf<Handler<Message<Order>, number | Outcome.DeadLetter, OutOfStock | Refused, Stock | User>>()
  })

  it("F13 only consumed messages have dead letters", () => {
    // @ts-expect-error an outgoing message is not consumed
    Publisher.make(Orders, DeadLetter.tags("EncodeError"))
  })
})

describe("F17 Publish and Publisher", () => {
  type Failing = Publisher.EncodeError | BrokerError.BrokerError

  it("F17 the answer must be the channel's payload, in both forms", () => {
    const invoice = (message: Message<Order>) => Effect.succeed({ order: message.payload.id })
    expectTypeOf(pipe(invoice, Publish.middleware(Invoices)))
      .toEqualTypeOf<Handler<Message<Order>, { order: string }, Failing, Broker.Broker>>()
    expectTypeOf(Stack.start<Message<Order>>().use(Publish.middleware(Invoices)).handle(invoice))
      .toEqualTypeOf<Handler<Message<Order>, { order: string }, Failing, Broker.Broker>>()
    // the parameter of an inline handler is inferred
    expectTypeOf(
      Stack.start<Message<Order>>().use(Publish.middleware(Invoices)).handle(({ payload }) =>
        Effect.succeed({ order: payload.id })
      )
    ).toEqualTypeOf<Handler<Message<Order>, { order: string }, Failing, Broker.Broker>>()
    // @ts-expect-error a number is no invoice
    pipe(cannotFail, Publish.middleware(Invoices))
    // @ts-expect-error a number is no invoice, inline
    Stack.start<Message<Order>>().use(Publish.middleware(Invoices)).handle(({ payload }) =>
      Effect.succeed(payload.amount)
    )
    // @ts-expect-error an unknown answer may be no invoice
    Stack.start<Message<Order>>().use(Publish.middleware(Invoices)).handle(() => Effect.succeed<unknown>(1))
    // @ts-expect-error a number is no invoice
    Stack.start<Message<Order>>().use(Publish.middleware(Invoices)).handle(cannotFail)
    // @ts-expect-error a number is no invoice, however deep it stands
    Stack.start<Bytes>().use(Publish.middleware(Invoices)).use(Decode.middleware(Orders)).handle(cannotFail)
  })

  it("F17 undefined and outcomes are no payloads, and may be answered", () => {
    const maybe = (message: Message<Order>): Effect.Effect<{ order: string } | Outcome.Reject | undefined> =>
      Effect.succeed(message.payload.amount > 1 ? undefined : Outcome.Reject())
    pipe(maybe, Publish.middleware(Invoices))
  })

  it("F17 what is in `through` shows in the types", () => {
    const checked = {} as Around<
      Outgoing<unknown>,
      { provides: never; requires: Users; handles: never; fails: Late; answers: never }
    >
    const invoice = (message: Message<Order>) => Effect.succeed({ order: message.payload.id })
    expectTypeOf(pipe(invoice, Publish.middleware(Invoices, { through: checked })))
      .toEqualTypeOf<Handler<Message<Order>, { order: string }, Failing | Late, Broker.Broker | Users>>()
    expectTypeOf(Publisher.make(Invoices, checked))
      .toEqualTypeOf<Publisher.Publisher<{ readonly order: string }, Failing | Late, Broker.Broker | Users>>()
    const stack = Stack.start<Outgoing<typeof Invoice.Type>>().use(checked).use(Retry.middleware())
    expectTypeOf(Publisher.make(Invoices, stack))
      .toEqualTypeOf<Publisher.Publisher<{ readonly order: string }, Failing | Late, Broker.Broker | Users>>()
    expectTypeOf(pipe(invoice, Publish.middleware(Invoices, { through: stack })))
      .toEqualTypeOf<Handler<Message<Order>, { order: string }, Failing | Late, Broker.Broker | Users>>()
    expectTypeOf(Publisher.make(Invoices, (next) => pipe(next, Retry.middleware(), checked)))
      .toEqualTypeOf<Publisher.Publisher<{ readonly order: string }, Failing | Late, Broker.Broker | Users>>()
  })

  it("F17 a publisher takes its channel's payload only", () => {
    const publisher = Publisher.make(Orders)
    expectTypeOf(publisher.publish({ id: "1", amount: 1 })).toEqualTypeOf<Effect.Effect<void, Failing, Broker.Broker>>()
    // @ts-expect-error amount is a number
    void publisher.publish({ id: "1", amount: "1" })
    // @ts-expect-error a list of orders
    void publisher.publishAll([{ id: "1" }])
  })

  it("F17 a reply is typed by its channel, or is anything", () => {
    expectTypeOf(pipe(cannotFail, Publish.reply()))
      .toEqualTypeOf<Handler<Message<Order>, number, Failing, Broker.Broker>>()
    // @ts-expect-error a number is no invoice
    pipe(cannotFail, Publish.reply({ channel: Invoices }))
  })
})

describe("X2 a subscription takes what its pipeline leaves", () => {
  it("X2 each error without a class needs an entry; services stay in R", () => {
    const handler = pipe(place, Retry.middleware(), Decode.middleware(Orders), DeadLetter.tags("Refused"), login())
    expectTypeOf(Subscription.make(Orders, { group: "g", settle: { OutOfStock: Outcome.Retry() } }, handler))
      .toEqualTypeOf<Subscription.Subscription<Stock | Users>>()
    // @ts-expect-error OutOfStock has no class and no entry
    Subscription.make(Orders, { group: "g" }, handler)
    assertType<Subscription.Subscription<Stock | Users>>(
      Subscription.make(
        Orders,
        { group: "g", settle: { OutOfStock: (error) => Outcome.DeadLetter(error.sku) } },
        handler
      )
    )
  })

  it("X2 an error without a tag is refused", () => {
    // @effect-diagnostics-next-line globalErrorInEffectFailure:off
    const failing = (_: Message<Uint8Array>): Effect.Effect<void, Error> => Effect.fail(new Error("x"))
    // @ts-expect-error Error has neither _tag nor failure
    Subscription.make(Orders, { group: "g" }, failing)
  })

  it("F13 what DeadLetter takes needs no entry", () => {
    const handler = pipe(place, Decode.middleware(Orders), DeadLetter.tags("Refused", "OutOfStock"))
    assertType<Subscription.Subscription<Stock | User>>(Subscription.make(Orders, { group: "g" }, handler))
  })
})
