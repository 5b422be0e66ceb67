/**
 * Formats log lines: one line each, flat fields, no character that could begin another line, and secrets redacted once
 * more, from any logging code.
 */
import { Config, ConfigProvider, Effect, Layer, Logger, LogLevel, References } from "effect"
import { prettyOf } from "../../message/causeText.ts"
import { isInstance, messageOf, tagOf } from "../../message/Failure.ts"
import * as Headers from "../../message/Headers.ts"
import * as Redaction from "../../telemetry/Redaction.ts"
import { escaped } from "./text.ts"

const formats = ["json", "logfmt", "pretty"] as const

/** The format of a line. */
export type Format = typeof formats[number]

/** Options of `format`. */
export interface FormatOptions {
  /** Default: `json`. */
  readonly format?: Format | undefined
  /** Values to redact in messages, causes and annotations, beside the usual names of secrets. Default: nothing more. */
  readonly redact?: Redaction.Options | undefined
  /** Whether `pretty` is coloured. Default: false. */
  readonly colors?: boolean | undefined
}

/** Options of `layer`. */
export interface LayerOptions extends FormatOptions {
  /** The lowest level that is written. Default: `Info`. */
  readonly level?: LogLevel.LogLevel | undefined
}

/** The most characters of one value, and the most fields of one line; the rest is left out. */
export const bounds = { value: 16_384, fields: 256 } as const

// fields of the line itself; an annotation of the same name gets the prefix `annotation.`
const own: ReadonlySet<string> = new Set(["timestamp", "level", "message", "cause", "spans"])

/** The most names cached as secret or not; further names are checked each time. */
const remembered = 1000

const word = /^[\w/@+-]{0,128}$/

const cut = (text: string): string => text.length > bounds.value ? `${text.slice(0, bounds.value - 1)}…` : text

/** The fields of a line in order, each a text, a number, a boolean, null, or a plain list or object of them. */
type Fields = Map<string, unknown>

const cleaner = (redact: Redaction.Options | undefined) => {
  const redaction = Redaction.make(redact)
  const names = new Map<string, boolean>()
  const decide = (name: string): boolean => {
    const lower = name.toLowerCase()
    return redaction.isSecret(name) || Headers.secretNames.has(lower) ||
      Headers.secretNames.has(lower.replace(/^x-/, ""))
  }
  const isSecret = (name: string): boolean => {
    const known = names.get(name)
    if (known !== undefined) return known
    const found = decide(name)
    if (names.size < remembered) names.set(name, found)
    return found
  }
  // most values are one word, in which only the program's own patterns or schemas could find a secret
  const usual = redact?.values === undefined && redact?.schemas === undefined
  const text = (value: string): string =>
    usual && word.test(value) && !value.startsWith("eyJ") ? value : redaction.text(cut(value))
  const plain = (_: string, value: unknown): unknown =>
    typeof value === "string"
      ? text(value)
      : typeof value === "bigint"
      ? String(value)
      : isInstance(value, Error)
      ? text(`${tagOf(value)}: ${messageOf(value)}`)
      : value instanceof Map
      ? Object.fromEntries(value)
      : value instanceof Set
      ? Array.from(value)
      : value
  const value = (given: unknown): unknown => {
    if (typeof given === "string") return text(given)
    if (given === null || typeof given === "boolean") return given
    if (typeof given === "number") return Number.isFinite(given) ? given : String(given)
    if (given instanceof Uint8Array) return `<${given.length} bytes>`
    try {
      const json = JSON.stringify(given, plain)
      if (json === undefined) return `<${typeof given}>`
      if (json.length > bounds.value) return redaction.text(cut(json))
      const clean: unknown = JSON.parse(redaction.text(json))
      return clean
    } catch {
      return `<${typeof given}>`
    }
  }
  return { text, field: (name: string, given: unknown) => isSecret(name) ? Redaction.placeholder : value(given) }
}

