/**
 * The service between subscriptions and a broker. A layer provides it, so a test can replace the broker.
 */
import { Context, Effect, type Exit, Layer, type Scope, type Stream } from "effect"
import type { Pattern } from "../message/Address.ts"
import type { Channel } from "../message/Channel.ts"
import type * as Failure from "../message/Failure.ts"
import type { Delivery, Envelope, Outgoing } from "../message/Message.ts"
import type { Outcome } from "../message/Outcome.ts"
import * as After from "../pipeline/After.ts"
import * as Description from "../pipeline/Description.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Around, Config, Handler } from "../pipeline/Handler.ts"
import * as Order from "../pipeline/Order.ts"
import * as PublishBatch from "../pipeline/publishBatch.ts"
import * as Wrapping from "../pipeline/wrapping.ts"
import type { BrokerError as Failed } from "../driver/BrokerError.ts"
import type { Form } from "./deadLetters/letter.ts"
import type { Capabilities, Declaration, Lag } from "../driver/Driver.ts"
import type { Intake, Pause } from "./Intake.ts"
import type { Lanes } from "../driver/Lanes.ts"
import { refused } from "./refused.ts"
import type { Retries } from "./Retries.ts"

/** A subscription as the engine runs it: types erased, options resolved, times in milliseconds. */
export interface Consumer<R> {
  /** The name of a channel, or the address of `pattern`. */
  readonly channel: string
  readonly pattern: Pattern | undefined
  readonly group: string
  readonly name: string
  readonly from: "earliest" | "latest"
  /** Whether the group ends with the subscription and leaves no state at the broker. Default: no. */
  readonly temporary?: boolean | undefined
  readonly lanes: Lanes
  readonly handle: Handler<Delivery, unknown, unknown, R>
  readonly settle: (exit: Exit.Exit<unknown, unknown>) => Outcome
  /** Composes the dead letter of a message, or a smaller form of it. */
  readonly deadLetter: (delivery: Delivery, error: unknown, at: number, form: Form) => Outgoing<Uint8Array>
  /** The dead letter channel, if its name does not depend on the message. */
  readonly deadLetterChannel: string | undefined
  /** The treatment of a message whose dead letter the broker permanently refuses, in every form. */
  readonly refusedDeadLetter: "wait" | "drop"
  readonly inFlight: { readonly messages: number; readonly bytes: number }
  readonly retries: Retries
  /** The backoff of a retry that names no time: `base * factor ** (attempt - 1)`, at most `cap`, ± `jitter` of it. */
  readonly backoff: { readonly base: number; readonly factor: number; readonly cap: number; readonly jitter: number }
  /** The limits of a message that keeps failing, before it becomes a dead letter. */
  readonly hold: {
    readonly attempts: number
    readonly age: number
    readonly span: number
    readonly retryAfter: number
  }
  /** How long a revoked lease and a drain wait for running handlers. */
  readonly grace: { readonly revoke: number; readonly drain: number }
  readonly restart: { readonly base: number; readonly cap: number }
  /** Milliseconds after which a waiting message, and a running handler, is reported as stalled. */
  readonly stalled: { readonly waiting: number; readonly running: number }
}

/** A partition that a subscription holds a lease of. */
export interface LeaseHealth {
  readonly channel: string
  readonly partition: number
  /** Messages taken in and not settled. */
  readonly pending: number
  /** With settlement `position`: the committed position, below which every message is settled. */
  readonly position: number | undefined
  /**
   * Unix time in milliseconds since which a commit or settle call awaits the broker's reply; undefined if there is no such
   * call.
   */
  readonly settlingSince: number | undefined
  /**
   * Unix time in milliseconds at which the first unsettled message was published; undefined if no message is pending, or its
   * time is unknown.
   */
  readonly oldestPublished: number | undefined
}

/**
 * The state of a message in flight: the reason why it is not settled yet.
 *
 * - `running`: its handler runs
 * - `retry`: the time of its next attempt
 * - `delayed retry`: the broker's confirmation of its delayed retry
 * - `dead letter`: the broker's confirmation of its dead letter
 * - `parked`: the broker has permanently refused its dead letter, in every form
 * - `durable effect`: an effect of a hook that must be durable before the message is settled
 */
export type LaneState = "running" | "retry" | "delayed retry" | "dead letter" | "parked" | "durable effect"

/** A message in flight that is not settled. */
export interface LaneHealth {
  readonly channel: string
  readonly partition: number
  readonly position: number
  readonly key: string | undefined
  readonly attempt: number
  readonly state: LaneState
  /** Unix time in milliseconds since which the message is in this state; for `retry`, since its first failure. */
  readonly since: number
  /** Messages that wait behind it in its lane. */
  readonly behind: number
  /** The error that makes the message wait, if any. */
  readonly error: unknown
}

/** The most lanes that health shows. */
export const shownLanes = 100

