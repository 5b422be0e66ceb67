/**
 * Messages without a broker: makes them from their parts, runs them through a pipeline, and settles them as the engine does.
 */
import {
  After,
  type Delivery,
  delivery,
  Eager,
  type Envelope,
  type Failure,
  type Handler,
  Headers,
  type Hook,
  Message,
  type Origin,
  Outcome,
  type Reader,
  Settlement,
  type Subscription
} from "@millrace/core"
import { type Context, Effect, Exit, Fiber } from "effect"

/** The parts of a delivery; each has a default. */
export interface Options {
  /** Default: `orders`. */
  readonly channel?: string | undefined
  /** Default: none. */
  readonly key?: string | undefined
  /** Names in any case. Default: none. */
  readonly headers?: { readonly [name: string]: string } | undefined
  /** Bytes are used unchanged, null is a null body, any other value is encoded as JSON. Default: an empty object. */
  readonly body?: unknown
  /** From 1. Default: 1, the first delivery. */
  readonly attempt?: number | undefined
  /** Default: 0. */
  readonly partition?: number | undefined
  /** Default: 0. */
  readonly position?: number | undefined
  /** Unix time in milliseconds, or undefined for a broker that does not report it. Default: 0. */
  readonly timestamp?: number | undefined
  /** The consumer group. Default: `billing`. */
  readonly group?: string | undefined
  /** The subscription's name. Default: `placeOrder`. */
  readonly handler?: string | undefined
  /** The broker, as OpenTelemetry names it. Default: `memory`. */
  readonly system?: string | undefined
  /** Milliseconds that a message may stay in one attempt. Default: Infinity. */
  readonly holdLimit?: number | undefined
  /** Whether its position identifies it for ever, as on Kafka. Default: false. */
  readonly lasting?: boolean | undefined
}

interface Native {
  readonly key: string | undefined
  readonly headers: Headers.Headers
  readonly timestamp: number | undefined
}

const reader: Reader<Native> = {
  key: (native) => native.key,
  keyBytes: (native) => native.key === undefined ? undefined : new TextEncoder().encode(native.key),
  headers: (native) => native.headers,
  fields: (native) => Headers.toFields(native.headers),
  timestamp: (native) => native.timestamp
}

const bytesOf = (body: unknown): Uint8Array | null =>
  body === null || body instanceof Uint8Array ? body : new TextEncoder().encode(JSON.stringify(body))

/**
 * Makes a delivery, as a driver makes it from its client's record.
 *
 * **Example** (an order at its second attempt)
 *
 * ```ts
 * import { Deliveries } from "@millrace/testing"
 *
 * const delivery = Deliveries.make({ channel: "orders", key: "ada", headers: { Tenant: "7" }, body: { id: "1" }, attempt: 2 })
 *
 * console.log(delivery.key, delivery.headers["tenant"], delivery.attempt, new TextDecoder().decode(delivery.raw))
 * // => ada 7 2 {"id":"1"}
 * ```
 *
 * @category constructors
 */
export const make = (options: Options = {}): Delivery => {
  const origin: Origin = {
    system: options.system ?? "memory",
    channel: options.channel ?? "orders",
    group: options.group ?? "billing",
    partition: options.partition ?? 0,
    handler: options.handler ?? "placeOrder",
    holdLimit: options.holdLimit ?? Infinity,
    ...(options.lasting === undefined ? undefined : { lasting: options.lasting })
  }
  const native: Native = {
    key: options.key,
    headers: Headers.fromRecord(options.headers ?? {}),
    timestamp: "timestamp" in options ? options.timestamp : 0
  }
  const { attempt = 1, body = {}, position = 0 } = options
  return delivery(origin, reader, native, position, bytesOf(body), attempt)
}

/** A message that exposes its registered hooks: a `Delivery`, an `Outgoing`. */
export interface Carrier extends Envelope {
  readonly hooks?: ReadonlyArray<Hook> | undefined
}

/** The end of a message. */
export interface Ended<out A, out E, out O = Outcome.Outcome> {
  /** The result of the chain, before the hooks ran. */
  readonly exit: Exit.Exit<A, E>
  /** A success, or the first failure of a hook. */
  readonly hooks: Exit.Exit<void, Failure.Classified>
  /** The settlement of a consumed message, hooks included; undefined for any other message. */
  readonly outcome: O
}

/** The outcome of a message of `M`. */
export type OutcomeOf<M> = M extends Message<unknown> ? Outcome.Outcome : undefined

type Settle = (exit: Exit.Exit<unknown, unknown>) => Outcome.Outcome

const byClass: Settle = (exit) => Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)

/** A subscription's `settle` entries are user code, and may throw. */
const safely = (settle: Settle): Settle => (exit) => {
  try {
    return settle(exit)
  } catch (defect) {
    return Outcome.DeadLetter(defect)
  }
}

const takeHooks = (message: Carrier): ReadonlyArray<Hook> => {
  if (!(message instanceof Message)) return message.hooks ?? []
  const { delivery } = message
  const hooks = delivery.hooks ?? []
  // the next attempt begins without hooks
  delivery.hooks = undefined
  return hooks
}

