/**
 * Maps errors to answers for the client: one table from failure classes to answers, written as RFC 9457 problem details on HTTP
 * and as the same document in an envelope on brokers.
 */
import { type Auth, type BrokerError, Failure, type Idempotency, OptionCheck, type RateLimit } from "@millrace/core"
import { Context, Duration, type LogLevel } from "effect"
import { HttpServerResponse, ProblemDetails } from "effect/http"
import type { BodyUnreadable, EncodingUnsupported, MediaTypeUnsupported } from "./internal/bodyErrors.ts"
import { fieldsOf, wellFormed } from "./internal/problemFields.ts"
import * as Challenge from "./internal/challenge.ts"
import * as RateLimitFields from "./RateLimitFields.ts"
import * as RetryAfter from "@millrace/core/retryAfter"
import type { RequestMalformed } from "./internal/malformed.ts"
import type { MethodNotAllowed } from "./internal/unmatched.ts"

export { type Field, fieldsOf, fieldsOfIssue, maximumFields } from "./internal/problemFields.ts"

/** The answer to an error. */
export interface Entry {
  /** The status, from 400 to 599. */
  readonly status: number
  /** The URI of the problem type. Default: `about:blank`, which adds nothing to the status. */
  readonly type?: string | undefined
  /** The title shared by all problems of this type. Default: the phrase of the status, e.g. `Conflict`. */
  readonly title?: string | undefined
  /**
   * The detail of this occurrence: none, the error's own `message`, or a text. Default: `none`, because an error's message may
   * name tables, hosts and people.
   */
  readonly detail?: "none" | "message" | { readonly text: string } | undefined
  /** The level at which the answer is logged, or `None`. Default: the level of the error's class. */
  readonly level?: LogLevel.Severity | "None" | undefined
  /** `Retry-After` for an error that names no time. Default: one second if a store is unavailable (503), otherwise none. */
  readonly retryAfter?: Duration.Input | undefined
  /** Response headers beside `content-type` and `retry-after`. Default: none. */
  readonly headers?: { readonly [name: string]: string } | undefined
  /** Extension members of the document. Default: none. */
  readonly members?: { readonly [name: string]: unknown } | undefined
}

/** One entry for each class of failure. */
export type Table = { readonly [Class in Failure.FailureClass]: Entry }

/** The answer to one error, chosen by its tag; undefined falls back to the error's class. */
export type Rule<Error> = Entry | ((error: Error) => Entry | undefined)

/** Entries by tag, which take precedence over the table. Each rule receives errors of its own tag only. */
export interface Tags {
  readonly [tag: string]: Rule<never> | undefined
}

/** A table by failure class, and the entries by tag that take precedence over it. */
export interface Problems {
  readonly table: Table
  readonly tags: Tags
}

/**
 * The default table.
 *
 * | class        | status | level |
 * | ------------ | ------ | ----- |
 * | `transient`  | 503    | Warn  |
 * | `permanent`  | 422    | Info  |
 * | `throttled`  | 429    | Info  |
 * | `poison`     | 400    | Info  |
 * | `conflict`   | 409    | Info  |
 * | `timeout`    | 504    | Warn  |
 * | `auth`       | 403    | Info  |
 * | `validation` | 422    | Info  |
 * | `dependency` | 503    | Warn  |
 * | `defect`     | 500    | Error |
 */
export const table: Table = {
  transient: { status: 503, level: "Warn" },
  permanent: { status: 422, level: "Info" },
  throttled: { status: 429, level: "Info" },
  poison: { status: 400, level: "Info" },
  conflict: { status: 409, level: "Info" },
  timeout: { status: 504, level: "Warn" },
  auth: { status: 403, level: "Info" },
  validation: { status: 422, level: "Info" },
  dependency: { status: 503, level: "Warn" },
  defect: { status: 500, level: "Error" }
}

const shown = (status: number): Entry => ({ status, detail: "message" })

/** The problem type of the IETF draft, with the `RateLimit` headers of the policies that were checked. */
const ofLimit = (error: RateLimit.RateLimited): Entry => ({
  status: 429,
  type: "https://iana.org/assignments/http-problem-types#quota-exceeded",
  detail: "message",
  headers: RateLimitFields.fields(error),
  members: { "violated-policies": error.violated }
})

