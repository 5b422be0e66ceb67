import { it } from "@effect/vitest"
import { Mosquitto } from "@millrace/testing/servers"
import { Effect, Exit, Fiber } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { type Frame, relay } from "./relay.ts"
import { acknowledge, driverOf, eventually, fresh, outgoing, rawClient, reading, textOf } from "./support.ts"

const numbered = (n: number, prefix = "m") => Array.from({ length: n }, (_, i) => `${prefix}-${i}`)

describeServer("MQTT publishes", Mosquitto.own(), (server) => {
  it.live("X5 F17 a long batch at each QoS keeps its order and the server's receive maximum, and is complete when it says so", () =>
    Effect.scoped(Effect.gen(function*() {
      for (const qos of [0, 1, 2] as const) {
        const channel = fresh("batch")
        const wire = yield* relay(server())
        const driver = yield* driverOf({ ...server(), url: wire.url }, { qos })
        const raw = yield* rawClient(server(), { properties: { receiveMaximum: 65_535 } })
        const got: Array<string> = []
        raw.on("message", (_topic, body) => got.push(textOf(body)))
        yield* Effect.promise(() => raw.subscribeAsync(channel, { qos: 2 }))
        const wanted = numbered(1500)
        yield* driver.publish(wanted.map((text) => outgoing(channel, text)))
        // PUBACK and PUBCOMP; the receive maximum of this server is 20
        const ends = wire.toClient.filter(({ type }) => type === (qos === 1 ? 4 : 7)).length
        expect(ends).toBe(qos === 0 ? 0 : wanted.length)
        yield* eventually(() => got.length >= wanted.length)
        expect(got).toEqual(wanted)
      }
    })))

  it.live("T9 a message is published with the QoS that it names, and with that of the options where it names none", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("qos")
      const driver = yield* driverOf(server(), { qos: 1 })
      const raw = yield* rawClient(server())
      const got: Array<number> = []
      raw.on("message", (_topic, _body, packet) => got.push(packet.qos))
      yield* Effect.promise(() => raw.subscribeAsync(channel, { qos: 2 }))
      const messages = ["0", "2", undefined, "1"].map((qos) =>
        outgoing(channel, "m", { headers: qos === undefined ? {} : { "mqtt-qos": qos } })
      )
      yield* driver.publish(messages)
      yield* eventually(() => got.length === messages.length)
      // QoS 2 has two steps more, and is overtaken
      expect(got.toSorted()).toEqual([0, 1, 1, 2])
      // a publish that nobody hears is refused just before: QoS 0 has no answer that could say so
      const refused = yield* Effect.flip(driver.publish([outgoing(fresh("unheard"), "m")]))
      expect(refused.reason).toBe("Unreachable")
      yield* driver.publish([outgoing(channel, "m", { headers: { "mqtt-qos": "0" } })])
      const wrong = yield* Effect.flip(driver.publish([outgoing(channel, "m", { headers: { "mqtt-qos": "9" } })]))
      expect([wrong.reason, wrong.message]).toEqual(["Invalid", expect.stringContaining("must be 0, 1 or 2, got 9")])
    })))

  it.live("X5 has no more unconfirmed at once than its window and the server's receive maximum", () =>
    Effect.scoped(Effect.gen(function*() {
      for (const [window, most] of [[5, 5], [500, 20]] as const) {
        const channel = fresh("window")
        const wire = yield* relay(server())
        const driver = yield* driverOf({ ...server(), url: wire.url }, { producer: { window } })
        // what the first of them waits for does not come, so no more may go
        let held = 0
        wire.hold = ({ type }) => type === 4 && ++held > 0
        yield* Effect.forkScoped(Effect.exit(driver.publish(numbered(100).map((text) => outgoing(channel, text)))))
        yield* eventually(() => held >= most)
        yield* Effect.sleep("100 millis")
        expect(wire.toServer.filter(({ type }) => type === 3).length).toBe(most)
      }
    })))

  it.live("X5 without a connection a publish fails at once, and is not sent later", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("offline")
      const driver = yield* driverOf(server(), { qos: 1 })
      const zero = yield* driverOf(server(), { qos: 0 })
      yield* server().stop
      for (const each of [driver, zero]) {
        expect(yield* Effect.flip(each.publish([outgoing(channel, "ghost")]))).toMatchObject({
          operation: "connect",
          reason: "Unreachable",
          failure: "dependency"
        })
        expect(yield* Effect.flip(each.check)).toMatchObject({ reason: "Unreachable" })
      }
      yield* server().start
      const { recorder } = yield* reading(driver, { channel, group: channel })
      yield* driver.publish([outgoing(channel, "one")])
      yield* zero.publish([outgoing(channel, "zero")])
      yield* eventually(() => recorder.taken.length >= 2)
      expect(recorder.texts.toSorted()).toEqual(["one", "zero"])
    })))

  it.live("X5 what nobody subscribes to is refused, and confirmed for who asks", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("unheard")
      const confirming = yield* driverOf(server(), { producer: { unheard: "confirm" } })
      const driver = yield* driverOf(server())
      yield* confirming.publish([outgoing(channel, "gone")])
      const error = yield* Effect.flip(driver.publish([outgoing(channel, "refused")]))
      expect(error).toMatchObject({ operation: "publish", reason: "Unreachable", retriable: true })
      expect(error.message).toContain(`Nobody subscribes to ${channel}`)
      expect(error.message).toContain("subscribe first")
      const { recorder } = yield* reading(driver, { channel, group: channel })
      yield* driver.publish([outgoing(channel, "heard")])
      yield* eventually(() => recorder.taken.length > 0)
      expect(recorder.texts).toEqual(["heard"])
    })))

  it.live("X5 what is retained is kept, and confirmed though nobody subscribes to it", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("kept")
      const wire = yield* relay(server())
      const driver = yield* driverOf({ ...server(), url: wire.url }, { consumer: { sharing: "exclusive" } })
      yield* driver.publish([outgoing(channel, "state", { headers: { "mqtt-retain": "true" } })])
      // the server has said that nobody hears it: type, length, number, reason
      expect(wire.toClient.find(({ type }) => type === 4)?.bytes[4]).toBe(16)
      const { recorder } = yield* reading(driver, { channel, group: channel })
      yield* eventually(() => recorder.taken.length > 0)
      expect(recorder.texts).toEqual(["state"])
    })))

  it.live("X5 at QoS 2 what nobody subscribes to is refused by the word of a server that has one, and Mosquitto has none", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("twice")
      const wire = yield* relay(server())
      const driver = yield* driverOf({ ...server(), url: wire.url }, { qos: 2 })
      yield* driver.publish([outgoing(channel, "gone")])
      let count = 0
      wire.change = ({ bytes, id, type }) =>
        type === 5 && count++ === 1 ? Buffer.of(0x50, 3, id! >> 8, id! & 255, 16) : bytes
      const publishing = (text: string) => Effect.exit(driver.publish([outgoing(channel, text)]))
      const exits = [yield* publishing("first"), yield* publishing("second"), yield* publishing("third")]
      expect(exits.map(Exit.isSuccess)).toEqual([true, false, true])
      const error = yield* Effect.flip(exits[1]!)
      expect(error).toMatchObject({ operation: "publish", reason: "Unreachable", retriable: true })
    })))

  it.live("X5 F13 refuses what MQTT cannot hold, and says what", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("refused")
      const driver = yield* driverOf(server())
      const refused = [
        [outgoing(channel, "m", { key: "a\tb" }), "control characters in its key"],
        [outgoing(channel, "m", { headers: { "x-y": "a\nb" } }), "control characters in the header x-y"],
        [outgoing(channel, "m", { native: { fields: [["x", null]] } }), "a header x of null"],
        [outgoing(channel, "m", { native: { fields: [["x", Uint8Array.of(255)]] } }), "no UTF-8"],
        [outgoing(channel, "m", { native: { keyBytes: Uint8Array.of(255) } }), "no UTF-8"],
        [outgoing(channel, "", { native: { tombstone: true } }), "no null body"]
      ] as const
      for (const [message, words] of refused) {
        const error = yield* Effect.flip(driver.publish([message]))
        expect(error).toMatchObject({ operation: "publish", reason: "Unsupported" })
        expect(error.message).toContain(words)
      }
      const invalid = [
        [outgoing(channel, "m", { headers: { "mqtt-retain": "yes" } }), "true or false"],
        [outgoing(channel, "m", { headers: { "mqtt-expiry": "soon" } }), "whole seconds"],
        [outgoing(channel, "m", { headers: { long: "x".repeat(70_000) } }), "65535"]
      ] as const
      for (const [message, words] of invalid) {
        const error = yield* Effect.flip(driver.publish([message]))
        expect(error).toMatchObject({ operation: "publish", reason: "Invalid" })
        expect(error.message).toContain(words)
      }
      // none of them has cost the connection
      yield* driver.check
    })))

  it.live("X5 X4 each answer of a server that is no success fails with its own reason, and says what to do", () =>
    Effect.scoped(Effect.gen(function*() {
      const wire = yield* relay(server())
      const through = { ...server(), url: wire.url }
      const suback = (code: number) => ({ bytes, type }: Frame) =>
        type === 9 ? Buffer.concat([bytes.subarray(0, -1), Buffer.of(code)]) : bytes
      const puback = (code: number) => ({ bytes, id, type }: Frame) =>
        type === 4 ? Buffer.of(0x40, 3, id! >> 8, id! & 255, code) : bytes
      const channel = fresh("answers")
      const published: ReadonlyArray<readonly [number, string, string]> = [
        [128, "Unknown", "transient"],
        [135, "Permission", "permanent"],
        [144, "Invalid", "permanent"],
        [151, "Full", "throttled"],
        [153, "Invalid", "permanent"]
      ]
      const driver = yield* driverOf(through)
      for (const [code, reason, failure] of published) {
        wire.change = puback(code)
        const error = yield* Effect.flip(driver.publish([outgoing(channel, "m")]))
        expect([code, error.operation, error.reason, error.failure]).toEqual([code, "publish", reason, failure])
      }
      const subscribed: ReadonlyArray<readonly [number, string]> = [
        [135, "Permission"],
        [143, "Invalid"],
        [151, "Full"],
        [158, "Unsupported"],
        [162, "Unsupported"]
      ]
      for (const [code, reason] of subscribed) {
        wire.change = suback(code)
        const error = yield* Effect.flip(Effect.scoped(reading(driver, { channel, group: channel })))
        expect([code, error.operation, error.reason]).toEqual([code, "consume", reason])
      }
      // DISCONNECT in the place of an answer to a ping
      const disconnected: ReadonlyArray<readonly [number, RegExp]> = [
        [139, /it stops, or has moved/],
        [142, /Another client took over the session/]
      ]
      for (const [code, words] of disconnected) {
        wire.change = ({ bytes }) => bytes
        const { fiber } = yield* reading(driver, { channel, group: fresh("group") })
        wire.change = ({ bytes, type }) => type === 3 ? Buffer.of(0xe0, 2, code, 0) : bytes
        yield* driver.publish([outgoing(channel, "m")])
        const error = yield* Effect.flip(Fiber.join(fiber))
        expect(error).toMatchObject({ operation: "consume", reason: "Lost" })
        expect(error.message).toMatch(words)
      }
    })))

  it.live("X5 a message goes when its time is over, and one that has none stays", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("expiry")
      const clientId = fresh("client")
      const driver = yield* driverOf(server(), { clientId })
      const first = yield* reading(driver, { channel, group: channel })
      yield* first.stop
      yield* driver.publish([
        outgoing(channel, "short", { headers: { "mqtt-expiry": "1" } }),
        outgoing(channel, "stays")
      ])
      yield* Effect.sleep("2200 millis")
      const { recorder } = yield* reading(driver, { channel, group: channel })
      yield* eventually(() => recorder.taken.length > 0)
      yield* acknowledge(recorder)
      expect(recorder.texts).toEqual(["stays"])
    })))
})

