/**
 * One structured line for each message, through Effect's loggers: what it was, how it ended, how long it took, and no secret.
 */
import { Cause, Clock, Context, DateTime, Duration, Effect, type Exit, Fiber, LogLevel, References } from "effect"
import { classOf, type FailureClass, tagOf } from "../model/Failure.ts"
import * as Headers from "../model/Headers.ts"
import { type Envelope, Message } from "../model/Message.ts"
import * as Redaction from "../model/Redaction.ts"
import * as Eager from "../pipeline/Eager.ts"
import * as Ending from "../pipeline/Ending.ts"
import * as Middleware from "../pipeline/Middleware.ts"

/** Options of `middleware`. */
export interface Options {
  /**
   * The level of each ending. Default: `done` and `interrupted` Info, `retried` and `rejected` Warn, `failed` Warn where the
   * same message may succeed later or its sender is at fault, and Error otherwise.
   */
  readonly levels?: { readonly [Status in Ending.Status]?: LogLevel.Severity | undefined } | undefined
  /** The level of a line more, when handling begins. Default: no such line. */
  readonly start?: LogLevel.Severity | undefined
  /** What takes as long is marked `slow`, and logged at Warn at least. Default: nothing is slow. */
  readonly slow?: Duration.Input | undefined
  /** The headers that may hold the correlation id, the first one found counts. Default: see `defaults`. */
  readonly correlation?: ReadonlyArray<string> | undefined
  /** Whether the key is shown; it may name a person. Default: `shown`. */
  readonly key?: "shown" | "hidden" | undefined
  /** The headers that are shown: all, none, or these. Default: `none`. */
  readonly headers?: "all" | "none" | ReadonlyArray<string> | undefined
  /**
   * Whether the beginning of a JSON body is shown, in characters (UTF-16 units, an integer from 1); a body of anything else
   * shows its size. Default: `none`.
   */
  readonly body?: "none" | { readonly characters: number } | undefined
  /** What is replaced in bodies, headers, keys and ids, beside the usual names of secrets. Default: nothing more. */
  readonly redact?: Redaction.Options | undefined
  /** What is shown of an error: its `tag` and class, or the whole `cause`, which may repeat content. Default: `tag`. */
  readonly error?: "tag" | "cause" | undefined
}

/** What `middleware` does where an option is not given. */
export const defaults = {
  key: "shown",
  headers: "none",
  body: "none",
  error: "tag",
  correlation: ["correlation-id", "x-correlation-id", "x-request-id", "ce_correlationid"]
} as const satisfies Options

const levels = { done: "Info", interrupted: "Info", retried: "Warn", rejected: "Warn" } as const

/** Failures that are no fault of this program's. */
const expected: ReadonlySet<FailureClass | undefined> = new Set<FailureClass>([
  "transient",
  "throttled",
  "conflict",
  "timeout",
  "dependency",
  "auth",
  "validation"
])

const operations = { consumer: "process", producer: "publish", server: "serve", client: "request" } as const

