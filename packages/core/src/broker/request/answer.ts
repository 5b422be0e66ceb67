/**
 * The server side of request and reply: answers every final failure, and each request once.
 */
import { Clock, Context, Effect, Exit, Fiber, Metric, Schema } from "effect"
import * as Channel from "../../message/Channel.ts"
import * as Correlation from "../../message/Correlation.ts"
import type * as Headers from "../../message/Headers.ts"
import { type Message, Outgoing } from "../../message/Message.ts"
import * as Outcome from "../../message/Outcome.ts"
import type * as PayloadCodec from "../../message/PayloadCodec.ts"
import { encoder } from "../../pipeline/compile.ts"
import * as Eager from "../../pipeline/Eager.ts"
import type { FullConfig, OnAnswer } from "../../pipeline/Handler.ts"
import * as Middleware from "../../pipeline/Middleware.ts"
import { type Broker, keyOf, type Of } from "../Broker.ts"
import type * as BrokerError from "../../driver/BrokerError.ts"
import * as Problem from "../Problem.ts"
import * as Publisher from "../Publisher.ts"
import { attributesOf, Expired, names, problemCodec, type Request } from "./contract.ts"

const expired = Metric.counter("millrace.request.expired", {
  description: "Requests that were not begun, since their caller had stopped waiting."
})

/** Options of `answer`. */
export interface AnswerOptions {
  /** The channels that a `reply-to` header may name; a header with any other counts as missing. Default: every channel. */
  readonly allow?: ((channel: string) => boolean) | undefined
}

/** The answer of a request's handler: the reply itself, or an outcome, which the caller gets as a problem. */
export type Answered<A> = A | Outcome.Outcome

/** Middlewares that fail, answer in the handler's place or call the handler again. */
const inner = [
  "Decode",
  "Auth",
  "RateLimit",
  "Filter",
  "Timeout",
  "Retry",
  "DeadLetter",
  "Idempotency",
  "CircuitBreaker",
  "Bulkhead",
  "Hedge",
  "Fallback"
]

const because = "what happens outside it is not answered, and its caller waits in vain"

const deadlineOf = (headers: Headers.Headers): number => {
  const text = headers[names.deadline]
  const value = text === undefined ? Number.NaN : Number(text)
  return Number.isNaN(value) ? Number.POSITIVE_INFINITY : value
}

/**
 * Answers requests with the handler's answer, or with an error after a final failure.
 *
 * In: any consumed message, and a handler that answers the request's reply. Place it outermost, so that refusals of `Decode`,
 * `Auth` or a `Filter` are answered too. A declared error leaves `E`: its caller gets it, and its message is rejected. Every
 * other failure stays as it is, and is answered once its outcome is final, as problem details (RFC 9457) of its class,
 * without internals; a retry answers nothing. The broker enters `R`, `EncodeError` and `BrokerError` enter `E`.
 *
 * The broker confirms the answer before the request is settled. If the answer cannot be published, the message settles by the
 * class of that `BrokerError`, e.g. with a retry. A request whose deadline has passed is not begun: it is rejected and
 * counted as `millrace.request.expired`. Without a `reply-to` header the handler runs, and no answer is sent.
 *
 * Any publisher of a request names the channel of its answer: set `allow` if requests come from outside.
 *
 * **Example** (a handler that replies by returning)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Channel, Decode, type Message, Request } from "@millrace/core"
 *
 * const Item = Schema.Struct({ sku: Schema.String })
 * const Prices = Channel.make("prices", { payload: Item })
 * const Price = Request.make(Prices, { reply: Schema.Struct({ cents: Schema.Int }) })
 *
 * const handler = pipe(
 *   (message: Message<typeof Item.Type>) => Effect.succeed({ cents: message.payload.sku.length }),
 *   Decode.middleware(Prices),
 *   Request.answer(Price, { allow: (channel) => channel.startsWith("prices.replies.") })
 * )
 * ```
 *
 * @throws OrderError, when it is subscribed, where something that can fail stands outside it
 * @category constructors
 */
export const answer = <Q, A, E, On, C, D>(
  request: Request<Q, A, E, On, C, D>,
  options: AnswerOptions = {}
): OnAnswer<
  Message<unknown>,
  Answered<A>,
  FullConfig<{
    handles: E
    // a contextual type must not decide D
    requires: Of<On> | PayloadCodec.Own<D>
    fails: Publisher.EncodeError | BrokerError.BrokerError
    answers: Outcome.Reject
  }>
