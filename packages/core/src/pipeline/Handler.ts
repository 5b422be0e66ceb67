/**
 * The handler type: a function from a message to an Effect. A middleware is a function from handler to handler that carries,
 * as data, its changes to the handler's types.
 */
import type { Effect } from "effect"
import type { Described } from "./Description.ts"

/** Handles a message of type `M`: answers `A`, fails with `E`, needs the services `R`. */
export interface Handler<in M, out A, out E = never, out R = never> {
  (message: M): Effect.Effect<A, E, R>
}

/** The changes of a middleware to a handler's types. */
export interface Config {
  /** leaves R */
  readonly provides: unknown
  /** enters R */
  readonly requires: unknown
  /** leaves E */
  readonly handles: unknown
  /** enters E */
  readonly fails: unknown
  /** enters A */
  readonly answers: unknown
}

type Part<C, K extends string> = C extends { readonly [P in K]: infer X } ? X : never

/** A full `Config` of the parts that are not `never`. */
export interface FullConfig<C extends Partial<Config>> {
  readonly provides: Part<C, "provides">
  readonly requires: Part<C, "requires">
  readonly handles: Part<C, "handles">
  readonly fails: Part<C, "fails">
  readonly answers: Part<C, "answers">
}

/** The types that a Stack reads of a middleware that keeps the message; a phantom, absent at run time. */
export interface AroundMark<in In, in out C extends Config> {
  readonly "~around": { readonly outer: (_: In) => void; readonly config: (_: C) => C }
}

/** The types that a Stack reads of a middleware that changes the message; a phantom, absent at run time. */
export interface ChangeMark<in Outer, out Inner, in out C extends Config> {
  readonly "~change": { readonly outer: (_: Outer) => void; readonly inner: () => Inner; readonly config: (_: C) => C }
}

/** A middleware that leaves the message unchanged, and works on any message with the fields of `In`. */
export interface Around<In, C extends Config> extends Described, AroundMark<In, C> {
  <M extends In, A, E, R>(
    next: Handler<M, A, E, R>
  ): Handler<M, A | C["answers"], Exclude<E, C["handles"]> | C["fails"], Exclude<R, C["provides"]> | C["requires"]>
}

/** As `Around`, for one message type: the handler it is piped after types the functions in its options. */
export interface Fixed<M, C extends Config> extends Described, AroundMark<M, C> {
  <A, E, R>(
    next: Handler<M, A, E, R>
  ): Handler<M, A | C["answers"], Exclude<E, C["handles"]> | C["fails"], Exclude<R, C["provides"]> | C["requires"]>
}

/** A middleware that takes an `Outer` message and passes on an `Inner` one. */
export interface Change<Outer, Inner, C extends Config> extends Described, ChangeMark<Outer, Inner, C> {
  <A, E, R>(
    next: Handler<Inner, A, E, R>
  ): Handler<Outer, A | C["answers"], Exclude<E, C["handles"]> | C["fails"], Exclude<R, C["provides"]> | C["requires"]>
}

declare const refused: unique symbol

/** A type to which nothing is assignable: the compiler's message shows the sentence. */
export interface Refuse<Reason extends string> {
  readonly [refused]: Reason
}

/** As `Around`, but refused with `Reason` around a handler that cannot fail. */
export interface OnError<In, Reason extends string, C extends Config>
  extends Described, AroundMark<In, C & { readonly needsError: Reason }>
{
  <M extends In, A, E, R>(
    next: Handler<M, A, E, R> & ([E] extends [never] ? Refuse<Reason> : unknown)
  ): Handler<M, A | C["answers"], Exclude<E, C["handles"]> | C["fails"], Exclude<R, C["provides"]> | C["requires"]>
}

/** As `Around`, for handlers that answer a `Payload`. */
export interface OnAnswer<In, Payload, C extends Config>
  extends Described, AroundMark<In, C & { readonly takes: Payload }>
{
  <M extends In, A extends Payload, E, R>(
    next: Handler<M, A, E, R>
  ): Handler<M, A | C["answers"], Exclude<E, C["handles"]> | C["fails"], Exclude<R, C["provides"]> | C["requires"]>
}
