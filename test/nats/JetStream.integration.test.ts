import { Broker, type Delivery, Headers, Lanes, Outcome, Outgoing } from "@millrace/core"
import { JetStream } from "@millrace/nats"
import { Connection } from "../../packages/nats/src/internal/Connection.ts"
import { Nats as Servers } from "@millrace/testing/servers"
import { expect, it } from "@effect/vitest"
import { jetstreamManager } from "@nats-io/jetstream"
import { Effect, type Scope, Stream } from "effect"
import * as fc from "fast-check"
import { describeServer } from "../services/describe.ts"
import {
  bytes,
  client,
  eventually,
  failureOf,
  fresh,
  layerOf,
  optionsOf,
  outgoing,
  reader,
  send,
  textOf
} from "./support.ts"

const contents = (channel: string) =>
  Effect.flatMap(Broker.Broker, (broker) => Stream.runCollect(broker.browse(channel)))

describeServer("X5 JetStream", Servers.own(), (server) => {
  const run = <A, E>(
    effect: Effect.Effect<A, E, Broker.Broker | Scope.Scope>,
    more?: Partial<JetStream.Options>
  ) => Effect.suspend(() => Effect.scoped(Effect.provide(effect, layerOf(server(), more))))

  it.live("X5 F13 keys and header fields of any bytes arrive as they were", () =>
    run(Effect.gen(function*() {
      const channel = fresh("fields")
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel })
      const name = fc.stringMatching(/^[!-9;-~]{1,12}$/).filter((text) => !/^(Nats-|Millrace-Key$)/.test(text))
      const value = fc.oneof(
        fc.constant(null),
        fc.uint8Array({ maxLength: 12 }),
        fc.string({ unit: "binary", maxLength: 8 }).map((text) => bytes(text)),
        fc.constantFrom(" a", "a\r\nb: c", "\ufeffx", "=?null?B??=", "=?bytes?B?AA==?=", "\u2028", "").map(bytes)
      )
      const fields = fc.array(fc.tuple(name, value), { maxLength: 5 })
      const samples = fc.sample(fc.tuple(fields, fc.option(fc.uint8Array({ minLength: 1, maxLength: 8 }))), 300)
      yield* broker.publishAll(samples.map(([fields, key]) =>
        new Outgoing(channel, bytes("m"), undefined, Headers.empty, { fields, keyBytes: key ?? undefined })
      ))
      const hex = (bytes: Uint8Array | null | undefined) =>
        bytes ? Buffer.from(bytes).toString("hex") : String(bytes)
      const shown = (fields: ReadonlyArray<Headers.Field>) =>
        Object.entries(Object.groupBy(fields, ([name]) => name)).map(([name, all]) => [
          name,
          all!.map(([, value]) => hex(value))
        ]).sort()
      const found = yield* contents(channel)
      expect(found.length).toBe(samples.length)
      for (const [i, [fields, key]] of samples.entries()) {
        expect(shown(found[i]!.fields)).toEqual(shown(fields))
        expect(hex(found[i]!.keyBytes)).toBe(hex(key ?? undefined))
      }
    })))

  it.live("X5 what a header of NATS cannot be named is refused", () =>
    run(Effect.gen(function*() {
      const channel = fresh("names")
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel })
      for (const name of ["a b", "a:b", "ä", ""]) {
        const error = yield* failureOf(broker.publish(outgoing(channel, "m", { headers: { [name]: "x" } })))
        expect([error.reason, error.message]).toEqual(["Invalid", expect.stringContaining(JSON.stringify(name))])
      }
      for (const bad of ["a..b", ".a", "a.", "a b", "a.*", "a.>", "$SYS.a", "a\tb"]) {
        expect((yield* failureOf(broker.publish(outgoing(bad, "m")))).reason).toBe("Invalid")
        expect((yield* failureOf(broker.declare({ channel: bad }))).reason).toBe("Invalid")
        expect((yield* failureOf(reader(bad))).reason).toBe("Invalid")
      }
    })))

  it.live("X5 a stream is declared with JetStream's settings, and compared with them", () =>
    run(Effect.gen(function*() {
      const channel = fresh("declared.some_where")
      const broker = yield* Broker.Broker
      const settings = { max_age: "1h", max_bytes: "100000", discard: "new", storage: "file", num_replicas: "1" }
      yield* broker.declare({ channel, settings })
      yield* broker.declare({ channel, settings })
      yield* broker.declare({ channel })
      const conflict = yield* failureOf(broker.declare({ channel, settings: { ...settings, max_age: "2h" } }))
      expect([conflict.reason, conflict.message]).toEqual([
        "Conflict",
        expect.stringContaining("max_age is 3600000000000, not 7200000000000")
      ])
      for (
        const [settings, what] of [[{ max_age: "long" }, /max_age .* must be/], [
          { nothing: "1" },
          /no setting nothing/
        ], [{ subjects: "other" }, /must hold the channel itself/]] as const
      ) {
        const error = yield* failureOf(broker.declare({ channel: fresh("never"), settings }))
        expect([error.reason, error.message]).toEqual(["Invalid", expect.stringMatching(what)])
      }
      expect((yield* failureOf(broker.declare({ channel, partitions: 2 }))).reason).toBe("Unsupported")
    })))

  it.live("X5 a stream of many subjects serves each as a channel, and groups by name apart", () =>
    run(Effect.gen(function*() {
      const family = fresh("family")
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel: `${family}.a`, settings: { subjects: `${family}.>` } })
      yield* broker.declare({ channel: `${family}.b` })
      const a = yield* reader(`${family}.a`)
      const b = yield* reader(`${family}.b`, { lanes: Lanes.partition })
      const all = yield* reader(`${family}.{which}`, { group: "all" })
      yield* send(`${family}.a`, "a-1")
      yield* send(`${family}.b`, "b-1")
      yield* send(`${family}.c.d`, "c-1")
      yield* send(`${family}.a`, "a-2")
      yield* eventually(() => a.texts.length === 2 && b.texts.length === 1 && all.texts.length === 3)
      expect([a.texts, b.texts]).toEqual([["a-1", "a-2"], ["b-1"]])
      expect(all.texts.toSorted()).toEqual(["a-1", "a-2", "b-1"])
      expect((yield* contents(`${family}.a`)).map(({ raw }) => textOf(raw))).toEqual(["a-1", "a-2"])
      yield* Effect.repeat(broker.lag(`${family}.{which}`, "all"), {
        until: ([lag]) => lag?.messages === 0,
        times: 1000
      })
    })))

  it.live("X5 a stream that is missing is made where the options say so", () =>
    run(
      Effect.gen(function*() {
        const channel = fresh("made")
        yield* send(channel, "one")
        const { texts } = yield* reader(channel)
        yield* eventually(() => texts.length === 1)
        yield* reader(fresh("made"))
      }),
      { missingStreams: "create" }
    ))

  it.live("X5 a message that somebody hears and no stream holds is NotFound, not confirmed", () =>
    run(
      Effect.gen(function*() {
        const channel = fresh("heard")
        const nc = yield* client(server())
        nc.subscribe(channel, { callback: () => {} })
        yield* Effect.promise(() => nc.flush())
        expect((yield* failureOf(send(channel, "m"))).reason).toBe("NotFound")
        expect((yield* failureOf(send(fresh("unheard"), "m"))).reason).toBe("NotFound")
      }),
      { requestTimeout: "500 millis" }
    ))

  it.live("X5 a message whose id comes again is taken once", () =>
    run(
      Effect.gen(function*() {
        const channel = fresh("once")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        for (const id of ["a", "b", "a"]) {
          yield* broker.publish(outgoing(channel, id, { headers: { "message-id": id } }))
        }
        expect((yield* contents(channel)).map(({ raw }) => textOf(raw))).toEqual(["a", "b"])
      }),
      { producer: { messageId: ({ headers }) => headers["message-id"] } }
    ))

  it.live("X5 a body longer than max_payload, or than the stream's max_msg_size, is TooLarge and the rest goes on", () =>
    run(Effect.gen(function*() {
      const channel = fresh("large")
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel, settings: { max_msg_size: "1000" } })
      for (const body of [new Uint8Array(2 * 1024 * 1024), new Uint8Array(2000), new Uint8Array(1024 * 1024)]) {
        const error = yield* failureOf(broker.publish(outgoing(channel, body, { headers: { a: "b" } })))
        expect([error.reason, error.failure]).toEqual(["TooLarge", "permanent"])
      }
      yield* send(channel, "short")
      expect((yield* contents(channel)).length).toBe(1)
    })))

  it.live("X5 a full stream that discards the new refuses with an error that says so, and may succeed later", () =>
    run(Effect.gen(function*() {
      const broker = yield* Broker.Broker
      const limits: ReadonlyArray<Readonly<Record<string, string>>> = [{ max_msgs: "3" }, { max_bytes: "400" }]
      for (const limit of limits) {
        const channel = fresh("full")
        yield* broker.declare({ channel, settings: { ...limit, discard: "new" } })
        yield* send(channel, "1", "2", "3")
        const error = yield* failureOf(send(channel, "4".repeat(1000)))
        expect([error.reason, error.retriable, error.failure, error.message]).toEqual([
          "Full",
          true,
          "throttled",
          expect.stringMatching(/is full .*make room/)
        ])
      }
    })))

  it.live("X4 a stream that is deleted under a consumer is noticed, and read again when it is back", () =>
    run(
      Effect.gen(function*() {
        const channel = fresh("deleted")
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        const { running, texts } = yield* reader(channel)
        yield* send(channel, "before")
        yield* eventually(() => texts.length === 1)
        const manager = yield* Effect.flatMap(client(server()), (nc) => Effect.promise(() => jetstreamManager(nc)))
        yield* Effect.promise(() => manager.streams.delete(channel))
        yield* Effect.repeat(running.health, {
          until: ({ lastError }) =>
            String(lastError).includes("deleted under it") || String(lastError).includes("No stream"),
          times: 100_000
        })
        yield* broker.declare({ channel })
        yield* send(channel, "after")
        yield* eventually(() => texts.includes("after"))
      }),
      { consumer: { claim: "2 seconds", heartbeat: "500 millis" } }
    ))

  it.live("X5 a consumer that is not a group's is refused with a sentence", () =>
    run(Effect.gen(function*() {
      const channel = fresh("unfit")
      const broker = yield* Broker.Broker
      yield* broker.declare({ channel })
      const manager = yield* Effect.flatMap(client(server()), (nc) => Effect.promise(() => jetstreamManager(nc)))
      yield* Effect.promise(() => manager.consumers.add(channel, { durable_name: "none", ack_policy: "none" }))
      yield* Effect.promise(() =>
        manager.consumers.add(channel, { durable_name: "few", ack_policy: "explicit", max_deliver: 3 })
      )
      for (const [group, what] of [["none", /ack_policy is none/], ["few", /max_deliver/]] as const) {
        const error = yield* failureOf(reader(channel, { group }))
        expect([error.reason, error.message]).toEqual(["Conflict", expect.stringMatching(what)])
      }
    })))

  it.live("X5 P16 many acknowledgements go out as one piece, and one by one where a client has no place for it", () =>
    Effect.scoped(Effect.gen(function*() {
      const nc = yield* client(server())
      const piece = fresh("piece")
      const subjects = Array.from({ length: 3000 }, (_, i) => `${piece}.${i}`)
      const seen: Array<readonly [string, number]> = []
      nc.subscribe(`${piece}.*`, { callback: (_, { data, subject }) => void seen.push([subject, data.length]) })
      const place = { servers: server().address, user: undefined, by: "nothing", redact: (text: string) => text }
      const connection = new Connection(nc, place, () => {})
      expect(connection.wire).toBeDefined()
      expect(connection.writeAll("settle", subjects)).toBeUndefined()
      Object.defineProperty(connection, "wire", { value: undefined })
      expect(connection.writeAll("settle", subjects)).toBeUndefined()
      yield* connection.flush("settle")
      expect(seen).toEqual([...subjects, ...subjects].map((subject) => [subject, 0]))
    })))

  it.live(
    "F11 X5 a delayed retry survives a server that is killed, in its time and with its attempts",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const own = yield* Servers.own()
        const channel = fresh("late")
        const seen: Array<{ readonly attempt: number; readonly at: number }> = []
        yield* Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          const { running } = yield* reader(channel, {}, (delivery: Delivery) => {
            seen.push({ attempt: delivery.attempt, at: performance.now() })
            return Effect.succeed(delivery.attempt === 1 ? Outcome.Retry({ after: "3 seconds" }) : Outcome.Ack)
          })
          yield* send(channel, "m")
          yield* Effect.repeat(running.health, {
            until: ({ pending, settled }) => pending === 0 && settled === 1,
            times: 100_000
          })
          // the server writes what it knows of consumers a little later, and their times to the second
          yield* Effect.sleep("300 millis")
          yield* own.kill
          yield* own.start
          yield* eventually(() => seen.length === 2)
          expect(seen.map(({ attempt }) => attempt)).toEqual([1, 2])
          expect(seen[1]!.at - seen[0]!.at).toBeGreaterThan(1500)
          yield* Effect.repeat(broker.lag(channel, "group"), { until: ([lag]) => lag?.messages === 0, times: 10_000 })
        }).pipe(Effect.provide(JetStream.layer({ ...optionsOf(own), consumer: { claim: "30 seconds" } })))
      })),
    30_000
  )
})