/** One line of at most `limit` characters: what could begin another one is written as an escape. */
const oneLine = (text: string, limit = 256): string => {
  const cut = text.length > limit ? `${text.slice(0, limit - 1)}…` : text
  return cut.replace(/[\p{Cc}\u2028\u2029]/gu, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`)
}

/** Credentials under any name: those of HTTP, and JSON web tokens. */
const credentials = [/\b(?:bearer|basic)\s+[\w.~+/=-]+/gi, /\beyJ[\w-]{4,}\.[\w-]+\.?[\w-]*/g]

// what a pattern of values may reach beyond the shown characters and still be found
const margin = 256
const decoder = new TextDecoder()

const sizeOf = (payload: unknown): string =>
  payload instanceof Uint8Array ? `<${payload.length} bytes>` : `<${typeof payload}>`

const textOf = (payload: unknown, limit: number): string => {
  // a UTF-16 unit takes at most 3 bytes of UTF-8, so a character that is cut lies beyond the limit
  if (payload instanceof Uint8Array) return decoder.decode(payload.subarray(0, limit * 4)).slice(0, limit)
  try {
    return (JSON.stringify(payload) ?? "").slice(0, limit)
  } catch {
    return ""
  }
}

type Fields = Record<string, unknown>

const millis = (nanos: bigint): number => Number(nanos / 1000n) / 1000

/** Hands one line to every logger of the fiber. A logger that throws does not harm the message. */
const write = (
  fiber: Fiber.Fiber<unknown, unknown>,
  line: { readonly level: LogLevel.Severity; readonly text: string; readonly cause: Cause.Cause<unknown> },
  fields: Fields
): void => {
  const context = fiber.context
  const date = DateTime.toDateUtc(DateTime.makeUnsafe(fiber.getRef(Clock.Clock).currentTimeMillisUnsafe()))
  const annotations = { ...fiber.getRef(References.CurrentLogAnnotations), ...fields }
  fiber.setContext(Context.add(context, References.CurrentLogAnnotations, annotations) as Context.Context<never>)
  for (const logger of fiber.getRef(References.CurrentLoggers)) {
    try {
      logger.log({ fiber, date, cause: line.cause, logLevel: line.level, message: [line.text] })
    } catch {
      // a line is lost, which is less than a message
    }
  }
  fiber.setContext(context)
}

const isEnabled = (fiber: Fiber.Fiber<unknown, unknown>, level: LogLevel.Severity): boolean =>
  !LogLevel.isGreaterThan(fiber.cache.minimumLogLevel, level)

/**
 * Logs one line for each message when it has ended: `process orders done`, with the annotations `channel`, `operation`,
 * `status`, `durationMs`, of consumers `group`, `handler`, `partition`, `position` and `attempt`, and where they are there
 * `key`, `correlationId`, `traceId`, `spanId`, `error`, `failure` and `slow`; timestamp and level are the logger's own.
 *
 * What comes from outside is cut and cannot break the line; secrets are redacted (see `Redaction`). The duration is of the
 * Clock's monotonic time. Annotations of the context (`Effect.annotateLogs`) are kept. Nothing leaves or enters E and R.
 *
 * Sources: OWASP Logging Cheat Sheet; OpenTelemetry semantic conventions for the words.
 *
 * **Example** (headers and body, redacted)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Log, type Message } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<Uint8Array>) => Effect.succeed(message.payload.length),
 *   Log.middleware({ slow: "2 seconds", headers: "all", body: { characters: 500 }, redact: { fields: ["email"] } })
 * )
 * ```
 *
 * @throws RangeError when `body.characters` is not an integer from 1
 * @category constructors
 */
export const middleware = (options: Options = {}) => {
  const { body, correlation, error: errors, headers, key } = { ...defaults, ...options }
  const characters = body === undefined || body === "none" ? undefined : body.characters
  if (characters !== undefined && (!Number.isInteger(characters) || characters < 1)) {
    throw new RangeError(`Log: body.characters must be an integer from 1, got ${characters}`)
  }
  const slow = options.slow === undefined ? undefined : Duration.toNanosUnsafe(Duration.fromInputUnsafe(options.slow))
  const lower = (names: ReadonlyArray<string>) => names.map((name) => name.toLowerCase())
  const shownHeaders = Array.isArray(headers) ? new Set(lower(headers)) : undefined
  const correlations = lower(correlation ?? [])
  const redaction = Redaction.make({ ...options.redact, values: [...credentials, ...options.redact?.values ?? []] })
  const show = (text: string): string => oneLine(redaction.text(text))

  const bodyOf = (payload: unknown, limit: number): string => {
    const text = textOf(payload, limit + margin)
    return /^\s*[{["]/.test(text) ? oneLine(redaction.text(text), limit) : sizeOf(payload)
  }

  const headersOf = (all: Headers.Headers): Headers.Headers => {
    const shown: Record<string, string> = Object.create(null)
    for (const name in all) {
      if (shownHeaders !== undefined && !shownHeaders.has(name)) continue
      const secret = [name, name.replace(/^x-/, "")].some((each) =>
        Headers.secretNames.has(each) || redaction.isSecret(each)
      )
      shown[oneLine(name)] = secret ? Redaction.placeholder : show(all[name]!)
    }
    return shown
  }

  const fieldsOf = (fiber: Fiber.Fiber<unknown, unknown>, message: Envelope, status: string): Fields => {
    const fields: Fields = {
      channel: oneLine(message.channel),
      operation: operations[message.kind],
      status
    }
    if (message instanceof Message) {
      const { group, handler } = message.delivery.origin
      Object.assign(fields, {
        group,
        handler,
        partition: message.partition,
        position: message.position,
        attempt: message.attempt
      })
    }
    if (key === "shown" && message.key !== undefined) fields["key"] = show(message.key)
    const name = correlations.find((each) => message.headers[each] !== undefined)
    if (name !== undefined) fields["correlationId"] = show(message.headers[name]!)
    const { span } = fiber.cache
    if (span !== undefined) Object.assign(fields, { traceId: span.traceId, spanId: span.spanId })
    if (headers !== "none") fields["headers"] = headersOf(message.headers)
    if (characters !== undefined && "payload" in message) fields["body"] = bodyOf(message.payload, characters)
    return fields
  }

  const levelOf = ({ error, status }: Ending.Ending): LogLevel.Severity =>
    options.levels?.[status] ??
      (status !== "failed" ? levels[status] : expected.has(classOf(error)) ? "Warn" : "Error")

  const end = (
    fiber: Fiber.Fiber<unknown, unknown>,
    message: Envelope,
    exit: Exit.Exit<unknown, unknown>,
    nanos: bigint
  ): void => {
    const ending = Ending.of(exit)
    const isSlow = slow !== undefined && nanos >= slow
    const own = levelOf(ending)
    const level = isSlow && LogLevel.isLessThan(own, "Warn") ? "Warn" : own
    if (!isEnabled(fiber, level)) return
    const fields = fieldsOf(fiber, message, ending.status)
    fields["durationMs"] = millis(nanos)
    if (isSlow) fields["slow"] = true
    if (ending.error !== undefined) {
      fields["error"] = oneLine(tagOf(ending.error), 100)
      const failure = classOf(ending.error)
      if (failure !== undefined) fields["failure"] = failure
    }
    const cause = errors === "cause" && exit._tag === "Failure" ? exit.cause : Cause.empty
    write(fiber, { level, cause, text: `${fields["operation"]} ${fields["channel"]} ${ending.status}` }, fields)
  }

  return Middleware.make()(
    { name: "Log", stage: "consume", shows: { slow: options.slow, headers, body: characters } },
    (next) => {
      const handle = (message: Envelope): Middleware.Returns => {
        const fiber = Fiber.getCurrent()
        if (fiber === undefined) return Effect.suspend(() => handle(message))
        const clock = fiber.getRef(Clock.Clock)
        if (options.start !== undefined && isEnabled(fiber, options.start)) {
          const fields = fieldsOf(fiber, message, "started")
          const text = `${fields["operation"]} ${fields["channel"]} started`
          write(fiber, { level: options.start, cause: Cause.empty, text }, fields)
        }
        const start = clock.monotonicTimeNanosUnsafe()
        return Eager.around(
          message,
          next,
          (exit) => end(Fiber.getCurrent() ?? fiber, message, exit, clock.monotonicTimeNanosUnsafe() - start)
        )
      }
      return handle
    }
  )
}
