import { Context, Data, Effect, type Layer, pipe, type Result, Schema, type Scope } from "effect"
import { assertType, describe, expectTypeOf, it } from "vitest"
import {
  Auth,
  Batch,
  Broker,
  type BrokerError,
  Channel,
  DeadLetters,
  Decode,
  Fallback,
  type Handler,
  Log,
  type Message,
  Middleware,
  Outcome,
  Publish,
  Publisher,
  type Raw,
  Request,
  Retry,
  Route,
  Router,
  Stack,
  Subscription,
  Subscriptions
} from "@millrace/core"

const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
type Order = typeof Order.Type
const Orders = Channel.make("orders", { payload: Order })
const Payments = Channel.make("payments", { payload: Schema.Struct({ iban: Schema.String }) })
const Created = Channel.make("orders.{region}.{+rest}", { payload: Order })
const Archive = Broker.named("archive")
type Archive = Broker.Named<"archive">
const Done = Broker.on(Archive, Channel.make("done", { payload: Order }))

class OutOfStock extends Schema.TaggedError<OutOfStock>()("OutOfStock", { sku: Schema.String }) {}
class Refused extends Data.TaggedError("Refused")<{}> {}
class Stock extends Context.Service<Stock, { readonly take: Effect.Effect<number, OutOfStock> }>()("test/Stock") {}
class Users extends Context.Service<Users, {}>()("test/Users") {}

type Failing = Publisher.EncodeError | BrokerError.BrokerError

const echo = (message: Message<Order>) => Effect.succeed(message.payload)
const place = (_: Message<Order>) => Effect.flatMap(Stock, (stock) => stock.take)
const needsUsers = Middleware.make()(
  { name: "NeedsUsers", stage: "consume" },
  (next) => (message): Middleware.Returns<Refused, Users> => Effect.flatMap(Users, () => next(message))
)

describe("F20 patterns", () => {
  it("F20 parameters are read from the literal, and wanted where it is published", () => {
    expectTypeOf(Created).toEqualTypeOf<Channel.Channel<Order, "region" | "rest">>()
    expectTypeOf(Orders).toEqualTypeOf<Channel.Channel<Order>>()
    expectTypeOf(Channel.parameters(Created, {} as Message<Order>))
      .toEqualTypeOf<{ readonly region: string; readonly rest: string }>()
    const publisher = Publisher.make(Created)
    const order = { id: "1", amount: 1 }
    void publisher.publish(order, { parameters: { region: "eu", rest: "x" }, key: "k" })
    // @ts-expect-error which one of them?
    void publisher.publish(order)
    // @ts-expect-error rest is missing
    void publisher.publish(order, { parameters: { region: "eu" } })
    // @ts-expect-error as a batch, too
    void publisher.publishAll([order])
    // @ts-expect-error and of an answer
    pipe(echo, Publish.middleware(Created))
    pipe(
      echo,
      Publish.middleware(Created, {
        parameters: (answer) => ({ region: answer.id, rest: "x" }),
        key: (answer) => answer.id
      })
    )
    void Publisher.make(Channel.at(Created, { region: "eu", rest: "x" })).publish(order)
    // @ts-expect-error rest is missing
    Channel.at(Created, { region: "eu" })
    // @ts-expect-error a request goes to one channel
    Request.make(Created, { reply: Order })
  })

  it("F20 a name that is not known as a literal has no parameters", () => {
    expectTypeOf(Channel.bytes(String("x"))).toEqualTypeOf<Channel.Channel<Uint8Array>>()
  })

  it("F20 it is subscribed and decoded as any channel", () => {
    expectTypeOf(Subscription.make(Created, { group: "g" }, pipe(echo, Decode.middleware(Created))))
      .toEqualTypeOf<Subscription.Subscription<never>>()
  })
})

