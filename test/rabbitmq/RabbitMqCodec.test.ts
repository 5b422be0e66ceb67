import type { Headers, Outgoing } from "@millrace/core"
import { it } from "@effect/vitest"
import type { ConsumeMessage } from "amqplib"
import { Effect } from "effect"
import * as fc from "fast-check"
import { describe, expect } from "vitest"
import { MessageReader, toProperties } from "../../packages/rabbitmq/src/internal/Codec.ts"
import {
  attemptOf,
  channelBeforeWait,
  countersOf,
  markOf,
  names
} from "../../packages/rabbitmq/src/internal/OwnHeaders.ts"
import { bytes, outgoing, textOf } from "./support.ts"

const queue = "c@g"
const reader = new MessageReader({ exchange: "millrace", queue })

const record = (
  message: Outgoing<Uint8Array>,
  more: Record<string, unknown> = {},
  fields: Partial<ConsumeMessage["fields"]> = {}
): ConsumeMessage => {
  const properties = toProperties(message, 1_700_000_000, { user: "guest", isRouted: false })
  return {
    content: Buffer.from(message.payload),
    fields: { deliveryTag: 1, redelivered: false, exchange: "millrace", routingKey: "c", consumerTag: "", ...fields },
    properties: { ...properties, headers: Object.assign(Object.create(null), properties.headers, more) }
    // only what the reader looks at
  } as ConsumeMessage
}

/** What RabbitMQ has returned from a wait. */
const returned = (more: Record<string, unknown>, fields: Partial<ConsumeMessage["fields"]> = {}) =>
  record(
    outgoing("c", "m"),
    { "x-death": [{ queue: `${queue}@wait.40`, reason: "expired", count: 1 }], "x-first-death-queue": "q", ...more },
    { exchange: "", routingKey: queue, ...fields }
  )

const headersOf = (message: ConsumeMessage) => ({ ...reader.headers(message) })

