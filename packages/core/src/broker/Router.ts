/**
 * Groups subscriptions: their shared options are given once, and they run together.
 */
import { Effect, Layer, Scope } from "effect"
import * as Channel from "../message/Channel.ts"
import type { Delivery, Message, Raw } from "../message/Message.ts"
import * as Description from "../pipeline/Description.ts"
import type { Config, Handler, Refuse } from "../pipeline/Handler.ts"
import type { NoHandler, Said } from "../pipeline/Misplaced.ts"
import type { Check, Fold, Stack } from "../pipeline/Stack.ts"
import type { Of, Running } from "./Broker.ts"
import type { BrokerError } from "../driver/BrokerError.ts"
import type { Lanes } from "../driver/Lanes.ts"
import type * as Settlement from "./Settlement.ts"
import * as Subscription from "./Subscription.ts"

/** The options that a router's subscriptions share; a subscription's own options override them, field by field. */
export interface Options extends Partial<Omit<Subscription.Options, "group" | "name">> {
  /** The prefix of channel names. Default: none. */
  readonly prefix?: string | undefined
  /** The prefix of group names. Default: none. */
  readonly groupPrefix?: string | undefined
}

/** Options of one subscription; its group is required if the router has none. */
export type Own<Group> =
  & Omit<Subscription.Options, "group">
  & ([Group] extends [string] ? { readonly group?: string | undefined }
    : { readonly group: string })

type Outcome = Settlement.Policy["entries"]

/** A subscription that is not built yet, because routers around it still add to it. */
interface Entry {
  readonly channel: Channel.Channel<never, string, unknown, unknown>
  readonly options: Subscription.Options & { readonly settle?: Outcome | undefined }
  readonly handler: Handler<never, unknown, unknown, unknown>
}

/** The answer and the errors of a handler. */
export interface Ends {
  readonly A: unknown
  readonly E: unknown
}

/**
 * Subscriptions that need the services `R`, to the brokers `On`; `Each` has one member for the answer and errors of each
 * handler.
 */
export interface Router<out R, out On, out Each extends Ends = Ends> {
  /** Only a type: the stack of an outer router checks the answers and errors of the handlers with it. */
  readonly "~ends"?: Each
  readonly subscriptions: ReadonlyArray<Subscription.Subscription<R, On>>
  readonly "~entries": ReadonlyArray<Entry>
}

/** The message that a handler gets inside a stack that hands on `At`. */
type Inside<At, P> = At extends Delivery ? Delivery<Raw<P>> : Message<Raw<P>>

/** The errors of a stack itself, which the router settles. */
type Fails<L extends ReadonlyArray<Config>> = Fold<L, { A: never; E: never; R: never }>["E"]

/** The answer and errors of a handler that ends by `Each`, outside a stack. */
type Outside<L extends ReadonlyArray<Config>, Each> = Each extends Ends
  ? { readonly A: Fold<L, Each & { readonly R: never }>["A"]; readonly E: Fold<L, Each & { readonly R: never }>["E"] }
  : never

/** The requirements of a stack's middlewares on each of the handlers inside. */
type CheckEach<L extends ReadonlyArray<Config>, Each> = (
  Each extends Ends ? (asked: Check<L, Each & { readonly R: never }>) => void : never
) extends (asked: infer All) => void ? All : unknown

/** The handler's own errors that remain outside a stack: its subscription settles them. */
type Left<L extends ReadonlyArray<Config>, A, E, R> = Exclude<Fold<L, { A: A; E: E; R: R }>["E"], Fails<L>>

type ErrorsOf<H> = H extends Handler<never, unknown, infer E, unknown> ? E : never