describe("F20 several brokers", () => {
  it("F20 what a channel is on is what its publishers, subscriptions and requests need", () => {
    expectTypeOf(Publisher.make(Done))
      .toEqualTypeOf<Publisher.Publisher<Order, Failing, Archive>>()
    expectTypeOf(Publisher.make(Done, Retry.middleware()))
      .toEqualTypeOf<Publisher.Publisher<Order, Failing, Archive>>()
    expectTypeOf(pipe(echo, Publish.middleware(Done)))
      .toEqualTypeOf<Handler<Message<Order>, Order, Failing, Archive>>()
    expectTypeOf(pipe(echo, Publish.reply({ channel: Done })))
      .toEqualTypeOf<Handler<Message<Order>, Order, Failing, Archive>>()
    const handler = pipe(echo, Publish.middleware(Done), Publish.middleware(Orders), Decode.middleware(Orders))
    const subscription = Subscription.make(Orders, { group: "g" }, handler)
    expectTypeOf(subscription).toEqualTypeOf<Subscription.Subscription<Archive | Broker.Broker>>()
    const archived = Subscription.make(Done, { group: "g" }, pipe(echo, Decode.middleware(Done)))
    expectTypeOf(archived).toEqualTypeOf<Subscription.Subscription<never, Archive>>()
    expectTypeOf(Subscription.layer(archived)).toEqualTypeOf<Layer.Layer<never, BrokerError.BrokerError, Archive>>()
    expectTypeOf(Broker.layerAs(Archive, {} as Layer.Layer<Broker.Broker, Refused, Users>))
      .toEqualTypeOf<Layer.Layer<Archive, Refused, Users>>()
    expectTypeOf(DeadLetters.replay({} as DeadLetters.DeadLetter, { broker: Archive }))
      .toEqualTypeOf<Effect.Effect<DeadLetters.Replayed, BrokerError.BrokerError, Archive>>()
    expectTypeOf(DeadLetters.replay({} as DeadLetters.DeadLetter))
      .toEqualTypeOf<Effect.Effect<DeadLetters.Replayed, BrokerError.BrokerError, Broker.Broker>>()
  })
})

describe("H1 fallbacks", () => {
  class Down extends Data.TaggedError("Down")<{ readonly host: string }> {
    readonly failure = "dependency"
  }
  class Wrong extends Data.TaggedError("Wrong")<{}> {
    readonly failure = "poison"
  }
  class Mixed extends Data.TaggedError("Mixed")<{ readonly failure: "timeout" | "poison" }> {}
  class Sum extends Data.Error<{ readonly _tag: "One" | "Two" }> {}

  it("H1 a fallback gets each error that may be of the class, and E loses those alone that are always", () => {
    type All = Down | Wrong | Mixed | Refused | BrokerError.BrokerError
    const failing = (_: Message<Order>): Effect.Effect<Order, All> => Effect.fail(new Refused())
    const answered = pipe(
      failing,
      Fallback.classes(["dependency", "timeout"], (_message, error) => {
        expectTypeOf(error).toEqualTypeOf<Down | Mixed | BrokerError.BrokerError>()
        return Effect.succeed(1)
      })
    )
    expectTypeOf(answered)
      .toEqualTypeOf<Handler<Message<Order>, Order | number, Exclude<All, Down>, never>>()
    // @ts-expect-error a BrokerError has no host
    pipe(failing, Fallback.classes(["dependency"], (_message, error) => Effect.succeed(error.host)))
  })

  it("H1 an error of several tags may come by each of them", () => {
    const failing = (_: Message<Order>): Effect.Effect<Order, Sum | Down> => Effect.fail(new Down({ host: "a" }))
    const answered = pipe(
      failing,
      Fallback.tags(["One"], (_message, error) => {
        expectTypeOf(error).toEqualTypeOf<Sum>()
        return Effect.succeed(1)
      })
    )
    expectTypeOf(answered).toEqualTypeOf<Handler<Message<Order>, Order | number, Sum | Down, never>>()
  })
})

