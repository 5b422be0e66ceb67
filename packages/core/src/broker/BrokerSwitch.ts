/**
 * A broker that the configuration can switch off, so that the rest of the program runs without it.
 */
import { Config, Effect, Layer, Stream } from "effect"
import * as BrokerError from "../driver/BrokerError.ts"
import type { Capabilities } from "../driver/Driver.ts"
import { Broker } from "./Broker.ts"

/** Options of `layer`. */
export interface Options<E, R> {
  /** Whether the broker is on; a `Config` is read when the layer is built. */
  readonly enabled: boolean | Config.Config<boolean>
  /** The layer of the broker; it is not built while the broker is off. */
  readonly broker: Layer.Layer<Broker, E, R>
  /** The name of the option or variable that switches the broker, for error messages. Default: none. */
  readonly name?: string | undefined
}

/** The capabilities of a broker that is off: all, since a publisher or a subscription must not be refused for a feature. */
const capabilities: Capabilities = {
  settlement: "message",
  ordering: "partition",
  redelivery: true,
  delay: true,
  deadLetter: false,
  attempts: true,
  groups: true,
  fanOut: true,
  retention: true,
  replay: true,
  persistence: true,
  browse: true,
  tombstones: true,
  partitions: true,
  timestamps: "milliseconds",
  transactions: true,
  patterns: true,
  lag: true
}

/**
 * Provides a broker that is off: each call fails with a `BrokerError` of reason `Disabled` and class `dependency`, which HTTP
 * answers with 503. `check` succeeds with that error, so the program's health is degraded and not down.
 *
 * @category layers
 */
export const layerOff = (name?: string): Layer.Layer<Broker> => {
  const disabled = (operation: BrokerError.BrokerError["operation"]) =>
    BrokerError.make({
      system: "off",
      operation,
      reason: "Disabled",
      message: `The broker is switched off by ${
        name ?? "the configuration"
      }: switch it on, or publish through an outbox, whose rows wait for a process with a broker.`
    })
  const fail = (operation: BrokerError.BrokerError["operation"]) => Effect.fail(disabled(operation))
  return Layer.succeed(
    Broker,
    Broker.of({
      system: "off",
      capabilities,
      publish: () => fail("publish"),
      publishAll: () => fail("publish"),
      consume: () => fail("consume"),
      declare: () => fail("declare"),
      browse: () => Stream.fail(disabled("browse")),
      check: Effect.succeed(disabled("check")),
      lag: () => fail("lag")
    })
  )
}

/**
 * Provides a broker, or `layerOff` where the configuration switches it off. A `Program` leaves the subscriptions of a broker that
 * is off out, and runs the rest.
 *
 * Fails with the broker's error, and with a `ConfigError` if `enabled` cannot be read.
 *
 * **Example** (a variable switches the broker off)
 *
 * ```ts
 * import { BrokerSwitch, Channel, MemoryBroker, Publisher } from "@millrace/core"
 * import { Config, ConfigProvider, Effect } from "effect"
 *
 * const broker = BrokerSwitch.layer({
 *   name: "BROKER_ENABLED",
 *   enabled: Config.withDefault(Config.Boolean("BROKER_ENABLED"), true),
 *   broker: MemoryBroker.layer()
 * })
 *
 * const publish = Publisher.make(Channel.bytes("orders")).publish(new Uint8Array(1))
 * const off = ConfigProvider.fromEnvRecord({ BROKER_ENABLED: "false" })
 * const program = Effect.provideService(Effect.provide(Effect.flip(publish), broker), ConfigProvider.ConfigProvider, off)
 * const error = await Effect.runPromise(program)
 * console.log(error.failure, error.message.split(":")[0]) // => dependency The broker is switched off by BROKER_ENABLED
 * ```
 *
 * @category layers
 */
export const layer = <E, R>(
  { broker, enabled, name }: Options<E, R>
): Layer.Layer<Broker, E | Config.ConfigError, R> =>
  Layer.unwrap(
    Effect.map(Config.isConfig(enabled) ? enabled : Effect.succeed(enabled), (isOn): Layer.Layer<Broker, E, R> =>
      isOn ? broker : layerOff(name))
  )