describeServer(
  "MQTT of a strict server",
  Mosquitto.own({
    settings: ["max_packet_size 4096"],
    access: ["user millrace", "topic readwrite free/#"]
  }),
  (server) => {
    it.live("X5 what a user may not publish fails with Permission", () =>
      Effect.scoped(Effect.gen(function*() {
        for (const qos of [1, 2] as const) {
          const driver = yield* driverOf(server(), { qos, producer: { unheard: "confirm" } })
          const error = yield* Effect.flip(driver.publish([outgoing("free/a", "m"), outgoing("secret/a", "m")]))
          expect(error).toMatchObject({ operation: "publish", reason: "Permission", failure: "permanent" })
          expect(error.message).toContain("User millrace may not publish to secret/a")
          // at QoS 2 Mosquitto 2.0.11 ends the connection after it has refused a message, and the next publish opens another
          yield* Effect.eventually(driver.publish([outgoing("free/a", "m")]))
        }
      })))

    it.live("X5 what is longer than the server takes fails with TooLarge, what is not goes through, and the connection lasts", () =>
      Effect.scoped(Effect.gen(function*() {
        const wire = yield* relay(server())
        const driver = yield* driverOf({ ...server(), url: wire.url })
        const { recorder } = yield* reading(driver, { channel: "free/size", group: "g" })
        const connections = () => wire.toServer.filter(({ type }) => type === 1).length
        expect(connections()).toBe(2)
        const sizes = [5000, 4096, 4070, 4000]
        const exits = yield* Effect.forEach(
          sizes,
          (n) => Effect.exit(driver.publish([outgoing("free/size", new Uint8Array(n))]))
        )
        expect(exits.map(Exit.isSuccess)).toEqual([false, false, true, true])
        const error = yield* Effect.flip(driver.publish([outgoing("free/size", new Uint8Array(5000))]))
        expect(error).toMatchObject({ operation: "publish", reason: "TooLarge", failure: "permanent" })
        yield* eventually(() => recorder.taken.length === 2)
        expect(recorder.taken.map(({ raw }) => raw.length)).toEqual([4070, 4000])
        expect(connections()).toBe(2)
      })))
  }
)