/** A router to which subscriptions are added; each call returns a new router. */
export interface Building<out R, out On, At, L extends ReadonlyArray<Config>, Group, out Each extends Ends = never>
  extends Router<R, On, Each>
{
  /**
   * Adds a subscription, as `Subscription.make` binds it. The router's stack runs outside its handler.
   *
   * @throws RangeError when an option is out of range or it is there already, OrderError when middlewares stand in a wrong
   * order, those of the router included
   */
  add<P, Name extends string, Where, A, E = never, R2 = never>(
    channel: Channel.Channel<P, Name, Where, unknown>,
    options: Own<Group> & Settlement.Settle<Left<L, A, E, R2>> & Settlement.Named<Left<L, A, E, R2>>,
    // the check is on the result, as in `Stack.handle`
    handler: (message: Inside<At, P>) => Effect.Effect<A, E, R2> & Check<L, { A: A; E: E; R: R2 }>
  ): Building<
    R | Fold<L, { A: A; E: E; R: R2 }>["R"],
    On | Of<Where>,
    At,
    L,
    Group,
    Each | Outside<L, { readonly A: A; readonly E: E }>
  >
  add<P, H>(
    channel: Channel.Channel<P, string, unknown, unknown>,
    options: Own<Group> & Settlement.Settle<ErrorsOf<H>> & Settlement.Named<ErrorsOf<H>>,
    handler: Said<H, NoHandler<H, Inside<At, P>>>
  ): Building<R, On, At, L, Group, Each>
  /**
   * Adds the subscriptions of another router: the prefixes of this router come before theirs, its stack runs outside, and its
   * options apply where they have none. Each of their handlers must fit the stack, as in `add`.
   *
   * @throws as `add`
   */
  include<R2, On2, Each2 extends Ends>(
    router: Router<R2, On2, Each2> & CheckEach<L, Each2>
  ): Building<
    R | Fold<L, { A: unknown; E: unknown; R: R2 }>["R"],
    On | On2,
    At,
    L,
    Group,
    Each | Outside<L, Each2>
  >
}

type Shared = Options & {
  readonly group?: string | undefined
  readonly through?: { readonly handle: (handler: never) => Handler<never, unknown, unknown, unknown> } | undefined
  readonly settle?: Outcome | undefined
}

/** The options that are merged field by field. */
const nested = ["table", "settle", "inFlight", "backoff", "hold", "grace", "restart"] as const

const defined = (options: object | undefined): object =>
  Object.fromEntries(Object.entries(options ?? {}).filter(([, value]) => value !== undefined))

const merged = (shared: Omit<Shared, "prefix" | "groupPrefix" | "through">, own: Partial<Entry["options"]>): object => {
  const options: Record<string, unknown> = { ...defined(shared), ...defined(own) }
  for (const name of nested) {
    const both = { ...defined(shared[name]), ...defined(own[name]) }
    if (Object.keys(both).length > 0) options[name] = both
  }
  return options
}

class Builder {
  private readonly shared: Shared
  readonly "~entries": ReadonlyArray<Entry>
  readonly subscriptions: ReadonlyArray<Subscription.Subscription<unknown, unknown>>

  constructor(shared: Shared, entries: ReadonlyArray<Entry>, before: Builder["subscriptions"]) {
    this.shared = shared
    this["~entries"] = entries
    // build added subscriptions now, so that wrong options throw here
    const added = entries.slice(before.length).map(({ channel, handler, options }) =>
      // the signatures have checked that they fit
      Subscription.make(channel, options, handler as Handler<Delivery, unknown>)
    )
    this.subscriptions = [...before, ...added]
    const seen = new Set<string>()
    for (const { channel, consumer: { group }, name } of this.subscriptions) {
      const id = JSON.stringify([channel, group, name])
      if (seen.has(id)) {
        throw new RangeError(
          `Router: ${name} of ${channel} is in group ${group} already: give one of them another name`
        )
      }
      seen.add(id)
    }
  }

  private outer({ channel, handler, options }: Entry): Entry {
    const { groupPrefix = "", prefix = "", through, ...shared } = this.shared
    const all = merged(shared, options) as Entry["options"]
    if (all.group === undefined || all.group === "") throw new RangeError(`Router: ${channel.name} needs a group`)
    return {
      channel: Channel.prefixed(prefix, channel),
      options: { ...all, group: groupPrefix + all.group },
      handler: through === undefined ? handler : through.handle(handler as never)
    }
  }

  private with(entries: ReadonlyArray<Entry>): Builder {
    const added = entries.map((entry) => this.outer(entry))
    return new Builder(this.shared, [...this["~entries"], ...added], this.subscriptions)
  }

  add(channel: Entry["channel"], options: Entry["options"], handler: Entry["handler"]): Builder {
    return this.with([{ channel, options, handler }])
  }

  include(router: Router<unknown, unknown>): Builder {
    return this.with(router["~entries"])
  }
}

type Takes<Outer, Inner> = [Delivery] extends [Outer] ? [Inner] extends [Message<Uint8Array>] ? unknown
  : Refuse<"A router's stack hands on bytes: each handler decodes its own channel.">
  : Refuse<"A router's stack begins at receive: Stack.receive(), or Stack.start().">

