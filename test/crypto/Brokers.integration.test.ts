import {
  Broker,
  Channel,
  DeadLetters,
  Decode,
  type Message,
  Outgoing,
  PayloadCodec,
  Publisher,
  Subscription
} from "@millrace/core"
import { Encryption } from "@millrace/crypto"
import { RabbitMq } from "@millrace/rabbitmq"
import { RedisStreams } from "@millrace/redis"
import { RabbitMq as RabbitServers, Redis as RedisServers } from "@millrace/testing/servers"
import { it } from "@effect/vitest"
import { Effect, type Layer, pipe, Schedule, Schema, Stream } from "effect"
import { assert } from "vitest"
import { describeServer } from "../services/describe.ts"
import { eventually, fresh } from "../services/driving.ts"
import { keys } from "./support.ts"

const Order = Schema.Struct({ id: Schema.String, card: Schema.String })
const codec = PayloadCodec.through(Channel.json, [Encryption.transform()])
const order = { id: "a", card: "4111-1111" }

const ordersOn = (name: string) => Channel.make(name, { payload: Order, key: ({ id }) => id, codec })

/** Handles the channel's messages until `count` came, and lists its dead letters. */
const exchange = <E, R>(
  name: string,
  publish: Effect.Effect<void, E, R>,
  isDone: (seen: ReadonlyArray<Message<typeof Order.Type>>, dead: number) => boolean
) =>
  Effect.gen(function*() {
    const channel = ordersOn(name)
    yield* Effect.flatMap(Broker.Broker, (broker) => broker.declare({ channel: name }))
    const seen: Array<Message<typeof Order.Type>> = []
    const { health } = yield* Subscription.run(Subscription.make(
      channel,
      { group: "billing", name: "bill" },
      pipe(
        (message: Message<typeof Order.Type>) => Effect.sync(() => void seen.push(message)),
        Decode.middleware(channel)
      )
    ))
    yield* Effect.repeat(health, { until: ({ state }) => state === "running", schedule: Schedule.spaced("10 millis") })
    yield* publish
    let dead: ReadonlyArray<DeadLetters.DeadLetter> = []
    const list = Effect.map(Stream.runCollect(DeadLetters.list(`${name}.dead-letters`)), (all) => {
      dead = Array.from(all)
    })
    const services = yield* Effect.context<Broker.Broker>()
    yield* eventually(async () => {
      await Effect.runPromise(Effect.provideContext(list, services))
      return isDone(seen, dead.length)
    })
    return { seen, dead }
  })

describeServer(
  "F10 encrypted bodies on Redis Streams and RabbitMQ",
  Effect.all([RedisServers.make(), RabbitServers.make()]),
  (servers) => {
    const brokers = (): Record<"redis" | "rabbitmq", Layer.Layer<Broker.Broker, unknown>> => {
      const [redis, rabbitmq] = servers()
      return { redis: RedisStreams.layer({ url: redis.url }), rabbitmq: RabbitMq.layer({ url: rabbitmq.url }) }
    }

    for (const [from, to] of [["redis", "rabbitmq"], ["rabbitmq", "redis"]] as const) {
      it.live(
        `F10 go through ${from}, and carried to ${to} they open on their own channel and key alone`,
        () =>
          Effect.gen(function*() {
            const name = fresh("orders")
            const { [from]: first, [to]: second } = brokers()
            const { seen } = yield* Effect.provide(
              Effect.scoped(exchange(name, Publisher.make(ordersOn(name)).publish(order), (all) => all.length === 1)),
              first
            )
            const [message] = seen
            assert.deepStrictEqual(message!.payload, order)
            assert.isFalse(Buffer.from(message!.raw).includes("4111"))
            const copy = (key: string) => new Outgoing(name, message!.raw, key, { "content-type": "application/json" })
            const carried = yield* Effect.provide(
              Effect.scoped(exchange(
                name,
                Effect.flatMap(
                  Broker.Broker,
                  (broker) => Effect.andThen(broker.publish(copy("b")), broker.publish(copy("a")))
                ),
                (all, dead) => all.length === 1 && dead === 1
              )),
              second
            )
            assert.deepStrictEqual(carried.seen.map(({ payload }) => payload), [order])
            assert.match(carried.dead[0]?.errorMessage ?? "", /does not open/)
            assert.deepStrictEqual(Buffer.from(carried.dead[0]!.delivery.raw), Buffer.from(message!.raw))
          }).pipe(Effect.provide(keys)),
        60_000
      )
    }
  }
)
