/**
 * A part of a program: one way to start a layer, an effect or a subscription.
 */
import { type Health, Health as Checks, Subscription } from "@millrace/core"
import { type Context, Effect, Fiber, Layer, type Scope } from "effect"
import type { Settings } from "./options.ts"

export const PartId = "~millrace/program/Part"

/** The steps of a stop, in order. */
export const stages = ["server", "subscription", "worker", "relay"] as const

/** The kind of a part, which decides when it stops. */
export type Stage = typeof stages[number]

/** A part that has started. */
export interface Begun {
  /** Completes when the part has ended by itself, and fails when it has failed. */
  readonly ended: Effect.Effect<unknown, unknown>
  /** The part's own health, if it has any beside that it runs. */
  readonly check: Effect.Effect<Health.Answer, unknown> | undefined
}

/** A part of a program, with its options. Its type names the services that it needs. */
export interface Part<out R> {
  readonly [PartId]: true
  readonly stage: Stage
  readonly settings: Settings
  /** Starts the part; closing the scope stops it. */
  readonly begin: Effect.Effect<Begun, unknown, R | Scope.Scope>
}

/** Starts a layer. `watch` is run with its services, and its end is the end of the part. */
export const ofLayer = <A, R, R2 = never>(
  layer: Layer.Layer<A, unknown, R>,
  watch?: (services: Context.Context<A>) => Effect.Effect<unknown, unknown, R2>
): Effect.Effect<Begun, unknown, R | R2 | Scope.Scope> =>
  Effect.gen(function*() {
    const services = yield* Layer.build(layer)
    if (watch === undefined) return { ended: Effect.never, check: undefined }
    return yield* ofEffect(Effect.suspend(() => watch(services)))
  })

/** Starts an effect on a fiber of its own; it is ready at once. */
export const ofEffect = <R>(effect: Effect.Effect<unknown, unknown, R>): Effect.Effect<Begun, never, R | Scope.Scope> =>
  Effect.map(Effect.forkScoped(effect), (fiber) => ({
    ended: Effect.flatten(Fiber.await(fiber)),
    check: undefined
  }))

/** Starts a subscription; it is ready when its source is. The engine restarts a source that fails. */
export const ofSubscription = <R, On>(
  subscription: Subscription.Subscription<R, On>
): Effect.Effect<Begun, unknown, R | On | Scope.Scope> =>
  Effect.map(Subscription.run(subscription), (running) => ({
    ended: Effect.never,
    check: Checks.subscription(running, { name: "subscription" }).ask
  }))
