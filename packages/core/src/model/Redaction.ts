/**
 * Text in which secrets are replaced before anything keeps or shows it. What cannot be read as JSON is treated as the
 * worse case: too much is replaced rather than too little.
 */
import type { Schema, SchemaAST } from "effect"
import * as OptionCheck from "./OptionCheck.ts"
import { secretFields, SecretId } from "./secretFields.ts"
import { placeholder, type Redaction } from "./secretsIn.ts"

export { hide, hideCause, placeholder, type Redaction, without } from "./secretsIn.ts"

/** What to replace. */
export interface Options {
  /**
   * Fields whose whole value is replaced, at any depth of JSON, also in JSON inside a string. A text is a field's name,
   * compared without regard to case, `_` and `-`; with dots it is a path from the root, in which `*` stands for any one
   * field and arrays count for nothing (`cards.number`). A pattern is tested against the name. They add to `fields`, the
   * usual names of secrets, unless `usual` is `drop`.
   */
  readonly fields?: ReadonlyArray<string | RegExp> | undefined
  /** Schemas whose secret fields are replaced: those marked by `secret`, and those of Effect's `Redacted`. Default: none. */
  readonly schemas?: ReadonlyArray<{ readonly ast: SchemaAST.AST }> | undefined
  /** Patterns of text that is replaced wherever it stands, e.g. `/\b\d{16}\b/`. Default: none. */
  readonly values?: ReadonlyArray<RegExp> | undefined
  /** Whether the usual names count. Default: `keep`. */
  readonly usual?: "keep" | "drop" | undefined
}

/** The usual names of secrets; what contains one of the first, or is one of the second, compared in small letters and digits. */
export const usual: { readonly containing: ReadonlyArray<string>; readonly equal: ReadonlyArray<string> } = {
  containing: [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "authorization",
    "credential",
    "cookie",
    "cardnumber",
    "securitycode"
  ],
  equal: ["auth", "cvc", "cvv", "pan", "pass", "pin", "pwd", "sessionid", "ssn", "jwt", "bearer"]
}

/**
 * Marks a schema as a secret: what stands in its place is replaced wherever a redaction knows the schema.
 *
 * **Example** (a card in an order)
 *
 * ```ts
 * import { Schema } from "effect"
 * import { Redaction } from "@millrace/core"
 *
 * const Order = Schema.Struct({ id: Schema.Finite, card: Redaction.secret(Schema.String) })
 * const redaction = Redaction.make({ schemas: [Order] })
 *
 * console.log(redaction.text("{\"id\":7,\"card\":\"4111\"}")) // => {"id":7,"card":"<redacted>"}
 * ```
 */
export const secret = <S extends Schema.Top>(schema: S): S["Rebuild"] => schema.annotate({ [SecretId]: true })

const plain = (name: string): string => name.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "")

const escaped = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")

/** A pattern that finds a name whatever stands between its letters. */
const loose = (name: string): string => [...plain(name)].map(escaped).join("[_\\-. ]?")

interface Rules {
  readonly name: (name: string) => boolean
  readonly paths: ReadonlyArray<ReadonlyArray<string>>
  /** Whether all of a text is the secret. */
  readonly all: boolean
  /** Names followed by `=` or `:` and a value, in text that is no JSON. */
  readonly loose: RegExp
  readonly values: ReadonlyArray<RegExp>
}

// names repeat from message to message; a stream of invented names must not fill the memory
const remembered = 1000

