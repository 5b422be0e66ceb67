/**
 * Looking after topics and groups: what the broker's own tools do, as a service.
 */
import type { BrokerError } from "@millrace/core"
import { Effect, Layer } from "effect"
import { KafkaAdmin, make } from "./client/Admin.ts"
import { check, type Options } from "./client/Options.ts"
import { connect } from "./kafkajs/Cluster.ts"

export { KafkaAdmin } from "./client/Admin.ts"
export type { Group, Progress } from "./client/Admin.ts"

/**
 * The admin of a Kafka as a layer, connected at once: a wrong address, wrong credentials or a bad option fail with a
 * `BrokerError` that says what to do.
 *
 * **Example** (a topic with what the program needs of it)
 *
 * ```ts
 * import { KafkaAdmin } from "@millrace/kafka"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const admin = yield* KafkaAdmin.KafkaAdmin
 *   yield* admin.declare({ channel: "orders", partitions: 16, settings: { "retention.ms": "86400000" } })
 *   yield* Effect.log(yield* admin.lag("billing", "orders"))
 * }).pipe(Effect.provide(KafkaAdmin.layer({ brokers: "localhost:9092" })))
 * ```
 *
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<KafkaAdmin, BrokerError.BrokerError> =>
  Layer.effect(
    KafkaAdmin,
    Effect.gen(function*() {
      const settings = yield* check(options)
      return make(settings, yield* connect(settings))
    })
  )