describe("T8 routes", () => {
  const Placed = Schema.TaggedStruct("Placed", { id: Schema.String })
  const Cancelled = Schema.TaggedStruct("Cancelled", { why: Schema.String })
  const Events = Channel.make("events", { payload: Schema.Union([Placed, Cancelled]) })
  type Event = typeof Placed.Type | typeof Cancelled.Type

  it("T8 every tag has its handler, with its own payload", () => {
    const routed = Route.tags(Events, {
      Placed: (message) => {
        expectTypeOf(message).toEqualTypeOf<Message<typeof Placed.Type>>()
        return Effect.succeed(1)
      },
      Cancelled: (message) => Effect.fail(new OutOfStock({ sku: message.payload.why }))
    })
    expectTypeOf(routed).toEqualTypeOf<Handler<Message<Event>, number, OutOfStock, never>>()
    expectTypeOf(pipe(routed, Decode.middleware(Events)))
      .toEqualTypeOf<Handler<Message<Raw<Event>>, number, OutOfStock | Decode.DecodeError, never>>()
    // @ts-expect-error no handler for Cancelled
    Route.tags(Events, { Placed: () => Effect.void })
    // @ts-expect-error there is no tag Sent
    Route.tags(Events, { Placed: () => Effect.void, Cancelled: () => Effect.void, Sent: () => Effect.void })
    expectTypeOf(Route.tags(Events, { Placed: () => Effect.succeed(1) }, Outcome.Reject("x")))
      .toEqualTypeOf<Handler<Message<Event>, number | Outcome.Reject, never, never>>()
  })

  it("T8 literals need all their routes, and any text needs a default", () => {
    const size = (message: Message<Order>) => message.payload.amount > 9 ? "large" : "small"
    expectTypeOf(Route.by(size, { large: place, small: () => Effect.succeed("s") }))
      .toEqualTypeOf<Handler<Message<Order>, number | string, OutOfStock, Stock>>()
    const own = Route.by((message: Message<Order>) => message.payload.amount > 9 ? "large" : "small", {
      large: (message) => {
        expectTypeOf(message).toEqualTypeOf<Message<Order>>()
        return Effect.succeed(message.payload.id)
      },
      small: () => Effect.succeed(1)
    })
    expectTypeOf(own).toEqualTypeOf<Handler<Message<Order>, number | string, never, never>>()
    // @ts-expect-error no message takes the route tiny
    Route.by(size, { large: place, small: place, tiny: place })
    // @ts-expect-error not with a default either
    Route.by(size, { large: place, tiny: place }, Outcome.Ack)
    expectTypeOf(Route.by(size, { large: place }, Outcome.Ack))
      .toEqualTypeOf<Handler<Message<Order>, number | Outcome.Ack, OutOfStock, Stock>>()
    // @ts-expect-error no route for large
    Route.by(size, { small: () => Effect.void })
    const type = (message: Message<Order>) => message.headers["type"]
    // @ts-expect-error a header may be anything
    Route.by(type, { large: place })
    expectTypeOf(Route.by(type, { large: place }, (message) => Effect.succeed(message.payload)))
      .toEqualTypeOf<Handler<Message<Order>, number | Order, OutOfStock, Stock>>()
  })

  it("T8 a channel chosen by content takes the answer", () => {
    const Large = Channel.make("large", { payload: Order })
    const routed = pipe(echo, Publish.route({ Large, Done }, (order) => order.amount > 9 ? "Large" : "Done"))
    assertType<Handler<Message<Order>, Order, Failing, Broker.Broker | Archive>>(routed)
    expectTypeOf<Effect.Services<ReturnType<typeof routed>>>().toEqualTypeOf<Broker.Broker | Archive>()
    // @ts-expect-error no such channel
    Publish.route({ Large, Done }, () => "Small")
    // @ts-expect-error payments are no orders
    pipe(echo, Publish.route({ Large, Payments }, () => "Large"))
  })
})