const compile = (options: Options): Rules => {
  const fields = options.fields ?? []
  const words = fields.filter((field) => typeof field === "string")
  const patterns = fields.filter((field) => field instanceof RegExp).map((field) =>
    new RegExp(field, field.flags.replace(/[gy]/g, ""))
  )
  const marked = (options.schemas ?? []).map(({ ast }) => secretFields(ast))
  const marks = marked.flatMap((each) => each.paths)
  const whole = new Set(words.filter((word) => !word.includes(".")).map(plain))
  const usually = OptionCheck.make("Redaction").oneOf("usual", options.usual ?? "keep", ["keep", "drop"]) === "keep"
  if (usually) usual.equal.forEach((name) => whole.add(name))
  // what has no end of paths is found by its name
  for (const { paths, recursive } of marked) {
    if (recursive) { for (const path of paths) whole.add(plain(path.findLast((part) => part !== "*") ?? "")) }
  }
  whole.delete("")
  const containing = usually ? usual.containing : []
  const decide = (name: string): boolean => {
    const bare = plain(name)
    return whole.has(bare) || containing.some((part) => bare.includes(part)) || patterns.some((each) => each.test(name))
  }
  const seen = new Map<string, boolean>()
  const paths = [...words.filter((word) => word.includes(".")).map((word) => word.split(".")), ...marks]
    .filter((path) => path.length > 0)
    .map((path) => path.map((part) => part === "*" ? "*" : plain(part)))
  const names = [
    // a bounded rest of the name keeps the search linear
    ...containing.map((name) => `${loose(name)}[\\w.\\-]{0,64}`),
    ...[...whole, ...paths.map((path) => path.at(-1)!)].filter((name) => name !== "*").map((name) =>
      `(?<![\\p{L}\\p{N}])${loose(name)}`
    ),
    ...patterns.map((each) => `(?:${each.source.replace(/^\^|\$$/g, "")})[\\w.\\-]{0,64}`)
  ]
  return {
    name: (name) => {
      const known = seen.get(name)
      if (known !== undefined) return known
      const found = decide(name)
      if (seen.size < remembered) seen.set(name, found)
      return found
    },
    paths,
    all: marks.some((path) => path.length === 0),
    loose: new RegExp(
      `((?:${
        names.length === 0 ? "(?!)" : names.join("|")
      })["'\\\\\\s]*(?:[=:>]|%3d)+\\s*)(?:(?:bearer|basic)\\s+)?(\\\\?"(?:[^"\\\\]|\\\\.)*"?|'[^']*'?|[{[][^]*|[^\\s&;,<>{}\\[\\]]+)`,
      "giu"
    ),
    values: (options.values ?? []).map((each) =>
      new RegExp(each, each.flags.includes("g") ? each.flags : `${each.flags}g`)
    )
  }
}

const quote = 34
const backslash = 92

/** Where the string that begins at `at` ends: after its quote, or at the end of the text. */
const endOfString = (text: string, at: number): number => {
  for (let i = at + 1; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === backslash) i++
    else if (code === quote) return i + 1
  }
  return text.length
}

const isSpace = (code: number): boolean => code === 32 || code === 10 || code === 13 || code === 9

const skipSpace = (text: string, at: number): number => {
  let i = at
  while (i < text.length && isSpace(text.charCodeAt(i))) i++
  return i
}

/** Whether a value may be followed by this: a space, a comma, a closing bracket, or the end. */
const endsValue = (code: number): boolean =>
  isSpace(code) || code === 44 || code === 125 || code === 93 || Number.isNaN(code)

const literal = /true|false|null|-?\d[\d.eE+-]*/y

/** Where the value that begins at `at` ends; what is no JSON ends with the text. */
const endOfValue = (text: string, at: number): number => {
  const first = text[at]
  if (first === "\"") return endOfString(text, at)
  if (first !== "{" && first !== "[") {
    literal.lastIndex = at
    return literal.test(text) && endsValue(text.charCodeAt(literal.lastIndex)) ? literal.lastIndex : text.length
  }
  let depth = 0
  for (let i = at; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === quote) i = endOfString(text, i) - 1
    else if (code === 123 || code === 91) depth++
    else if ((code === 125 || code === 93) && --depth === 0) return i + 1
  }
  return text.length
}

const isClosed = (token: string): boolean => token.length > 1 && /[^\\](?:\\\\)*"$/.test(token)

/** What a string token says; one that is cut loses its last, incomplete escape. Undefined where it is no JSON. */
const read = (token: string): string | undefined => {
  try {
    return JSON.parse(
      isClosed(token) ? token : `${token.replace(/(^|[^\\])((?:\\\\)*)\\(?:u[\da-fA-F]{0,3})?$/, "$1$2")}"`
    ) as string
  } catch {
    return undefined
  }
}

/** Where the walk stands: for paths, the names of the objects that are open. */
type Frame = { readonly array: boolean; name: string }

class Walk {
  private readonly rules: Rules
  private readonly text: string
  private readonly found: Array<string> | undefined
  private readonly frames: Array<Frame> | undefined
  private out = ""
  private copied = 0

  constructor(rules: Rules, text: string, found: Array<string> | undefined) {
    this.rules = rules
    this.text = text
    this.found = found
    this.frames = rules.paths.length === 0 ? undefined : []
  }

  private replace(from: number, to: number, by: string): void {
    this.out += this.text.slice(this.copied, from) + by
    this.copied = to
  }

  private onPath(name: string): boolean {
    const frames = this.frames!.filter((frame) => !frame.array)
    return this.rules.paths.some((path) =>
      path.length === frames.length
      && path.every((part, i) => part === "*" || part === plain(i === frames.length - 1 ? name : frames[i]!.name))
    )
  }

