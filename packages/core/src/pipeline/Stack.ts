/**
 * A pipeline written from the outside in: a value that several handlers share, and that types the handler's parameter.
 */
import type { Effect } from "effect"
import type { Delivery, Message, Raw } from "../message/Message.ts"
import type { AroundMark, ChangeMark, Config, Handler, Refuse } from "./Handler.ts"
import type { Misplaced, NoHandler, Reads, Said } from "./Misplaced.ts"

/** The answer, errors and needs of a handler. */
export interface Types {
  readonly A: unknown
  readonly E: unknown
  readonly R: unknown
}

type Step<C extends Config, T extends Types> = {
  readonly A: T["A"] | C["answers"]
  readonly E: Exclude<T["E"], C["handles"]> | C["fails"]
  readonly R: Exclude<T["R"], C["provides"]> | C["requires"]
}

/** The configs of a stack, outermost first, folded onto a handler's types, innermost first. */
export type Fold<L extends ReadonlyArray<Config>, T extends Types> = L extends
  readonly [...infer Rest extends ReadonlyArray<Config>, infer C extends Config] ? Fold<Rest, Step<C, T>> : T

/** The requirements of a middleware on the handler inside, beyond its message. */
type Asks<C extends Config, T extends Types> = C extends { readonly needsError: infer Reason extends string }
  ? [T["E"]] extends [never] ? Refuse<Reason> : unknown
  : C extends { readonly takes: infer Payload }
    ? [T["A"]] extends [Payload] ? unknown : { readonly "this answer cannot be published": Exclude<T["A"], Payload> }
  : unknown

/** The requirements of a stack's middlewares on the handler inside. */
export type Check<L extends ReadonlyArray<Config>, T extends Types> = L extends
  readonly [...infer Rest extends ReadonlyArray<Config>, infer C extends Config] ? Asks<C, T> & Check<Rest, Step<C, T>>
  : unknown

/** The reason why no overload of `use` takes the middleware. */
type NoMiddleware<M, At> = [Reads<M>] extends [never]
  ? Refuse<"A stack takes middlewares. One that reads the errors of the handler goes into pipe, where they are known.">
  : Misplaced<"This middleware", Reads<M>, At>

type AskedOf<H, L extends ReadonlyArray<Config>> = H extends Handler<never, infer A, infer E, infer R>
  ? Check<L, { A: A; E: E; R: R }>
  : unknown

/** The reason why `handle` refuses a handler: the message type it reads, or a middleware's requirement. */
type NoInnermost<H, At, Asked> = H extends (message: At) => unknown ? unknown extends Asked ? NoHandler<H, At> : Asked
  : NoHandler<H, At>

/** Middlewares, outermost first: from messages of `Outer` to the `Inner` messages of the handler. */
export interface Stack<Outer, Inner, L extends ReadonlyArray<Config>> {
  /** Adds a middleware inside all others and returns a new stack. */
  use<C extends Config>(middleware: AroundMark<Inner, C>): Stack<Outer, Inner, [...L, C]>
  use<Next, C extends Config>(middleware: ChangeMark<Inner, Next, C>): Stack<Outer, Next, [...L, C]>
  // keep this overload last: TypeScript reports the last overload's error, which explains the refusal
  use<M>(middleware: Said<M, NoMiddleware<M, Inner>>): Stack<Outer, Inner, L>
  /** Wraps a handler; the inferred type equals that of `pipe(handler, inner, …, outer)`. */
  // the check is on the result: a check on the function would keep the compiler from inferring an inline handler's parameter
  handle<A, E, R>(
    handler: (message: Inner) => Effect.Effect<A, E, R> & Check<L, { A: A; E: E; R: R }>
  ): Handler<
    Outer,
    Fold<L, { A: A; E: E; R: R }>["A"],
    Fold<L, { A: A; E: E; R: R }>["E"],
    Fold<L, { A: A; E: E; R: R }>["R"]
  >
  handle<H>(handler: Said<H, NoInnermost<H, Inner, AskedOf<H, L>>>): Handler<Outer, unknown>
}

type Opaque = (next: unknown) => unknown

class Builder {
  readonly list: ReadonlyArray<Opaque>
  constructor(list: ReadonlyArray<Opaque>) {
    this.list = list
  }
  use(middleware: Opaque): Builder {
    return new Builder([...this.list, middleware])
  }
  handle(handler: unknown): unknown {
    return this.list.reduceRight((next, middleware) => middleware(next), handler)
  }
}

/**
 * Starts an empty stack over messages of `M`; without a type argument, over a consumer's bytes.
 *
 * **Example** (one stack, two handlers)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Metrics, Stack } from "@millrace/core"
 *
 * const measured = Stack.start().use(Metrics.middleware())
 * const first = measured.handle((message) => Effect.succeed(message.payload.length))
 * const second = measured.handle((message) => Effect.succeed(message.channel))
 * ```
 *
 * @category constructors
 */
export const start = <M = Message<Uint8Array>>(): Stack<M, M, []> =>
  // the tuple of configs exists in types only
  new Builder([]) as unknown as Stack<M, M, []>

/**
 * Starts an empty stack at the receive stage: over deliveries as the broker made them.
 *
 * @category constructors
 */
export const receive = <A = unknown>(): Stack<Delivery<Raw<A>>, Delivery<Raw<A>>, []> => start<Delivery<Raw<A>>>()
