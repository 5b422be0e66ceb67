import { Context, Effect, type Layer, pipe, Schema } from "effect"
import type { HttpClient } from "effect/http"
import { describe, expectTypeOf, it } from "vitest"
import {
  Auth,
  Channel,
  Decode,
  type Delivery,
  type Envelope,
  Filter,
  type Handler,
  type Message,
  Outcome,
  type Outgoing,
  Parse,
  RateLimit,
  type Raw,
  Stack,
  Subscription,
  Timeout
} from "@millrace/core"
import { Jwt } from "@millrace/security"

const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
type Order = typeof Order.Type
const Orders = Channel.make("orders", { payload: Order })

class OutOfStock extends Schema.TaggedError<OutOfStock>()("OutOfStock", {}) {}
class Stock extends Context.Service<Stock, ReadonlySet<string>>()("test/Stock") {}

type Place = Effect.Effect<number, OutOfStock, Auth.Principal | Stock>
declare const place: (message: Message<Order>) => Place
declare const any: (message: Envelope) => Effect.Effect<string>

type Refusal = Auth.Unauthorized | Auth.AuthUnavailable
type Limited = RateLimit.RateLimited | RateLimit.RateLimitUnavailable

describe("X2 Auth", () => {
  it("F8 takes the principal out of R and puts the verifier in; Forbidden only where scopes are asked for", () => {
    expectTypeOf(pipe(place, Auth.middleware())).toEqualTypeOf<
      Handler<Message<Order>, number, OutOfStock | Refusal, Stock | Auth.Verifier>
    >()
    expectTypeOf(pipe(place, Auth.middleware({ scopes: ["orders:write"] }))).toEqualTypeOf<
      Handler<Message<Order>, number, OutOfStock | Refusal | Auth.Forbidden, Stock | Auth.Verifier>
    >()
    expectTypeOf(pipe(any, Auth.middleware({ header: "x-api-key", scheme: "" }))).toEqualTypeOf<
      Handler<Envelope, string, Refusal, Auth.Verifier>
    >()
    // @ts-expect-error at least one scope
    Auth.middleware({ scopes: [] })
  })

  it("F8 scopes inside need the principal, which the middleware outside gives", () => {
    const inner = pipe(any, Auth.scopes("a", "b"))
    expectTypeOf(inner).toEqualTypeOf<Handler<Envelope, string, Auth.Forbidden, Auth.Principal>>()
    expectTypeOf(pipe(inner, Auth.middleware())).toEqualTypeOf<
      Handler<Envelope, string, Auth.Forbidden | Refusal, Auth.Verifier>
    >()
    // @ts-expect-error at least one scope
    Auth.scopes()
  })

  it("F8 a stack infers the same", () => {
    const guarded = Stack.start<Message<Raw<Order>>>().use(Auth.middleware({ scopes: ["a"] })).use(
      Decode.middleware(Orders)
    )
      .use(Auth.scopes("b")).handle(place)
    expectTypeOf(guarded).toEqualTypeOf<
      Handler<
        Message<Raw<Order>>,
        number,
        OutOfStock | Refusal | Auth.Forbidden | Decode.DecodeError,
        Stock | Auth.Verifier
      >
    >()
  })

  it("F8 only keys at an address need a network", () => {
    const all = { algorithms: ["RS256"], issuer: "i", audience: "a" } as const
    expectTypeOf(Jwt.layer({ ...all, keys: { publicKey: "pem" } })).toEqualTypeOf<Layer.Layer<Auth.Verifier>>()
    expectTypeOf(Jwt.layer({ ...all, keys: { jwks: { keys: [] } } })).toEqualTypeOf<Layer.Layer<Auth.Verifier>>()
    expectTypeOf(Jwt.layer({ ...all, keys: { url: "https://a.example" } })).toEqualTypeOf<
      Layer.Layer<Auth.Verifier, never, HttpClient.HttpClient>
    >()
    // @ts-expect-error algorithms are named
    Jwt.layer({ issuer: "i", audience: "a", keys: { publicKey: "pem" } })
    // @ts-expect-error none is no algorithm
    Jwt.layer({ ...all, algorithms: ["none"], keys: { publicKey: "pem" } })
    // @ts-expect-error not to check the issuer is said on purpose
    Jwt.layer({ algorithms: ["RS256"], audience: "a", keys: { publicKey: "pem" } })
  })
})

