/**
 * The client side of request and reply: sends requests, and awaits answers on a channel of its own.
 */
import { Deferred, type Duration, Effect, Exit, Metric, Random, type Scope, Semaphore } from "effect"
import * as Channel from "../../message/Channel.ts"
import * as Correlation from "../../message/Correlation.ts"
import type { Delivery, Message } from "../../message/Message.ts"
import * as Outcome from "../../message/Outcome.ts"
import { decoder, explain } from "../../pipeline/compile.ts"
import { keyOf, type Of } from "../Broker.ts"
import * as BrokerError from "../../driver/BrokerError.ts"
import type { Declaration } from "../../driver/Driver.ts"
import * as Lanes from "../../driver/Lanes.ts"
import { received } from "../metadata.ts"
import * as Problem from "../Problem.ts"
import * as Publisher from "../Publisher.ts"
import { attributesOf, check, DeadlineExceeded, names, problemCodec, type Request } from "./contract.ts"
import * as Subscription from "../Subscription.ts"

type RemoteError = Problem.RemoteError

/** The errors of a request, beside its declared errors. */
export type Failing = RemoteError | DeadlineExceeded | Publisher.EncodeError | BrokerError.BrokerError

/** Options of one request. */
export interface Asking extends Publisher.Options {
  /** Default: the request's. */
  readonly deadline?: Duration.Input | undefined
}

/** The statistics of a client. */
export interface Statistics {
  /** Requests that await their answer. */
  readonly pending: number
  /** Late and duplicate replies. */
  readonly late: number
}

/** Sends requests, and awaits answers on a channel of its own. */
export interface Client<in Q, out A, out E> {
  /**
   * Sends a request on each run; completes with the answer.
   *
   * Fails with a declared error as the server raised it; with `RemoteError` if the server failed otherwise or its answer
   * cannot be read; with `DeadlineExceeded` if no answer came in time, also while the broker is away; with `EncodeError` and
   * `BrokerError` if the request could not be published. Interrupting it ends the wait.
   */
  readonly request: (payload: Q, options?: Asking) => Effect.Effect<A, E | Failing>
  /** The channel of its answers. */
  readonly replyTo: string
  readonly statistics: Effect.Effect<Statistics>
}

/** Options of a client. */
export interface ClientOptions {
  /**
   * The channel of the answers, if several clients share one: each client then reads all answers and drops those of other
   * clients. Default: a channel of its own, named `CHANNEL.replies.` and a random id. The client declares it if the broker
   * can, and it ends with the client if the driver can remove channels.
   */
  readonly replyTo?: string | undefined
  /** The declaration of its own channel, in the broker's words. Default: the broker's settings. */
  readonly declare?: Omit<Declaration, "channel"> | undefined
  /** The most requests in flight; further requests first wait for room, within their own deadline. Default: 1,024. */
  readonly pending?: number | undefined
}

const late = Metric.counter("millrace.request.late", { description: "Answers that nobody waited for any more." })

const randomId = Effect.map(
  Random.Random,
  (random) =>
    Array.from({ length: 4 }, () => Math.floor(random.nextDoubleUnsafe() * 2 ** 32).toString(16).padStart(8, "0")).join(
      ""
    )
)

/** Reads an answer: a value, a declared error, or a `RemoteError`. */
const readAnswer = <Q, A, E, On, C, D>(request: Request<Q, A, E, On, C, D>) => {
  const { codec } = request
  const value = decoder(request.reply, codec.values)
  const problems = problemCodec(codec)
  const error = request.errors === undefined ? undefined : decoder(request.errors)
  const answerOf = (found: unknown): Effect.Effect<A, RemoteError> =>
    Effect.mapErrorEager(
      value(found),
      (issue) => {
        const { message } = explain(issue, request.reply, { value: found })
        return Problem.unreadable(`The answer is not what its schema asks: ${message}`)
      }
    )
  const failureOf = (found: unknown): Effect.Effect<never, E | RemoteError> => {
    const problem = Problem.read(found)
    if (error === undefined || problem.error === undefined) return Exit.fail(problem.remote)
    return Effect.flatMap(Effect.catchEager(error(problem.error), () => Effect.fail(problem.remote)), Effect.fail)
  }
  return (delivery: Delivery): Effect.Effect<A, E | RemoteError, D> => {
    const isProblem = delivery.headers["content-type"]?.startsWith(Problem.contentType) === true
    const found = (isProblem ? problems : codec).decode(delivery.raw, received(delivery))
    return Effect.flatMapEager(
      Effect.mapErrorEager(found, ({ failure }) =>
        failure === "dependency"
          ? Problem.unavailable("Something that its codec needs to read the answer is not available.")
          : Problem.unreadable("The answer is not what its codec reads.")),
      (found): Effect.Effect<A, E | RemoteError> => isProblem ? failureOf(found) : answerOf(found)
    )
  }
}

const closed = (system: string): BrokerError.BrokerError =>
  BrokerError.make({
    system,
    operation: "consume",
    reason: "Lost",
    message: "The client of these requests was closed before their answers came."
  })

/**
 * Makes a client of a request, for as long as the scope: it subscribes to its answers first, and sends no request before that
 * subscription runs.
 *
 * Needs the channel's broker and the services of both codecs; fails with the `BrokerError` that kept it from subscribing. When the scope closes, waiting
 * requests fail with a `BrokerError` of reason `Lost`. If the broker goes away, the subscription recovers by itself, and a
 * request ends by its deadline at the latest.
 *
 * **Example** (a price, within two seconds)
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Channel, Request } from "@millrace/core"
 *
 * const Prices = Channel.make("prices", { payload: Schema.Struct({ sku: Schema.String }) })
 * const Price = Request.make(Prices, { reply: Schema.Struct({ cents: Schema.Int }) })
 *
 * // needs the Broker and a Scope
 * const program = Effect.gen(function*() {
 *   const prices = yield* Request.client(Price)
 *   return yield* prices.request({ sku: "tea" }, { deadline: "2 seconds" })
 * })
 * ```
 *
 * @throws RangeError when `pending` is not an integer from 1
 * @category constructors
 */