  /** A string that is a value: one that holds JSON is walked as well. */
  private inner(from: number, to: number): void {
    const token = this.text.slice(from, to)
    if (!token.includes("\\")) return
    const value = read(token)
    if (value === undefined || !/^\s*["[{]/.test(value)) return
    const clean = redact(this.rules, value, this.found)
    if (clean === value) return
    const written = JSON.stringify(clean)
    this.replace(from, to, isClosed(token) ? written : written.slice(0, -1))
  }

  private secret(from: number): number {
    const to = endOfValue(this.text, from)
    if (this.found !== undefined) collect(this.text.slice(from, to), this.found)
    if (to > from) this.replace(from, to, `"${placeholder}"`)
    return to
  }

  // In JSON a string before a colon is a field's name, so names are found without a grammar. What no JSON text can hold makes
  // the rest of it plain text, from the last string on: that may have been the name of what follows.
  run(): string {
    const { frames, text } = this
    let i = 0
    let lastString = 0
    while (i < text.length) {
      const code = text.charCodeAt(i)
      if (code === quote) {
        lastString = i
        const end = endOfString(text, i)
        const next = skipSpace(text, end)
        if (text.charCodeAt(next) !== 58) {
          this.inner(i, end)
          i = end
          continue
        }
        const token = text.slice(i, end)
        const name = token.includes("\\") ? read(token) ?? token : token.slice(1, -1)
        if (frames !== undefined && frames.length > 0) frames.at(-1)!.name = name
        i = skipSpace(text, next + 1)
        if (this.rules.name(name) || (frames !== undefined && this.onPath(name))) i = this.secret(i)
      } else if (code === 123 || code === 91) {
        frames?.push({ array: code === 91, name: "" })
        i++
      } else if (code === 125 || code === 93) {
        frames?.pop()
        i++
      } else if (code === 44 || code === 58 || isSpace(code)) {
        i++
      } else {
        literal.lastIndex = i
        if (!literal.test(text)) return this.broken(Math.max(this.copied, lastString))
        i = literal.lastIndex
      }
    }
    return this.out + text.slice(this.copied)
  }

  private broken(from: number): string {
    return this.out + this.text.slice(this.copied, from) + redactPlain(this.rules, this.text.slice(from), this.found)
  }
}

/** The secrets in a secret value: its strings and numbers, as they are written and as they read. */
const collect = (value: string, into: Array<string>): void => {
  for (const [token] of value.matchAll(/"(?:[^"\\]|\\.)*"?|-?\d[\d.eE+-]*/g)) {
    const bare = token.startsWith("\"") ? token.slice(1, isClosed(token) ? -1 : undefined) : token
    const said = token.startsWith("\"") ? read(token) : undefined
    for (const each of new Set([bare, said ?? bare])) if (each.length >= 3) into.push(each)
  }
}

const redactPlain = (rules: Rules, text: string, found: Array<string> | undefined): string =>
  text.replace(rules.loose, (_, name: string, value: string) => {
    const bare = value.replace(/^\\?["']|\\?["']$/g, "")
    if (found !== undefined && bare.length >= 3) found.push(bare)
    return `${name}${placeholder}`
  })

const redact = (rules: Rules, text: string, found: Array<string> | undefined): string => {
  if (rules.all) {
    found?.push(text)
    return JSON.stringify(placeholder)
  }
  const first = text.charCodeAt(skipSpace(text, 0))
  return first === 123 || first === 91 || first === quote
    ? new Walk(rules, text, found).run()
    : redactPlain(rules, text, found)
}

/**
 * Compiles a redaction.
 *
 * **Example** (a card in an order)
 *
 * ```ts
 * import { Redaction } from "@millrace/core"
 *
 * const redaction = Redaction.make({ fields: ["customer.card"] })
 * redaction.text("{\"id\":7,\"customer\":{\"card\":\"4111111111111111\"}}")
 * // {"id":7,"customer":{"card":"<redacted>"}}
 * ```
 *
 * @category constructors
 */
export const make = (options: Options = {}): Redaction => {
  const rules = compile(options)
  const byValue = (text: string): string =>
    rules.values.reduce((each, pattern) => each.replace(pattern, placeholder), text)
  return {
    isSecret: rules.name,
    text: rules.values.length === 0
      ? (text) => redact(rules, text, undefined)
      : (text) => byValue(redact(rules, text, undefined)),
    secrets: (text) => {
      const found: Array<string> = []
      redact(rules, text, found)
      for (const pattern of rules.values) for (const [match] of text.matchAll(pattern)) found.push(match)
      return found
    }
  }
}
