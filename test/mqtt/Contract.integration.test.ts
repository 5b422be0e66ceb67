import { BrokerContract } from "@millrace/testing"
import { Mosquitto } from "@millrace/testing/servers"
import type { Mqtt } from "@millrace/mqtt"
import { Effect } from "effect"
import { describeServer } from "../services/describe.ts"
import { keepsRow } from "../services/row.ts"
import { driverOf } from "./support.ts"

/**
 * Each way to use MQTT under the suite, with a copy of its own, since the suite stops it. It is stopped cleanly: Mosquitto
 * acknowledges before it saves, and what its death loses is shown in MqttLoss.integration.test.ts.
 */
const kept = (name: string, options: Partial<Mqtt.Options>, settings: ReadonlyArray<string> = []) =>
  describeServer(`X5, X3, X4, F13, F3, F20 MQTT keeps the contract: ${name}`, Mosquitto.own({ settings }), (server) => {
    const subject = Effect.suspend(() =>
      Effect.gen(function*() {
        const driver = yield* driverOf(server(), options)
        const { start, stop } = server()
        if (options.qos !== 2) return { driver, start, stop }
        // Mosquitto 2.0.11 restores sessions and not their shared subscriptions, and at QoS 2 it confirms what it then drops.
        // What is published between its restart and the return of the consumers must go at QoS 1, where it tells.
        const telling = yield* driverOf(server(), { ...options, qos: 1 })
        let wasStopped = false
        const subject: BrokerContract.Subject = {
          driver: { ...driver, publish: (batch) => (wasStopped ? telling : driver).publish(batch) },
          stop: Effect.andThen(stop, Effect.sync(() => wasStopped = true)),
          start
        }
        return subject
      })
    )
    keepsRow(
      `MQTT, ${name}`,
      BrokerContract.suite(`MQTT, ${name}`, subject, {
        missing: "created",
        fields: ["duplicate", "case"],
        quiet: "200 millis",
        instructions: { "mqtt-expiry": "3600", "mqtt-retain": "true" },
        ...(settings.length === 0 ? {} : { maximumBytes: 1024 * 1024 })
      })
    )
  })

kept("QoS 1", { qos: 1 }, ["max_packet_size 1048576"])
kept("QoS 2", { qos: 2 })
kept("QoS 0", { qos: 0 })
kept("QoS 1, exclusive", { qos: 1, consumer: { sharing: "exclusive" } })
