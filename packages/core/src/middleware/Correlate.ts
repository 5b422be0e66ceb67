/**
 * Correlation and causation ids: taken from incoming messages or generated, kept while a message is handled, and written
 * into outgoing messages.
 */
import { Clock, Context, Effect, Exit, Fiber, Random, References, type Tracer } from "effect"
import * as Correlation from "../message/Correlation.ts"
import { type Envelope, Message } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Handler } from "../pipeline/Handler.ts"
import * as Lost from "../telemetry/Lost.ts"
import * as Middleware from "../pipeline/Middleware.ts"

export { Current } from "../message/Correlation.ts"

/** Options of `middleware`. */
export interface Options {
  /** The headers that may hold the id, in any case; the first header with a valid token counts. Default: see `defaults`. */
  readonly accept?: ReadonlyArray<string> | undefined
  /**
   * The messages whose ids are trusted: all, none, or those for which a function returns true. A refused id is kept as
   * `upstream` beside the generated id. Default: `always`.
   */
  readonly trust?: "always" | "never" | ((message: Envelope) => boolean) | undefined
  /** Generates an id, which must be a token; runs for each id that is needed. Default: a UUID of version 7. */
  readonly generate?: Effect.Effect<string> | undefined
  /** The headers that the id is written to on published messages and requests. Default: see `defaults`. */
  readonly write?: {
    readonly producer?: ReadonlyArray<string> | undefined
    readonly client?: ReadonlyArray<string> | undefined
  } | undefined
}

/** The defaults of `middleware`. */
export const defaults = {
  accept: Correlation.accepted,
  trust: "always",
  write: {
    producer: [Correlation.names.correlation],
    client: [Correlation.names.correlation, Correlation.names.request]
  }
} as const satisfies Options

