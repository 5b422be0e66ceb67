import { it } from "@effect/vitest"
import { Mosquitto } from "@millrace/testing/servers"
import { Effect } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { acknowledge, driverOf, eventually, fresh, outgoing, reading } from "./support.ts"

// It saves when it is told to, so that what its death loses is no matter of luck.
describeServer("MQTT loses", Mosquitto.own({ settings: ["autosave_interval 0"] }), (server) => {
  it.live("X5 what Mosquitto has confirmed and not saved when it is killed, and nothing that it has saved", () =>
    Effect.scoped(Effect.gen(function*() {
      for (const qos of [1, 2] as const) {
        const channel = fresh("killed")
        // exclusive: Mosquitto 2.0.11 restores no shared subscriptions
        const driver = yield* driverOf(server(), { qos, consumer: { sharing: "exclusive" } })
        const first = yield* reading(driver, { channel, group: channel })
        yield* first.stop
        yield* driver.publish([outgoing(channel, "saved")])
        yield* server().save
        yield* driver.publish([outgoing(channel, "confirmed")])
        yield* server().kill
        yield* server().start
        const { recorder } = yield* reading(driver, { channel, group: channel })
        yield* driver.publish([outgoing(channel, "after")])
        yield* eventually(() => recorder.texts.includes("after"))
        expect(recorder.texts).toEqual(["saved", "after"])
      }
    })))

  it.live("X5 nothing when Mosquitto is stopped, at QoS 1 and 2", () =>
    Effect.scoped(Effect.gen(function*() {
      for (const qos of [1, 2] as const) {
        const channel = fresh("stopped")
        const driver = yield* driverOf(server(), { qos })
        const first = yield* reading(driver, { channel, group: channel })
        yield* driver.publish([outgoing(channel, "taken"), outgoing(channel, "done")])
        yield* eventually(() => first.recorder.taken.length === 2)
        yield* acknowledge(first.recorder, ["done"])
        yield* first.stop
        yield* driver.publish([outgoing(channel, "waiting")])
        yield* server().restart
        const { recorder } = yield* reading(driver, { channel, group: channel })
        yield* eventually(() => recorder.taken.length === 2)
        expect(recorder.texts).toEqual(["taken", "waiting"])
      }
    })))

  it.live("X5 at QoS 0 what was sent while nobody listened, and what was taken and not done", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("zero")
      const driver = yield* driverOf(server(), { qos: 0 })
      const first = yield* reading(driver, { channel, group: channel })
      yield* driver.publish([outgoing(channel, "taken")])
      yield* eventually(() => first.recorder.taken.length === 1)
      yield* first.stop
      yield* driver.publish([outgoing(channel, "missed")])
      yield* driver.check
      const { recorder } = yield* reading(driver, { channel, group: channel })
      yield* driver.publish([outgoing(channel, "after")])
      yield* eventually(() => recorder.taken.length > 0)
      expect(recorder.texts).toEqual(["after"])
    })))

  it.live("X5 what a group is sent between a restart of Mosquitto 2.0.11 and the return of its consumers, unless it is refused, as it is by default", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("forgotten")
      const clientId = fresh("client")
      const consumer = yield* driverOf(server(), { clientId })
      const first = yield* reading(consumer, { channel, group: channel })
      yield* first.stop
      yield* server().restart
      const confirming = yield* driverOf(server(), { producer: { unheard: "confirm" } })
      const refusing = yield* driverOf(server())
      yield* confirming.publish([outgoing(channel, "dropped")])
      expect(yield* Effect.flip(refusing.publish([outgoing(channel, "refused")]))).toMatchObject({
        reason: "Unreachable",
        retriable: true
      })
      const { recorder } = yield* reading(consumer, { channel, group: channel })
      yield* refusing.publish([outgoing(channel, "heard")])
      yield* eventually(() => recorder.taken.length > 0)
      expect(recorder.texts).toEqual(["heard"])
    })))

  it.live("X5 what a group is sent between a restart of Mosquitto 2.0.11 and its return while another group is back, and nothing where it is exclusive", () =>
    Effect.scoped(Effect.gen(function*() {
      for (const sharing of ["group", "exclusive"] as const) {
        const channel = fresh("second")
        const driver = yield* driverOf(server(), { consumer: { sharing } })
        for (const group of ["early", "late"]) {
          yield* Effect.andThen(reading(driver, { channel, group }), ({ stop }) => stop)
        }
        yield* server().restart
        const early = yield* reading(driver, { channel, group: "early" })
        // one hears it, so the server has nothing to say
        yield* driver.publish([outgoing(channel, "between")])
        const late = yield* reading(driver, { channel, group: "late" })
        yield* driver.publish([outgoing(channel, "after")])
        yield* eventually(() => late.recorder.texts.includes("after") && early.recorder.taken.length === 2)
        expect(late.recorder.texts).toEqual(sharing === "group" ? ["after"] : ["between", "after"])
      }
    })))
})
