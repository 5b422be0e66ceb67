/**
 * One process of many parts: subscriptions, servers, workers and relays by name, started side by side, restarted when they die,
 * ready when all of them are, and stopped in order within one time limit.
 */
import type { Subscription } from "@millrace/core"
import { type Config, Context, type Duration, Effect, Layer, type Scope } from "effect"
import type { PartFailed, SelectionError } from "./internal/errors.ts"
import { runMain, type RunOptions } from "./internal/main.ts"
import { check, type PartOptions, settle } from "./internal/options.ts"
import { ofEffect, ofLayer, ofSubscription, type Part, PartId, type Stage } from "./internal/part.ts"
import { type Plan, start as begin } from "./internal/running.ts"
import type { PartState } from "./internal/supervisor.ts"

export { Ended, exitCodes, NotReady, NotStopped, PartFailed, SelectionError } from "./internal/errors.ts"
export type { RunOptions } from "./internal/main.ts"
export { defaults as partDefaults, type PartOptions, type Restart } from "./internal/options.ts"
export type { Begun, Part, Stage } from "./internal/part.ts"
export type { PartState, State } from "./internal/supervisor.ts"

/** The services that a part needs; for another value a type that no program provides, so that it does not run. */
export type NeedsOf<P> = P extends Part<infer R> ? R
  : P extends Layer.Layer<infer _A, infer _E, infer R> ? R
  : P extends Subscription.Subscription<infer R, infer On> ? R | On
  : P extends Effect.Effect<infer _A, infer _E, infer R> ? R
  : { readonly "a part is a subscription, a layer, an effect or made by Program": P }

/** Options of a part that is a layer whose end can be seen. */
export interface WatchOptions<A, R> extends PartOptions {
  /**
   * An effect with the layer's services that ends when the part ends, and fails when it fails. A layer without it that has been
   * built counts as running until the program stops.
   */
  readonly watch: (services: Context.Context<A>) => Effect.Effect<unknown, unknown, R>
}

const partOf = <R>(stage: Stage, options: PartOptions, begin: Part<R>["begin"]): Part<Exclude<R, Scope.Scope>> => {
  const part: Part<R> = { [PartId]: true, stage, settings: settle(options), begin }
  // begin gets a scope of its own
  return part as Part<R | Scope.Scope> as Part<Exclude<R, Scope.Scope>>
}

/** Makes a part of a layer, or of an effect. */
export interface Make {
  <A, R, R2>(layer: Layer.Layer<A, unknown, R>, options: WatchOptions<A, R2>): Part<Exclude<R | R2, Scope.Scope>>
  <R>(
    what: Layer.Layer<never, unknown, R> | Effect.Effect<unknown, unknown, R>,
    options?: PartOptions & { readonly watch?: never }
  ): Part<Exclude<R, Scope.Scope>>
}

const at = (stage: Stage): Make =>
<A, R, R2>(
  what: Layer.Layer<never, unknown, R> | Effect.Effect<unknown, unknown, R>,
  options: PartOptions & Partial<WatchOptions<A, R2>> = {}
) =>
  partOf<R | R2>(
    stage,
    options,
    // `watch` is of a layer that provides A
    Effect.isEffect(what) ? ofEffect(what) : ofLayer(what as Layer.Layer<A, unknown, R>, options.watch)
  )

/**
 * Makes a part that takes requests: it stops first, so that no request enters a program that drains.
 *
 * @throws RangeError when an option is out of range
 * @category parts
 */
export const server: Make = at("server")

/**
 * Makes a part that consumes messages: it stops taking messages after the servers have stopped, and drains.
 *
 * @throws RangeError when an option is out of range
 * @category parts
 */
export const subscription = <R, On>(
  subscription: Subscription.Subscription<R, On>,
  options: PartOptions = {}
): Part<On | Exclude<R, Scope.Scope>> =>
  // the subscription gets the scope of the part
  partOf("subscription", options, ofSubscription(subscription)) as Part<On | Exclude<R, Scope.Scope>>

/**
 * Makes a part that works by itself, such as a pool of workers or a schedule: it stops after the subscriptions. An effect runs
 * until it ends; an effect that ends with success is done, see `onEnd`.
 *
 * @throws RangeError when an option is out of range
 * @category parts
 */
export const worker: Make = at("worker")

/**
 * Makes a part that sends what the others have stored, such as the relay of an outbox: it stops last, before the services.
 *
 * @throws RangeError when an option is out of range
 * @category parts
 */
export const relay: Make = at("relay")

