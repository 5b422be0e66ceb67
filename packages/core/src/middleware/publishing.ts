/**
 * Shared code of the middlewares that publish an answer.
 */
import { Effect, Exit } from "effect"
import * as Publisher from "../broker/Publisher.ts"
import * as Correlation from "../message/Correlation.ts"
import type { Message, Outgoing } from "../message/Message.ts"
import * as Outcome from "../message/Outcome.ts"
import * as Description from "../pipeline/Description.ts"
import * as Middleware from "../pipeline/Middleware.ts"

/** Options for publishing an answer. */
export interface Options<P> {
  /** Default: the channel's key of the answer. */
  readonly key?: ((answer: P, message: Message<unknown>) => string | undefined) | undefined
  /** Headers beside those of `names`, which they override. */
  readonly headers?:
    | { readonly [name: string]: string }
    | ((answer: P, message: Message<unknown>) => { readonly [name: string]: string })
    | undefined
}

/** Names of the headers that link a message to the one that caused it. */
export const names = {
  /** One id for all messages of one request or business process; copied. */
  correlation: Correlation.names.correlation,
  /** The message that caused this one: its `message-id`, else `CHANNEL/PARTITION/POSITION`. */
  causation: Correlation.names.causation,
  message: Correlation.names.message,
  /** The channel on which the sender expects the reply. */
  replyTo: "reply-to"
} as const

const order: Description.Description["order"] = [
  { inside: "Retry", because: "outside it, a publish that fails is not tried again" },
  { inside: "DeadLetter", because: "outside it, a message whose answer cannot be published is not dead-lettered" }
]

const causeOf = (message: Message<unknown>): string =>
  message.headers[names.message] ?? `${message.channel}/${message.partition}/${message.position}`

/** The link headers of a message published for another one: those of `Correlate`, else from the handled message's headers. */
const linksOf = (message: Message<unknown>): Record<string, string> => {
  const headers: Record<string, string> = Object.create(null)
  const current = Correlation.current()
  const correlation = current?.id ?? message.headers[names.correlation]
  if (correlation !== undefined) headers[names.correlation] = correlation
  headers[names.causation] = current?.causation ?? causeOf(message)
  return headers
}

/** The link headers of a reply, copied from the request, by which the requester correlates it. */
export const repliesOf = (message: Message<unknown>): Record<string, string> => {
  const headers: Record<string, string> = Object.create(null)
  const correlation = message.headers[names.correlation] ?? message.headers[names.message] ?? Correlation.current()?.id
  if (correlation !== undefined) headers[names.correlation] = correlation
  headers[names.causation] = causeOf(message)
  Correlation.keepFlow(headers, message.headers)
  return headers
}

/** The headers of a published answer: the links, overridden by the headers of `options`. */
export const headersOf = <P>(
  options: Options<P>,
  answer: P,
  message: Message<unknown>,
  headers: Record<string, string> = linksOf(message)
) => {
  const own = typeof options.headers === "function" ? options.headers(answer, message) : options.headers
  for (const name in own) headers[name.toLowerCase()] = own[name]!
  return headers
}

type Build<P> = (answer: P, message: Message<unknown>) => Outgoing<P> | undefined

/** Publishes the message that `build` makes of an answer. */
export const wrap = <P, E, R>(
  description: Pick<Description.Description, "shows" | "sends">,
  send: (outgoing: Outgoing<P>) => Effect.Effect<void, E, R>,
  build: Build<P>
) =>
  publishing(description, (answer: P, message): Effect.Effect<void, E, R> | undefined => {
    const outgoing = build(answer, message)
    return outgoing === undefined ? undefined : send(outgoing)
  })

/** Publishes any answer except outcomes with `send`. */
export const publishing = <P, E, R>(
  description: Pick<Description.Description, "shows" | "sends">,
  send: (answer: P, message: Message<unknown>) => Effect.Effect<void, E, R> | undefined
) =>
  Middleware.make<{ message: Message<unknown> }>()(
    { name: "Publish", stage: "publish", ...description, order },
    (next) => (message) =>
      Effect.flatMapEager(next(message), (answer): Middleware.Returns<E | Publisher.EncodeError, R> => {
        // the mark stands for the handler's answer, whose type `middleware` requires
        const value = answer as P | Outcome.Outcome
        if (Outcome.isOutcome(value)) return Exit.succeed(answer)
        const sent = Publisher.attempt(() => send(value, message) ?? Exit.void)
        return Effect.mapEager(sent, () => answer)
      })
  )

/** The publish middlewares of a sender, by name. */
export const steps = (target: Description.Described): ReadonlyArray<string> | undefined => {
  const found = Description.of(target).slice(0, -1).map((description) => description.name)
  return found.length === 0 ? undefined : found
}