const textOf = (message: unknown, clean: (part: unknown) => unknown): string =>
  (Array.isArray(message) ? message : [message])
    .map((part) => {
      const shown = clean(part)
      return typeof shown === "string" ? shown : JSON.stringify(shown)
    })
    .join(" ")

const fieldsOf = (
  { cause, date, fiber, logLevel, message }: Logger.Options<unknown>,
  { field, text }: ReturnType<typeof cleaner>
): Fields => {
  const fields: Fields = new Map<string, unknown>([
    ["timestamp", date.toISOString()],
    ["level", logLevel.toUpperCase()],
    ["message", textOf(message, (part) => field("", part))]
  ])
  const annotations = fiber.getRef(References.CurrentLogAnnotations)
  for (const name of Object.keys(annotations)) {
    if (annotations[name] === undefined) continue
    if (fields.size >= bounds.fields) break
    fields.set(own.has(name) ? `annotation.${name}` : name, field(name, annotations[name]))
  }
  const spans = fiber.getRef(References.CurrentLogSpans)
  if (spans.length > 0) {
    const now = date.getTime()
    fields.set("spans", Object.fromEntries(spans.map(([label, start]) => [text(label), now - start])))
  }
  if (cause.reasons.length > 0) fields.set("cause", text(prettyOf(cause)))
  return fields
}

const json = (fields: Fields): string => {
  let out = ""
  for (const [name, value] of fields) out += `${out === "" ? "{" : ","}${JSON.stringify(name)}:${JSON.stringify(value)}`
  // characters that JSON permits and terminals and viewers do not
  return escaped(`${out}}`)
}