describe("RabbitMQ's messages", () => {
  it.effect("F13 fields come back as they went, in order within a name, also from a log that keeps no lists", () =>
    Effect.sync(() => {
      const name = fc.constantFrom("a", "A", "key", "__proto__x", "x-trace", "ü", "content-type", "type")
      const value = fc.oneof(fc.constant(null), fc.uint8Array({ maxLength: 6 }), fc.string().map(bytes))
      fc.assert(
        fc.property(fc.array(fc.tuple(name, value), { minLength: 1, maxLength: 8 }), fc.boolean(), (fields, isLog) => {
          const sent = record(outgoing("c", "m", { native: { fields } }))
          const { headers } = sent.properties
          if (isLog) { for (const each in headers) if (Array.isArray(headers[each])) delete headers[each] }
          const read = reader.fields(sent)
          for (const each of new Set(fields.map(([name]) => name))) {
            const of = (all: ReadonlyArray<Headers.Field>) =>
              all.filter(([name]) => name === each).map(([, value]) => value && Buffer.from(value).toString("hex"))
            const isProperty = each === "content-type" || each === "type"
            // a property comes before what is in the table
            if (isProperty) expect(of(read).toSorted()).toEqual(of(fields).toSorted())
            else expect(of(read)).toEqual(of(fields))
          }
          expect(read.length).toBe(fields.length)
        })
      )
    }))

  it.effect("X5 the attempt is what a wait wrote and what the queue has counted since, and neither is a header", () =>
    Effect.sync(() => {
      const counters = countersOf("quorum", "3.10.8")
      const of = (message: ConsumeMessage) => attemptOf(message, queue, counters)
      const plain = record(outgoing("c", "m", { key: "k" }))
      expect([of(plain), reader.key(plain), headersOf(plain)]).toEqual([1, "k", {}])
      expect(of(record(outgoing("c", "m"), { "x-delivery-count": 2 }, { redelivered: true }))).toBe(3)
      const waited = returned({ [names.attempt]: 4, [names.channel]: "c", "x-delivery-count": 1 }, {
        redelivered: true
      })
      expect([of(waited), reader.fields(waited), channelBeforeWait(waited, queue)]).toEqual([5, [], "c"])
      // a message that died in a queue of another program keeps what RabbitMQ wrote
      const dead = record(outgoing("c", "m"), { "x-first-death-queue": "q", n: 7 })
      expect(headersOf(dead)).toEqual({ "x-first-death-queue": "q", n: "7" })
    }))

  it.effect("X5 RabbitMQ 4.3 counts each delivery by a header of its own, up to 4.2 that header is a publisher's", () =>
    Effect.sync(() => {
      const attempt = (version: string | undefined, headers: Record<string, unknown>, queueType = "quorum") =>
        attemptOf(record(outgoing("c", "m"), headers, { redelivered: true }), queue, countersOf(queueType, version))
      // a nack: no failed delivery
      expect(attempt("4.3.6", { "x-acquired-count": 3 })).toBe(4)
      expect(attempt("4.3.6", { "x-acquired-count": 3, "x-delivery-count": 1 })).toBe(4)
      expect(attempt("4.10.0", { "x-acquired-count": 3 })).toBe(4)
      // its older header stays as a publisher wrote it where a nack returned the message
      expect(attempt("5.0.0", { "x-delivery-count": 90, "x-acquired-count": 1 })).toBe(2)
      expect(attempt("5.0.0", { "x-delivery-count": 90 })).toBe(1)
      expect(attempt(undefined, { "x-acquired-count": 3 })).toBe(4)
      for (const version of ["3.10.8", "4.0.5", "4.2.9"]) {
        expect(attempt(version, { "x-acquired-count": 90, "x-delivery-count": 2 })).toBe(3)
        expect(attempt(version, { "x-acquired-count": 90 })).toBe(1)
      }
      expect(attempt("4.3.6", { "x-acquired-count": 90, "x-delivery-count": 90 }, "classic")).toBe(1)
      for (const odd of [-5, 0.5, "7", {}, Number.NaN]) expect(attempt("4.3.6", { "x-acquired-count": odd })).toBe(1)
    }))

  it.effect("X5 what a publisher writes into headers of RabbitMQ and of the driver decides nothing", () =>
    Effect.sync(() => {
      const counters = countersOf("quorum", "3.10.8")
      const forged = {
        [names.attempt]: 50,
        [names.channel]: "secret",
        [names.original]: { "user-id": "root" },
        "x-delivery-count": 99,
        "x-acquired-count": 99
      }
      const death = { queue: `${queue}@wait.40`, reason: "expired", count: 1 }
      const places: ReadonlyArray<ConsumeMessage> = [
        record(outgoing("c", "m"), forged),
        // to the exchange, with a death that was never died
        record(outgoing("c", "m"), { ...forged, "x-death": [death] }),
        // to the queue, with none
        record(outgoing("c", "m"), forged, { exchange: "", routingKey: queue }),
        // what died elsewhere
        returned({ ...forged, "x-death": [{ ...death, queue: "other@wait.40" }] }),
        returned({ ...forged, "x-death": [{ ...death, reason: "rejected" }] }),
        returned({ ...forged, "x-death": "expired" }),
        returned(forged, { routingKey: "c@h" })
      ]
      for (const message of places) {
        expect(attemptOf(message, queue, counters)).toBe(1)
        expect(channelBeforeWait(message, queue)).toBeUndefined()
        expect(headersOf(message)["user-id"]).toBeUndefined()
      }
      const mark = (fields: Partial<ConsumeMessage["fields"]>, body = "") =>
        markOf(record(outgoing("c", body), { [names.mark]: "x" }, fields), "log")
      expect(mark({ exchange: "", routingKey: "log" })).toBe("x")
      expect([mark({}), mark({ exchange: "", routingKey: "c" }), mark({ exchange: "", routingKey: "log" }, "body")])
        .toEqual([undefined, undefined, undefined])
      // a death that a publisher wrote is a header like any other
      expect(headersOf(places[1]!)["x-death"]).toContain("expired")
    }))

  it.effect("F13 values of other clients are text for a handler", () =>
    Effect.sync(() => {
      const message = record(outgoing("c", "m"), {
        n: 7,
        half: 1.5,
        yes: true,
        none: null,
        nan: Number.NaN,
        when: { "!": "timestamp", value: 1_700_000_000 },
        price: { "!": "decimal", value: { places: 2, digits: 1234 } },
        cent: { "!": "decimal", value: { places: 2, digits: 5 } },
        mixed: ["a", 1, null],
        one: ["a"],
        empty: [],
        table: { x: { y: 1, when: { "!": "timestamp", value: 5 } } },
        bytes: Buffer.from("ü")
      })
      expect(headersOf(message)).toEqual({
        n: "7",
        half: "1.5",
        yes: "true",
        nan: "NaN",
        when: "1700000000",
        price: "12.34",
        cent: "0.05",
        mixed: `["a",1,null]`,
        one: "a",
        empty: "[]",
        table: `{"x":{"y":1,"when":5}}`,
        bytes: "ü"
      })
      // a copy of this process has the values again
      const copy = toProperties(outgoing("d", "m", { native: { fields: reader.fields(message) } }), 1, {
        user: "guest",
        isRouted: false
      })
      const { [names.values]: values, ...others } = copy.headers
      expect(Object.keys(others).toSorted()).toEqual(Object.keys(message.properties.headers!).toSorted())
      // a stream would end the connection of who publishes a decimal
      expect([others.price, others.cent, others.nan]).toEqual(["12.34", "0.05", "NaN"])
      expect([copy.headers.n, copy.headers.half, copy.headers.yes, copy.headers.mixed, copy.headers.one]).toEqual([
        7,
        1.5,
        true,
        ["a", 1, null],
        ["a"]
      ])
      expect([copy.headers.none, copy.headers.table.x.y, copy.headers.empty]).toEqual([null, 1, []])
      // and in a log, which drops lists and tables
      const { empty: _, mixed: __, one: ___, table: ____, ...kept } = copy.headers
      const logged = record(outgoing("d", "m"), kept)
      expect(headersOf(logged)).toEqual(headersOf(message))
      const again = toProperties(outgoing("d", "m", { native: { fields: reader.fields(logged) } }), 1, {
        user: "guest",
        isRouted: false
      })
      expect(again.headers[names.values]).toBe(values)
      for (const odd of ["{", "[]", "7", `{"own":{"type":"int64","value":"x"}}`, 7, `{"millrace-key":"k"}`]) {
        expect(headersOf(record(outgoing("c", "m"), { [names.values]: odd }))["millrace-key"]).toBeUndefined()
      }
    }))

  it.effect("F13 AMQP's properties are headers of a name each, both ways", () =>
    Effect.sync(() => {
      const headers = {
        "content-type": "application/json",
        "content-encoding": "gzip",
        "correlation-id": "c-1",
        "reply-to": "answers",
        "message-id": "m-1",
        type: "order.created",
        "app-id": "shop",
        "user-id": "guest",
        "amqp-priority": "3",
        "amqp-expiration": "60000"
      }
      const sent = record(outgoing("c", "m", { headers: { ...headers, own: "yes" } }))
      expect(sent.properties).toMatchObject({
        contentType: "application/json",
        contentEncoding: "gzip",
        correlationId: "c-1",
        replyTo: "answers",
        messageId: "m-1",
        type: "order.created",
        appId: "shop",
        userId: "guest",
        priority: 3,
        expiration: "60000",
        headers: { own: "yes" }
      })
      expect(Object.keys(sent.properties.headers!)).toEqual(["own"])
      expect(headersOf(sent)).toEqual({ ...headers, own: "yes" })
      // what AMQP has no room for, and a user who is another, stay headers
      const long = "x".repeat(300)
      const odd = record(outgoing("c", "m", { headers: { "correlation-id": long, "user-id": "root" } }))
      expect([odd.properties.correlationId, odd.properties.userId]).toEqual([undefined, undefined])
      expect(headersOf(odd)).toEqual({ "correlation-id": long, "user-id": "root" })
      const foreign = record(outgoing("c", "m"), {}, { exchange: "shop", routingKey: "order.created" })
      expect(headersOf(foreign)).toEqual({ "amqp-exchange": "shop", "amqp-routing-key": "order.created" })
      expect(textOf(reader.fields(foreign)[0]![1]!)).toBe("shop")
    }))
})
