/** The 65,535 packet numbers of a connection, all of them in flight, and used again. */
import { it } from "@effect/vitest"
import { Mosquitto } from "@millrace/testing/servers"
import { Effect } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { acknowledge, driverOf, eventually, fresh, outgoing, reading } from "./support.ts"

const most = 65_535

describeServer("MQTT's packet numbers", Mosquitto.own({ settings: ["max_inflight_messages 0"] }), (server) => {
  it.live(
    "X5 F17 more messages than a connection has numbers are published and consumed with all numbers in flight",
    () =>
      Effect.scoped(Effect.gen(function*() {
        const channel = fresh("numbers")
        const consumer = yield* driverOf(server(), { consumer: { receiveMaximum: most } })
        const publisher = yield* driverOf(server(), { producer: { window: most } })
        const { recorder } = yield* reading(consumer, { channel, group: "group", messages: 100_000, batch: 10_000 })
        const texts = Array.from({ length: most + 5000 }, (_, i) => `m${i}`)
        const publishing = yield* Effect.forkScoped(publisher.publish(texts.map((text) => outgoing(channel, text))))
        // nothing is settled yet, so the server cannot send more
        yield* eventually(() => recorder.taken.length === most)
        yield* acknowledge(recorder)
        yield* eventually(() => recorder.taken.length === texts.length)
        yield* Effect.ignore(acknowledge(recorder))
        yield* eventually(() => publishing.pollUnsafe() !== undefined)
        expect(recorder.texts).toEqual(texts)
      })),
    60_000
  )
})
