/**
 * Fingerprints of errors: the same for occurrences of one fault, although their messages hold different ids, times and numbers.
 */
import { Failure } from "@millrace/core"
import { bounded, hash64, oneLine } from "./internal/text.ts"

/**
 * The version of the rules, with which each fingerprint begins. A later version of the rules gives other fingerprints, and
 * stored groups keep theirs.
 */
export const version = "1"

/** The longest message that is read, in characters. */
const longestRead = 512

/** The longest message of a group, in characters. */
const longestShown = 200

/** The longest word that is read for its parts, in characters; a longer one with digits is a value as a whole. */
const longestWord = 100

const quoted = /"[^"]{1,200}"|`[^`]{1,200}`|(?<!\w)'[^']{1,200}'(?!\w)/g
const url = /\b[a-z][a-z0-9+.-]{1,15}:\/\/[^\s"'<>]+/gi
const email = /[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}/g

const numeric = new RegExp(
  [
    "(\\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\\b)",
    "(\\b\\d{4}-\\d\\d-\\d\\d(?:T\\d\\d:\\d\\d(?::\\d\\d(?:\\.\\d{1,9})?)?(?:Z|[+-]\\d\\d:?\\d\\d)?)?)",
    "(\\b\\d{1,3}(?:\\.\\d{1,3}){3}(?::\\d{1,5})?\\b)",
    "(\\b(?:0x[0-9a-fA-F]{1,64}|(?=[a-fA-F]{0,63}\\d)[0-9a-fA-F]{8,64})\\b)",
    "((?<![A-Za-z])[+-]?\\d+(?:[.,]\\d+)*|(?<=[A-Za-z][_-]?)\\d{2,})"
  ].join("|"),
  "g"
)

const digit = /\d/
const plainNumber = /^[+-]?\d+(?:[.,]\d+)?$/

const placeholders = ["{uuid}", "{date}", "{ip}", "{hex}", "{number}"] as const

const numericOf = (...found: ReadonlyArray<unknown>): string =>
  placeholders[found.findIndex((part, i) => i > 0 && part !== undefined) - 1] ?? ""

// most words hold no value, and cost one look at their characters; the others are short
const wordOf = (word: string): string => {
  const isAddress = word.includes("@") || word.includes("://")
  if (!isAddress) {
    if (!digit.test(word)) return word
    if (plainNumber.test(word)) return "{number}"
  }
  if (word.length > longestWord) return word.includes("://") ? "{url}" : "{value}"
  const rest = isAddress ? word.replaceAll(url, "{url}").replaceAll(email, "{email}") : word
  return rest.replaceAll(numeric, numericOf)
}

const withoutQuotes = (text: string): string =>
  text.includes("\"") || text.includes("'") || text.includes("`") ? text.replaceAll(quoted, "{quoted}") : text

/**
 * Replaces the parts of a message that differ from occurrence to occurrence: e-mail addresses, URLs, UUIDs, dates, IP addresses,
 * hexadecimal and decimal numbers, and quoted values. Reads 512 characters, answers one line of at most 200.
 *
 * **Example** (two occurrences of one fault)
 *
 * ```ts
 * import { Fingerprint } from "@millrace/monitor"
 *
 * console.log(Fingerprint.parameterise("order 17 of \"Ada\" not found at 10.0.0.7")) // => order {number} of {quoted} not found at {ip}
 * ```
 */
export const parameterise = (message: string): string =>
  bounded(withoutQuotes(oneLine(message, longestRead)).replaceAll(/\S+/g, wordOf), longestShown)

const read = (error: unknown, field: "cause" | "fingerprint" | "stack"): unknown => {
  try {
    return typeof error === "object" && error !== null ? Reflect.get(error, field) : undefined
  } catch {
    return undefined
  }
}

/** The most causes of a chain that count. */
const longestChain = 4

/** Lists the tags of an error and its causes, outermost first. */
const tagsOf = (error: unknown): string => {
  let tags = Failure.tagOf(error)
  let at = read(error, "cause")
  for (let depth = 1; depth < longestChain && at !== undefined; depth++) {
    tags += ` < ${Failure.tagOf(at)}`
    at = read(at, "cause")
  }
  return tags
}

const frame =
  /^\s*at (?:async )?(?:(?:new )?([^\s(]+) (?:\[as [^\]]*\] )?\()?(?:file:\/\/)?([^()]*?)(?::\d+)?(?::\d+)?\)?$/

/** Reads the three innermost frames of the program's own code: function and file, without lines and folders. */
const framesOf = (stack: string): string => {
  const own: Array<string> = []
  for (const line of stack.slice(0, 4_096).split("\n")) {
    const [, name = "", file = ""] = frame.exec(line) ?? []
    if (file === "" || /node_modules|^node:|^native|<anonymous>|internal\//.test(file)) continue
    own.push(`${name.replace(/^(?:Object|Module|Function)\./, "")} ${file.slice(file.lastIndexOf("/") + 1)}`)
    if (own.length === 3) break
  }
  return own.join(", ")
}

/** The fingerprint of an error, and the message under which its group is shown. */
export interface Fingerprint {
  /** The version of the rules, and 16 hexadecimal digits. */
  readonly fingerprint: string
  /** The message with placeholders. */
  readonly message: string
}

/**
 * Makes the fingerprint of an error, and never throws.
 *
 * An error with a text in its field `fingerprint` is grouped by that text and its tag. Any other error is grouped by its class,
 * its tag, the tags of its causes and its message with placeholders; an error without a class, which is a bug, also by the
 * functions and files in which it happened, without line numbers, so that a new release or a compiled one keeps the group.
 *
 * **Example** (ids do not make groups)
 *
 * ```ts
 * import { Fingerprint } from "@millrace/monitor"
 * import { Data } from "effect"
 *
 * class Missing extends Data.TaggedError("Missing")<{ readonly message: string }> {
 *   readonly failure = "permanent"
 * }
 * const [one, other] = [17, 4711].map((id) => Fingerprint.of(new Missing({ message: `order ${id} is missing` })))
 * console.log(one?.fingerprint === other?.fingerprint, one?.message) // => true order {number} is missing
 * ```
 */
export const of = (error: unknown): Fingerprint => {
  const message = parameterise(Failure.messageOf(error, longestRead))
  const given = read(error, "fingerprint")
  if (typeof given === "string" && given !== "") {
    return { fingerprint: `${version}:${hash64(`given ${Failure.tagOf(error)} ${bounded(given, 256)}`)}`, message }
  }
  const failure = Failure.classOf(error)
  const stack = failure === undefined ? read(error, "stack") : undefined
  const frames = typeof stack === "string" ? framesOf(stack) : ""
  return { fingerprint: `${version}:${hash64(`${failure ?? ""}\n${tagsOf(error)}\n${message}\n${frames}`)}`, message }
}
