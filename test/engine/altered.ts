/**
 * The memory broker with a driver that misbehaves where a test says so.
 */
import { BrokerError, type Delivery, type Driver, Engine, MemoryBroker, Outgoing } from "@millrace/core"
import { Effect, Logger, type LogLevel } from "effect"

/** Changes of a driver. */
export interface Changes {
  readonly lease?: ((lease: Driver.Lease) => Driver.Lease) | undefined
  readonly driver?: ((driver: Driver.Driver) => Driver.Driver) | undefined
}

/** A memory broker, and the same one by a driver that was changed. */
export const altered = (options: MemoryBroker.Options, { driver = (same) => same, lease = (same) => same }: Changes) =>
  Effect.map(MemoryBroker.make(options), (memory) => {
    const consume: Driver.Driver["consume"] = (asked, sink) => {
      const own = new Map<Driver.Lease, Driver.Lease>()
      return memory.driver.consume(asked, {
        ...sink,
        open: (given) => {
          const changed = lease(given)
          own.set(given, changed)
          sink.open(changed)
        },
        offer: (given, batch) => sink.offer(own.get(given)!, batch),
        settled: (given) => sink.settled(own.get(given)!),
        close: (given, how) => sink.close(own.get(given)!, how)
      })
    }
    return { memory, broker: Engine.make(driver({ ...memory.driver, consume })) }
  })

/** A message of channel `c`. */
export const message = (key?: string, headers: Record<string, string> = {}, size = 1): Outgoing<Uint8Array> =>
  new Outgoing("c", new Uint8Array(size), key, headers)

/** What a broker fails a publish with. */
export const refusal = (reason: BrokerError.Reason): BrokerError.BrokerError =>
  BrokerError.make({ system: "memory", operation: "publish", reason, message: `refused: ${reason}` })

/** Whether a batch goes to dead letters. */
export const isLetter = (batch: ReadonlyArray<Outgoing<Uint8Array>>): boolean =>
  batch.some(({ channel }) => channel.endsWith(".dead-letters"))

/** A handler of the test's own that sees deliveries. */
export type Handle<E = never> = (delivery: Delivery) => Effect.Effect<unknown, E>

/** A logger that keeps what was logged at a level. */
export const lines = (level: LogLevel.LogLevel) => {
  const found: Array<string> = []
  const logger = Logger.make(({ logLevel, message }) => {
    if (logLevel === level) found.push(String(Array.isArray(message) ? message[0] : message))
  })
  return { found, layer: Logger.layer([logger]) }
}