> => {
  const key = keyOf(request.channel)
  const expiredHere = Metric.withAttributes(expired, attributesOf(request.channel.name))
  const { name } = request.channel
  const encode = Publisher.encodes(Channel.make(name, { payload: request.reply, codec: request.codec }))
  const encodeProblem = Publisher.encodes(Channel.unchecked(name, problemCodec(request.codec)))
  const { errors } = request
  const fits = errors === undefined ? () => false : Schema.is(errors)
  // an error may be any value, even one that no schema can read
  const isDeclared = (error: unknown): boolean => {
    try {
      return fits(error)
    } catch {
      return false
    }
  }
  const encodeError = errors === undefined ? undefined : encoder(errors)

  const problemOf = (outcome: Outcome.Outcome): Effect.Effect<Problem.Problem> => {
    if (outcome._tag === "Ack") return Exit.succeed(Problem.unanswered)
    const error = outcome._tag === "DeadLetter" || outcome._tag === "Reject" ? outcome.error : undefined
    if (encodeError === undefined || !isDeclared(error)) return Exit.succeed(Problem.of(error))
    // Schema.is has just confirmed this; a field that throws is a defect of the encoding
    return Effect.matchCauseEager(encodeError(error as E), {
      onSuccess: (encoded) => Problem.declared(error, encoded),
      onFailure: () => Problem.of(error)
    })
  }

  const built: unknown = Middleware.make<{ message: Message<unknown> }>()(
    {
      name: "Request",
      stage: "publish",
      shows: { channel: request.channel.name, errors: errors !== undefined },
      // read for its schema only
      replies: { _tag: "schema", schema: request.reply, codec: request.codec } as unknown as Channel.Content<never>,
      order: inner.map((outside) => ({
        outside,
        because
      }))
    },
    (next) =>
    (message): Middleware.Returns<
      Publisher.EncodeError | BrokerError.BrokerError,
      Of<On> | D,
      Outcome.Reject
    > =>
      Effect.flatMapEager(Eager.service(Clock.Clock), (clock) => {
        const { headers } = message
        if (clock.currentTimeMillisUnsafe() > deadlineOf(headers)) {
          const { channel } = message
          const why = new Expired({ channel, message: `The deadline of a request on ${channel} had passed` })
          return Effect.as(Metric.update(expiredHere, 1), Outcome.Reject(why))
        }
        const named = headers[names.replyTo]
        const to = named !== undefined && (options.allow === undefined || options.allow(named)) ? named : undefined
        return Effect.flatMapEager(Eager.service(key), (broker: Broker["Service"]) => {
          let isAnswered = false
          const result = next(message)
          if (to === undefined) return settled(result, isDeclared, () => Exit.void)
          // hooks run without the services of the chain
          const context = Fiber.getCurrent()?.context as Context.Context<D> | undefined
          message.after((_, outcome) => {
            if (isAnswered || outcome === undefined || outcome._tag === "Retry" || outcome._tag === "Release") return
            const sent = Effect.flatMap(
              problemOf(outcome),
              (problem) =>
                Effect.flatMap(encodeProblem(outgoing(message, to, problem), broker.system), (reply) =>
                  broker.publish(reply))
            )
            return Effect.provideContext(sent, context ?? Context.empty() as Context.Context<D>)
          })
          return settled(
            result,
            isDeclared,
            (value) =>
              Effect.flatMapEager(
                encode(outgoing(message, to, value as A), broker.system),
                (reply) =>
                  Effect.map(
                    Effect.suspend(() =>
                      broker.publish(reply)
                    ),
                    () => {
                      isAnswered = true
                    }
                  )
              )
          )
        })
      })
  )
  // the type requires the answer to be a reply; `settled` removes declared errors
  return built as ReturnType<typeof answer<Q, A, E, On, C, D>>
}

const outgoing = <B>(message: Message<unknown>, to: string, body: B): Outgoing<B> => {
  const own = message.headers[names.message]
  const correlation = message.headers[names.correlation] ?? own ?? Correlation.current()?.id
  const headers: Record<string, string> = Object.create(null)
  if (correlation !== undefined) headers[names.correlation] = correlation
  headers[names.causation] = own ?? `${message.channel}/${message.partition}/${message.position}`
  Correlation.keepFlow(headers, message.headers)
  return new Outgoing(to, body, undefined, headers, { isReply: true })
}

/** Sends an answer that is not an outcome; a declared error becomes the reason for which its message is rejected. */
const settled = <E, R>(
  result: Effect.Effect<Middleware.Result, Middleware.Failure, Middleware.Services>,
  isDeclared: (error: unknown) => boolean,
  send: (value: unknown) => Effect.Effect<void, E, R>
): Middleware.Returns<E, R, Outcome.Reject> =>
  Effect.catchEager(
    Effect.flatMapEager(result, (answer): Middleware.Returns<E, R> => {
      const value: unknown = answer
      return Outcome.isOutcome(value) ? Exit.succeed(answer) : Effect.as(send(value), answer)
    }),
    (error): Middleware.Returns<E, R, Outcome.Reject> =>
      isDeclared(error) ? Exit.succeed(Outcome.Reject(error)) : Exit.fail(error)
  )
