/**
 * One structured line for each message, through Effect's loggers: its channel, its result and its duration, without
 * secrets.
 */
import { Cause, Clock, type Duration, Effect, type Exit, Fiber, LogLevel, Random } from "effect"
import * as Correlation from "../message/Correlation.ts"
import type { Exchange } from "../message/Exchange.ts"
import { classOf, type FailureClass, tagOf } from "../message/Failure.ts"
import * as Headers from "../message/Headers.ts"
import { type Envelope, Message } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Redaction from "../telemetry/Redaction.ts"
import * as Eager from "../pipeline/Eager.ts"
import * as Ending from "../telemetry/Ending.ts"
import * as Lost from "../telemetry/Lost.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import { type Fields, isEnabled, millis, write } from "./log/line.ts"
import { answerOf, bodyText, oneLine } from "./log/text.ts"

export {
  bounds,
  type Format,
  format,
  type FormatOptions,
  layer,
  layerConfig,
  type LayerOptions
} from "./log/formats.ts"

/** Options of `middleware`. */
export interface Options {
  /**
   * The level of each ending. Default: `done` and `interrupted` Info, `retried` and `rejected` Warn, `failed` Warn if the
   * same message may succeed later or its sender is at fault, and Error otherwise. A server's request that is answered
   * with 4xx is `rejected`, at Info.
   */
  readonly levels?: { readonly [Status in Ending.Status]?: LogLevel.Severity | undefined } | undefined
  /** The level of an additional line when handling begins. Default: no such line. */
  readonly start?: LogLevel.Severity | undefined
  /** Messages that take at least this long are marked `slow`, and logged at Warn at least. Default: no message is slow. */
  readonly slow?: Duration.Input | undefined
  /**
   * The share of lines written for messages that are `done` and not slow, from 0 to 1; all other messages are always
   * logged. With 0 only slow and failed messages are logged. Default: 1.
   */
  readonly sample?: number | undefined
  /** The headers that may hold the id without `Correlate`; the first one found counts. Default: see `defaults`. */
  readonly correlation?: ReadonlyArray<string> | undefined
  /** Whether the key is shown; it may name a person. Default: `shown`. */
  readonly key?: "shown" | "hidden" | undefined
  /** The headers that are shown: all, none, or these. Default: `none`. */
  readonly headers?: "all" | "none" | ReadonlyArray<string> | undefined
  /**
   * Shows the first characters of a JSON body (UTF-16 units, an integer from 1), and the size of any other body. Of a server's
   * request it shows the bytes that the middlewares of `Body` have read, and reads nothing itself. Default: `none`.
   */
  readonly body?: "none" | { readonly characters: number } | undefined
  /** As `body`, for the handler's answer; of a response also its status, as `statusCode`. Default: `none`. */
  readonly answer?: "none" | { readonly characters: number } | undefined
  /** Values to redact in bodies, headers, keys and ids, beside the usual names of secrets. Default: nothing more. */
  readonly redact?: Redaction.Options | undefined
  /** An error's `tag` and class, or its `cause` without the message's secrets; other content may remain. Default: `tag`. */
  readonly error?: "tag" | "cause" | undefined
}

const check = OptionCheck.make("Log")

/** The number of characters to show, or undefined for none. */
const charactersOf = (option: "body" | "answer", given: Options["body"]): number | undefined => {
  if (given === undefined || given === "none") return undefined
  return check.count(`${option}.characters`, given.characters)
}

/** The available body: bytes already read, or a payload. */
const bodyIn = (message: Envelope): unknown =>
  "body" in message ? message.body : "payload" in message ? message.payload : undefined

/** The defaults of `middleware`. */
export const defaults = {
  key: "shown",
  headers: "none",
  body: "none",
  answer: "none",
  error: "tag",
  correlation: Correlation.accepted
} as const satisfies Options

const levels = { done: "Info", interrupted: "Info", retried: "Warn", rejected: "Warn" } as const

/** Failures that this program did not cause. */
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

/**
 * Logs one line for each message when it has ended: `process orders done`, with the annotations `channel`, `operation`,
 * `status`, `durationMs`, of consumers `group`, `handler`, `partition`, `position` and `attempt`, and if present `key`,
 * `correlationId`, `causationId`, `traceId`, `spanId`, `error`, `failure`, `slow`, `body`, `statusCode` and `answer`, of
 * a server's request also `method`, `target`, `client` (the address of the peer) and `userAgent`; timestamp and level are
 * the logger's own, e.g. `Log.layer`'s.
 *
 * Texts from outside are cut and cannot break the line; secrets are redacted (see `Redaction`). The duration is of the
 * Clock's monotonic time. Annotations of the context (`Effect.annotateLogs`) are kept. A line that cannot be made, or
 * whose logger throws, is lost; this is reported once on standard error, and the message goes on. Nothing leaves or
 * enters E and R.
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
 * @throws RangeError when `body.characters` or `answer.characters` is not an integer from 1, or `sample` is not from 0 to 1
 * @category constructors
 */