describe("X2 RateLimit", () => {
  it("F12 by channel or key of any message, by consumer of a consumer's", () => {
    expectTypeOf(pipe(any, RateLimit.middleware())).toEqualTypeOf<Handler<Envelope, string, Limited, RateLimit.Store>>()
    expectTypeOf(pipe(any, RateLimit.middleware({ by: "key" }))).toEqualTypeOf<
      Handler<Envelope, string, Limited, RateLimit.Store>
    >()
    expectTypeOf(pipe(place, RateLimit.middleware({ by: "consumer" }))).toEqualTypeOf<
      Handler<Message<Order>, number, OutOfStock | Limited, Auth.Principal | Stock | RateLimit.Store>
    >()
    const publish = (_message: Outgoing<Uint8Array>) => Effect.void
    // @ts-expect-error a publisher is in no consumer group
    pipe(publish, RateLimit.middleware({ by: "consumer" }))
  })

  it("F12 by a function that reads the decoded payload, typed by the handler that it stands around", () => {
    const limited = pipe(
      place,
      RateLimit.middleware({
        name: "order",
        by: (message) => {
          expectTypeOf(message).toEqualTypeOf<Message<Order>>()
          return message.payload.id
        }
      }),
      Decode.middleware(Orders)
    )
    expectTypeOf(limited).toEqualTypeOf<
      Handler<
        Message<Raw<Order>>,
        number,
        OutOfStock | Limited | Decode.DecodeError,
        Auth.Principal | Stock | RateLimit.Store
      >
    >()
    // @ts-expect-error what the function counts has a name
    pipe(place, RateLimit.middleware({ by: (message: Message<Order>) => message.payload.id }))
  })
})

describe("X2 Timeout", () => {
  it("F19 can fail with one more error", () => {
    expectTypeOf(pipe(place, Timeout.middleware({ after: "1 second" }))).toEqualTypeOf<
      Handler<Message<Order>, number, OutOfStock | Timeout.TimeoutExceeded, Auth.Principal | Stock>
    >()
  })
})

describe("X2 Filter", () => {
  it("F1 adds no error, and answers exactly what it was told to", () => {
    const acked = pipe(
      place,
      Filter.middleware((message) => {
        expectTypeOf(message).toEqualTypeOf<Message<Order>>()
        return message.payload.amount > 1
      })
    )
    expectTypeOf(acked).toEqualTypeOf<
      Handler<Message<Order>, number | Outcome.Ack, OutOfStock, Auth.Principal | Stock>
    >()
    const rejected = pipe(place, Filter.middleware(() => true, { onFiltered: Outcome.Reject() }))
    expectTypeOf(rejected).toEqualTypeOf<
      Handler<Message<Order>, number | Outcome.Reject, OutOfStock, Auth.Principal | Stock>
    >()
  })

  it("F1 a predicate may need services, and may not fail", () => {
    const blocked = pipe(any, Filter.middleware((message) => Effect.map(Stock, (stock) => stock.has(message.channel))))
    expectTypeOf(blocked).toEqualTypeOf<Handler<Envelope, string | Outcome.Ack, never, Stock>>()
    const failing = (): Effect.Effect<boolean, "no"> => Effect.fail("no")
    // @ts-expect-error a filter is never an error
    // @effect-diagnostics-next-line missingEffectError:off
    pipe(any, Filter.middleware(failing))
  })
})

describe("X2 Parse", () => {
  it("F1 takes deliveries, hands on bytes, and may need services", () => {
    const bytes = (message: Message<Uint8Array>) => Effect.succeed(message.payload.length)
    const plain = pipe(bytes, Parse.middleware((delivery) => delivery.withKey("a")))
    expectTypeOf(plain).toEqualTypeOf<Handler<Delivery, number, Parse.ParseError>>()
    const needy = pipe(bytes, Parse.middleware((delivery) => Effect.as(Stock, delivery)))
    expectTypeOf(needy).toEqualTypeOf<Handler<Delivery, number, Parse.ParseError, Stock>>()
    const failing = pipe(bytes, Parse.middleware(() => Effect.fail("no envelope")))
    expectTypeOf(failing).toEqualTypeOf<Handler<Delivery, number, Parse.ParseError>>()
  })

  it("F1 stands around a decoded handler in a subscription", () => {
    const handler = pipe(
      place,
      Decode.middleware(Orders),
      Parse.middleware((delivery) => delivery),
      Auth.middleware()
    )
    const subscription = Subscription.make(Orders, { group: "billing", settle: { OutOfStock: Outcome.Ack } }, handler)
    expectTypeOf(subscription).toEqualTypeOf<Subscription.Subscription<Stock | Auth.Verifier>>()
    // @ts-expect-error what is inside no longer sees the delivery
    pipe((message: Delivery) => Effect.succeed(message.origin), Parse.middleware((delivery) => delivery))
  })
})