describe("F20 routers", () => {
  const shared = Stack.start().use(Log.middleware()).use(Auth.middleware()).use(needsUsers)

  it("F20 a subscription needs what is left outside the shared stack", () => {
    const own = Effect.fn("own")(function*(_: Message<Order>) {
      const principal = yield* Auth.Principal
      yield* Stock
      return principal.subject
    })
    const router = Router.make({ group: "g", through: shared, settle: { Refused: Outcome.Reject() } })
      .add(Orders, { name: "a" }, pipe(own, Decode.middleware(Orders)))
      .add(Payments, {}, (_: Message<Uint8Array>) => Effect.void)
    assertType<Router.Router<Stock | Users | Auth.Verifier, Broker.Broker>>(router)
    expectTypeOf(Router.run(router)).toEqualTypeOf<
      Effect.Effect<
        ReadonlyArray<Broker.Running>,
        BrokerError.BrokerError,
        Broker.Broker | Stock | Users | Auth.Verifier | Scope.Scope
      >
    >()
    expectTypeOf(Router.layer(Router.make().include(router)))
      .toEqualTypeOf<
        Layer.Layer<never, BrokerError.BrokerError, Broker.Broker | Stock | Users | Auth.Verifier>
      >()
  })

  it("F20 errors: the stack's by the router, a handler's own by its subscription", () => {
    // @ts-expect-error Refused, of the stack, has no class and no entry
    Router.make({ group: "g", through: shared })
    const router = Router.make({ group: "g", through: shared, settle: { Refused: Outcome.Reject() } })
    // @ts-expect-error OutOfStock, of the handler, has no class and no entry
    router.add(Orders, {}, pipe(place, Decode.middleware(Orders)))
    router.add(Orders, { settle: { OutOfStock: Outcome.Reject() } }, pipe(place, Decode.middleware(Orders)))
    // @ts-expect-error bytes of another channel
    router.add(Payments, { settle: { OutOfStock: Outcome.Reject() } }, pipe(place, Decode.middleware(Orders)))
    // @ts-expect-error a group is needed
    Router.make().add(Orders, {}, pipe(echo, Decode.middleware(Orders)))
    // @ts-expect-error the stack decodes
    Router.make({ group: "g", through: Stack.start<Message<Raw<Order>>>().use(Decode.middleware(Orders)) })
    // @ts-expect-error no such option
    Router.make({ grup: "g" })
  })

  it("F20 the parameter of an inline handler is inferred, also where the stack asks something of its answer or errors", () => {
    const publishing = Router.make({ group: "g", through: Stack.start().use(Publish.middleware(Orders)) })
    publishing.add(Payments, {}, (message) => Effect.succeed({ id: message.channel, amount: 1 }))
    // @ts-expect-error the answer is no order
    publishing.add(Payments, {}, (message) => Effect.succeed(message.channel))
    const retrying = Router.make({ group: "g", through: Stack.start().use(Retry.middleware()) })
    retrying.add(
      Payments,
      {},
      (message) => Effect.fail({ _tag: "Busy", failure: "transient", on: message.channel } as const)
    )
    // @ts-expect-error this handler cannot fail
    retrying.add(Payments, {}, (message) => Effect.succeed(message.channel))
  })

  it("F20 a stack asks of the handlers of a router inside it what it asks of its own", () => {
    const publishing = Router.make({ through: Stack.start().use(Publish.middleware(Orders)) })
    const decoded = (group: string) => Router.make({ group }).add(Orders, {}, pipe(echo, Decode.middleware(Orders)))
    publishing.include(decoded("g"))
    const counting = decoded("g").add(Payments, {}, (_: Message<Uint8Array>) => Effect.succeed(3))
    // @ts-expect-error one of its handlers answers a number
    publishing.include(counting)
    // @ts-expect-error also when it stands in another router
    publishing.include(Router.make({ prefix: "a." }).include(counting))
    // @ts-expect-error a router of which only the needs are known may answer anything
    publishing.include(counting as Router.Router<never, Broker.Broker>)
    const retrying = Router.make({ through: Stack.start().use(Retry.middleware()) })
    retrying.include(decoded("g"))
    // @ts-expect-error one of its handlers cannot fail
    retrying.include(counting)
    // an outcome is no payload, and is not published
    publishing.include(
      Router.make({ group: "g" }).add(Payments, {}, (_: Message<Uint8Array>) => Effect.succeed(Outcome.Ack))
    )
    assertType<Router.Router<Broker.Broker, Broker.Broker>>(publishing.include(decoded("g")))
  })

  it("F20 subscriptions of different needs are one layer", () => {
    const stock = Subscription.make(
      Orders,
      { group: "a", settle: { OutOfStock: Outcome.Ack } },
      pipe(place, Decode.middleware(Orders))
    )
    const archived = Subscription.make(Done, { group: "b" }, pipe(echo, Decode.middleware(Done)))
    expectTypeOf(Subscriptions.layer([stock, archived])).toEqualTypeOf<
      Layer.Layer<Subscriptions.Registry, BrokerError.BrokerError, Stock | Broker.Broker | Archive>
    >()
    expectTypeOf(Subscriptions.layer()).toEqualTypeOf<Layer.Layer<Subscriptions.Registry, BrokerError.BrokerError>>()
  })

  it("F20 each broker that a router reads is needed", () => {
    const router = Router.make({ group: "g" })
      .add(Orders, {}, pipe(echo, Decode.middleware(Orders)))
      .add(Done, {}, pipe(echo, Decode.middleware(Done)))
    expectTypeOf(Router.layer(router))
      .toEqualTypeOf<Layer.Layer<never, BrokerError.BrokerError, Broker.Broker | Archive>>()
    expectTypeOf(Subscriptions.layer(router.subscriptions))
      .toEqualTypeOf<Layer.Layer<Subscriptions.Registry, BrokerError.BrokerError, Broker.Broker | Archive>>()
  })
})

