import {
  Broker,
  Channel,
  DeadLetters,
  Decode,
  type Delivery,
  Lanes,
  type Message,
  Outcome,
  Request,
  Subscription
} from "@millrace/core"
import { RabbitMq as Servers } from "@millrace/testing/servers"
import { it } from "@effect/vitest"
import { type ChannelModel, type ConfirmChannel, connect, type ConsumeMessage, type Options } from "amqplib"
import { Data, Effect, Exit, pipe, Redacted, Schema, Scope, Stream } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { errorOf, eventually, fresh, on, outgoing, textOf } from "./support.ts"

class Refused extends Data.TaggedError("Refused") {
  readonly failure = "permanent" as const
}

const typed = (type: string, value: unknown) => ({ "!": type, value })

const headersOf = ({ headers }: { readonly headers: object }) => ({ ...headers })

/** RabbitMQ and programs that are not ours: plain clients by amqplib. */
describeServer("X5 RabbitMQ with other programs", Servers.own(), (server) => {
  const { consuming, raw, using } = on(server)

  /** Publishes as another program. */
  const foreign = (publish: (channel: ConfirmChannel, model: ChannelModel) => unknown) =>
    raw(async (model) => {
      const channel = await model.createConfirmChannel()
      await publish(channel, model)
      await channel.waitForConfirms()
    })

  const send = (channel: string, body: string, options: Options.Publish = {}, exchange = "millrace") =>
    foreign((each) => each.publish(exchange, channel, Buffer.from(body), { persistent: true, ...options }))

  /** The first message that a plain client gets of a channel from now on. */
  const taken = <A, E, R>(keys: ReadonlyArray<string>, publish: Effect.Effect<A, E, R>, exchange = "millrace") =>
    Effect.gen(function*() {
      const got: Array<ConsumeMessage> = []
      const model = yield* Effect.acquireRelease(
        Effect.promise(async () => {
          return connect(Redacted.value(server().url))
        }),
        (model) => Effect.promise(() => model.close())
      )
      yield* Effect.promise(async () => {
        const channel = await model.createChannel()
        const { queue } = await channel.assertQueue("", { exclusive: true })
        for (const key of keys) await channel.bindQueue(queue, exchange, key)
        await channel.consume(queue, (message) => void got.push(message!), { noAck: true })
      })
      yield* publish
      yield* eventually(() => got.length > 0)
      return got[0]!
    })

  const letters = (channel: string) => Stream.runCollect(DeadLetters.list(`${channel}.dead-letters`))

  it.live(
    "X5 a header that a publisher forged makes no stream of a queue, and hides, renames, drops and counts nothing",
    () => {
      const base = fresh("forged")
      const queue = fresh("forged-queue")
      const channel = `${base}.eu.created`
      const death = { queue: `${queue}@wait.40`, reason: "expired", count: 1, exchange: "", "routing-keys": [queue] }
      return using(
        Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* foreign(async (each) => {
            await each.assertQueue(queue)
            each.sendToQueue(queue, Buffer.from("before"))
            each.sendToQueue(queue, Buffer.from("stream"), { headers: { "x-stream-offset": 5 } })
            each.sendToQueue(queue, Buffer.from("counted"), {
              headers: { "x-delivery-count": 9, "x-acquired-count": 9 }
            })
            each.sendToQueue(queue, Buffer.from("attempt"), { headers: { "millrace-attempt": 9, "x-death": "none" } })
            each.sendToQueue(queue, Buffer.from("after"))
          })
          const invoices = yield* consuming("invoices", () => Effect.void)
          yield* eventually(() => invoices.got.length === 5)
          expect(invoices.texts()).toEqual(["before", "stream", "counted", "attempt", "after"])
          expect(invoices.got.map(({ attempt }) => attempt)).toEqual([1, 1, 1, 1, 1])
          expect((yield* invoices.running.health).restarts).toBe(0)

          yield* broker.declare({ channel })
          const seen: Array<string> = []
          yield* consuming(
            `${base}.{region}.created`,
            ({ attempt, channel, payload }) =>
              Effect.sync(() => void seen.push(`${channel}:${textOf(payload)}#${attempt}`)),
            { group: "pattern", deadLetters: "forged-dead" }
          )
          const texts = ["plain", "marked", "renamed", "dropped", "tired"]
          yield* send(channel, "plain")
          yield* send(channel, "marked", { headers: { "millrace-mark": "x" } })
          yield* send(channel, "renamed", {
            headers: { "millrace-channel": `${base}.secret.created`, "millrace-attempt": 2, "x-death": [death] }
          })
          yield* send(channel, "dropped", { headers: { "millrace-channel": "nowhere", "millrace-attempt": 2 } })
          yield* send(channel, "tired", { headers: { "millrace-attempt": 99, "x-delivery-count": 99 } })
          yield* eventually(() => seen.length === texts.length)
          expect(seen).toEqual(texts.map((text) => `${channel}:${text}#1`))
          // a group that begins in the log, and a look into it
          const later = yield* consuming(channel, () => Effect.void, { group: "later" })
          yield* eventually(() => later.got.length === texts.length)
          expect(later.got).toEqual(texts.map((text) => ({ text, attempt: 1 })))
          const browsed = yield* Stream.runCollect(broker.browse(channel))
          expect(browsed.map(({ raw }) => textOf(raw))).toEqual(texts)
        }),
        { channels: { invoices: { queue } } }
      )
    },
    30_000
  )

  it.live(
    "X5 a classic queue of another program counts nothing, whatever a publisher writes, also for a user who may declare nothing",
    () =>
      Effect.gen(function*() {
        yield* server().ctl(
          "eval",
          `rabbit_auth_backend_internal:add_user(<<"reader">>, <<"reading">>, <<"test">>),
          rabbit_auth_backend_internal:set_permissions(<<"reader">>, <<"/">>, <<"">>, <<".*">>, <<".*">>, <<"test">>).`
        )
        for (const user of [{}, { username: "reader", password: "reading" }]) {
          const queue = fresh("classic")
          yield* foreign(async (each) => {
            await each.assertQueue(queue, {
              arguments: { "x-message-ttl": 3_600_000, "x-max-length-bytes": 1_000_000 }
            })
            each.sendToQueue(queue, Buffer.from("m"), { headers: { "x-delivery-count": 9, "x-acquired-count": 9 } })
            each.sendToQueue(queue, Buffer.from("stream"), { headers: { "x-stream-offset": 0 } })
          })
          yield* using(
            Effect.gen(function*() {
              const attempts: Array<number> = []
              for (const _ of [1, 2]) {
                const scope = yield* Scope.make()
                const { got, running } = yield* consuming("classic", () => Effect.never, { grace: { drain: 0 } }).pipe(
                  Scope.provide(scope)
                )
                yield* eventually(() => got.length === 2)
                attempts.push(...got.map(({ attempt }) => attempt))
                expect((yield* running.health).restarts).toBe(0)
                yield* Scope.close(scope, Exit.void)
              }
              // to one who may not ask it might be a quorum queue, which counts what it delivers again
              expect(attempts).toEqual("username" in user ? [1, 1, 10, 1] : [1, 1, 1, 1])
            }),
            { channels: { classic: { queue } }, ...user }
          )
        }
      }),
    30_000
  )

  it.live(
    "F13 F11 values with a type survive a delayed retry, a dead letter, its list and a replay",
    () =>
      using(Effect.gen(function*() {
        const broker = yield* Broker.Broker
        const channel = fresh("typed")
        yield* broker.declare({ channel })
        yield* broker.declare({ channel: `${channel}.dead-letters` })
        const seen: Array<Record<string, string>> = []
        let isBroken = true
        yield* consuming(channel, (message) => {
          seen.push(headersOf(message))
          if (message.attempt === 1 && isBroken) return Effect.succeed(Outcome.Retry({ after: 20 }))
          return isBroken ? Effect.fail(new Refused()) : Effect.void
        }, { from: "latest" })
        // what a stream refuses goes to the queue alone
        const headers = {
          big: typed("int64", 9007199254740993n),
          when: typed("timestamp", 1_700_000_000),
          price: typed("decimal", { places: 2, digits: 1234 }),
          five: typed("double", 5),
          half: typed("float", 0.5),
          small: typed("uint8", 200),
          yes: true,
          none: null,
          list: ["a", "b"],
          mixed: ["a", typed("int64", 2n ** 60n + 1n)],
          table: { x: { y: typed("int64", 2n ** 61n + 1n) } },
          bytes: Buffer.from([255, 254])
        }
        const wanted = {
          big: "9007199254740993",
          when: "1700000000",
          price: "12.34",
          five: "5",
          half: "0.5",
          small: "200",
          yes: "true",
          list: "a",
          mixed: `["a",1152921504606846977]`,
          table: `{"x":{"y":2305843009213693953}}`
        }
        const letter = yield* taken(
          [`${channel}.dead-letters`],
          send(`${channel}@readers`, "m", { headers }, "")
        )
        expect(seen).toEqual([wanted, wanted])
        // as another program reads it: amqplib knows no exact numbers
        const { headers: written = {} } = letter.properties
        expect(written["when"]).toEqual(headers.when)
        expect([written["big"], written["five"], written["small"], written["yes"], written["list"]]).toEqual([
          9007199254740992,
          5,
          200,
          true,
          ["a", "b"]
        ])
        expect(written["bytes"]).toEqual(headers.bytes)
        const [first] = yield* letters(channel)
        expect(headersOf(first!.delivery)).toMatchObject(wanted)
        expect(first!.delivery.fields.filter(([name]) => name === "list").map(([, value]) => textOf(value!))).toEqual([
          "a",
          "b"
        ])
        isBroken = false
        const replayed = yield* taken([channel], DeadLetters.replay(first!, { reach: "all" }))
        yield* eventually(() => seen.length === 3)
        expect(seen[2]).toMatchObject(wanted)
        expect(replayed.properties.headers?.["when"]).toEqual(headers.when)
      })),
    30_000
  )

  const properties: Options.Publish = {
    contentType: "application/json",
    contentEncoding: "gzip",
    correlationId: "c-1",
    replyTo: "answers",
    messageId: "m-1",
    type: "order.created",
    appId: "shop",
    priority: 3
  }
  const named = {
    "content-type": "application/json",
    "content-encoding": "gzip",
    "correlation-id": "c-1",
    "reply-to": "answers",
    "message-id": "m-1",
    type: "order.created",
    "app-id": "shop"
  }

  it.live(
    "F13 F11 a handler sees AMQP's properties, also after a delayed retry, and dead letters keep them",
    () =>
      using(Effect.gen(function*() {
        const broker = yield* Broker.Broker
        const channel = fresh("properties")
        const { username } = server()
        yield* broker.declare({ channel })
        yield* broker.declare({ channel: `${channel}.dead-letters` })
        const seen: Array<Record<string, string>> = []
        yield* consuming(channel, (message) => {
          seen.push(headersOf(message))
          return message.attempt === 1 ? Effect.succeed(Outcome.Retry({ after: 20 })) : Effect.fail(new Refused())
        })
        const letter = yield* taken(
          [`${channel}.dead-letters`],
          send(channel, "m", { ...properties, userId: username, expiration: "60000", headers: { own: "yes" } })
        )
        const wanted = {
          ...named,
          "user-id": username,
          "amqp-priority": "3",
          "amqp-expiration": "60000",
          own: "yes"
        }
        expect(seen).toEqual([wanted, wanted])
        const { expiration, headers, priority, ...rest } = letter.properties
        const { priority: _, ...kept } = properties
        expect(rest).toMatchObject(kept)
        // what a broker obeys is information in a dead letter
        expect([expiration, priority]).toEqual([undefined, undefined])
        expect(JSON.stringify(headers)).toContain("60000")
        // from the log, too
        const later = yield* consuming(channel, (message) => Effect.sync(() => void seen.push(headersOf(message))), {
          group: "later"
        })
        yield* eventually(() => later.got.length === 1)
        expect(seen[2]).toEqual(wanted)
      })),
    30_000
  )

  it.live(
    "X5 what is published has AMQP's properties, and says priority, expiration, routing key and mandatory",
    () => {
      const exchange = fresh("shop")
      return using(
        Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* raw(async (model) => {
            const channel = await model.createChannel()
            await channel.assertExchange(exchange, "topic")
          })
          const publish = (headers: Record<string, string>) => broker.publish(outgoing("created", "m", { headers }))
          const got = yield* taken(
            ["order.created.eu"],
            publish({
              ...named,
              own: "yes",
              "amqp-routing-key": "order.created.eu",
              "amqp-priority": "3",
              "amqp-expiration": "60000"
            }),
            exchange
          )
          expect(got.fields.routingKey).toBe("order.created.eu")
          expect(got.properties).toMatchObject({ ...properties, expiration: "60000", headers: { own: "yes" } })
          expect(Object.keys(got.properties.headers!)).toEqual(["own"])
          const seen: Array<Delivery["headers"]> = []
          yield* consuming("created", ({ headers }) => Effect.sync(() => void seen.push({ ...headers })))
          yield* send("order.created.us", "m", {}, exchange)
          yield* eventually(() => seen.length === 1)
          expect(seen[0]).toEqual({ "amqp-exchange": exchange, "amqp-routing-key": "order.created.us" })
          // no queue takes it
          const nowhere = { "amqp-routing-key": "nowhere" }
          expect((yield* errorOf(publish(nowhere))).reason).toBe("NotFound")
          yield* publish({ ...nowhere, "amqp-mandatory": "false" })
          for (
            const [name, value] of [
              ["amqp-expiration", "soon"],
              ["amqp-priority", "256"],
              ["amqp-mandatory", "maybe"],
              ["amqp-routing-key", "x".repeat(256)]
            ] as const
          ) {
            const error = yield* errorOf(publish({ [name]: value }))
            expect([error.reason, error.message.includes(name)], error.message).toEqual(["Invalid", true])
          }
          // on a channel of its own it is a header like any other
          const channel = fresh("own")
          yield* broker.declare({ channel })
          const own = yield* taken([channel], broker.publish(outgoing(channel, "m", { headers: nowhere })))
          expect(own.properties.headers).toEqual(nowhere)
        }),
        { channels: { created: { exchange, routingKey: "order.created.*" } } }
      )
    },
    30_000
  )

  const Item = Schema.Struct({ sku: Schema.String })

  it.live(
    "F20 a caller by plain AMQP is answered: on an exclusive queue, on a queue with a name, and by direct reply-to",
    () => {
      const queue = fresh("rpc")
      const Prices = Channel.make("prices", { payload: Item })
      const Price = Request.make(Prices, { reply: Schema.Struct({ cents: Schema.Int }) })
      return using(
        Effect.gen(function*() {
          yield* raw(async (model) => (await model.createChannel()).assertQueue(queue))
          const running = yield* Subscription.run(Subscription.make(
            Prices,
            { group: "shop", name: "price", lanes: Lanes.unordered(4), deadLetters: "prices-dead" },
            pipe(
              ({ payload }: Message<typeof Item.Type>) => Effect.succeed({ cents: payload.sku.length }),
              Decode.middleware(Prices),
              Request.answer(Price)
            )
          ))
          const answers = yield* raw(async (model) => {
            const channel = await model.createChannel()
            const ask = async (replyTo: string, correlationId: string, sku: string, noAck = true) => {
              const answer = new Promise<string>((resolve) =>
                channel.consume(replyTo, (message) => {
                  if (message?.properties.correlationId === correlationId) resolve(message.content.toString())
                }, { noAck })
              )
              channel.sendToQueue(queue, Buffer.from(JSON.stringify({ sku })), { correlationId, replyTo })
              return answer
            }
            const { queue: exclusive } = await channel.assertQueue("", { exclusive: true })
            const { queue: own } = await channel.assertQueue(fresh("answers"), { exclusive: true })
            return [
              await ask(exclusive, "1", "tea"),
              await ask(own, "2", "milk"),
              await ask("amq.rabbitmq.reply-to", "3", "sugar")
            ]
          })
          expect(answers).toEqual([`{"cents":3}`, `{"cents":4}`, `{"cents":5}`])
          expect((yield* running.health).deadLetters).toBe(0)
        }),
        { channels: { prices: { queue } } }
      )
    },
    30_000
  )

  it.live("F20 a server by plain AMQP answers our requests, by the queue and the id that it is told", () => {
    const queue = fresh("fib")
    const Numbers = Channel.make("numbers", { payload: Schema.Int })
    const Fibonacci = Request.make(Numbers, { reply: Schema.Int, deadline: "10 seconds" })
    const fibonacci = (n: number): number => n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2)
    return using(
      Effect.gen(function*() {
        yield* Effect.acquireRelease(
          Effect.promise(async () => {
            const model = await connect(Redacted.value(server().url))
            const channel = await model.createChannel()
            await channel.assertQueue(queue, { durable: false })
            await channel.prefetch(1)
            await channel.consume(queue, (message) => {
              if (message === null) return
              const { correlationId, replyTo } = message.properties
              const answer = fibonacci(Number(message.content.toString())).toString()
              channel.sendToQueue(String(replyTo), Buffer.from(answer), { correlationId: String(correlationId) })
              channel.ack(message)
            })
            return model
          }),
          (model) => Effect.promise(() => model.close())
        )
        const client = yield* Request.client(Fibonacci)
        expect(yield* client.request(10)).toBe(55)
        // an id of the caller's own, which is all that such a server returns
        expect(yield* client.request(12, { headers: { "correlation-id": "mine" } })).toBe(144)
        expect(yield* Effect.forEach([1, 2, 3, 4, 5], (n) => client.request(n), { concurrency: 5 })).toEqual([
          1,
          1,
          2,
          3,
          5
        ])
      }),
      { channels: { numbers: { queue } } }
    )
  }, 30_000)

  it.live(
    "F20 a client of requests that has ended leaves no queue and no exchange behind, one that died some minutes",
    () =>
      using(Effect.gen(function*() {
        const broker = yield* Broker.Broker
        const name = fresh("asked")
        const shared = `${name}.shared`
        yield* broker.declare({ channel: name })
        yield* broker.declare({ channel: shared })
        const Prices = Channel.make(name, { payload: Item })
        const Price = Request.make(Prices, { reply: Schema.Struct({ cents: Schema.Int }), deadline: "10 seconds" })
        yield* Subscription.run(Subscription.make(
          Prices,
          { group: "shop", name: "price", lanes: Lanes.unordered(4) },
          pipe(
            ({ payload }: Message<typeof Item.Type>) => Effect.succeed({ cents: payload.sku.length }),
            Decode.middleware(Prices),
            Request.answer(Price)
          )
        ))
        const things = Effect.map(
          server().ctl(
            "eval",
            "[io_lib:format(\"~s~n\", [N]) || {resource, _, _, N} <- rabbit_amqqueue:list_names() ++ [element(2, E) || E <- rabbit_exchange:list()]]."
          ),
          (text) => (text.match(new RegExp(`${name}[-\\w.@]*`, "g")) ?? []).toSorted()
        )
        const before = yield* things
        for (const options of [{}, { replyTo: shared }]) {
          const during = yield* Effect.scoped(Effect.gen(function*() {
            const client = yield* Request.client(Price, options)
            expect(yield* client.request({ sku: "tea" })).toEqual({ cents: 3 })
            return yield* things
          }))
          const made = during.filter((each) => !before.includes(each))
          expect(made.length).toBe(1)
          expect(yield* things).toEqual(before)
        }
        const scope = yield* Scope.make()
        const client = yield* Scope.provide(Request.client(Price), scope)
        const expires = yield* raw(async (model) => {
          const channel = await model.createChannel()
          channel.on("error", () => {})
          return channel.assertQueue(client.replyTo, { arguments: { "x-queue-type": "classic" } }).then(String, String)
        })
        expect(expires).toContain("x-expires")
        yield* Scope.close(scope, Exit.void)
      })),
    30_000
  )
})