/** The health of a running subscription. */
export interface Health {
  readonly name: string
  /** OpenTelemetry's `messaging.system`. */
  readonly system: string
  readonly channel: string
  readonly group: string
  readonly state: "starting" | "running" | "paused" | "restarting" | "draining" | "stopped"
  /** Unix time in milliseconds of the last sign of life of the source. */
  readonly lastPoll: number | undefined
  readonly partitions: ReadonlyArray<number>
  readonly leases: ReadonlyArray<LeaseHealth>
  /**
   * Messages that block a lane or a commit: running handlers first, then by state, the oldest first; at most `shownLanes`.
   */
  readonly lanes: ReadonlyArray<LaneHealth>
  /** Messages and broker calls that have waited longer than `stalled` of the subscription. */
  readonly stuck: number
  /** Dead letters that the broker has confirmed, since the subscription started. */
  readonly deadLetters: number
  /** Messages dropped because the broker permanently refused their dead letter (`refusedDeadLetter: "drop"`). */
  readonly dropped: number
  /** Messages taken in and not settled. */
  readonly pending: number
  readonly pendingBytes: number
  /** Messages whose handler is suspended. */
  readonly running: number
  readonly settled: number
  readonly restarts: number
  readonly lastError: unknown
  /** The oldest suspended message: a stuck lane shows here. */
  readonly oldest: {
    readonly key: string | undefined
    readonly partition: number
    readonly position: number
    readonly since: number
  } | undefined
  /** The pauses of the intake; empty if there are none. */
  readonly pauses: ReadonlyArray<Pause>
  /** The retry channels that the subscription reads beside its own; empty unless the engine delays its retries. */
  readonly retries: ReadonlyArray<RetryHealth>
}

/** The health of the reader of a retry channel. */
export interface RetryHealth {
  readonly channel: string
  /** Milliseconds that a message waits in the channel. */
  readonly delay: number
  readonly state: Health["state"]
  /** Unsettled messages in flight: most of them wait for their next attempt. */
  readonly pending: number
  readonly lastError: unknown
}

/** A running subscription. */
export interface Running {
  /** Stops taking messages, without leaving the group. */
  readonly pause: Effect.Effect<void>
  /** Ends the pause of `pause`; pauses of other owners remain. */
  readonly resume: Effect.Effect<void>
  /** The intake, which other owners can pause too. */
  readonly intake: Intake
  /**
   * Stops the intake, waits for running handlers up to the drain limit, interrupts and releases the rest, awaits the last
   * commit and leaves the group. Closing the scope does the same.
   */
  readonly drain: Effect.Effect<void>
  readonly health: Effect.Effect<Health>
  /**
   * Returns the lag of the group for each partition, as the broker counts it; fails with `Unsupported` if the broker does not
   * count.
   */
  readonly lag: Effect.Effect<ReadonlyArray<Lag>, Failed>
}

/** Tells a handler whether its subscription is draining, so that the handler can stop early. */
export const Draining = Context.Reference<{ readonly isDraining: () => boolean }>("@millrace/core/Broker/Draining", {
  defaultValue: () => ({ isDraining: () => false })
})

/** A message broker. */
export class Broker extends Context.Service<
  Broker,
  Description.Described & {
    readonly system: string
    readonly capabilities: Capabilities
    /**
     * Publishes one message; completes when the broker has confirmed it. The call itself acts, so programs use a `Publisher`,
     * whose effects may be kept and run again.
     */
    readonly publish: (message: Outgoing<Uint8Array>) => Effect.Effect<void, Failed>
    /** Publishes messages; completes when the broker has confirmed all of them. */
    readonly publishAll: (messages: ReadonlyArray<Outgoing<Uint8Array>>) => Effect.Effect<void, Failed>
    /** Runs a consumer until the scope closes; completes when the source is ready. */
    readonly consume: <R>(consumer: Consumer<R>) => Effect.Effect<Running, Failed, R | Scope.Scope>
    readonly declare: (declaration: Declaration) => Effect.Effect<void, Failed>
    readonly browse: (channel: string) => Stream.Stream<Delivery, Failed>
    /**
     * Checks the broker's health with one round trip. Succeeds with an error if the broker answers but the driver will fail
     * later, e.g. when new credentials cannot be obtained.
     */
    readonly check: Effect.Effect<void | Failed, Failed>
    /** Returns the lag of a group for each partition; fails with `Unsupported` if the broker does not count. */
    readonly lag: (channel: string, group: string) => Effect.Effect<ReadonlyArray<Lag>, Failed>
  }
>()("@millrace/core/Broker") {}

type NoServices<C extends Config> = [C["provides"]] extends [never] ? unknown
  : { readonly "a broker-wide middleware gives handlers no services": C["provides"] }

type OnlyClassified<C extends Config> = [Exclude<C["fails"], Failure.Classified>] extends [never] ? unknown
  : { readonly "a broker-wide middleware fails only with classified errors": Exclude<C["fails"], Failure.Classified> }

/**
 * Wraps the whole broker: every subscription on it (kind `consumer`) and every publish through it (kind `producer`).
 *
 * The layer needs the services that the middleware needs. The middleware gives handlers no services, and fails only with
 * classified errors. On the publishing side such an error arrives as a `BrokerError` of reason `Refused` and of the error's
 * class. Of two such layers, the layer that is provided last to the subscription (nearest to it) is the outer one, when
 * consuming and when publishing. A batch stays one batch, as with a middleware of `Publisher.make`.
 *
 * A wrong order of middlewares, also across several such layers, is a defect: an `OrderError` when the layer is built, when a
 * subscription starts, or at the first publish of a publisher.
 *
 * @category layers
 */
