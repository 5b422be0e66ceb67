/**
 * A driver whose connections do what the test says.
 */
import {
  type BrokerError,
  Channel,
  type Delivery,
  type Driver,
  Engine,
  MemoryBroker,
  Subscription
} from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Clock, Deferred, Effect, Fiber, type Scope } from "effect"
import { TestClock } from "effect/testing"
import type { Handle } from "./altered.ts"

/** A connection. */
export interface Life {
  readonly at: number
  readonly options: Driver.ConsumeOptions
  readonly sink: Driver.Sink
  /** Ends it; it is lost where there is an error. */
  readonly end: (error?: BrokerError.BrokerError) => Effect.Effect<void>
}

/** What a connection does; it waits for its end afterwards. */
export type Script = (life: Life, number: number) => Effect.Effect<void, never, Scope.Scope>

/** A driver that records its connections; `events` are their steps. */
export const scripted = (changes: Partial<Driver.Driver> = {}, script: Script = () => Effect.void) =>
  Effect.map(MemoryBroker.make({ partitions: 1 }), ({ driver }) => {
    const lives: Array<Life> = []
    const events: Array<string> = []
    const event = (name: string) => Effect.sync(() => void events.push(name))
    const consume: Driver.Driver["consume"] = (options, sink) =>
      Effect.gen(function*() {
        const ended = yield* Deferred.make<void, BrokerError.BrokerError>()
        const at = yield* Clock.currentTimeMillis
        yield* Effect.addFinalizer(() => event("closed"))
        yield* event("connected")
        const life: Life = {
          at,
          options,
          sink,
          end: (error) => error === undefined ? Deferred.succeed(ended, undefined) : Deferred.fail(ended, error)
        }
        lives.push(life)
        const runs = Effect.andThen(script(life, lives.length - 1), Deferred.await(ended))
        yield* Effect.onInterrupt(runs, () => event("stopped"))
      })
    return { broker: Engine.make({ ...driver, consume, ...changes }), lives, events }
  })

/** A subscription of channel `c`. */
export const subscribed = <E>(
  handle: Handle<E> = () => Effect.void,
  options: Partial<Subscription.Options> = {}
) => Subscription.make(Channel.bytes("c"), { group: "g", name: "s", ...options }, handle as Handle).consumer

/** A message of channel `c`. */
export const delivery = (position: number, key?: string): Delivery =>
  Deliveries.make({ channel: "c", group: "g", handler: "s", position, key })

/** Starts a subscription whose driver is ready when the test says so. */
export const starting = (
  broker: Effect.Success<ReturnType<typeof scripted>>["broker"],
  ...args: Parameters<typeof subscribed>
) => Effect.forkChild(broker.consume(subscribed(...args)), { startImmediately: true })

/** A subscription that runs, in its first connection. */
export const started = (...args: Parameters<typeof subscribed>) =>
  Effect.gen(function*() {
    const script = yield* scripted()
    const start = yield* starting(script.broker, ...args)
    yield* TestClock.adjust(0)
    script.lives[0]!.sink.ready()
    const running = yield* Fiber.join(start)
    const stateOf = Effect.map(running.health, ({ state }) => state)
    return { ...script, running, stateOf }
  })