/** Options of `make`. */
export interface Options<Parts, S, E, R> {
  /** The name of the program, in its log lines. */
  readonly name: string
  /** The parts by name: 1 to 48 letters, digits, and `._-`. */
  readonly parts: Parts
  /**
   * The services that the parts share, such as brokers, stores and `Health.layer`: they start before all parts and stop after
   * them, and a part that is restarted gets the same ones.
   */
  readonly services?: Layer.Layer<S, E, R> | undefined
  /** How long the services may take to start. Default: 30 seconds. */
  readonly ready?: Duration.Input | undefined
  /**
   * How long the program works on after it has said that it is not ready, so that load balancers notice; part of the budget.
   * Default: 0.
   */
  readonly wait?: Duration.Input | undefined
  /** How long the whole stop may take; later parts are left behind and named. Default: 30 seconds. */
  readonly budget?: Duration.Input | undefined
}

/** The defaults of `make`'s options. */
export const defaults = { ready: 30_000, wait: 0, budget: 30_000 } as const

/** A program, as a value. Its type has the names of its parts, the errors of its services, and the services that it needs. */
export interface Program<out Names extends string, out E, out R> {
  readonly name: string
  readonly names: ReadonlyArray<Names>
  readonly plan: PlanOf<E, R>
}

/** The inside of a program; only this module makes and reads it. */
export interface PlanOf<out E, out R> extends Plan {
  readonly needs?: Effect.Effect<never, E, R>
}

const isPart = (part: object): part is Part<unknown> => PartId in part

const isLayer = (part: object): part is Layer.Layer<never, unknown, unknown> => Layer.isLayer(part)

const isSubscription = (part: object): part is Subscription.Subscription<unknown, unknown> =>
  "consumer" in part && "broker" in part

const normal = (name: string, part: object): Part<unknown> => {
  if (isPart(part)) return part
  if (isLayer(part) || Effect.isEffect(part)) return worker(part)
  if (isSubscription(part)) return partOf("subscription", {}, ofSubscription(part))
  throw new RangeError(`Program: the part ${name} must be a subscription, a layer, an effect or a part`)
}

/**
 * Makes a program of parts by name. A subscription stops with the subscriptions, a layer or an effect with the workers; `server`,
 * `subscription`, `worker` and `relay` say otherwise, and give a part options.
 *
 * The parts start side by side, when the services have started. Each is supervised: a part that fails is restarted by its policy,
 * with a line at level Error and the counter `millrace.part.restarts`. If a `Health.Registry` is among the services, the program
 * adds a check for each part, is ready when all parts are, and is not ready from the first moment of its stop.
 *
 * **Example** (a subscription and a job that ends)
 *
 * ```ts
 * import { Channel, MemoryBroker, Publisher, Subscription } from "@millrace/core"
 * import { Program } from "@millrace/program"
 * import { Effect, Logger } from "effect"
 *
 * const Orders = Channel.bytes("orders")
 * const orders = Subscription.make(Orders, { group: "shop", name: "orders" }, () => Effect.void)
 *
 * const program = Program.make({
 *   name: "shop",
 *   parts: {
 *     orders,
 *     import: Program.worker(Publisher.make(Orders).publish(new Uint8Array(1)), { onEnd: "exit" })
 *   },
 *   services: MemoryBroker.layer()
 * })
 *
 * const ended = Effect.scoped(Effect.gen(function*() {
 *   const { ended, parts } = yield* Program.start(program)
 *   yield* ended
 *   console.log((yield* parts).map(({ name, state }) => `${name} is ${state}`)) // => [ 'orders is ready', 'import is done' ]
 * }))
 * await Effect.runPromise(Effect.provide(ended, Logger.layer([])))
 * ```
 *
 * @throws RangeError when a name or an option is out of range
 * @category constructors
 */
export const make = <
  // not AnyPart: the compiler would infer the needs of a generic layer, e.g. of an outbox, from it
  const Parts extends { readonly [name: string]: object },
  S = never,
  E = never,
  R = never
>(
  options: Options<Parts, S, E, R>
): Program<keyof Parts & string, E, R | Exclude<NeedsOf<Parts[keyof Parts]>, S | Scope.Scope>> => {
  const parts = new Map<string, Part<never>>()
  for (const [name, part] of Object.entries(options.parts)) {
    if (!/^[\p{L}\p{N}][\p{L}\p{N}._-]{0,47}$/u.test(name)) {
      throw new RangeError(
        `Program: the name of a part must be 1 to 48 letters, digits and ._-, got ${JSON.stringify(name.slice(0, 80))}`
      )
    }
    // the services of all parts are in the program's type
    parts.set(name, normal(name, part) as Part<never>)
  }
  if (parts.size === 0) throw new RangeError("Program: parts must have at least one part, got none")
  return {
    name: options.name,
    // the keys of the object
    names: [...parts.keys()] as ReadonlyArray<keyof Parts & string>,
    plan: {
      name: options.name,
      parts,
      services: options.services as Layer.Layer<never, unknown, never> | undefined,
      ready: check.millis("ready", options.ready ?? defaults.ready),
      wait: check.millis("wait", options.wait ?? defaults.wait, { least: 0 }),
      budget: check.millis("budget", options.budget ?? defaults.budget, { least: 0 })
    }
  }
}