const ended = <A, E>(
  message: Carrier,
  exit: Exit.Exit<A, E>,
  settle: Settle
): Effect.Effect<Ended<A, E, Outcome.Outcome | undefined>> =>
  Effect.suspend(() => {
    const outcome = message instanceof Message ? settle(exit) : undefined
    return Effect.map(
      Effect.exit(After.run(takeHooks(message), exit, outcome)),
      (hooks) => ({ exit, hooks, outcome: outcome !== undefined && Exit.isFailure(hooks) ? settle(hooks) : outcome })
    )
  })

/**
 * Calls a handler as an engine does: starts it at once, and runs a suspended effect in a fiber of its own with the caller's
 * services. So a middleware that keeps the fiber of the call behaves here as in an engine.
 */
const call = <M extends Carrier, A, E, R>(
  handler: Handler<M, A, E, R>,
  message: M,
  restore: <B, F, S>(effect: Effect.Effect<B, F, S>) => Effect.Effect<B, F, S>
): Effect.Effect<Exit.Exit<A, E>, never, R> =>
  Effect.contextWith((context: Context.Context<R>) => {
    const result = Eager.effectOf(Eager.guard(handler)(message))
    if (Eager.isDone(result)) return Effect.succeed(result)
    const fiber = Effect.runForkWith(context)(result)
    return Effect.onInterrupt(restore(Fiber.await(fiber)), () => Fiber.interrupt(fiber)).pipe(
      Effect.catchCause(() => Fiber.await(fiber))
    )
  })

const through = <M extends Carrier, A, E, R>(handler: Handler<M, A, E, R>, message: M, settle: Settle) =>
  // an interruption waits for the hooks, as in an engine
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(call(handler, message, restore), (exit) => ended(message, exit, settle))
  )

/**
 * Ends a message whose chain ended with `exit`: runs its hooks, a consumed message's with its outcome.
 *
 * Errors are settled by their class alone, as `Settlement.table` says; an error without a class is a dead letter.
 */
export const end = <M extends Carrier, A, E>(
  message: M,
  exit: Exit.Exit<A, E>
): Effect.Effect<Ended<A, E, OutcomeOf<M>>> =>
  // a consumed message has an outcome, and no other has
  ended(message, exit, byClass) as Effect.Effect<Ended<A, E, OutcomeOf<M>>>

/**
 * Runs a handler, with its middlewares, on one message, and then the hooks that they registered: for a delivery as the
 * engine does, for an outgoing message as a publisher does. It never fails.
 *
 * Errors are settled by their class alone, as `Settlement.table` says; an error without a class is a dead letter. Use
 * `settle` for the entries and the table of a subscription.
 *
 * **Example** (the outcome of a malformed body)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Channel, Decode, type Message } from "@millrace/core"
 * import { Deliveries } from "@millrace/testing"
 *
 * const Order = Schema.Struct({ id: Schema.String })
 * const Orders = Channel.make("orders", { payload: Order })
 * const handler = pipe(
 *   (message: Message<typeof Order.Type>) => Effect.succeed(message.payload.id),
 *   Decode.middleware(Orders)
 * )
 *
 * const good = await Effect.runPromise(Deliveries.run(handler, Deliveries.make({ body: { id: "1" } })))
 * const bad = await Effect.runPromise(Deliveries.run(handler, Deliveries.make({ body: { id: 1 } })))
 *
 * console.log(good.exit._tag, good.outcome._tag) // => Success Ack
 * console.log(bad.exit._tag, bad.outcome._tag) // => Failure DeadLetter
 * ```
 */
export const run = <M extends Carrier, A, E, R>(
  handler: Handler<M, A, E, R>,
  message: M
): Effect.Effect<Ended<A, E, OutcomeOf<M>>, never, R> =>
  // as in `end`
  through(handler, message, byClass) as Effect.Effect<Ended<A, E, OutcomeOf<M>>, never, R>

/**
 * Runs the handler of a subscription on a delivery, and returns the settlement that the broker would get, decided by the
 * subscription's entries, table and hooks. The bound of attempts (`hold`) belongs to the engine and does not apply here.
 *
 * **Example** (an error that has an entry)
 *
 * ```ts
 * import { Data, Effect } from "effect"
 * import { Channel, Outcome, Subscription } from "@millrace/core"
 * import { Deliveries } from "@millrace/testing"
 *
 * class SoldOut extends Data.TaggedError("SoldOut")<{}> {}
 *
 * const orders = Subscription.make(
 *   Channel.bytes("orders"),
 *   { group: "shop", name: "placeOrder", settle: { SoldOut: Outcome.Reject("sold out") } },
 *   () => Effect.fail(new SoldOut())
 * )
 *
 * console.log((await Effect.runPromise(Deliveries.settle(orders, Deliveries.make())))._tag) // => Reject
 * ```
 */
export const settle = <R>(
  subscription: Subscription.Subscription<R>,
  delivery: Delivery
): Effect.Effect<Outcome.Outcome, never, R> => {
  const { handle, settle } = subscription.consumer
  // a delivery is consumed, so it has an outcome
  return Effect.map(through(handle, delivery, safely(settle)), ({ outcome }) => outcome as Outcome.Outcome)
}
