/**
 * Routes each message to one of several handlers, chosen by the message's content.
 */
import { type Effect, Exit } from "effect"
import type { Channel } from "../message/Channel.ts"
import type { Message } from "../message/Message.ts"
import * as Outcome from "../message/Outcome.ts"
import * as Description from "./Description.ts"
import * as Eager from "./Eager.ts"
import type { Handler, Refuse } from "./Handler.ts"

/** A handler of any kind for messages of `M`. */
type Any<M> = Handler<M, unknown, unknown, unknown>

/** The fallback for a message without a route: an outcome, or a handler. */
export type Otherwise<M> = Outcome.Outcome | Any<M>

type AnswerOf<T> = T extends Handler<never, infer A, unknown, unknown> ? A : Extract<T, Outcome.Outcome>
type ErrorOf<T> = T extends Handler<never, unknown, infer E, unknown> ? E : never
type NeedsOf<T> = T extends Handler<never, unknown, unknown, infer R> ? R : never

/** The handler composed of several routes. */
export type Routed<M, T> = Handler<M, AnswerOf<T>, ErrorOf<T>, NeedsOf<T>>

type Routes<M, K> = { readonly [Name in Extract<K, string>]: Any<M> }

interface Tagged {
  readonly _tag: string
}

type Tags<P extends Tagged> = { readonly [Tag in P["_tag"]]: Any<Message<Extract<P, { readonly _tag: Tag }>>> }

/** Refuses a set of routes that leaves a value out. */
type Exhaustive<K, H> = string extends K
  ? Refuse<"Any text may come here: say after the routes what becomes of a message that none of them takes.">
  : [Exclude<K, keyof H>] extends [never] ? unknown
  : { readonly "no route for": Exclude<K, keyof H> }

type Known<K, H> = string extends K ? unknown : [Exclude<keyof H, K>] extends [never] ? unknown
: { readonly "no message takes the route": Exclude<keyof H, K> }

const prepared = (handler: Any<never>): Any<never> => Description.isDescribed(handler) ? handler : Eager.run(handler)

const build = <M, T>(
  by: string,
  choose: (message: never) => string | undefined,
  routes: Readonly<Record<string, Any<never>>>,
  otherwise: Otherwise<never> | undefined
): Routed<M, T> => {
  const ways = new Map(Object.entries(routes).map(([name, handler]) => [name, prepared(handler)]))
  // a value excluded by the types is a bug of the program
  const unknown = (name: string | undefined): Effect.Effect<never> =>
    Exit.die(
      new RangeError(`Route: no route for ${name === undefined ? "no value" : JSON.stringify(name.slice(0, 64))}`)
    )
  const rest: (message: never, name: string | undefined) => Effect.Effect<unknown, unknown, unknown> =
    otherwise === undefined
      ? (_, name) => unknown(name)
      : typeof otherwise === "function"
      ? prepared(otherwise)
      : () => Exit.succeed(otherwise)
  const described: Record<string, ReadonlyArray<Description.Description>> = {}
  for (const [name, handler] of Object.entries(routes)) described[name] = Description.of(handler)
  if (typeof otherwise === "function") described["otherwise"] = Description.of(otherwise)
  const routed: unknown = Description.describe(
    Eager.guard((message: never) => {
      const name = choose(message)
      const way = name === undefined ? undefined : ways.get(name)
      return way === undefined ? rest(message, name) : way(message)
    }),
    [{
      name: "Route",
      stage: "handle",
      shows: { by, otherwise: Outcome.isOutcome(otherwise) ? otherwise._tag : undefined },
      routes: described
    }]
  )
  // the signatures combine the types of the routes
  return routed as Routed<M, T>
}

/**
 * Chooses one handler for each message by a value computed from it: a header, a part of the payload, the size of it.
 *
 * Types: a function that returns one of several literals needs a route for each; a function that returns any text or undefined
 * needs a fallback after the routes: an outcome, or a handler. Answers, errors and needs are those of all routes together. A
 * route may be a whole pipeline, with a `Decode` of its own. Order rules of middlewares are checked on every way.
 *
 * Errors: none of its own. A throw of the function is a defect, and the message is settled as such.
 *
 * **Example** (by a header)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { type Message, Outcome, Route } from "@millrace/core"
 *
 * const handler = Route.by((message: Message<Uint8Array>) => message.headers["type"], {
 *   placed: (message) => Effect.log("placed", message.key),
 *   cancelled: (message) => Effect.log("cancelled", message.key)
 * }, Outcome.Reject("of no interest"))
 * ```
 *
 * **Example** (by a predicate: both routes are needed)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { type Message, Route } from "@millrace/core"
 *
 * const sizeOf = (message: Message<{ readonly amount: number }>) => message.payload.amount > 100 ? "large" : "small"
 *
 * const handler = Route.by(sizeOf, {
 *   large: (message) => Effect.log("to be approved", message.payload.amount),
 *   small: () => Effect.void
 * })
 * ```
 *
 * @category constructors
 */
export const by: {
  <M, K extends string | undefined, H extends Partial<Routes<M, K>>, O extends Otherwise<M>>(
    choose: (message: M) => K,
    routes: H & Known<K, H>,
    otherwise: O
  ): Routed<M, H[keyof H] | O>
  // keep this overload last: the compiler reports the last overload's error
  <M, K extends string | undefined, H extends Routes<M, K>>(
    choose: (message: M) => K,
    routes: H & Known<K, H> & Exhaustive<K, H>
  ): Routed<M, H[keyof H]>
} = <M, T>(
  choose: (message: M) => string | undefined,
  routes: Readonly<Record<string, Any<never>>>,
  otherwise?: Otherwise<never>
): Routed<M, T> => build(choose.name || "function", choose, routes, otherwise)

/**
 * Chooses one handler for each tag of a channel's payloads.
 *
 * Types: each handler gets its own member of the union, and a tag without a handler does not compile unless `otherwise` gives
 * the fallback. Place this handler inside `Decode`. All else is as for `by`.
 *
 * **Example** (two kinds of events)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Channel, Decode, Route } from "@millrace/core"
 *
 * const Placed = Schema.TaggedStruct("Placed", { id: Schema.String, amount: Schema.Finite })
 * const Cancelled = Schema.TaggedStruct("Cancelled", { id: Schema.String })
 * const Events = Channel.make("events", { payload: Schema.Union([Placed, Cancelled]) })
 *
 * const handler = pipe(
 *   Route.tags(Events, {
 *     Placed: (message) => Effect.log("placed", message.payload.amount),
 *     Cancelled: (message) => Effect.log("cancelled", message.payload.id)
 *   }),
 *   Decode.middleware(Events)
 * )
 * ```
 *
 * @category constructors
 */
export const tags: {
  <P extends Tagged, H extends Partial<Tags<P>>, O extends Otherwise<Message<P>>>(
    channel: Channel<P, string, unknown, unknown>,
    routes: H & Known<P["_tag"], H>,
    otherwise: O
  ): Routed<Message<P>, H[keyof H] | O>
  <P extends Tagged, H extends Tags<P>>(
    channel: Channel<P, string, unknown, unknown>,
    routes: H & Known<P["_tag"], H>
  ): Routed<Message<P>, H[keyof H]>
} = <M, T>(
  _channel: unknown,
  routes: Readonly<Record<string, Any<never>>>,
  otherwise?: Otherwise<never>
): Routed<M, T> => build("_tag", (message: Message<Tagged>) => message.payload._tag, routes, otherwise)
