import {
  type Broker,
  type BrokerError,
  Channel,
  Decode,
  Eager,
  type Handler,
  type Message,
  PayloadCodec,
  Publish,
  Publisher,
  type Raw,
  Request,
  Subscription
} from "@millrace/core"
import { Outbox } from "@millrace/sql"
import { Context, Effect, Exit, pipe, Schema, type Scope } from "effect"
import { expectTypeOf, test } from "vitest"

type Failure = Publisher.EncodeError | BrokerError.BrokerError

class Registry extends Context.Service<
  Registry,
  { readonly id: Effect.Effect<number, PayloadCodec.PayloadError> }
>()("Registry") {}
class Kms
  extends Context.Service<Kms, { readonly key: Effect.Effect<Uint8Array, PayloadCodec.PayloadError> }>()("Kms")
{}
class Store extends Context.Service<Store, {
  readonly put: (body: Uint8Array) => Effect.Effect<string, PayloadCodec.PayloadError>
  readonly get: (name: string) => Effect.Effect<Uint8Array, PayloadCodec.PayloadError>
}>()("Store") {}

const registered = PayloadCodec.make({
  name: "avro",
  contentType: "application/avro",
  values: "native",
  encode: (value) =>
    Effect.flatMapEager(Eager.service(Registry), ({ id }) =>
      Effect.mapEager(id, (id) => ({
        bytes: Channel.json.encode(value),
        fields: [["__value_schema_id", new Uint8Array([0, id])]] as const
      }))),
  decode: (bytes, { fields }) =>
    fields.length === 0
      ? Exit.fail(PayloadCodec.poison({ codec: "avro", message: "there is no id of a schema" }))
      : Effect.flatMapEager(Eager.service(Registry), ({ id }) => Effect.mapEager(id, () => Channel.json.decode(bytes)))
})
const compressed: PayloadCodec.Transform<never, "compress"> = {
  name: "gzip",
  stage: "compress",
  encode: (bytes) => Exit.succeed({ bytes, headers: { "content-encoding": "gzip" } }),
  decode: (bytes) => Exit.succeed(bytes)
}
const encrypted: PayloadCodec.Transform<Kms, "encrypt"> = {
  name: "aes",
  stage: "encrypt",
  encode: (bytes) => Effect.flatMapEager(Eager.service(Kms), ({ key }) => Effect.mapEager(key, () => ({ bytes }))),
  decode: (_, { keyBytes }) =>
    keyBytes === undefined
      ? Exit.fail(PayloadCodec.permanent({ codec: "aes", message: "revoked", reason: "KeyRevoked" }))
      : Effect.flatMapEager(Eager.service(Kms), ({ key }) => key)
}
const claimed: PayloadCodec.Transform<Store, "store"> = {
  name: "claims",
  stage: "store",
  encode: (bytes) =>
    Effect.flatMapEager(
      Eager.service(Store),
      (store) => Effect.mapEager(store.put(bytes), (claim) => ({ bytes: new Uint8Array(0), headers: { claim } }))
    ),
  decode: (_, { headers }) => Effect.flatMapEager(Eager.service(Store), (store) => store.get(headers["claim"] ?? ""))
}

const Order = Schema.Struct({ id: Schema.String })
type Order = typeof Order.Type
const codec = PayloadCodec.through(registered, [compressed, encrypted, claimed])
const Orders = Channel.make("orders", { payload: Order, codec })
type Needs = Registry | Kms | Store

test("F10 F14 X13 the needs of a codec and its transforms are inferred, and are a channel's", () => {
  expectTypeOf(codec).toEqualTypeOf<PayloadCodec.PayloadCodec<Needs>>()
  expectTypeOf(Orders).toEqualTypeOf<Channel.Channel<Order, never, never, Needs>>()
  expectTypeOf(PayloadCodec.through(Channel.json, [compressed])).toEqualTypeOf<PayloadCodec.PayloadCodec>()
  expectTypeOf(Channel.make("a", { payload: Order })).toEqualTypeOf<Channel.Channel<Order>>()
  expectTypeOf(Channel.make("a", { payload: Order, codec: Channel.json })).toEqualTypeOf<Channel.Channel<Order>>()
  expectTypeOf(Channel.bytes("files", PayloadCodec.through(PayloadCodec.bytes, [claimed])))
    .toEqualTypeOf<Channel.Channel<Uint8Array, never, never, Store>>()
  expectTypeOf(Channel.unchecked("a.{b}", registered)).toEqualTypeOf<Channel.Channel<unknown, "b", never, Registry>>()
  expectTypeOf(Channel.prefixed("x.", Channel.at(Orders, {}))).toEqualTypeOf<typeof Orders>()
})

test("F10 F14 X13 a wrong order of transforms does not compile", () => {
  // @ts-expect-error what is encrypted does not compress
  PayloadCodec.through(Channel.json, [encrypted, compressed])
  // @ts-expect-error a store takes what is encrypted
  PayloadCodec.through(Channel.json, [claimed, encrypted])
  PayloadCodec.through(Channel.json, [encrypted, encrypted, claimed])
})

test("F10 F14 X13 the needs enter R of readers, publishers, answers, requests and the outbox", () => {
  const handler = pipe((_: Message<Order>) => Effect.void, Decode.middleware(Orders))
  expectTypeOf(handler).toEqualTypeOf<Handler<Message<Raw<Order>>, void, Decode.DecodeError, Needs>>()
  expectTypeOf(Subscription.make(Orders, { group: "g" }, handler))
    .toEqualTypeOf<Subscription.Subscription<Needs, Broker.Broker>>()
  expectTypeOf(Publisher.make(Orders)).toEqualTypeOf<Publisher.Publisher<Order, Failure, Broker.Broker | Needs>>()
  expectTypeOf(Publisher.make(Orders).publish({ id: "" }))
    .toEqualTypeOf<Effect.Effect<void, Failure, Broker.Broker | Needs>>()
  expectTypeOf(Outbox.publisher(Orders))
    .toEqualTypeOf<Publisher.Publisher<Order, Failure, Outbox.To<Broker.Broker> | Needs>>()
  const answer = (_: Message<unknown>) => Effect.succeed({ id: "a" })
  expectTypeOf(pipe(answer, Publish.middleware(Orders)))
    .toEqualTypeOf<Handler<Message<unknown>, { id: string }, Failure, Broker.Broker | Needs>>()
  expectTypeOf(pipe(answer, Publish.route({ Orders, Plain: Channel.make("p", { payload: Order }) }, () => "Orders")))
    .toEqualTypeOf<Handler<Message<unknown>, { id: string }, Failure, Broker.Broker | Needs>>()
  expectTypeOf(pipe(answer, Publish.reply({ channel: Orders })))
    .toEqualTypeOf<Handler<Message<unknown>, { id: string }, Failure, Broker.Broker | Needs>>()
  const asked = Request.make(Channel.make("a", { payload: Order, codec: registered }), {
    reply: Order,
    codec: PayloadCodec.through(Channel.json, [encrypted])
  })
  expectTypeOf(Request.client(asked)).toEqualTypeOf<
    Effect.Effect<
      Request.Client<Order, Order, never>,
      BrokerError.BrokerError,
      Broker.Broker | Registry | Kms | Scope.Scope
    >
  >()
  expectTypeOf(pipe(answer, Request.answer(asked))).toMatchTypeOf<
    Handler<Message<unknown>, unknown, Failure, Broker.Broker | Kms>
  >()
})