/** The prefix of problem types for idempotency keys. */
const idempotency = "urn:millrace:problem:idempotency-key-"

const ofKey = (error: Idempotency.IdempotencyRefused): Entry => ({
  status: error.reason === "reused" ? 422 : 400,
  type: idempotency + error.reason,
  title: { missing: "Idempotency key missing", invalid: "Idempotency key invalid", reused: "Idempotency key reused" }[
    error.reason
  ],
  detail: "message"
})

const ofBroker = (error: BrokerError.BrokerError): Entry | undefined =>
  error.reason === "TooLarge"
    ? { status: 413 }
    // wrong options, passwords or permissions are faults of this program, not of the client
    : error.failure === "permanent" && error.reason !== "Refused"
    ? { status: 500, level: "Error" }
    : undefined

/** 408: the client took too long. 500: the program read the body elsewhere. 400: the client disconnected. */
const ofBody = ({ reason }: BodyUnreadable): Entry =>
  reason === "timeout"
    ? { ...shown(408), level: "Info", headers: { connection: "close" } }
    : reason === "consumed"
    ? { status: 500, level: "Error" }
    : { ...shown(400), level: "Info" }

const ofUpstream = (error: Failure.Classified): Entry | undefined =>
  Failure.lasting.has(error.failure) ? { status: 502, level: "Warn" } : undefined

/**
 * The entries for Millrace's own errors. Their messages contain no message content, so the answer shows those that help the
 * client to correct the request.
 */
export const tags: Tags = {
  Unauthorized: (error: Auth.Unauthorized) => ({ status: 401, headers: { "www-authenticate": Challenge.of(error) } }),
  Forbidden: (error: Auth.Forbidden) => ({
    status: 403,
    headers: { "www-authenticate": Challenge.ofForbidden(error) }
  }),
  RateLimited: ofLimit,
  IdempotencyRefused: ofKey,
  IdempotencyRunning: {
    status: 409,
    type: `${idempotency}running`,
    title: "Request in progress",
    detail: "message"
  },
  IdempotencyLost: { status: 409, type: `${idempotency}lost`, title: "Request superseded", detail: "message" },
  IdempotencyUnrepeatable: {
    status: 409,
    type: `${idempotency}unrepeatable`,
    title: "Request done, answer not readable",
    detail: "message"
  },
  IdempotencyAnswerLost: {
    status: 409,
    type: `${idempotency}answer-lost`,
    title: "Request done, answer not kept",
    detail: "message"
  },
  DecodeError: (error: Failure.Classified) => shown(error.failure === "poison" ? 400 : 422),
  EncodeError: shown(422),
  BodyTooLarge: shown(413),
  BodyUnreadable: ofBody,
  BodyMalformed: shown(400),
  BodyInvalid: shown(422),
  MediaTypeUnsupported: ({ accepts }: MediaTypeUnsupported) => ({
    ...shown(415),
    headers: { accept: accepts.join(", ") }
  }),
  EncodingUnsupported: ({ accepts }: EncodingUnsupported) => ({
    ...shown(415),
    headers: { "accept-encoding": accepts.length === 0 ? "identity" : accepts.join(", ") }
  }),
  RouteNotFound: { status: 404, level: "Info" },
  MethodNotAllowed: ({ allowed }: MethodNotAllowed) => ({
    status: 405,
    level: "Info",
    headers: { allow: allowed.join(", ") }
  }),
  RequestMalformed: ({ status }: RequestMalformed) => ({
    ...shown(status),
    level: "Info",
    headers: { connection: "close" }
  }),
  TargetTooLong: { ...shown(414), level: "Info" },
  SignatureRefused: { status: 401, headers: { "www-authenticate": "Signature" } },
  BrokerError: ofBroker,
  RequestFailed: ofUpstream,
  StatusFailed: ofUpstream
}

/** Errors of an unavailable store. Each request tries the store again, so a client that retries soon may succeed. */
const stores: ReadonlySet<string> = new Set(["IdempotencyUnavailable", "RateLimitUnavailable"])

const storeBack = Duration.seconds(1)

