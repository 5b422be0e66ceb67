/**
 * The header `Idempotency-Key`: a request of POST or PATCH that comes twice runs once, and the second gets the first one's answer,
 * byte for byte.
 *
 * It is `Idempotency` of core with answers of HTTP: its claims, leases, tokens and stores, and its promises.
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
  /** The methods that it is for, in any case; requests of others pass. Default: POST and PATCH. */
  readonly methods?: ReadonlyArray<string> | undefined
  /** The field that holds the key, quoted or not. Default: `idempotency-key`. */
  readonly header?: string | undefined
  /**
   * Whose key it is, beside the route: the same key of another caller is another request. Default: `Caller.principal`, which
   * knows of `Auth` only: where others say who calls, give it.
   */
  readonly caller?: ((request: Request<unknown>) => string) | undefined
  /** The most bytes of a body, which is read before the key is claimed; an integer from 1. Default: 1 MiB. */
  readonly bodyLimit?: number | undefined
  /** How long a client may take to send its body; above 0. Default: 30 seconds. */
  readonly bodyTimeout?: Duration.Input | undefined
  /** What of `defaults.keeps` is otherwise. */
  readonly keeps?: { readonly [K in keyof Keeps]?: Keeps[K] | undefined } | undefined
  /** The fields of an answer that are kept beside `content-type`, in any case. Default: all but those that never are. */
  readonly fields?: ReadonlyArray<string> | undefined
  /** The longest body of an answer that is kept, in bytes; an integer from 1. Default: 64 KiB. */
  readonly limit?: number | undefined
  /** `collect`: a streamed answer is read up to `limit` before it leaves. `pass`: it leaves as it comes and is not kept. Default: `collect`. */
  readonly streams?: "collect" | "pass" | undefined
  /** What a handler does whose client goes: `finish`, so that the client finds the answer when it comes back; or `interrupt`. Default: `finish`. */
  readonly disconnect?: "finish" | "interrupt" | undefined
}

/** What `middleware` does where an option is not given. */
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

/** An answer that has just been made, with the end of the handler that it is of. */
interface Made extends Kept {
  readonly ended: Ended
}

/** Gives the key back: what the handler ended with is not kept. */
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
 * Runs a request once for each key of each caller, and answers one that comes again with what the first was answered: status,
 * fields and bytes, an error's, too, and `Idempotent-Replayed: true`.
 *
 * Types: any request in, the same on; `Idempotency.Store` enters R; the answer may be an `HttpServerResponse`.
 *
 * The key is a String of Structured Fields or bare, of 1 to 255 characters. A request is the same when method, target and body are;
 * the body is read up to `bodyLimit` within `bodyTimeout` and stays for `Body` inside. What is kept, for 24 hours, is by `keeps`: all that
 * was decided by the handler, 5xx only on demand. Cookies and the fields of one connection never are. An answer beyond `limit`
 * leaves with `Idempotent-Kept: false`; its key stays used, and a request that comes again is refused, not run.
 *
 * Stand it inside `Auth` and around everything that answers, and `Timeout` inside it: what a route's outer middlewares make of an
 * error is not kept. A handler that runs for a client that has gone is finished.
 *
 * Errors: `IdempotencyRefused` (400 without a key or with none that is one, 422 with one that was used for another request),
 * `IdempotencyRunning` (409 with `Retry-After`), `IdempotencyLost` (409), `IdempotencyAnswerLost` (409),
 * `IdempotencyUnrepeatable` (409 where another version of the program kept the answer in a form that this one cannot read),
 * `IdempotencyUnavailable` (503), and those of reading the body.
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
    // read before the key is asked for
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

    /** What an endpoint answers itself is kept as a value. */
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
          // a stream that was read is another
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
          // the value of a handler like this one
          (found): Middleware.Returns<Errors, never, Response> =>
            found === undefined ? unreadable(request) : replayed(found as Ended)
        )
    }

    // described, so that it is not taken for the code of a user
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

    /** Goes on when its client has gone, and keeps its hooks waiting. */
    const finished = (request: Request<unknown>): Middleware.Returns<Errors, Idempotency.Store, Response> => {
      const result = whole(request)
      const current = Fiber.getCurrent()
      if (Eager.isDone(result) || current === undefined) return result
      // the services of the chain are those of the fiber that it runs on
      const context = current.context as Context.Context<Idempotency.Store | Middleware.Services>
      const fiber = Effect.runForkWith(context)(result)
      const exit = fiber.pollUnsafe()
      if (exit !== undefined) return exit
      // the chain may be interrupted before its first step: then only the hook knows of the fiber
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