export const middleware = (options: Options = {}) => {
  const { correlation, error: errors, headers, key } = { ...defaults, ...options }
  check.oneOf("error", errors ?? defaults.error, ["tag", "cause"])
  check.oneOf("key", key ?? defaults.key, ["shown", "hidden"])
  if (typeof headers === "string") check.oneOf("headers", headers, ["all", "none"])
  const characters = charactersOf("body", options.body)
  const sample = check.fraction("sample", options.sample ?? 1)
  const answer = charactersOf("answer", options.answer)
  const slow = options.slow === undefined
    ? undefined
    : BigInt(check.millis("slow", options.slow, { least: 0 })) * 1_000_000n
  const lower = (names: ReadonlyArray<string>) => names.map((name) => name.toLowerCase())
  const shownHeaders = Array.isArray(headers) ? new Set(lower(headers)) : undefined
  const correlations = lower(correlation ?? [])
  const redaction = Redaction.make(options.redact)
  const show = (text: string): string => oneLine(redaction.text(text))

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

  const correlationOf = (message: Envelope, ids: Correlation.Correlation | undefined): string | undefined => {
    const receives = message.kind === "consumer" || message.kind === "server"
    if (ids !== undefined && receives) return ids.id
    const name = correlations.find((each) => message.headers[each] !== undefined)
    return name === undefined ? ids?.id : show(message.headers[name]!)
  }

  const exchangeOf = ({ client, method, target, userAgent }: Exchange): Fields => ({
    method: oneLine(method, 32),
    target: show(target),
    ...(client === undefined ? {} : { client: oneLine(client) }),
    ...(userAgent === undefined ? {} : { userAgent: show(userAgent) })
  })

  const fieldsOf = (
    fiber: Fiber.Fiber<unknown, unknown>,
    message: Envelope,
    status: string,
    ids: Correlation.Correlation | undefined
  ): Fields => {
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
    const correlationId = correlationOf(message, ids)
    if (correlationId !== undefined) fields["correlationId"] = correlationId
    if (ids?.causation !== undefined) fields["causationId"] = ids.causation
    const { span } = fiber.cache
    if (span !== undefined) Object.assign(fields, { traceId: span.traceId, spanId: span.spanId })
    if (headers !== "none") fields["headers"] = headersOf(message.headers)
    if (message.exchange !== undefined) Object.assign(fields, exchangeOf(message.exchange))
    if (characters !== undefined) {
      const body = bodyIn(message)
      if (body !== undefined) fields["body"] = bodyText(redaction, body, characters)
    }
    return fields
  }

  const levelOf = ({ error, status, statusCode }: Ending.MessageEnding): LogLevel.Severity =>
    options.levels?.[status] ??
      (status === "rejected" && statusCode !== undefined
        ? "Info"
        : status !== "failed"
        ? levels[status]
        : expected.has(classOf(error))
        ? "Warn"
        : "Error")

  const isLeftOut = (fiber: Fiber.Fiber<unknown, unknown>): boolean =>
    sample < 1 && fiber.getRef(Random.Random).nextDoubleUnsafe() >= sample

  const end = (
    fiber: Fiber.Fiber<unknown, unknown>,
    message: Envelope,
    exit: Exit.Exit<unknown, unknown>,
    nanos: bigint,
    ids: Correlation.Correlation | undefined
  ): void => {
    const ending = Ending.ofMessage(message, exit)
    const isSlow = slow !== undefined && nanos >= slow
    if (ending.status === "done" && !isSlow && isLeftOut(fiber)) return
    const own = levelOf(ending)
    const level = isSlow && LogLevel.isLessThan(own, "Warn") ? "Warn" : own
    if (!isEnabled(fiber, level)) return
    const fields = fieldsOf(fiber, message, ending.status, ids)
    fields["durationMs"] = millis(nanos)
    if (ending.statusCode !== undefined) fields["statusCode"] = ending.statusCode
    if (isSlow) fields["slow"] = true
    if (answer !== undefined && exit._tag === "Success") Object.assign(fields, answerOf(redaction, exit.value, answer))
    // the error of a 5xx answer without an error is the status itself, which is logged already
    if (ending.error !== undefined && ending.error !== ending.statusCode) {
      fields["error"] = oneLine(tagOf(ending.error), 100)
      const failure = classOf(ending.error)
      if (failure !== undefined) fields["failure"] = failure
    }
    const cause = errors === "cause" && exit._tag === "Failure"
      ? Redaction.hideCause(redaction, message, exit.cause)
      : Cause.empty
    write(fiber, { level, cause, text: `${fields["operation"]} ${fields["channel"]} ${ending.status}` }, fields)
  }

  const begin = (
    fiber: Fiber.Fiber<unknown, unknown>,
    message: Envelope,
    level: LogLevel.Severity,
    ids: Correlation.Correlation | undefined
  ): void => {
    try {
      const fields = fieldsOf(fiber, message, "started", ids)
      const text = `${fields["operation"]} ${fields["channel"]} started`
      write(fiber, { level, cause: Cause.empty, text }, fields)
    } catch (defect) {
      Lost.tell("Log", defect)
    }
  }

  return Middleware.make()(
    {
      name: "Log",
      stage: "consume",
      inBatch: "each",
      shows: { slow: options.slow, sample: options.sample, headers, body: characters, answer }
    },
    (next) => {
      const handle = (message: Envelope): Middleware.Returns => {
        const fiber = Fiber.getCurrent()
        if (fiber === undefined) return Effect.suspend(() => handle(message))
        const clock = fiber.getRef(Clock.Clock)
        const ids = fiber.getRef(Correlation.Current)
        if (options.start !== undefined && isEnabled(fiber, options.start)) begin(fiber, message, options.start, ids)
        const start = clock.monotonicTimeNanosUnsafe()
        return Eager.around(
          message,
          next,
          (exit) => {
            try {
              end(Fiber.getCurrent() ?? fiber, message, exit, clock.monotonicTimeNanosUnsafe() - start, ids)
            } catch (defect) {
              Lost.tell("Log", defect)
            }
          }
        )
      }
      return handle
    }
  )
}