/**
 * Makes an empty router, with the shared settings of its subscriptions: a prefix of their channels and groups, options, and
 * in `through` a stack of middlewares that runs outside each handler.
 *
 * Types: errors and needs of each handler are those outside the stack, as `pipe` would infer them. An error of the stack
 * itself is settled by its class or by the router's `settle`; the handler's remaining errors by that of its subscription.
 * Each subscription has a group: the router's, or its own.
 *
 * The prefix is part of the channel's name for brokers, dead letters and documents. A publisher, and a handler that reads the
 * parameters of its address, use `Channel.prefixed`.
 *
 * **Example** (two subscriptions of one group, logged)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Channel, Decode, Lanes, Log, type Message, Router, Stack } from "@millrace/core"
 *
 * const Order = Schema.Struct({ id: Schema.String })
 * const Orders = Channel.make("orders", { payload: Order })
 * const Refunds = Channel.make("refunds", { payload: Order })
 * const handle = (message: Message<typeof Order.Type>) => Effect.log(message.payload.id)
 *
 * const billing = Router.make({
 *   prefix: "shop.",
 *   group: "billing",
 *   lanes: Lanes.key(16),
 *   through: Stack.start().use(Log.middleware())
 * })
 *   .add(Orders, { name: "placeOrder" }, pipe(handle, Decode.middleware(Orders)))
 *   .add(Refunds, { name: "refundOrder" }, pipe(handle, Decode.middleware(Refunds)))
 *
 * const running = Router.layer(billing)
 * ```
 *
 * @category constructors
 */
export const make = <
  Outer = Delivery,
  Inner = Delivery,
  L extends ReadonlyArray<Config> = [],
  Group extends string | undefined = undefined
>(
  options?:
    & Options
    & {
      readonly group?: Group
      readonly through?: Stack<Outer, Inner, L> & Takes<Outer, Inner>
    }
    & Settlement.Settle<Fails<L>>
    & Settlement.Named<Fails<L>>
): Building<never, never, Inner, L, Group> => {
  // read untyped, like the subscriptions added later
  const builder: unknown = new Builder((options ?? {}) as Shared, [], [])
  // the types of added subscriptions live in the signatures only
  return builder as Building<never, never, Inner, L, Group>
}

/** Starts all subscriptions at once; completes when all have started. Closing the scope drains them concurrently. */
export const run = <R, On>(
  router: Router<R, On>
): Effect.Effect<ReadonlyArray<Running>, BrokerError, On | R | Scope.Scope> =>
  Effect.flatMap(Effect.scope, (scope) =>
    Effect.flatMap(Scope.fork(scope, "parallel"), (own) =>
      Effect.forEach(
        router.subscriptions,
        (subscription) => Effect.provideService(Subscription.run(subscription), Scope.Scope, own),
        { concurrency: "unbounded" }
      )))

/**
 * Runs all subscriptions of a router for as long as the layer lives. If a subscription cannot start, the layer fails and
 * drains the rest.
 *
 * @category layers
 */
export const layer = <R, On>(
  router: Router<R, On>
): Layer.Layer<never, BrokerError, On | Exclude<R, Scope.Scope>> => Layer.effectDiscard(run(router))

const lanesText = (lanes: Lanes): string => lanes._tag === "partition" ? "partition" : `${lanes._tag} ${lanes.limit}`

/**
 * Renders a router as text: a line for each subscription, and under it its pipeline.
 *
 * **Example** (one subscription)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Channel, type Message, Router } from "@millrace/core"
 *
 * const count = (message: Message<Uint8Array>) => Effect.log(message.raw.length)
 * const router = Router.make({ prefix: "eu.", group: "stats" }).add(Channel.bytes("images"), {}, count)
 * console.log(Router.toText(router))
 * // => eu.images: count (group: stats, lanes: partition)
 * //      count  [handle]
 * ```
 */
export const toText = (router: Router<unknown, unknown>): string =>
  router.subscriptions.map((subscription) => {
    const { consumer: { group, lanes }, channel, name } = subscription
    const pipeline = Description.toText(subscription).replaceAll(/^/gm, "  ")
    return `${channel}: ${name} (group: ${group}, lanes: ${lanesText(lanes)})\n${pipeline}`
  }).join("\n")