/** The choice of parts by name. */
export interface Choice<Names extends string> {
  /** The parts to run. Default: those of the variable `MILLRACE_PARTS`, else all. */
  readonly only?: ReadonlyArray<Names> | undefined
  /** Parts that do not run. Default: none. */
  readonly without?: ReadonlyArray<Names> | undefined
}

/** A running program. */
class ProgramRunning extends Context.Service<ProgramRunning, {
  /** The state of each part, in the order of the program. */
  readonly parts: Effect.Effect<ReadonlyArray<PartState>>
  /** Completes when every part is done, and fails when a part has failed whose `onFailure` is `exit`. */
  readonly ended: Effect.Effect<void, PartFailed>
}>()("@millrace/program/Program/Running") {}

export { ProgramRunning as Running }

/**
 * Starts a program, and completes when all parts are ready. Closing the scope stops the program, in order and within its budget.
 *
 * Fails with the services' error, with `PartFailed` if a part fails before the program is ready, with `ConfigError` if an option
 * cannot be read, and with `SelectionError` if no part has a chosen name.
 *
 * @category running
 */
export const start = <Names extends string, E, R>(
  program: Program<Names, E, R>,
  choice: Choice<NoInfer<Names>> = {}
): Effect.Effect<
  ProgramRunning["Service"],
  E | PartFailed | SelectionError | Config.ConfigError,
  R | Scope.Scope
> =>
  Effect.map(
    // E and R of the services and the parts are in the program's type
    begin(program.plan, choice) as Effect.Effect<
      ProgramRunning["Service"],
      E | PartFailed | SelectionError | Config.ConfigError,
      R | Scope.Scope
    >,
    ({ ended, parts }) => ({ ended, parts })
  )

/**
 * Runs a program for as long as the layer lives, inside any Effect program. Provides `Running`: wait for its `ended` to notice a
 * part that failed for good.
 *
 * @category layers
 */
export const layer = <Names extends string, E, R>(
  program: Program<Names, E, R>,
  choice: Choice<NoInfer<Names>> = {}
): Layer.Layer<ProgramRunning, E | PartFailed | SelectionError | Config.ConfigError, Exclude<R, Scope.Scope>> =>
  Layer.effect(ProgramRunning, start(program, choice))

/**
 * Runs a program as the main of a Node process, and ends the process with its exit code. An effect makes a program from the
 * configuration; its error ends the process before any part has started.
 *
 * Arguments: `--only NAMES`, `--without NAMES` (names with commas between them), `--help`. The variable `MILLRACE_PARTS` is
 * `--only` of the environment. The first SIGTERM or SIGINT stops the program in order; the second ends the process at once, with
 * the code 128 + the number of the signal, and its unsettled messages are redelivered.
 *
 * | code | meaning |
 * | ---- | ------- |
 * | 0    | the program stopped in order, or all its parts are done |
 * | 1    | a part or the services failed; an error's own `Runtime.errorExitCode` takes its place |
 * | 2    | wrong arguments |
 * | 70   | a part did not stop within the budget |
 * | 78   | wrong configuration |
 *
 * **Example** (a service)
 *
 * ```ts no-run
 * import { Health } from "@millrace/core"
 * import { HealthRoutes } from "@millrace/http"
 * import * as Listener from "@millrace/http/Listener"
 * import { Program } from "@millrace/program"
 * import { createServer } from "node:http"
 *
 * Program.run(Program.make({
 *   name: "shop",
 *   parts: { web: Program.server(Listener.layer(createServer, HealthRoutes.make(), { port: 8080 })) },
 *   services: Health.layer([])
 * }))
 * ```
 *
 * @category running
 */
export const run = <Names extends string, E, E2 = never>(
  program: Program<Names, E, never> | Effect.Effect<Program<Names, E, never>, E2>,
  options: RunOptions = {}
): void =>
  runMain(
    Effect.isEffect(program) ? Effect.map(program, ({ plan }) => plan) : Effect.succeed(program.plan),
    options
  )