/** Changes to the default table. */
export interface Options {
  /** Entries by class; fields that an entry leaves out keep their defaults. */
  readonly table?: { readonly [Class in Failure.FailureClass]?: Partial<Entry> | undefined } | undefined
  /** Entries by tag, added to the default ones or replacing them. */
  readonly tags?: Tags | undefined
  /**
   * Base URI of the problem types; the class is appended, e.g. `https://example.com/problems/`. Default: `about:blank` for all.
   */
  readonly types?: string | undefined
}

const checked = (name: string, entry: Entry): Entry => {
  const check = OptionCheck.make("Problem")
  check.count(`the status of ${name}`, entry.status, { least: 400, most: 599 })
  if (entry.retryAfter !== undefined) check.millis(`the retryAfter of ${name}`, entry.retryAfter, { least: 0 })
  return entry
}

/**
 * Makes a table from the default one with changes.
 *
 * **Example** (a type for each class, and another answer to one error)
 *
 * ```ts
 * import { Problem } from "@millrace/http"
 *
 * const problems = Problem.make({
 *   types: "https://example.com/problems/",
 *   table: { timeout: { status: 503, retryAfter: "5 seconds" } },
 *   tags: { OutOfStock: { status: 409, title: "Out of stock", detail: { text: "Ask again tomorrow." } } }
 * })
 *
 * console.log(Problem.of(problems, { _tag: "OutOfStock" }).body.title) // => Out of stock
 * console.log(Problem.of(problems, { failure: "timeout" }).retryAfter) // => 5
 * console.log(Problem.of(problems, { failure: "auth" }).body.type) // => https://example.com/problems/auth
 * ```
 *
 * @throws RangeError when a status is not from 400 to 599, or a `retryAfter` is negative
 * @category constructors
 */
export const make = (options: Options = {}): Problems => {
  const entries: { [Class in Failure.FailureClass]?: Entry } = {}
  for (const name of Failure.classes) {
    const type = options.types === undefined ? undefined : options.types + name
    entries[name] = checked(name, { ...table[name], ...(type === undefined ? {} : { type }), ...options.table?.[name] })
  }
  for (const [tag, rule] of Object.entries(options.tags ?? {})) {
    if (typeof rule === "object") checked(tag, rule)
  }
  // the loop ran over every class
  return { table: entries as Table, tags: { ...tags, ...options.tags } }
}

/** The default table. */
export const defaults: Problems = { table, tags }

/**
 * The table of the program, used by routes without a table of their own. Default: `defaults`.
 *
 * **Example** (another table for all routes)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { Problem } from "@millrace/http"
 *
 * const Problems = Layer.succeed(Problem.Current, Problem.make({ table: { permanent: { status: 400 } } }))
 * ```
 */
export const Current = Context.Reference<Problems>("@millrace/http/Problem/Current", { defaultValue: () => defaults })

/** The answer to one error, before it becomes a response. */
export interface Problem {
  readonly status: number
  readonly failure: Failure.FailureClass
  readonly level: LogLevel.Severity | "None"
  /** Whole seconds, rounded up; undefined if neither the error nor its entry names a time. */
  readonly retryAfter: number | undefined
  readonly headers: { readonly [name: string]: string }
  /**
   * The problem details: `type`, `title`, `status`, `detail`; extensions `failure`, `errors`, `retryAfter` and the entry's
   * `members`.
   */
  readonly body: ProblemDetails.ProblemDetails
}

/** The status phrases of RFC 9110, 15 and RFC 6585. */
const phrases: { readonly [status: number]: string } = {
  400: "Bad Request",
  401: "Unauthorized",
  402: "Payment Required",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  406: "Not Acceptable",
  408: "Request Timeout",
  409: "Conflict",
  410: "Gone",
  411: "Length Required",
  412: "Precondition Failed",
  413: "Content Too Large",
  414: "URI Too Long",
  415: "Unsupported Media Type",
  416: "Range Not Satisfiable",
  417: "Expectation Failed",
  421: "Misdirected Request",
  422: "Unprocessable Content",
  423: "Locked",
  424: "Failed Dependency",
  425: "Too Early",
  426: "Upgrade Required",
  428: "Precondition Required",
  429: "Too Many Requests",
  431: "Request Header Fields Too Large",
  451: "Unavailable For Legal Reasons",
  500: "Internal Server Error",
  501: "Not Implemented",
  502: "Bad Gateway",
  503: "Service Unavailable",
  504: "Gateway Timeout",
  505: "HTTP Version Not Supported"
}

