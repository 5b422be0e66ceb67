/**
 * Starts and stops subscriptions by name, while a program runs.
 */
import { Context, Deferred, Effect, Exit, Layer, Scope } from "effect"
import type { Health, Running } from "./Broker.ts"
import * as BrokerError from "../driver/BrokerError.ts"
import * as Subscription from "./Subscription.ts"

/** Starts, stops and lists the subscriptions of a running program. */
class SubscriptionsRegistry extends Context.Service<SubscriptionsRegistry, {
  /**
   * Starts a subscription; completes when its source is ready. The subscription runs until `stop` or until the layer's scope
   * closes.
   *
   * Fails with the `BrokerError` that kept the source from starting, and then its name is free; with reason `Conflict`, and
   * without any change, while a subscription of the same name runs or drains; with reason `Lost` when the layer's scope
   * closes. Interrupting it stops the subscription. Handlers get the services of the caller.
   */
  readonly start: <R, On>(
    subscription: Subscription.Subscription<R, On>
  ) => Effect.Effect<Running, BrokerError.BrokerError, On | Exclude<R, Scope.Scope>>
  /**
   * Drains a subscription and waits for it: running handlers may finish, up to the drain limit. Returns whether a
   * subscription of this name existed. If that subscription is starting, waits for the start first. Interrupting it ends the
   * wait, not the drain.
   */
  readonly stop: (name: string) => Effect.Effect<boolean>
  /** Returns the health of one subscription, or undefined if none of this name runs; while it starts there is none yet. */
  readonly health: (name: string) => Effect.Effect<Health | undefined>
  /** Returns the health of all started subscriptions, in the order of their `start` calls. */
  readonly list: Effect.Effect<ReadonlyArray<Health>>
  /** Returns all started subscriptions, in the same order. */
  readonly running: Effect.Effect<ReadonlyArray<Running>>
}>()("@millrace/core/Subscriptions/Registry") {}

export { SubscriptionsRegistry as Registry }

interface Entry {
  readonly scope: Scope.Closeable
  /** Completes when the start has ended, with success or not; `stop` waits for it. */
  readonly started: Deferred.Deferred<void>
  running: Running | undefined
  /** Completes when the drain has ended; undefined before the drain begins. */
  stopping: Deferred.Deferred<void> | undefined
}

const taken = (system: string, name: string): BrokerError.BrokerError =>
  BrokerError.make({
    system,
    operation: "consume",
    reason: "Conflict",
    message: `A subscription of the name ${name} runs already: stop it first, or give this one another name.`
  })

const over = (system: string): BrokerError.BrokerError =>
  BrokerError.make({
    system,
    operation: "consume",
    reason: "Lost",
    message: "The program's subscriptions are being stopped, and none starts any more."
  })

const make = Effect.gen(function*() {
  const scope = yield* Effect.scope
  // all subscriptions drain concurrently
  const all = yield* Scope.fork(scope, "parallel")
  const entries = new Map<string, Entry>()
  // completes before the drain: a subscription that is starting would wait for a source that never comes
  const closing = Deferred.makeUnsafe<void>()
  yield* Effect.addFinalizer(() => Deferred.succeed(closing, undefined))

  const end = (name: string, entry: Entry): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (entry.stopping !== undefined) return Deferred.await(entry.stopping)
      const stopping = entry.stopping = Deferred.makeUnsafe<void>()
      const drained = Scope.close(entry.scope, Exit.void).pipe(
        Effect.ensuring(Effect.sync(() => {
          entries.delete(name)
          Deferred.doneUnsafe(stopping, Exit.void)
        }))
      )
      // the drain continues if its caller is interrupted
      return Effect.andThen(Effect.forkDetach(drained), Deferred.await(stopping))
    })

  const started = () => Array.from(entries.values()).flatMap(({ running }) => running ?? [])

  return SubscriptionsRegistry.of({
    start: (subscription) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.gen(function*() {
          const { name } = subscription
          const broker = yield* subscription.broker
          if (entries.has(name)) return yield* Effect.fail(taken(broker.system, name))
          const refused = Effect.flatMap(Deferred.await(closing), () => Effect.fail(over(broker.system)))
          if (Deferred.isDoneUnsafe(closing)) return yield* refused
          const entry: Entry = {
            scope: Scope.forkUnsafe(all),
            started: Deferred.makeUnsafe(),
            running: undefined,
            stopping: undefined
          }
          entries.set(name, entry)
          const exit = yield* Effect.exit(
            restore(
              Effect.raceFirst(
                Effect.provideService(Subscription.run(subscription), Scope.Scope, entry.scope),
                refused
              )
            )
          )
          if (exit._tag === "Success") entry.running = exit.value
          else yield* end(name, entry)
          Deferred.doneUnsafe(entry.started, Exit.void)
          return yield* exit
        })
      ),
    stop: (name) =>
      Effect.suspend(() => {
        const entry = entries.get(name)
        if (entry === undefined) return Effect.succeed(false)
        return Deferred.await(entry.started).pipe(Effect.andThen(end(name, entry)), Effect.as(true))
      }),
    health: (name) =>
      Effect.suspend(() => {
        const running = entries.get(name)?.running
        return running === undefined ? Effect.undefined : running.health
      }),
    list: Effect.suspend(() => Effect.forEach(started(), (running) => running.health)),
    running: Effect.sync(started)
  })
})

/** The needs of each subscription: its broker and the services of its handler. */
type NeedsOf<S> = S extends Subscription.Subscription<infer R, infer On> ? On | Exclude<R, Scope.Scope> : never

/**
 * Runs subscriptions from the beginning, e.g. those of a router, and later ones that the registry starts. Closing its scope
 * drains all of them concurrently: put their brokers beneath it, so that they outlive the drain.
 *
 * Fails with the `BrokerError` of a subscription that cannot start.
 *
 * **Example** (one more, while the program runs)
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { Channel, MemoryBroker, type Message, Subscription, Subscriptions } from "@millrace/core"
 *
 * const of = (tenant: string) =>
 *   Subscription.make(
 *     Channel.bytes(`${tenant}.orders`),
 *     { group: "billing", name: tenant },
 *     (message: Message<Uint8Array>) => Effect.log(message.raw.length)
 *   )
 *
 * const program = Effect.gen(function*() {
 *   const subscriptions = yield* Subscriptions.Registry
 *   yield* subscriptions.start(of("acme"))
 *   const all = yield* subscriptions.list
 *   console.log(all.map(({ name, state }) => `${name} is ${state}`)) // => [ 'acme is running' ]
 *   console.log(yield* subscriptions.stop("acme")) // => true
 * })
 *
 * await Effect.runPromise(Effect.provide(program, Layer.provideMerge(Subscriptions.layer(), MemoryBroker.layer())))
 * ```
 *
 * @category layers
 */
export const layer = <const S extends ReadonlyArray<Subscription.Subscription<unknown, unknown>> = []>(
  subscriptions?: S
): Layer.Layer<SubscriptionsRegistry, BrokerError.BrokerError, NeedsOf<S[number]>> =>
  Layer.effect(
    SubscriptionsRegistry,
    Effect.tap(make, (registry) =>
      Effect.forEach(
        // the needs of each subscription are in the layer's type
        (subscriptions ?? []) as ReadonlyArray<Subscription.Subscription<NeedsOf<S[number]>, never>>,
        registry.start,
        { concurrency: "unbounded", discard: true }
      ))
  )
