import { Broker, type BrokerError, Lanes } from "@millrace/core"
import { RabbitMq } from "@millrace/rabbitmq"
import { RabbitMq as Servers } from "@millrace/testing/servers"
import { it } from "@effect/vitest"
import { Deferred, Effect, Fiber } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { errorOf, eventually, fresh, numbered, on, optionsOf, outgoing } from "./support.ts"

describeServer("RabbitMQ laid out", Servers.own(), (server) => {
  const { consuming, raw, using } = on(server)

  it.live("X5 a channel that exists and differs is a conflict, and stays as it is", () =>
    using(Effect.gen(function*() {
      const channel = fresh("conflict")
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel, settings: { "x-max-age": "1h" } })
      yield* broker.declare({ channel, settings: { "x-max-age": "1h" } })
      yield* broker.declare({ channel })
      const differs = yield* errorOf(broker.declare({ channel, settings: { "x-max-age": "2h" } }))
      expect([differs.reason, differs.operation], differs.message).toEqual(["Conflict", "declare"])
      expect(differs.message).toContain("x-max-age")
      const unknown = yield* errorOf(broker.declare({ channel: fresh("odd"), settings: { "x-max-age": "soon" } }))
      expect(unknown.reason, unknown.message).toBe("Invalid")
      const queue = fresh("queue")
      yield* raw(async (model) => (await model.createChannel()).assertQueue(queue))
      expect((yield* errorOf(broker.declare({ channel: queue }))).reason).toBe("Conflict")
      const two = yield* errorOf(broker.declare({ channel, partitions: 2 }))
      expect(two.reason).toBe("Unsupported")
      // the queue of a group that somebody else declared otherwise
      yield* raw(async (model) => (await model.createChannel()).assertQueue(`${channel}@readers`))
      expect((yield* errorOf(consuming(channel, () => Effect.void))).reason).toBe("Conflict")
    })))

  it.live("X5 what no queue takes is an error and not lost, and names are checked", () =>
    using(Effect.gen(function*() {
      const broker = yield* Broker.Broker
      const channel = fresh("there")
      yield* broker.declare({ channel })
      const nowhere = fresh("nowhere")
      const error = yield* errorOf(broker.publishAll([
        outgoing(channel, "a"),
        outgoing(nowhere, "b"),
        outgoing(channel, "c")
      ]))
      expect([error.reason, error.failure]).toEqual(["NotFound", "permanent"])
      expect(error.message).toContain(nowhere)
      // published beside it, and not blamed
      const all = yield* Effect.forEach(
        numbered(50),
        (text, i) => Effect.exit(broker.publish(outgoing(i % 10 === 3 ? nowhere : channel, text))),
        { concurrency: "unbounded" }
      )
      expect(all.map((exit) => exit._tag === "Success")).toEqual(numbered(50).map((_, i) => i % 10 !== 3))
      const routing = yield* errorOf(
        broker.publish(outgoing(channel, "m", { native: { fields: [["CC", new Uint8Array([113])]] } }))
      )
      expect(routing.reason).toBe("Invalid")
      const tooMany = yield* errorOf(broker.publish(outgoing(channel, "m", { headers: { long: "x".repeat(70_000) } })))
      expect(tooMany.reason, tooMany.message).toBe("Invalid")
      yield* broker.publish(outgoing(channel, "after"))
    })))

  it.live("T16 of two subscriptions with one message in flight each, the free one gets all that the busy one has not begun", () =>
    using(Effect.gen(function*() {
      const channel = fresh("fair")
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel })
      const one = { inFlight: { messages: 1 }, lanes: Lanes.unordered(1) }
      const gate = Deferred.makeUnsafe<void>()
      const busy = yield* consuming(channel, () => Deferred.await(gate), one)
      const free = yield* consuming(channel, () => Effect.void, one)
      yield* broker.publishAll(numbered(10).map((text) => outgoing(channel, text)))
      yield* eventually(() => busy.got.length === 1 && free.got.length === 9)
      expect(new Set([...busy.texts(), ...free.texts()]).size).toBe(10)
      yield* Deferred.succeed(gate, undefined)
    })))

  it.live("X5 a group that begins while messages come loses none", () =>
    using(Effect.gen(function*() {
      const channel = fresh("begins")
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel })
      let ended = false
      const sent: Array<string> = []
      const flow = yield* Effect.forkScoped(Effect.gen(function*() {
        for (let i = 0; !ended; i++) {
          yield* broker.publish(outgoing(channel, `m-${i}`))
          sent.push(`m-${i}`)
        }
      }))
      for (const n of [1, 2, 3, 4]) {
        const before = sent.length
        yield* eventually(() => sent.length > before + 100)
        const known = sent.slice()
        // two members at once, of which one makes the queue
        const members = yield* Effect.forEach(
          [1, 2],
          () => consuming(channel, () => Effect.void, { group: `group-${n}` }),
          { concurrency: "unbounded" }
        )
        const texts = () => members.flatMap((member) => member.texts())
        yield* eventually(() => texts().length >= known.length + 50)
        const upTo = sent.slice()
        yield* eventually(() => upTo.every((text) => texts().includes(text)))
        const twice = texts().length - new Set(texts()).size
        expect(twice).toBeLessThan(100)
      }
      ended = true
      yield* Fiber.join(flow)
    })), 60_000)

  for (const from of ["earliest", "latest"] as const) {
    it.live(
      `X5 a group's queue that was deleted is filled from the log again, of a group that began ${from}`,
      () =>
        using(Effect.gen(function*() {
          const channel = fresh("deleted")
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          const send = (text: string) => broker.publish(outgoing(channel, text))
          const drop = raw(async (model) => (await model.createChannel()).deleteQueue(`${channel}@readers`))
          yield* send("before")
          const life = (wanted: ReadonlyArray<string>, during: Effect.Effect<unknown, BrokerError.BrokerError>) =>
            Effect.scoped(Effect.gen(function*() {
              const { texts } = yield* consuming(channel, () => Effect.void, { from })
              yield* during
              yield* eventually(() => wanted.every((text) => texts().includes(text)))
              return texts()
            }))
          const first = from === "earliest" ? ["before"] : []
          yield* life([...first, "a"], send("a"))
          yield* send("b")
          yield* drop
          yield* send("c")
          // none is lost, and what was done comes again; what was there before a group that began latest does not
          expect(yield* life([...first, "a", "b", "c"], Effect.void)).toEqual([...first, "a", "b", "c"])
          // under a consumer that runs
          const last = yield* life([...first, "a", "b", "c", "d"], Effect.andThen(drop, send("d")))
          expect(last.slice(0, first.length + 4)).toEqual([...first, "a", "b", "c", "d"])
        })),
      30_000
    )
  }

  it.live(
    "X5 exchanges and queues of others: direct, fanout, topic and headers, by a route each",
    () =>
      Effect.gen(function*() {
        const base = fresh("shop")
        yield* raw(async (model) => {
          const channel = await model.createChannel()
          for (const type of ["direct", "fanout", "topic", "headers"]) {
            await channel.assertExchange(`${base}.${type}`, type)
          }
          await channel.assertQueue(`${base}.own`, { arguments: { "x-queue-type": "quorum" } })
          await channel.bindQueue(`${base}.own`, `${base}.direct`, "created")
        })
        const route = (type: string, more?: Partial<RabbitMq.Route>): RabbitMq.Route => ({
          exchange: `${base}.${type}`,
          ...more
        })
        const channels = {
          direct: route("direct", { routingKey: "created" }),
          fanout: route("fanout", { routingKey: "" }),
          topic: route("topic", { routingKey: "orders.created" }),
          headers: route("headers", { routingKey: "", arguments: { "x-match": "all", kind: "order" } }),
          own: { queue: `${base}.own` }
        }
        yield* using(
          Effect.gen(function*() {
            const broker = yield* Broker.Broker
            for (const channel of Object.keys(channels)) yield* broker.declare({ channel })
            const readers = yield* Effect.forEach(
              Object.keys(channels),
              (channel) => consuming(channel, () => Effect.void, { group: base, from: "latest" })
            )
            for (const channel of Object.keys(channels)) {
              yield* broker.publish(outgoing(channel, channel, { headers: { kind: "order" } }))
            }
            const texts = () => readers.map((reader) => reader.texts().toSorted())
            const wanted = [["direct"], ["fanout"], ["topic"], ["headers"], ["direct", "own"]]
            yield* eventually(() => texts().flat().length >= 6)
            yield* Effect.sleep(100)
            expect(texts()).toEqual(wanted)
            // no binding fits
            const other = yield* errorOf(broker.publish(outgoing("headers", "m", { headers: { kind: "bill" } })))
            expect(other.reason).toBe("NotFound")
            const browsing = yield* errorOf(Effect.scoped(
              Effect.flatMap(
                RabbitMq.driver(optionsOf(server(), { channels })),
                (driver) => Effect.flip(Effect.flip(driver.declare({ channel: "own", settings: { a: "b" } })))
              )
            ))
            expect(browsing.reason).toBe("Invalid")
          }),
          { channels }
        )
        const missing = yield* errorOf(using(
          Effect.flatMap(Broker.Broker, (broker) => broker.publish(outgoing("gone", "m"))),
          { channels: { gone: { exchange: `${base}.gone` } } }
        ))
        expect(missing.reason, missing.message).toBe("NotFound")
        expect(missing.message).toContain(`${base}.gone`)
      }),
    30_000
  )

  it.live("X5 a stream as a queue of others is refused in a sentence", () =>
    Effect.gen(function*() {
      const queue = fresh("stream")
      yield* raw(async (model) => {
        const channel = await model.createConfirmChannel()
        await channel.assertQueue(queue, { arguments: { "x-queue-type": "stream" } })
      })
      yield* using(
        Effect.gen(function*() {
          const { running } = yield* consuming("events", () => Effect.void)
          const broker = yield* Broker.Broker
          yield* broker.publish(outgoing("events", "m"))
          yield* eventually(() => Effect.runSync(running.health).lastError !== undefined)
          expect((yield* running.health).lastError).toMatchObject({ reason: "Unsupported" })
        }),
        { channels: { events: { queue } } }
      )
    }), 30_000)

  it.live("X5 without a log a group begins when it first subscribes, and nothing is browsed", () =>
    using(
      Effect.gen(function*() {
        const channel = fresh("unlogged")
        const broker = yield* Broker.Broker
        expect([broker.capabilities.replay, broker.capabilities.browse]).toEqual([false, false])
        yield* broker.declare({ channel })
        expect((yield* errorOf(broker.publish(outgoing(channel, "before")))).reason).toBe("NotFound")
        const { texts } = yield* consuming(channel, () => Effect.void)
        yield* broker.publish(outgoing(channel, "after"))
        yield* eventually(() => texts().length === 1)
        expect(texts()).toEqual(["after"])
      }),
      { log: "none" }
    ))

  it.live("X5 queues of groups have the arguments that the options say, and consumers their priority", () => {
    const channel = fresh("said")
    const queueArguments = { "x-max-length": 2, "x-overflow": "reject-publish" }
    return Effect.gen(function*() {
      yield* using(
        Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          const gate = Deferred.makeUnsafe<void>()
          const low = yield* consuming(channel, () => Deferred.await(gate))
          const high = yield* using(
            Effect.gen(function*() {
              const { texts } = yield* consuming(channel, () => Effect.void)
              yield* Effect.forEach(numbered(10), (text) => broker.publish(outgoing(channel, text)))
              yield* eventually(() => texts().length === 10)
              return texts()
            }),
            { queueArguments, consumerPriority: 10 }
          )
          expect([high.length, low.got.length]).toEqual([10, 0])
          yield* Deferred.succeed(gate, undefined)
        }),
        { queueArguments }
      )
      expect((yield* errorOf(using(consuming(channel, () => Effect.void)))).reason).toBe("Conflict")
      yield* using(
        Effect.gen(function*() {
          const broker = yield* Broker.Broker
          const exits = yield* Effect.forEach(
            numbered(6),
            (text) => Effect.exit(broker.publish(outgoing(channel, text)))
          )
          expect(exits.at(-1)!._tag).toBe("Failure")
        }),
        { queueArguments }
      )
    })
  })

  it.live("X5 what is missing is made where the options say so", () =>
    using(
      Effect.gen(function*() {
        const broker = yield* Broker.Broker
        const channel = fresh("made")
        yield* broker.publish(outgoing(channel, "first"))
        const { texts } = yield* consuming(channel, () => Effect.void)
        yield* eventually(() => texts().length === 1)
        const other = fresh("made")
        const second = yield* consuming(other, () => Effect.void)
        yield* broker.publish(outgoing(other, "second"))
        yield* eventually(() => second.texts().length === 1)
      }),
      { missingChannels: "create" }
    ))
})
