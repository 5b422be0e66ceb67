/**
 * The header `Idempotency-Key`: a repeated POST or PATCH request runs once, and the repetition gets the first answer, byte for
 * byte.
 *
 * Uses `Idempotency` of core for HTTP answers, with the same claims, leases, tokens, stores and guarantees.
 */
import { Description, Eager, Failure, Idempotency, Middleware, OptionCheck } from "@millrace/core"
import { Cause, type Context, Duration, Effect, Exit, Fiber } from "effect"
import type { HttpServerResponse } from "effect/http"
import * as Body from "./Body.ts"
import * as Caller from "./Caller.ts"
import {
  IdempotencyAnswerLost,
  keeping,
  keepingValue,
  Kept,
  type Manner,
  never,
  replay
} from "./internal/idempotencyAnswer.ts"
import { fingerprint, keyOf } from "./internal/idempotencyField.ts"
import { type Keeps, statusesOf } from "./internal/idempotencyKeeps.ts"
import type { Request } from "./Request.ts"

export { IdempotencyAnswerLost } from "./internal/idempotencyAnswer.ts"
export type { Keeps, Status } from "./internal/idempotencyKeeps.ts"

/** Options of `middleware`. */
export interface Options extends
  Pick<
    Idempotency.Options<Request<unknown>>,
    "keep" | "lease" | "maximumWait" | "missing" | "running" | "unavailable"
  >
{
  /** The methods that the middleware applies to, in any case; requests of other methods pass. Default: POST and PATCH. */
  readonly methods?: ReadonlyArray<string> | undefined
  /** The header that holds the key, quoted or not. Default: `idempotency-key`. */
  readonly header?: string | undefined
  /**
   * The caller that owns the key, beside the route: the same key of another caller is another request. Default:
   * `Caller.principal`, which reads `Auth` only; set this option if something else authenticates callers.
   */
  readonly caller?: ((request: Request<unknown>) => string) | undefined
  /** The most bytes of a request body, which is read before the key is claimed; an integer from 1. Default: 1 MiB. */
  readonly bodyLimit?: number | undefined
  /** How long a client may take to send its body; above 0. Default: 30 seconds. */
  readonly bodyTimeout?: Duration.Input | undefined
  /** Changes to `defaults.keeps`. */
  readonly keeps?: { readonly [K in keyof Keeps]?: Keeps[K] | undefined } | undefined
  /**
   * The response headers that are stored beside `content-type`, in any case. Default: all except those that are never stored.
   */
  readonly fields?: ReadonlyArray<string> | undefined
  /** The longest response body that is stored, in bytes; an integer from 1. Default: 64 KiB. */
  readonly limit?: number | undefined
  /**
   * `collect` reads a streamed answer up to `limit` before it is sent. `pass` sends the stream unchanged and does not store it.
   * Default: `collect`.
   */
  readonly streams?: "collect" | "pass" | undefined
  /**
   * Whether a handler continues when its client disconnects: `finish`, so that the client finds the answer when it retries, or
   * `interrupt`. Default: `finish`.
   */
  readonly disconnect?: "finish" | "interrupt" | undefined
}

/** The defaults of the options of `middleware`. */
export const defaults: {
  readonly methods: ReadonlyArray<string>
  readonly header: string
  readonly bodyLimit: number
  readonly bodyTimeout: Duration.Input
  readonly keeps: Keeps
  readonly limit: number
  readonly streams: "collect"
  readonly disconnect: "finish"
} = {
  methods: ["POST", "PATCH"],
  header: "idempotency-key",
  bodyLimit: Body.defaults.limit,
  bodyTimeout: Body.defaults.timeout,
  keeps: {
    statuses: ["2xx", "3xx", "4xx"],
    except: [401, 403, 408, 409, 425, 429],
    before: [
      "BodyTooLarge",
      "BodyUnreadable",
      "BodyMalformed",
      "BodyInvalid",
      "MediaTypeUnsupported",
      "EncodingUnsupported",
      "DecodeError"
    ]
  },
  limit: 64 * 1024,
  streams: "collect",
  disconnect: "finish"
}

const check = OptionCheck.make("IdempotencyKey")

const chosenOf = (fields: ReadonlyArray<string> | undefined): ReadonlySet<string> | undefined => {
  const wrong = fields?.find((name) => never.has(name.toLowerCase()))
  if (wrong === undefined) return fields && new Set(fields.map((name) => name.toLowerCase()))
  throw new RangeError(`IdempotencyKey: fields must name what may be repeated, got ${wrong}`)
}

type Ended = Exit.Exit<Middleware.Result | HttpServerResponse.HttpServerResponse, Middleware.Failure>

/** An answer that this request has just made, with the exit of its handler. */
interface Made extends Kept {
  readonly ended: Ended
}

/** Releases the key, because the handler's exit is not stored. */
class Passing {
  readonly ended: Ended
  constructor(ended: Ended) {
    this.ended = ended
  }
}