const bare = /^[\w.:/+@*#<>-]+$/

const pair = (name: string, value: unknown): string => {
  const text = typeof value === "string" ? value : JSON.stringify(value)
  const label = name.replace(/[^\w.:/@-]/g, "_") || "_"
  return `${label}=${bare.test(text) ? text : escaped(JSON.stringify(text))}`
}

/** Objects become fields with dotted names, since logfmt has no nesting; lists stay JSON. */
const pairs = (name: string, value: unknown, into: Array<string>): void => {
  if (into.length >= bounds.fields) return
  if (typeof value !== "object" || value === null || Array.isArray(value)) return void into.push(pair(name, value))
  for (const [key, each] of Object.entries(value)) pairs(name === "" ? key : `${name}.${key}`, each, into)
}

const logfmt = (fields: Fields): string => {
  const out: Array<string> = []
  for (const [name, value] of fields) pairs(name, value, out)
  return out.join(" ")
}

const colours: Readonly<Record<string, number>> = { TRACE: 90, DEBUG: 34, INFO: 32, WARN: 33, ERROR: 31, FATAL: 35 }

const pretty = (colors: boolean) => {
  const paint = (code: number, text: string): string => colors ? `\u001b[${code}m${text}\u001b[0m` : text
  return (fields: Fields): string => {
    const rest = new Map(fields)
    for (const name of ["timestamp", "level", "message", "cause"]) rest.delete(name)
    const level = String(fields.get("level"))
    const cause = fields.get("cause")
    const time = String(fields.get("timestamp")).slice(11, 23)
    const line = `${paint(90, time)} ${paint(colours[level] ?? 0, level.padEnd(5))} ${
      paint(1, escaped(String(fields.get("message"))))
    }`
    return (rest.size === 0 ? line : `${line} ${paint(90, logfmt(rest))}`) +
      (cause === undefined ? "" : `\n${String(cause).split("\n").map((each) => `  ${escaped(each)}`).join("\n")}`)
  }
}

/**
 * Formats a line of any logging, Effect's included: `timestamp` (ISO 8601, UTC, milliseconds), `level`, `message`, and
 * each annotation as a field beside them, in the order of their addition; then `spans` and `cause` if present. For custom
 * files, batches and consoles; programs use `layer`.
 *
 * - `json`: one object, flat; nested annotations stay nested.
 * - `logfmt`: `name=value`, quoted as JSON if necessary; nested annotations as `name.inner=value`.
 * - `pretty`: `time LEVEL message name=value …`, the only format in which a cause takes lines of its own, indented.
 *
 * Values whose names are secrets, credentials and JSON web tokens are replaced in messages, causes and annotations, at any
 * depth. Line breaks and control characters are escapes. An annotation named like a field of the line is shown as
 * `annotation.NAME`. At most 256 fields, of 16,384 characters each.
 *
 * **Example** (a line of a custom logger)
 *
 * ```ts
 * import { Effect, Logger } from "effect"
 * import { Log } from "@millrace/core"
 *
 * const logger = Logger.map(Log.format({ format: "logfmt" }), (line) => console.log(line.replace(/^\S+ /, "")))
 *
 * await Effect.log("paid").pipe(
 *   Effect.annotateLogs({ amount: 3, password: "hunter2", note: "a b" }),
 *   Effect.provide(Logger.layer([logger])),
 *   Effect.runPromise
 * )
 * // => level=INFO message=paid amount=3 password=<redacted> note="a b"
 * ```
 *
 * @category constructors
 */
export const format = (options: FormatOptions = {}): Logger.Logger<unknown, string> => {
  const clean = cleaner(options.redact)
  const write = options.format === "logfmt"
    ? logfmt
    : options.format === "pretty"
    ? pretty(options.colors === true)
    : json
  return Logger.make((line) => write(fieldsOf(line, clean)))
}

const printed = (line: Logger.Logger<unknown, string>): Logger.Logger<unknown, void> => {
  const [out, error] = [Logger.withConsoleLog(line), Logger.withConsoleError(line)]
  return Logger.make((options) => (options.fiber.getRef(Logger.LogToStderr) ? error : out).log(options))
}

/**
 * Writes all logging of a program by `format` to Effect's `Console`, from `level` on, in place of Effect's own console
 * line; log lines stay events of the current span. `Logger.LogToStderr` chooses the stream.
 *
 * **Example** (logfmt, with debug lines)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Log } from "@millrace/core"
 *
 * const program = Effect.log("started").pipe(Effect.provide(Log.layer({ format: "logfmt", level: "Debug" })))
 * ```
 *
 * @category layers
 */
export const layer = (options: LayerOptions = {}): Layer.Layer<never> =>
  Layer.merge(
    Logger.layer([printed(format(options))]),
    Layer.succeed(References.MinimumLogLevel, options.level ?? "Info")
  )

/** Reads one of some words, in any case; any other value fails with the variable's name. */
const wordOf = <const T extends string>(name: string, words: ReadonlyArray<T>, otherwise: T): Config.Config<T> =>
  Config.String(name).pipe(
    Config.mapEffect((text) => {
      const lower = text.trim().toLowerCase()
      const found = words.find((word) => word.toLowerCase() === lower)
      return found === undefined
        ? Config.Literals(words, name).parse(ConfigProvider.fromUnknown({ [name]: text }))
        : Effect.succeed(found)
    }),
    Config.withDefault(otherwise)
  )

/**
 * As `layer`, with format and level from the environment: `LOG_FORMAT` (`json`, `logfmt`, `pretty`) and `LOG_LEVEL`
 * (`all`, `trace`, `debug`, `info`, `warn`, `error`, `fatal`, `none`), in any case. `options` take precedence over the
 * environment. Fails with a `ConfigError` that names the variable.
 *
 * @category layers
 */
export const layerConfig = (options: LayerOptions = {}): Layer.Layer<never, Config.ConfigError> =>
  Layer.unwrap(
    Effect.map(
      Config.all({
        format: options.format === undefined ? wordOf("LOG_FORMAT", formats, "json") : Config.succeed(options.format),
        level: options.level === undefined
          ? wordOf("LOG_LEVEL", LogLevel.values, "Info")
          : Config.succeed(options.level)
      }),
      (found) => layer({ ...options, ...found })
    )
  )
