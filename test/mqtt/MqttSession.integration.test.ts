import { it } from "@effect/vitest"
import { Address } from "@millrace/core"
import { Mosquitto } from "@millrace/testing/servers"
import { Effect, Exit, Fiber } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { type Frame, relay } from "./relay.ts"
import { acknowledge, driverOf, eventually, fresh, outgoing, reading, Recorder } from "./support.ts"

const numbered = (n: number, prefix = "m") => Array.from({ length: n }, (_, i) => `${prefix}-${i}`)

/** A PUBLISH of QoS 1 as a server sends it, without properties. */
const publish = (topic: string, body: string, id: number): Buffer => {
  const [name, payload] = [Buffer.from(topic), Buffer.from(body)]
  const length = 2 + name.length + 2 + 1 + payload.length
  return Buffer.concat([
    Buffer.of(0x32, length, name.length >> 8, name.length & 255),
    name,
    Buffer.of(id >> 8, id & 255, 0),
    payload
  ])
}

const isSuback = ({ type }: Frame) => type === 9

describeServer("MQTT comes back to its session", Mosquitto.own(), (server) => {
  it.live("X5 X4 starts though as many messages as it allows come before its subscription is answered, and gets them all", () =>
    Effect.scoped(Effect.gen(function*() {
      for (const qos of [1, 2] as const) {
        const channel = fresh("behind")
        const wire = yield* relay(server())
        const publisher = yield* driverOf(server(), { qos })
        const driver = yield* driverOf({ ...server(), url: wire.url }, {
          qos,
          connectTimeout: "2 seconds",
          consumer: { receiveMaximum: 5 }
        })
        const first = yield* reading(driver, { channel, group: channel })
        yield* first.stop
        const wanted = numbered(200)
        yield* publisher.publish(wanted.map((text) => outgoing(channel, text)))
        const before = wire.toClient.length
        const { recorder } = yield* reading(driver, { channel, group: channel })
        // this is the case: the answer comes behind a full receive maximum
        const came = wire.toClient.slice(before)
        expect(came.slice(0, came.findIndex(isSuback)).filter(({ type }) => type === 3).length).toBe(5)
        for (let settled = 0; settled < wanted.length; settled = recorder.taken.length) {
          yield* eventually(() => recorder.taken.length > settled)
          yield* acknowledge(recorder)
        }
        expect(recorder.texts).toEqual(wanted)
      }
    })))

  it.live("X5 X4 starts and reads though a server sends more than was agreed before it answers, and takes no more than it has room for", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("crowded")
      const wire = yield* relay(server())
      const driver = yield* driverOf({ ...server(), url: wire.url }, {
        connectTimeout: "2 seconds",
        consumer: { receiveMaximum: 10 }
      })
      const wanted = numbered(300)
      const extra = Buffer.concat(wanted.map((text, i) => publish(channel, text, 1000 + i)))
      wire.change = (frame) => isSuback(frame) ? Buffer.concat([extra, frame.bytes]) : frame.bytes
      const { fiber, recorder } = yield* reading(driver, { channel, group: channel })
      yield* eventually(() => recorder.taken.length >= 10)
      yield* Effect.sleep("100 millis")
      expect(recorder.texts).toEqual(wanted.slice(0, 10))
      for (let settled = 0; settled < wanted.length; settled = recorder.taken.length) {
        yield* eventually(() => recorder.taken.length > settled)
        yield* acknowledge(recorder)
      }
      expect(recorder.texts).toEqual(wanted)
      // the answer has come meanwhile, and the session goes on
      yield* driver.publish([outgoing(channel, "after")])
      yield* eventually(() => recorder.texts.includes("after"))
      expect(fiber.pollUnsafe()).toBeUndefined()
    })))

  it.live("X5 X4 a refusal that comes behind such a crowd ends what reads already, with its reason", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("refused")
      const wire = yield* relay(server())
      const driver = yield* driverOf({ ...server(), url: wire.url }, { consumer: { receiveMaximum: 1 } })
      const extra = Buffer.concat(["a", "b"].map((text, i) => publish(channel, text, 1000 + i)))
      wire.change = (frame) =>
        isSuback(frame) ? Buffer.concat([extra, frame.bytes.subarray(0, -1), Buffer.of(135)]) : frame.bytes
      const { fiber, recorder } = yield* reading(driver, { channel, group: channel })
      yield* eventually(() => recorder.taken.length === 1)
      yield* acknowledge(recorder)
      expect(yield* Effect.flip(Fiber.join(fiber))).toMatchObject({ operation: "consume", reason: "Permission" })
      expect(yield* Effect.flip(acknowledge(recorder))).toMatchObject({ operation: "settle", reason: "Lost" })
    })))

  it.live("X5 F20 starts though what comes first is left out by its pattern", () =>
    Effect.scoped(Effect.gen(function*() {
      const root = fresh("unfit")
      const address = `${root}/x.{one}`
      const options = { channel: address, group: "g", pattern: Address.pattern(address) }
      const publisher = yield* driverOf(server())
      const driver = yield* driverOf(server(), { connectTimeout: "2 seconds", consumer: { receiveMaximum: 5 } })
      const first = yield* reading(driver, options)
      yield* first.stop
      const wanted = numbered(20, `${root}/x.`)
      yield* publisher.publish(
        [...numbered(100, `${root}/y.`), ...wanted].map((topic) => outgoing(topic, topic))
      )
      const { recorder } = yield* reading(driver, options)
      for (let settled = 0; settled < wanted.length; settled = recorder.taken.length) {
        yield* eventually(() => recorder.taken.length > settled)
        yield* acknowledge(recorder)
      }
      expect(recorder.texts).toEqual(wanted)
    })))
})

describeServer("MQTT with a full engine", Mosquitto.own(), (server) => {
  it.live("X4 X5 T9 keeps its connection, and notices a server that has fallen silent", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("full")
      const publisher = yield* driverOf(server())
      const wire = yield* relay(server())
      const driver = yield* driverOf({ ...server(), url: wire.url }, {
        keepalive: "1 second",
        consumer: { receiveMaximum: 5 }
      })
      const recorder = new Recorder()
      // it never asks again
      recorder.room = Effect.never
      const { fiber } = yield* reading(driver, { channel, group: channel, batch: 2 }, recorder)
      yield* publisher.publish(numbered(50).map((text) => outgoing(channel, text)))
      const answers = () => wire.toClient.filter(({ type }) => type === 13).length
      // the driver's other connection is answered as well
      yield* eventually(() => answers() >= 8)
      expect(recorder.taken.length).toBeLessThanOrEqual(2)
      expect(fiber.pollUnsafe()).toBeUndefined()
      const pid = (yield* server().pid)!
      yield* Effect.acquireUseRelease(
        Effect.sync(() => process.kill(pid, "SIGSTOP")),
        () =>
          Effect.gen(function*() {
            const exit = yield* Fiber.await(fiber)
            expect(Exit.isFailure(exit) && String(exit.cause)).toContain("Keepalive timeout")
          }),
        () => Effect.sync(() => process.kill(pid, "SIGCONT"))
      )
    })))
})