const isMade = (answer: Kept): answer is Made => "ended" in answer

type Errors =
  | Idempotency.IdempotencyError
  | IdempotencyAnswerLost
  | Body.BodyTooLarge
  | Body.BodyUnreadable

/**
 * Runs a request once for each key of each caller, and answers repetitions with the first answer, errors included: the same
 * status, headers and bytes, plus `Idempotent-Replayed: true`.
 *
 * Types: takes any request and passes it on; `Idempotency.Store` enters R; the answer may be an `HttpServerResponse`.
 *
 * The key is a String of Structured Fields or bare, of 1 to 255 characters. Two requests are the same if method, target and
 * body are equal; the middleware reads the body up to `bodyLimit` within `bodyTimeout` and leaves it for `Body` inside. `keeps`
 * selects the answers that are stored, for 24 hours by default: all that the handler decided, 5xx only if configured. Cookies
 * and hop-by-hop headers are never stored. An answer beyond `limit` is sent with `Idempotent-Kept: false`; its key stays used,
 * and a repetition is refused, not run.
 *
 * Place it inside `Auth`, outside every middleware that produces a response, and outside `Timeout`: responses that outer
 * middlewares make of an error are not stored. By default, a handler whose client has disconnected runs to its end.
 *
 * Errors: `IdempotencyRefused` (400 for a missing or invalid key, 422 for a key that was used for another request),
 * `IdempotencyRunning` (409 with `Retry-After`), `IdempotencyLost` (409), `IdempotencyAnswerLost` (409),
 * `IdempotencyUnrepeatable` (409 if another version of the program stored the answer in a form that this version cannot read),
 * `IdempotencyUnavailable` (503), `BodyTooLarge` and `BodyUnreadable`.
 *
 * Source: draft-ietf-httpapi-idempotency-key-header-07; RFC 9651 (Structured Fields).
 *
 * **Example** (a payment is made once)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Auth } from "@millrace/core"
 * import { Body, IdempotencyKey, type Request, Server } from "@millrace/http"
 *
 * const Payment = Schema.Struct({ amount: Schema.Int })
 *
 * const route = Server.route(
 *   "POST",
 *   "/payments",
 *   pipe(
 *     (request: Request<typeof Payment.Type>) => Effect.succeed({ paid: request.payload.amount }),
 *     Body.json(Payment),
 *     IdempotencyKey.middleware({ running: "wait" }),
 *     Auth.middleware()
 *   )
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const middleware = (options: Options = {}) => {
  const methods: ReadonlySet<string> = new Set((options.methods ?? defaults.methods).map((each) => each.toUpperCase()))
  const header = (options.header ?? defaults.header).toLowerCase()
  const bodyLimit = check.count("bodyLimit", options.bodyLimit ?? defaults.bodyLimit)
  const bodyTimeout = check.millis("bodyTimeout", options.bodyTimeout ?? defaults.bodyTimeout, { infinite: true })
  const { before, except, statuses } = options.keeps ?? {}
  const keeps: Keeps = {
    statuses: statuses ?? defaults.keeps.statuses,
    except: except ?? defaults.keeps.except,
    before: before ?? defaults.keeps.before
  }
  const isKept = statusesOf(keeps)
  const tags: ReadonlySet<string> = new Set(keeps.before)
  const manner: Manner = {
    limit: check.count("limit", options.limit ?? defaults.limit),
    streams: check.oneOf("streams", options.streams ?? defaults.streams, ["collect", "pass"]),
    chosen: chosenOf(options.fields)
  }
  const disconnect = check.oneOf("disconnect", options.disconnect ?? defaults.disconnect, ["finish", "interrupt"])
  const finishes = disconnect === "finish"
  const { keep, lease, maximumWait, missing, running, unavailable } = options
  const once = Idempotency.middleware<Request<unknown>, Kept>({
    answer: Kept,
    isFailure: (answer) => isMade(answer) && answer.ended._tag === "Failure",
    key: (request) => keyOf(request.headers[header]),
    caller: options.caller ?? Caller.principal,
    // the body has been read before the key is claimed
    fingerprint: (request) => fingerprint(request.method, request.url, request.books.body ?? nothing),
    keep,
    lease,
    maximumWait,
    missing,
    running,
    unavailable
  })

  return Middleware.make<{ message: Request<unknown> }>()({
    name: "IdempotencyKey",
    stage: "consume",
    shows: {
      methods: [...methods],
      keep: Duration.format(Duration.fromInputUnsafe(keep ?? Idempotency.defaults.keep)),
      statuses: keeps.statuses,
      running: running ?? "refuse"
    },
    order: [
      { inside: "Auth", because: "whoever is refused must not take a key, and keys are their callers' own" },
      ...(finishes ? [{ outside: "Timeout", because: "a handler that has begun is not cut off from outside" }] : [])
    ]
  }, (next) => {
    const unreadable = ({ channel }: Request<unknown>) =>
      Exit.fail(new Idempotency.IdempotencyUnrepeatable({ channel, reason: "unreadable" }))

    const passed = (ended: Ended) => Exit.fail(new Passing(ended))

    /** Stores an answer that an endpoint of `HttpApi` encodes itself as a value. */
    const valued = (request: Request<unknown>, ended: Ended): Effect.Effect<Made, Passing> =>
      Effect.flatMapEager(
        request.books.values?.write(ended) ?? Exit.succeed(undefined),
        (found): Effect.Effect<Made, Passing> =>
          found === undefined || !isKept.has(found.status)
            ? passed(ended)
            : Exit.succeed({ ...keepingValue(found, manner), ended })
      )

    const ends = (request: Request<unknown>, ended: Ended): Effect.Effect<Made, Passing> => {
      const found = ended._tag === "Failure" ? Cause.findErrorOption(ended.cause) : undefined
      if (found?._tag === "Some" && tags.has(Failure.tagOf(found.value))) return passed(ended)
      return Effect.flatMapEager(request.respond(ended), (response): Effect.Effect<Made, Passing> => {
        if (response === undefined) return valued(request, ended)
        if (!isKept.has(response.status)) return passed(ended._tag === "Success" ? Exit.succeed(response) : ended)
        return Effect.mapEager(keeping(request, response, manner), ({ kept, response }) => {
          if (ended._tag === "Success") return { ...kept, ended: Exit.succeed(response) }
          // a collected stream has become another response
          const { given } = request.books
          if (given !== undefined) request.books.given = { ...given, response }
          return { ...kept, ended }
        })
      })
    }

    const handled = Eager.guard((request: Request<unknown>) =>
      Effect.matchCauseEffectEager(next(request), {
        onSuccess: (value) => ends(request, Exit.succeed(value)),
        onFailure: (cause) => ends(request, Exit.failCause(cause))
      })
    )

    const answered = (request: Request<unknown>, answer: Kept): Middleware.Returns<Errors, never, Response> => {
      if (isMade(answer)) {
        if (answer.lost !== undefined) request.answerField("idempotent-kept", "false")
        return answer.ended
      }
      if (answer.lost !== undefined) {
        const { lost: reason, status } = answer
        return Exit.fail(new IdempotencyAnswerLost({ channel: request.channel, status, reason }))
      }
      const replayed = (ended: Ended): Ended => {
        request.answerField("idempotent-replayed", "true")
        return ended
      }
      const { values } = request.books
      return answer.value === undefined || values === undefined
        ? replayed(Exit.succeed(replay(answer)))
        : Effect.flatMap(
          values.read(answer.value, answer.body),
          // a handler of the same type stored the value
          (found): Middleware.Returns<Errors, never, Response> =>
            found === undefined ? unreadable(request) : replayed(found as Ended)
        )
    }

    // described, so that it does not count as user code
    const claimed = once(Description.describe(handled, []))

    const whole = (request: Request<unknown>): Middleware.Returns<Errors, Idempotency.Store, Response> =>
      Effect.matchCauseEffectEager(claimed(request), {
        onSuccess: (answer) => answered(request, answer as Kept),
        onFailure: (cause): Middleware.Returns<Errors, never, Response> => {
          const found = Cause.findErrorOption(cause)
          if (found._tag === "None") return Exit.failCause(cause as Cause.Cause<never>)
          return Failure.isInstance(found.value, Passing) ? found.value.ended : Exit.fail(found.value)
        }
      })

    /** Runs to its end after the client has disconnected; the request's hooks wait for it. */
    const finished = (request: Request<unknown>): Middleware.Returns<Errors, Idempotency.Store, Response> => {
      const result = whole(request)
      const current = Fiber.getCurrent()
      if (Eager.isDone(result) || current === undefined) return result
      // the current fiber has the services of the chain
      const context = current.context as Context.Context<Idempotency.Store | Middleware.Services>
      const fiber = Effect.runForkWith(context)(result)
      const exit = fiber.pollUnsafe()
      if (exit !== undefined) return exit
      // the chain may be interrupted before its first step; then only this hook waits for the fiber
      request.after(() => fiber.pollUnsafe() === undefined ? Effect.asVoid(Fiber.await(fiber)) : undefined)
      return Effect.uninterruptible(Fiber.join(fiber))
    }

    const run = finishes ? finished : whole

    return (request): Middleware.Returns<Errors, Idempotency.Store, Response> => {
      if (!methods.has(request.method)) return next(request)
      if (request.headers[header] === undefined) return missing === "run" ? next(request) : whole(request)
      return Effect.flatMapEager(request.bytes(bodyLimit, bodyTimeout), () => run(request))
    }
  })
}

const nothing = new Uint8Array(0)

type Response = HttpServerResponse.HttpServerResponse