export const client = <Q, A, E, On, C, D>(
  request: Request<Q, A, E, On, C, D>,
  options: ClientOptions = {}
): Effect.Effect<Client<Q, A, E>, BrokerError.BrokerError, Of<On> | C | D | Scope.Scope> => {
  const most = check.count("pending", options.pending ?? 1024)
  const { channel } = request
  const key = keyOf(channel)
  const publisher = Publisher.make(channel)
  const read = readAnswer(request)
  const lateHere = Metric.withAttributes(late, attributesOf(channel.name))
  return Effect.gen(function*() {
    const broker = yield* key
    const context = yield* Effect.context<C | D>()
    const instance = yield* randomId
    const replyTo = options.replyTo ?? `${channel.name}.replies.${instance}`
    const pending = new Map<string, Deferred.Deferred<Delivery, BrokerError.BrokerError>>()
    /**
     * Requests by their correlation id, which callers may choose, and which is all that servers of other libraries return.
     */
    const flows = new Map<string, Set<Deferred.Deferred<Delivery, BrokerError.BrokerError>>>()
    const byCorrelation = (id: string) => {
      const found = flows.get(id)
      // requests that share an id cannot be told apart
      return found?.size === 1 ? Array.from(found)[0] : undefined
    }
    const room = Semaphore.makeUnsafe(most)
    let dropped = 0
    let count = 0
    let isClosed = false

    if (options.replyTo === undefined) {
      yield* Effect.catchIf(
        broker.declare({ temporary: true, ...options.declare, channel: replyTo }),
        ({ reason }) => reason === "Unsupported",
        () => Effect.void
      )
    }
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        isClosed = true
        for (const each of pending.values()) Deferred.doneUnsafe(each, Exit.fail(closed(broker.system)))
      })
    )
    const take = (message: Message<Uint8Array>): Effect.Effect<void> => {
      const { headers } = message
      const waiting = pending.get(headers[names.causation] ?? "") ?? byCorrelation(headers[names.correlation] ?? "")
      if (waiting !== undefined && Deferred.doneUnsafe(waiting, Exit.succeed(message.delivery))) return Exit.void
      // on a shared channel, most answers belong to other clients
      const isOwn = options.replyTo === undefined ||
        [names.causation, names.correlation].some((name) => headers[name]?.startsWith(instance) === true)
      if (!isOwn) return Exit.void
      dropped++
      return Metric.update(lateHere, 1)
    }
    const answers = Subscription.make(
      Channel.bytes(replyTo),
      // a group of its own: every instance gets every answer of a shared channel
      { group: `replies.${instance}`, name: `answers of ${channel.name}`, from: "latest", lanes: Lanes.unordered(64) },
      take
    )
    const { settle } = answers.consumer
    yield* broker.consume({
      ...answers.consumer,
      temporary: true,
      // no dead letters: no program reads them, and their channel would outlive the client
      deadLetterChannel: undefined,
      settle: (exit) => {
        const outcome = settle(exit)
        return outcome._tag === "DeadLetter" ? Outcome.Reject(outcome.error) : outcome
      }
    })

    const ask = (payload: Q, asking: Asking, deadline: number) => {
      const id = `${instance}-${++count}`
      const answer = Deferred.makeUnsafe<Delivery, BrokerError.BrokerError>()
      const headers: Record<string, string> = {
        [names.correlation]: id,
        ...asking.headers,
        [names.message]: id,
        [names.replyTo]: replyTo,
        [names.deadline]: String(deadline)
      }
      if (asking.headers?.[names.correlation] === undefined) Correlation.keepFlow(headers)
      const correlation = headers[names.correlation] ?? id
      const sent = publisher.publish(payload, { key: asking.key, headers })
      return Effect.acquireUseRelease(
        Effect.sync(() => {
          if (isClosed) Deferred.doneUnsafe(answer, Exit.fail(closed(broker.system)))
          pending.set(id, answer)
          const others = flows.get(correlation)
          if (others === undefined) flows.set(correlation, new Set([answer]))
          else others.add(answer)
        }),
        () => Effect.andThen(sent, Effect.flatMap(Deferred.await(answer), read)),
        () =>
          Effect.sync(() => {
            pending.delete(id)
            const others = flows.get(correlation)
            others?.delete(answer)
            if (others?.size === 0) flows.delete(correlation)
          })
      )
    }

    return {
      request: (payload, asking = {}) =>
        Effect.clockWith((clock) => {
          const wait = asking.deadline === undefined ? request.deadline : check.millis("deadline", asking.deadline)
          const deadline = clock.currentTimeMillisUnsafe() + wait
          const asked = room.withPermits(1)(Effect.suspend(() => ask(payload, asking, deadline)))
          // the request needs only the broker, and the services of its codecs
          const provided = Effect.provideService(Effect.provideContext(asked, context), key, broker) as Effect.Effect<
            A,
            E | Failing
          >
          return Effect.timeoutOrElse(provided, {
            duration: wait,
            orElse: () =>
              Effect.fail(
                new DeadlineExceeded({
                  channel: channel.name,
                  after: wait,
                  message: `No answer to a request on ${channel.name} came within ${wait} ms`
                })
              )
          })
        }),
      replyTo,
      statistics: Effect.sync(() => ({ pending: pending.size, late: dropped }))
    }
  })
}