const detailOf = (entry: Entry, error: unknown): string | undefined =>
  typeof entry.detail === "object"
    ? entry.detail.text
    : entry.detail === "message" && Failure.isInstance(error, Error) && Failure.messageOf(error) !== ""
    ? wellFormed(Failure.messageOf(error))
    : undefined

const ruleOf = (problems: Problems, error: unknown): Entry | undefined => {
  const tag = Failure.tagOf(error)
  const rule = Object.hasOwn(problems.tags, tag) ? problems.tags[tag] : undefined
  if (typeof rule !== "function") return rule
  try {
    // the rule was found by the tag that its parameter type belongs to
    return rule(error as never)
  } catch {
    // fall back to the class of the error
    return undefined
  }
}

/** The failure class of a status, for an error that has an entry but no class. */
const classOfStatus = (status: number): Failure.FailureClass =>
  status === 409 ? "conflict" : status === 429 ? "throttled" : status >= 500 ? "defect" : "permanent"

/**
 * Returns the answer to an error: by its tag, else by its class, else as a defect, whose answer reveals nothing about the error.
 *
 * Pure, and used both for HTTP and for the envelope of a broker's reply.
 *
 * **Example** (an unexpected error reveals nothing)
 *
 * ```ts
 * import { Problem } from "@millrace/http"
 *
 * console.log(JSON.stringify(Problem.of(Problem.defaults, new Error("db-7 refused the password")).body))
 * // => {"type":"about:blank","title":"Internal Server Error","status":500,"failure":"defect"}
 * ```
 */
export const of = (problems: Problems, error: unknown): Problem => {
  const rule = ruleOf(problems, error)
  const failure = Failure.classOf(error) ?? (rule === undefined ? "defect" : classOfStatus(rule.status))
  const own = problems.table[failure]
  const entry = rule ?? own
  const pause = entry.retryAfter ?? (entry.status === 503 && stores.has(Failure.tagOf(error)) ? storeBack : undefined)
  const wait = Failure.retryAfterOf(error) ?? (pause === undefined ? undefined : Duration.fromInputUnsafe(pause))
  const retryAfter = wait === undefined ? undefined : Number(RetryAfter.format(wait))
  const detail = detailOf(entry, error)
  const fields = fieldsOf(error)
  return {
    status: entry.status,
    failure,
    level: entry.level ?? own.level ?? "Error",
    retryAfter,
    headers: entry.headers ?? {},
    body: {
      type: entry.type ?? ProblemDetails.blankType,
      title: entry.title ?? phrases[entry.status] ?? "Unknown Error",
      status: entry.status,
      ...(detail === undefined ? {} : { detail }),
      failure,
      ...(fields.length === 0 ? {} : { errors: fields }),
      ...(retryAfter === undefined ? {} : { retryAfter }),
      ...entry.members
    }
  }
}

/**
 * Writes an error as the document of a broker's reply: problem details without the HTTP status.
 *
 * **Example** (a refused order)
 *
 * ```ts
 * import { Problem } from "@millrace/http"
 *
 * const error = { _tag: "Refused", failure: "validation", fields: [{ pointer: "#/amount", detail: "Must be above 0" }] }
 * const { errors, failure, title } = Problem.envelope(Problem.defaults, error)
 * console.log(failure, title) // => validation Unprocessable Content
 * console.log(errors) // => [ { pointer: '#/amount', detail: 'Must be above 0' } ]
 * ```
 */
export const envelope = (problems: Problems, error: unknown): ProblemDetails.ProblemDetails => {
  const { status: _, ...rest } = of(problems, error).body
  return rest
}

/** Writes a problem as a response: `application/problem+json`, with `retry-after` and `cache-control: no-store`. */
export const toResponse = (
  problem: Problem,
  members: { readonly [extension: string]: unknown } = {}
): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.setHeaders(ProblemDetails.toResponse({ ...problem.body, ...members }), {
    "cache-control": "no-store",
    ...(problem.retryAfter === undefined ? {} : { "retry-after": String(problem.retryAfter) }),
    ...problem.headers
  })
