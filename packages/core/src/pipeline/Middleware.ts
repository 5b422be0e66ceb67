/**
 * How a middleware is written: the handler's own types are opaque marks that must come out again, so no author needs `any`,
 * and what the body provides, handles, needs and fails with is inferred.
 */
import type { Effect } from "effect"
import type { Envelope } from "../message/Message.ts"
import type { Described, Description } from "./Description.ts"
import * as Descriptions from "./Description.ts"
import * as Eager from "./Eager.ts"
import type { Around, Change, FullConfig, Handler, OnError } from "./Handler.ts"
import * as PublishBatch from "./publishBatch.ts"

/** The changes that a middleware makes to the types of its handler, and their computed form in inferred types. */
export type { Config, FullConfig } from "./Handler.ts"

declare const mark: unique symbol

/** The answer of the handler inside. */
export interface Result {
  readonly [mark]: "the handler's answer"
}

/** The errors of the handler inside. */
export interface Failure {
  readonly [mark]: "the handler's errors"
}

/** The services that the handler inside needs. */
export interface Services {
  readonly [mark]: "the handler's services"
}

/** What a middleware declares because it cannot be inferred. */
export interface Declared {
  /** What it reads of a message. Default: `Envelope`, what every source shows. */
  readonly message?: unknown
  /** The services that it gives to the handler inside. */
  readonly provides?: unknown
  /** The errors that it takes out of the handler inside. */
  readonly handles?: unknown
}

/** As `Declared`, for a middleware that changes the message. */
export interface DeclaredChange extends Omit<Declared, "message"> {
  readonly outer: unknown
  readonly inner: unknown
}

type Part<D, K extends string> = D extends { readonly [P in K]: infer X } ? X : never

type Reads<D> = D extends { readonly message: infer M } ? M : Envelope

/** The handler inside, as the author of a middleware sees it. */
export interface Next<in M, D = {}>
  extends Handler<M, Result, Failure | Part<D, "handles">, Services | Part<D, "provides">>
{}

/**
 * What the body of a middleware returns, where a callback has to say so: the handler's answer, errors and needs, and beside
 * them the middleware's own errors `E`, needs `R` and answer `A`.
 */
export type Returns<E = never, R = never, A = never> = Effect.Effect<Result | A, Failure | E, Services | R>

type Anything = Effect.Effect<unknown, unknown, unknown>

/** The Config of a middleware whose body returns `Out`. */
export type ConfigOf<D, Out extends Anything> = FullConfig<{
  provides: Part<D, "provides">
  handles: Part<D, "handles">
  requires: Exclude<Effect.Services<Out>, Services | Part<D, "provides">>
  fails: Exclude<Effect.Error<Out>, Failure>
  answers: Exclude<Effect.Success<Out>, Result>
}>

type Opaque = Handler<never, unknown, unknown, unknown> & Described

// A described handler is guarded already; a plain function is user code, or hides middlewares behind user code.
const prepare = (next: Opaque): Opaque => Descriptions.isDescribed(next) ? next : Eager.run(next)

const compose = (description: Description, build: (next: Opaque) => Opaque) => {
  const apply = (next: Opaque): Opaque => {
    const inner = prepare(next)
    const run = PublishBatch.of(inner)
    const guarded = (inside: Opaque): Opaque => Eager.guard(build(inside))
    const handler = run === undefined ? guarded(inner) : PublishBatch.layer(inner, run, description, guarded)
    return Descriptions.describe(handler, [description, ...Descriptions.of(next)])
  }
  return Descriptions.describe(apply, [description])
}

/**
 * Makes a middleware that leaves the message as it is.
 *
 * `build` is called once for each handler; what it returns is called once for each message, on a fiber. What it answers,
 * fails with and needs beyond the handler is inferred; what it reads beyond an `Envelope`, provides or handles is declared:
 * `make<{ message: Message<Uint8Array>, provides: Principal }>()`.
 *
 * A middleware of a publisher that holds something while `next` runs (a place, a connection, a time limit) says `inBatch: "once"`
 * in its description, see there: `publishAll` then passes it once.
 *
 * **Example** (counting messages)
 *
 * ```ts
 * import { Middleware } from "@millrace/core"
 *
 * const count = (seen: { total: number }) =>
 *   Middleware.make()({ name: "Count", stage: "consume" }, (next) => (message) => {
 *     seen.total += 1
 *     return next(message)
 *   })
 * ```
 *
 * **Example** (one that needs a service, and answers in the handler's place)
 *
 * ```ts
 * import { Context, Effect, Exit, pipe } from "effect"
 * import { Eager, type Envelope, Middleware, Outcome } from "@millrace/core"
 *
 * class Blocked extends Context.Service<Blocked, ReadonlySet<string>>()("Blocked") {}
 *
 * const block = Middleware.make()({ name: "Block", stage: "filter" }, (next) => (message) =>
 *   Effect.flatMapEager(Eager.service(Blocked), (blocked): Middleware.Returns<never, never, Outcome.Reject> =>
 *     blocked.has(message.key ?? "") ? Exit.succeed(Outcome.Reject("blocked")) : next(message)))
 *
 * // its type: Handler<Envelope, string | Outcome.Reject, never, Blocked>
 * const handler = pipe((message: Envelope) => Effect.succeed(message.channel), block)
 * ```
 *
 * @category constructors
 */
export const make = <D extends Declared = {}>() =>
<Out extends Anything>(
  description: Description,
  build: (next: Next<Reads<D>, D>) => (message: Reads<D>) => Out
): Around<Reads<D>, ConfigOf<D, Out>> =>
  // the marks stand for the handler's real types, which Around puts back
  compose(description, build as unknown as (next: Opaque) => Opaque) as unknown as Around<Reads<D>, ConfigOf<D, Out>>

/**
 * Makes a middleware that takes one type of message and hands on another.
 *
 * @category constructors
 */
export const change = <D extends DeclaredChange>() =>
<Out extends Anything>(
  description: Description,
  build: (next: Next<D["inner"], D>) => (message: D["outer"]) => Out
): Change<D["outer"], D["inner"], ConfigOf<D, Out>> =>
  compose(description, build as unknown as (next: Opaque) => Opaque) as unknown as Change<
    D["outer"],
    D["inner"],
    ConfigOf<D, Out>
  >

/**
 * As `make`, for a middleware that makes sense only around a handler that can fail; elsewhere it does not compile, and the
 * compiler shows `Reason`.
 *
 * @category constructors
 */
export const onError = <Reason extends string, D extends Declared = {}>() =>
<Out extends Anything>(
  description: Description,
  build: (next: Next<Reads<D>, D>) => (message: Reads<D>) => Out
): OnError<Reads<D>, Reason, ConfigOf<D, Out>> =>
  compose(description, build as unknown as (next: Opaque) => Opaque) as unknown as OnError<
    Reads<D>,
    Reason,
    ConfigOf<D, Out>
  >
