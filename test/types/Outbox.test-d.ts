import {
  Broker,
  type BrokerError,
  Channel,
  Decode,
  type Message,
  type Outcome,
  Publish,
  type Publisher
} from "@millrace/core"
import { Inbox, Outbox, OutboxRelay } from "@millrace/sql"
import { Effect, type Layer, pipe, Schema } from "effect"
import type { SqlClient } from "effect/sql"
import { expectTypeOf, test } from "vitest"

const Order = Schema.Struct({ id: Schema.String })
const Orders = Channel.make("orders", { payload: Order })
const Regional = Channel.make("orders.{region}", { payload: Order })
const Archive = Broker.named("archive")
const Kept = Broker.on(Archive, Channel.make("kept", { payload: Order }))

test("a publisher behind the outbox needs the outbox of its channel's broker, and takes its payloads", () => {
  const orders = Outbox.publisher(Orders)
  expectTypeOf(orders.publish({ id: "a" })).toEqualTypeOf<
    Effect.Effect<void, Publisher.EncodeError | BrokerError.BrokerError, Outbox.To<Broker.Broker>>
  >()
  const kept = Outbox.publisher(Kept).publish({ id: "a" })
  expectTypeOf<Effect.Services<typeof kept>>().toEqualTypeOf<Outbox.To<Broker.Named<"archive">>>()
  expectTypeOf(Outbox.on(Kept)).toEqualTypeOf<
    Channel.Channel<typeof Order.Type, never, Outbox.To<Broker.Named<"archive">>>
  >()
  void Outbox.publisher(Regional).publish({ id: "a" }, { parameters: { region: "eu" } })
  // @ts-expect-error which of the channels
  void Outbox.publisher(Regional).publish({ id: "a" })
  // @ts-expect-error no payload of the channel
  void orders.publish({ id: 1 })
})

test("layers need the database, and the relay its broker too", () => {
  expectTypeOf(Outbox.layer()).toEqualTypeOf<
    Layer.Layer<Outbox.To<Broker.Broker>, Outbox.OutboxError, SqlClient.SqlClient>
  >()
  expectTypeOf(Outbox.layer({ broker: Archive })).toEqualTypeOf<
    Layer.Layer<Outbox.To<Broker.Named<"archive">>, Outbox.OutboxError, SqlClient.SqlClient>
  >()
  expectTypeOf(OutboxRelay.layer()).toEqualTypeOf<
    Layer.Layer<OutboxRelay.Relay, Outbox.OutboxError, SqlClient.SqlClient | Broker.Broker>
  >()
})

test("the inbox needs the database, may fail by it, and may acknowledge in the handler's place", () => {
  const handler = pipe(
    (message: Message<typeof Order.Type>) => Effect.succeed(message.payload),
    Publish.middleware(Outbox.on(Orders)),
    Decode.middleware(Orders),
    Inbox.middleware()
  )
  type Ran = ReturnType<typeof handler>
  expectTypeOf<Effect.Success<Ran>>().toEqualTypeOf<typeof Order.Type | Outcome.Ack>()
  expectTypeOf<Effect.Services<Ran>>().toEqualTypeOf<
    Outbox.To<Broker.Broker> | Inbox.Store | SqlClient.SqlClient
  >()
  expectTypeOf<Effect.Error<Ran>>().toExtend<
    Inbox.InboxError | Inbox.InboxRefused | Publisher.EncodeError | BrokerError.BrokerError | Decode.DecodeError
  >()
})
