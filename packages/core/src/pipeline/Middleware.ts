/**
 * Constructors for middlewares. The handler's own types are opaque marks that must reappear in the result, so no author needs
 * `any`; the services, errors and answers of the body are inferred.
 */
import type { Effect } from "effect"
import type { Envelope } from "../message/Message.ts"
import type { Described, Description } from "./Description.ts"
import * as Descriptions from "./Description.ts"
import * as Eager from "./Eager.ts"
import type { Around, Change, FullConfig, Handler, OnError } from "./Handler.ts"
import * as PublishBatch from "./publishBatch.ts"

/** The changes of a middleware to the types of its handler, and their computed form in inferred types. */
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

/** The types that a middleware must declare because they cannot be inferred. */
export interface Declared {
  /** The fields that the middleware reads of a message. Default: `Envelope`, the fields common to every source. */
  readonly message?: unknown
  /** The services that the middleware gives to the handler inside. */
  readonly provides?: unknown
  /** The errors of the handler inside that the middleware handles. */
  readonly handles?: unknown
}

/** As `Declared`, for a middleware that changes the message. */
export interface DeclaredChange extends Omit<Declared, "message"> {
  readonly outer: unknown
  readonly inner: unknown
}

type Part<D, K extends string> = D extends { readonly [P in K]: infer X } ? X : never

type Reads<D> = D extends { readonly message: infer M } ? M : Envelope

/** The handler inside, as seen by the author of a middleware. */
export interface Next<in M, D = {}>
  extends Handler<M, Result, Failure | Part<D, "handles">, Services | Part<D, "provides">>
{}

/**
 * The return type of a middleware's body, for callbacks that must state it: the handler's answer, errors and needs, plus the
 * middleware's own errors `E`, needs `R` and answer `A`.
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

// A described handler is already guarded; a plain function is user code, or hides middlewares behind user code.
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
 * Makes a middleware that leaves the message unchanged.
 *
 * The library calls `build` once for each handler, and the returned function once for each message, on a fiber. Its answers,
 * errors and needs beyond the handler's are inferred. Declare the message fields it reads beyond `Envelope`, the services it
 * provides and the errors it handles: `make<{ message: Message<Uint8Array>, provides: Principal }>()`.
 *
 * A publish middleware that holds a resource while `next` runs (a place, a connection, a time limit) sets `inBatch: "once"` in
 * its description, see there: `publishAll` then calls the middleware once for the whole batch.
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
 * **Example** (a middleware that needs a service, and answers in the handler's place)
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
 * Makes a middleware that takes one type of message and passes on another.
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
 * Makes a middleware, as `make` does, that is useful only around a handler that can fail; around any other handler it does not
 * compile, and the compiler shows `Reason`.
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
