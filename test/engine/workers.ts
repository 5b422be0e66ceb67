/**
 * A worker without a source or a broker: the test offers messages under leases of its own, and sees all that the worker tells.
 */
import {
  type Broker,
  Channel,
  type Delivery,
  type Driver,
  MemoryBroker,
  type Outgoing,
  Subscription
} from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Clock, Effect, Exit, Fiber, Metric, type Scope } from "effect"
import { RetryChannels } from "../../packages/core/src/internal/engine/RetryChannels.ts"
import { type BrokerPort, Worker } from "../../packages/core/src/internal/engine/Worker.ts"

export interface Options {
  readonly settlement?: "position" | "message" | undefined
  readonly capabilities?: Partial<Driver.Capabilities> | undefined
  readonly subscription?: Partial<Subscription.Options> | undefined
  /** Changes of the consumer that no option makes. */
  readonly consumer?: Partial<Broker.Consumer<Scope.Scope>> | undefined
  /** Default: confirms at once. */
  readonly publish?: BrokerPort["publish"] | undefined
  /** Reads this retry channel of the subscription, whose retries are `delayed` then; 0 is its own channel. */
  readonly tier?: number | undefined
  /** Changes of each lease. */
  readonly lease?: ((lease: Driver.Lease) => Driver.Lease) | undefined
}

/** Runs a worker in the scope of the test. */
export const startWorker = (
  handle: (delivery: Delivery) => Effect.Effect<unknown, unknown, Scope.Scope>,
  options: Options = {}
) =>
  Effect.gen(function*() {
    const { capabilities, consumer, lease: changed, publish, settlement = "position", subscription, tier } = options
    const memory = yield* MemoryBroker.make({ settlement, partitions: 1 })
    const log: Array<string> = []
    const failed: Array<unknown> = []
    const noted: Array<unknown> = []
    const published: Array<Outgoing<Uint8Array>> = []
    const { consumer: made } = Subscription.make(
      Channel.bytes("c"),
      { group: "g", name: "s", backoff: { base: 100, jitter: 0 }, ...subscription },
      () => Effect.void
    )
    // errors of any type: those of a subscription have a class
    const resolved = { ...made, handle, ...consumer }
    const { retries } = resolved
    const clock = yield* Clock.Clock
    const channels = retries._tag === "delayed" ? new RetryChannels(resolved, retries, clock) : undefined
    // the registry of metrics is the test's own
    const context = yield* Effect.provideService(Effect.context<Scope.Scope>(), Metric.MetricRegistry, new Map())
    const own = new Worker<Scope.Scope>(
      tier === undefined || tier === 0 ? resolved : channels!.consumer(resolved, tier),
      {
        capabilities: { ...memory.driver.capabilities, ...capabilities },
        publish: (batch) => {
          log.push(...batch.map(({ channel }) => `publish ${channel}`))
          published.push(...batch)
          return publish?.(batch) ?? Exit.void
        },
        failed: (error) => void failed.push(error),
        noted: (error) => void noted.push(error)
      },
      context,
      () => 0.5,
      tier === undefined ? undefined : { channels: channels!, tier }
    )
    const loop = yield* Effect.forkScoped(own.loop, { startImmediately: true })
    const sink = own.sink({ ready: () => log.push("ready"), polled: () => log.push("polled") })
    const open = (partition = 0): Driver.Lease => {
      const record = (name: string) => Effect.sync(() => void log.push(`${name} ${partition}`))
      const base = { partition, pause: record("pause"), resume: record("resume") }
      const made: Driver.Lease = settlement === "position"
        ? {
          ...base,
          commit: (position) => {
            log.push(`commit ${position}`)
            return Exit.void
          }
        }
        : {
          ...base,
          settle: (batch) => {
            log.push(...batch.map(({ delivery, outcome }) => `settle ${delivery.position} ${outcome._tag}`))
            return Exit.void
          }
        }
      const lease = changed?.(made) ?? made
      sink.open(lease)
      return lease
    }
    let next = 0
    return {
      worker: own,
      sink,
      loop,
      open,
      log,
      failed,
      noted,
      published,
      /** Messages at the next positions, with the keys given. */
      messages: (...keys: ReadonlyArray<string | undefined>): ReadonlyArray<Delivery> =>
        keys.map((key) => Deliveries.make({ channel: "c", key, position: next++ })),
      /** Each counter as `name channel tag: count`. */
      counts: () =>
        Metric.snapshotUnsafe(context).map(({ attributes, id, state }) =>
          `${id} ${attributes?.["messaging.destination.name"]} ${attributes?.["error.type"]}: ${
            "count" in state ? state.count : "none"
          }`
        ),
      /** Ends everything, as a source that stops does. */
      drain: (limit = 0) => Effect.andThen(Fiber.interrupt(loop), own.drain(limit)),
      inFlight: () =>
        Array.from(own.inFlight(), ({ behind, delivery, state }) => `${delivery.position} ${state}, ${behind} behind`)
    }
  })
