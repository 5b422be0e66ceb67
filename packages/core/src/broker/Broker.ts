/**
 * The door between subscriptions and a broker: a service that a Layer provides, so that a test swaps it.
 */
import { Context, Effect, type Exit, Layer, type Scope, type Stream } from "effect"
import * as Failure from "../model/Failure.ts"
import type { Delivery, Envelope, Outgoing } from "../model/Message.ts"
import type { Outcome } from "../model/Outcome.ts"
import * as After from "../pipeline/After.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Around, Config, Handler } from "../pipeline/Handler.ts"
import { BrokerError, type BrokerError as Failed } from "./BrokerError.ts"
import type { Capabilities, Declaration } from "./Driver.ts"
import type { Lanes } from "./Lanes.ts"

/** A subscription as the engine runs it: types gone, options resolved, times in milliseconds. */
export interface Consumer<R> {
  readonly channel: string
  readonly group: string
  readonly name: string
  readonly from: "earliest" | "latest"
  readonly lanes: Lanes
  readonly handle: Handler<Delivery, unknown, unknown, R>
  readonly settle: (exit: Exit.Exit<unknown, unknown>) => Outcome
  /** The dead letter of a message, ready to be published. */
  readonly deadLetter: (delivery: Delivery, error: unknown, at: number) => Outgoing<Uint8Array>
  readonly inFlight: { readonly messages: number; readonly bytes: number }
  /** How a retry without a time of its own waits: `base * factor ** (attempt - 1)`, at most `cap`, ± `jitter` of it. */
  readonly backoff: { readonly base: number; readonly factor: number; readonly cap: number; readonly jitter: number }
  /** What a message that keeps failing may cost before it goes to the dead letters. */
  readonly hold: { readonly attempts: number; readonly age: number; readonly span: number }
  /** How long a revoked lease and a drain wait for what runs. */
  readonly grace: { readonly revoke: number; readonly drain: number }
  readonly restart: { readonly base: number; readonly cap: number }
}

/** How a running subscription is. */
export interface Health {
  readonly name: string
  readonly channel: string
  readonly group: string
  readonly state: "starting" | "running" | "paused" | "restarting" | "draining" | "stopped"
  /** Unix time in milliseconds of the last sign of life of the source. */
  readonly lastPoll: number | undefined
  readonly partitions: ReadonlyArray<number>
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
}

/** A subscription that runs. */
export interface Running {
  /** Stops taking messages, without leaving the group. */
  readonly pause: Effect.Effect<void>
  readonly resume: Effect.Effect<void>
  /**
   * Stops intake, lets what runs finish up to the drain limit, interrupts and releases the rest, awaits the last commit and
   * leaves the group. Closing the scope does the same.
   */
  readonly drain: Effect.Effect<void>
  readonly health: Effect.Effect<Health>
}

/** Whether the program is draining, for handlers that would rather stop early. */
export const Draining = Context.Reference<{ readonly isDraining: () => boolean }>("@millrace/core/Broker/Draining", {
  defaultValue: () => ({ isDraining: () => false })
})

/** A message broker. */
export class Broker extends Context.Service<Broker, {
  readonly system: string
  readonly capabilities: Capabilities
  /**
   * Completes when the broker has confirmed the message. Acts when it is called, so a program publishes by a `Publisher`,
   * whose effects may be kept and run again.
   */
  readonly publish: (message: Outgoing<Uint8Array>) => Effect.Effect<void, Failed>
  /** Completes when the broker has confirmed all of them. */
  readonly publishAll: (messages: ReadonlyArray<Outgoing<Uint8Array>>) => Effect.Effect<void, Failed>
  /** Runs until the scope closes; completes when the source is ready. */
  readonly consume: <R>(consumer: Consumer<R>) => Effect.Effect<Running, Failed, R | Scope.Scope>
  readonly declare: (declaration: Declaration) => Effect.Effect<void, Failed>
  readonly browse: (channel: string) => Stream.Stream<Delivery, Failed>
}>()("@millrace/core/Broker") {}

type NoServices<C extends Config> = [C["provides"]] extends [never] ? unknown
  : { readonly "a broker-wide middleware gives handlers no services": C["provides"] }

type OnlyClassified<C extends Config> = [Exclude<C["fails"], Failure.Classified>] extends [never] ? unknown
  : { readonly "a broker-wide middleware fails only with classified errors": Exclude<C["fails"], Failure.Classified> }

/**
 * Wraps the whole broker: every subscription on it (kind `consumer`) and every publish through it (kind `producer`).
 *
 * The middleware may need services, which the layer then needs; it gives handlers none, and fails only with classified
 * errors. On the publishing side such an error arrives as a `BrokerError` of reason `Refused` and of the error's class.
 * Of two such layers, the one that is provided last to the subscription (nearest to it) is the outer one.
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
      const publish = Eager.provideContext(apply((message: Outgoing<Uint8Array>) => broker.publish(message)), context)
      const refuse = (error: unknown): Failed =>
        error instanceof BrokerError ? error : new BrokerError({
          system: broker.system,
          operation: "publish",
          reason: "Refused",
          message: `Publishing was refused by a middleware of the broker: ${Failure.tagOf(error)}`,
          failure: Failure.classOf(error) ?? "permanent",
          retryAfter: Failure.isClassified(error) ? error.retryAfter : undefined,
          cause: error
        })
      const publishOne = (message: Outgoing<Uint8Array>): Effect.Effect<void, Failed> =>
        Effect.asVoid(Effect.mapErrorEager(After.around(message.fresh(), publish), refuse))
      return Broker.of({
        ...broker,
        publish: publishOne,
        publishAll: (messages) => Effect.forEach(messages, publishOne, { concurrency: "unbounded", discard: true }),
        consume: (consumer) =>
          broker.consume({ ...consumer, handle: Eager.provideContext(apply(consumer.handle), context) })
      })
    })
  )