const field = /^[!#$%&'*+.^_`|~\w-]+$/

const checked = (option: string, given: ReadonlyArray<string>): ReadonlyArray<string> =>
  given.map((name) => {
    if (field.test(name)) return name.toLowerCase()
    throw new RangeError(`Correlate: ${option} must be names of headers, got ${JSON.stringify(name)}`)
  })

const order = ["Log", "Publish"].map((outside) => ({
  outside,
  because: "what stands outside it does not know the id"
}))

/** The name that the sender gave to one message or request. */
const ownOf = ({ headers, kind }: Envelope): string | undefined => {
  const own = headers[kind === "server" ? Correlation.names.request : Correlation.names.message]
  return own !== undefined && Correlation.isToken(own) ? own : undefined
}

const mark = (span: Tracer.AnySpan | undefined, message: Envelope, ids: Correlation.Correlation): void => {
  if (span?._tag !== "Span") return
  const attributes = Correlation.attributesOf(ids, message.kind)
  try {
    for (const name in attributes) span.attribute(name, attributes[name])
  } catch (defect) {
    Lost.tell("A span", defect)
  }
}

/** Returns the current fiber. After a suspension it may be another one than at the call, so it is never kept. */
const running = (): Fiber.Fiber<unknown, unknown> => Fiber.getCurrent()!

const annotationsOf = (before: Readonly<Record<string, unknown>>, ids: Correlation.Correlation) => {
  const after: Record<string, unknown> = { ...before, correlationId: ids.id }
  if (ids.causation !== undefined) after["causationId"] = ids.causation
  if (ids.replaced !== undefined) after["upstreamId"] = ids.upstream ?? "<malformed>"
  return after
}

/**
 * Gives each message its correlation and causation ids, the same middleware on all four kinds of envelope.
 *
 * A consumer or a server takes the id from the headers if it is a token of at most 128 characters and its sender is
 * trusted; a consumed message without one uses its `message-id`, and a message with neither gets a new id. A refused token
 * is kept as `upstream` and as the annotation `upstreamId`; a malformed id is shown only as `<malformed>`. The causation
 * id is the `message-id` of the message, else `CHANNEL/PARTITION/POSITION`; of a request its `x-request-id`, else the id
 * itself, and a server echoes it as `x-request-id`.
 *
 * Inside, both are in `Current`, which child, forked and detached fibers inherit; on each log line as `correlationId` and
 * `causationId`; on the current span and those of `Trace` as `millrace.correlation.id` and `millrace.causation.id`.
 * Messages published inside carry them as `correlation-id` and `causation-id`, with or without this middleware, unless
 * their headers are already set.
 *
 * A publisher or a client writes the ids of `Current`, and begins a flow if there is none. Headers that the caller set
 * stay. Nothing leaves or enters E and R; nothing is kept between messages.
 *
 * Sources: RFC 9562 for the ids; CloudEvents' correlation extension; OWASP Logging Cheat Sheet for the refused ids.
 *
 * **Example** (trusts the ids of partners, replaces all other ids)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Correlate, type Message } from "@millrace/core"
 *
 * const handler = pipe(
 *   (_message: Message<Uint8Array>) => Effect.map(Correlate.Current, (ids) => ids?.id),
 *   Correlate.middleware({ trust: (message) => message.channel.startsWith("partners.") })
 * )
 * ```
 *
 * @throws RangeError when a name is none of a header
 * @category constructors
 */
export const middleware = (options: Options = {}) => {
  const accept = checked("accept", options.accept ?? defaults.accept)
  const producer = checked("write.producer", options.write?.producer ?? defaults.write.producer)
  const client = checked("write.client", options.write?.client ?? defaults.write.client)
  const { generate, trust = defaults.trust } = options
  if (typeof trust !== "function") OptionCheck.make("Correlate").oneOf("trust", trust, ["always", "never"])
  const trusts = typeof trust === "function" ? trust : () => trust === "always"

  /** Generates a new id: synchronously, unless `generate` suspends. */
  const make = (fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<string> =>
    generate === undefined
      ? Exit.succeed(
        Correlation.uuidV7(fiber.getRef(Clock.Clock).currentTimeMillisUnsafe(), fiber.getRef(Random.Random))
      )
      : Effect.flatMapEager(generate, (id) =>
        Correlation.isToken(id) ? Exit.succeed(id) : Exit.die(
          new RangeError("Correlate: generate must make 1 to 128 letters, digits and _.:/+=@-")
        ))

  return Middleware.make()(
    {
      name: "Correlate",
      stage: "consume",
      shows: { accept, trust: typeof trust === "function" ? "some" : trust },
      order
    },
    (next) => {
      const within = (message: Envelope, ids: Correlation.Correlation): Middleware.Returns => {
        const fiber = running()
        const before = fiber.context
        const annotations = annotationsOf(fiber.getRef(References.CurrentLogAnnotations), ids)
        const add = <R>(context: Context.Context<R>): Context.Context<R> =>
          Context.add(Context.add(context, Correlation.Current, ids), References.CurrentLogAnnotations, annotations)
        fiber.setContext(add(before))
        let result: Middleware.Returns
        try {
          result = next(message)
        } finally {
          fiber.setContext(before)
        }
        return Eager.isDone(result) ? result : Effect.updateContext(result, add<Middleware.Services>)
      }

      /** The first token of the headers; null if headers are present and none holds a token. */
      const find = ({ headers }: Envelope): string | null | undefined => {
        let found: null | undefined
        for (let i = 0; i < accept.length; i++) {
          const text = headers[accept[i]!]
          if (text === undefined) continue
          if (Correlation.isToken(text)) return text
          found = null
        }
        return found
      }

      const receive = (fiber: Fiber.Fiber<unknown, unknown>, message: Envelope): Middleware.Returns => {
        const given = find(message)
        const own = ownOf(message)
        // a message without a correlation id begins a flow, named by its message id
        const sent = given === undefined && message.kind === "consumer" ? own : given
        const isTrusted = typeof sent === "string" && trusts(message)
        const enter = (id: string): Middleware.Returns => {
          const upstream = !isTrusted && typeof given === "string" ? given : undefined
          const ids: Correlation.Correlation = {
            id,
            causation: message instanceof Message
              ? own ?? Correlation.placeOf(message)
              : (isTrusted ? own : undefined) ?? id,
            upstream,
            replaced: given === null ? "malformed" : upstream === undefined ? undefined : "untrusted"
          }
          mark(running().cache.span, message, ids)
          message.correlated?.(ids)
          return within(message, ids)
        }
        return isTrusted ? enter(sent) : Effect.flatMapEager(make(fiber), enter)
      }

      const write = <M extends Envelope>(message: M, { causation, id }: Correlation.Correlation): M => {
        const { headers } = message
        const producing = message.kind === "producer"
        const list = producing ? producer : client
        let out = message
        for (let i = 0; i < list.length; i++) if (headers[list[i]!] === undefined) out = out.withHeader(list[i]!, id)
        return producing && causation !== undefined && headers[Correlation.names.causation] === undefined
          ? out.withHeader(Correlation.names.causation, causation)
          : out
      }

      const send = (fiber: Fiber.Fiber<unknown, unknown>, message: Envelope): Middleware.Returns => {
        const current = fiber.getRef(Correlation.Current)
        if (current !== undefined) return next(write(message, current))
        const begin = (id: string): Middleware.Returns => {
          const ids = { id, causation: undefined, upstream: undefined, replaced: undefined }
          return within(write(message, ids), ids)
        }
        const given = find(message)
        return typeof given === "string" ? begin(given) : Effect.flatMapEager(make(fiber), begin)
      }

      const handle: Handler<Envelope, Middleware.Result, Middleware.Failure, Middleware.Services> = (message) => {
        const fiber = Fiber.getCurrent()
        if (fiber === undefined) return Effect.suspend(() => handle(message))
        return message.kind === "consumer" || message.kind === "server" ? receive(fiber, message) : send(fiber, message)
      }
      return handle
    }
  )
}
