/**
 * Millrace for code without Effect: handlers are plain functions or return a promise, and promises start, use and close the
 * program.
 */
import { Data, Effect, Exit, Layer, ManagedRuntime } from "effect"
import * as Failure from "../message/Failure.ts"
import type { Handler } from "../pipeline/Handler.ts"
import type { Broker } from "./Broker.ts"
import type { BrokerError } from "../driver/BrokerError.ts"
import * as NetworkFailure from "../driver/NetworkFailure.ts"
import type { Options, Publisher } from "./Publisher.ts"
import { run, type Subscription } from "./Subscription.ts"

/** A classified error that a plain function threw or rejected with. */
export interface Thrown extends Failure.Classified {
  readonly _tag: string
}

/**
 * An error of Node's network, DNS or TLS that a plain function threw, as `fetch` and client libraries do, or a time limit
 * that ran out (`AbortSignal.timeout`). The class decides about a retry: `dependency` if the server was not reached,
 * `transient` if a connection ended, `timeout`, and `permanent` if a certificate was refused.
 */
export class NetworkError extends Data.TaggedError("NetworkError")<{
  readonly failure: "dependency" | "transient" | "timeout" | "permanent"
  /** The message of the thrown error. */
  readonly message: string
  readonly cause: unknown
}> {}

/**
 * A plain handler: `signal` is aborted when the chain is interrupted, e.g. by a timeout or because the client has
 * disconnected.
 */
export interface Plain<M, A> {
  (message: M, signal: AbortSignal): A | PromiseLike<A>
}

const isThenable = <A>(value: A | PromiseLike<A>): value is PromiseLike<A> =>
  typeof value === "object" && value !== null && "then" in value && typeof value.then === "function"

const classes = { Unreachable: "dependency", Lost: "transient", Credentials: "permanent" } as const

// unused: only the reason is read, not the message
const place: NetworkFailure.Place = { product: "server", address: "", option: "", tls: "" }

const networkErrorOf = (reason: unknown): NetworkError | undefined => {
  if (!Failure.isInstance(reason, Error)) return undefined
  const message = Failure.messageOf(reason)
  if (Failure.tagOf(reason) === "TimeoutError") return new NetworkError({ failure: "timeout", message, cause: reason })
  const found = NetworkFailure.of(reason, "publish", place)
  return found && new NetworkError({ failure: classes[found.reason], message, cause: reason })
}

const ended = (reason: unknown): Exit.Exit<never, Thrown> => {
  // tagOf finds a tag for every error, and settlement and problems need only the class
  if (Failure.isClassified(reason)) return Exit.fail(reason as Thrown)
  const network = networkErrorOf(reason)
  return network === undefined ? Exit.die(reason) : Exit.fail(network)
}

/**
 * Makes a handler of a plain function, for any source: consumers, servers and clients alike.
 *
 * The return value, or the value of its promise, is the answer. A thrown error, or a rejection, is an error of the handler if
 * it carries a class (`failure`) or is a network error of Node (`NetworkError`), and otherwise a defect, which dead-letters a
 * message. Interrupting the chain aborts the signal and does not wait for the promise.
 *
 * **Example** (an async function behind middlewares)
 *
 * ```ts
 * import { pipe } from "effect"
 * import { type Message, Plain, Timeout } from "@millrace/core"
 *
 * const handler = pipe(
 *   Plain.handler(async (message: Message<Uint8Array>) => message.payload.length),
 *   Timeout.middleware({ after: "5 seconds" })
 * )
 * ```
 *
 * @category constructors
 */
export const handler = <M, A>(plain: Plain<M, A>): Handler<M, Awaited<A>, Thrown> => (message) => {
  const controller = new AbortController()
  let result: A | PromiseLike<A>
  try {
    result = plain(message, controller.signal)
  } catch (reason) {
    return ended(reason)
  }
  // a value that is no promise is the answer
  if (!isThenable(result)) return Exit.succeed(result as Awaited<A>)
  const promise = result
  return Effect.callback<Awaited<A>, Thrown>((resume) => {
    promise.then(
      (value) => resume(Exit.succeed(value as Awaited<A>)),
      (reason: unknown) => resume(ended(reason))
    )
    return Effect.sync(() => controller.abort())
  })
}

/** A running program: a broker, and the subscriptions that read from it. */
export interface Program<R> {
  /** Publishes a message; resolves when the broker has confirmed it, and rejects with the error of the publisher. */
  readonly publish: <P>(publisher: Publisher<P, unknown, R>, payload: P, options?: Options) => Promise<void>
  /** Drains the subscriptions, which finish their running handlers, and closes the broker. */
  readonly close: () => Promise<void>
}

/**
 * Starts subscriptions on a broker, and resolves when all of them read; rejects with the error of a subscription that cannot
 * start.
 *
 * `layer` provides the broker, and the stores that middlewares need.
 *
 * **Example** (a consumer and a publisher without Effect)
 *
 * ```ts
 * import { Channel, MemoryBroker, Plain, Publisher, Retry, Stack, Subscription } from "@millrace/core"
 *
 * const Greetings = Channel.bytes("greetings")
 * const greeted = Promise.withResolvers<void>()
 * const greet = Subscription.make(
 *   Greetings,
 *   { group: "greeters", name: "greet" },
 *   Stack.start().use(Retry.middleware()).handle(
 *     Plain.handler(async ({ payload }) => {
 *       console.log(new TextDecoder().decode(payload))
 *       greeted.resolve()
 *     })
 *   )
 * )
 *
 * const program = await Plain.start(MemoryBroker.layer(), greet)
 * await program.publish(Publisher.make(Greetings), new TextEncoder().encode("hello"))
 * await greeted.promise // => hello
 * await program.close()
 * ```
 *
 * @category constructors
 */
export const start = async <R, E>(
  layer: Layer.Layer<Broker | R, E>,
  ...subscriptions: ReadonlyArray<Subscription<Broker | R, Broker | R>>
): Promise<Program<Broker | R>> => {
  const all = Layer.effectDiscard(
    Effect.forEach(subscriptions, (each) => run(each), { concurrency: "unbounded", discard: true })
  )
  const runtime: ManagedRuntime.ManagedRuntime<Broker | R, BrokerError | E> = ManagedRuntime.make(
    Layer.provideMerge(all, layer)
  )
  try {
    await runtime.context()
  } catch (error) {
    await runtime.dispose()
    throw error
  }
  return {
    publish: (publisher, payload, options) => runtime.runPromise(publisher.publish(payload, options)),
    close: () => runtime.dispose()
  }
}