describe("F20, B7 requests", () => {
  const Item = Schema.Struct({ sku: Schema.String })
  const Prices = Broker.on(Archive, Channel.make("prices", { payload: Item }))
  const Price = Request.make(Prices, { reply: Schema.Struct({ cents: Schema.Int }), errors: OutOfStock })

  it("F20 a client fails with what is declared, and what can happen to any", () => {
    expectTypeOf(Request.client(Price)).toEqualTypeOf<
      Effect.Effect<
        Request.Client<{ readonly sku: string }, { readonly cents: number }, OutOfStock>,
        BrokerError.BrokerError,
        Archive | Scope.Scope
      >
    >()
    const client = {} as Request.Client<{ readonly sku: string }, { readonly cents: number }, OutOfStock>
    expectTypeOf(client.request({ sku: "1" })).toEqualTypeOf<
      Effect.Effect<
        { readonly cents: number },
        OutOfStock | Request.RemoteError | Request.DeadlineExceeded | Failing
      >
    >()
  })

  it("B7 who answers answers the reply; declared errors leave E", () => {
    const handle = (_: Message<{ readonly sku: string }>): Effect.Effect<{ cents: number }, OutOfStock | Refused> =>
      Effect.fail(new Refused())
    expectTypeOf(pipe(handle, Decode.middleware(Prices), Request.answer(Price))).toEqualTypeOf<
      Handler<
        Message<Raw<{ readonly sku: string }>>,
        { cents: number } | Outcome.Reject,
        Refused | Decode.DecodeError | Failing,
        Archive
      >
    >()
    // @ts-expect-error a number is no price
    pipe((_: Message<{ readonly sku: string }>) => Effect.succeed(3), Decode.middleware(Prices), Request.answer(Price))
  })
})

describe("F20 batches", () => {
  it("F20 items are answers, outcomes or results", () => {
    type Many = ReadonlyArray<Message<Order>>
    expectTypeOf(Batch.handler({ size: 2 }, (_: Many) => Effect.void))
      .toEqualTypeOf<Handler<Message<Order>, void, never, never>>()
    expectTypeOf(Batch.handler({ size: 2 }, (many: Many) => Effect.as(Stock, many.map(() => Outcome.Ack))))
      .toEqualTypeOf<Handler<Message<Order>, Outcome.Ack, never, Stock>>()
    const results = (_: Many): Effect.Effect<ReadonlyArray<Result.Result<number, OutOfStock>>, Refused> =>
      Effect.succeed([])
    expectTypeOf(Batch.handler({ size: 2 }, results))
      .toEqualTypeOf<Handler<Message<Order>, number, OutOfStock | Refused, never>>()
    // @ts-expect-error a number for all of them
    Batch.handler({ size: 2 }, (_: Many) => Effect.succeed(3))
  })
})