export const wrap = <C extends Config>(
  middleware: Around<Envelope, C> & NoServices<C> & OnlyClassified<C>
): Layer.Layer<Broker, never, Broker | C["requires"]> =>
  Layer.effect(
    Broker,
    Effect.gen(function*() {
      const broker = yield* Broker
      const context = yield* Effect.context<C["requires"]>()
      const apply: Around<Envelope, C> = middleware
      const steps = [...Description.of(middleware), ...broker[Description.DescriptionId] ?? []]
      Order.check({ [Description.DescriptionId]: steps })
      const refuse = refused(broker.system)
      const innermost = Description.describe(
        Eager.guard((message: Outgoing<Uint8Array>) => broker.publish(message)),
        [{ name: "Broker", stage: "publish" }]
      )
      const chain = PublishBatch.chain(
        innermost,
        // a middleware for every envelope leaves the payload unchanged
        (entries) => broker.publishAll(entries.map(({ message }) => message as Outgoing<Uint8Array>)),
        apply
      )
      const publish = Eager.provideContext(chain, context)
      return Broker.of({
        ...broker,
        [Description.DescriptionId]: steps,
        publish: (message) => Effect.asVoid(Effect.mapErrorEager(After.around(message.fresh(), publish), refuse)),
        publishAll: (messages) =>
          Effect.mapErrorEager(
            Effect.updateContext(
              PublishBatch.publish(chain, messages, (error) => error),
              (caller: Context.Context<never>) => Context.merge(context, caller)
            ),
            refuse
          ),
        consume: (consumer) =>
          Effect.suspend(() => {
            const within = (next: typeof consumer.handle) => {
              const own = apply(next)
              return Description.describe(Eager.provideContext(own, context), Description.of(own))
            }
            const handle = Wrapping.add(consumer.handle, within, Description.of(middleware))
            Order.check(handle)
            return broker.consume({ ...consumer, handle })
          })
      })
    })
  )

declare const broker: unique symbol

/** The type of one of several brokers of a program; its layer provides it. */
export interface Named<in out Name extends string> {
  readonly [broker]: (_: Name) => Name
}

/** The service of a broker: `Broker`, one of `named`, or a service class of the program's own. */
export type Key<On> = Context.Key<On, Broker["Service"]>

/** The service that publishing to a channel needs: the channel's broker. */
export type Of<On> = [On] extends [never] ? Broker : On

/** Returns the service of a channel's broker. */
export const keyOf = <On>(channel: { readonly broker: Context.Key<On, unknown> | undefined }): Key<Of<On>> =>
  // only `on` sets it, and accepts only the service of a broker
  (channel.broker ?? Broker) as Key<Of<On>>

/**
 * Makes the service of another broker of the program, beside `Broker`. The same name gives the same service.
 *
 * **Example** (orders come from one broker, and finished orders go to another)
 *
 * ```ts
 * import { Effect, Layer, pipe, Schema } from "effect"
 * import { Broker, Channel, Decode, MemoryBroker, type Message, Publish, Subscription } from "@millrace/core"
 *
 * const Order = Schema.Struct({ id: Schema.String })
 * const Orders = Channel.make("orders", { payload: Order })
 *
 * const Archive = Broker.named("archive")
 * const Done = Broker.on(Archive, Channel.make("done", { payload: Order }))
 *
 * const handler = pipe(
 *   (message: Message<typeof Order.Type>) => Effect.succeed(message.payload),
 *   Publish.middleware(Done),
 *   Decode.middleware(Orders)
 * )
 * // needs Broker and Named<"archive">
 * const orders = Subscription.layer(Subscription.make(Orders, { group: "shop" }, handler))
 * const program = Layer.provide(orders, [MemoryBroker.layer(), Broker.layerAs(Archive, MemoryBroker.layer())])
 * ```
 *
 * @category constructors
 */
export const named = <const Name extends string>(name: Name): Context.Service<Named<Name>, Broker["Service"]> =>
  Context.Service<Named<Name>, Broker["Service"]>(`@millrace/core/Broker/named/${name}`)

/**
 * Places a channel on another broker: its publishers, subscriptions and requests then need that broker.
 *
 * A subscription's dead letters are written to the broker that it reads.
 */
export const on = <On, P, Name extends string, R>(
  key: Key<On>,
  channel: Channel<P, Name, unknown, R>
): Channel<P, Name, On, R> => ({ ...channel, broker: key })

/**
 * Provides any broker's layer as another service; middlewares of the broker (`wrap`) go into the layer.
 *
 * @category layers
 */
export const layerAs = <On, E, R>(key: Key<On>, layer: Layer.Layer<Broker, E, R>): Layer.Layer<On, E, R> =>
  Layer.provide(Layer.effect(key, Broker), Layer.fresh(layer))
