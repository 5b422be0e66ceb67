/**
 * Replaces secrets in text before it is stored or shown. Text that cannot be parsed as JSON is treated as the worse case: too
 * much is replaced rather than too little.
 */
import type { Schema, SchemaAST } from "effect"
import { type FieldNames, fieldNames } from "./fieldNames.ts"
import { isJson, leavesOf } from "./jsonTokens.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import { always, type Candidates, secretCandidates } from "./secretCandidates.ts"
import { secretFields, SecretId } from "./secretFields.ts"
import { inQuery, plain, type SecretNames, secretNames } from "./secretNames.ts"
import { placeholder, type Redaction } from "./secretsIn.ts"
import { secretsInJson, type Stopped } from "./secretsInJson.ts"
import { secretsInText } from "./secretsInText.ts"
import { unescaped } from "./unescaped.ts"

export { hide, hideCause, placeholder, type Redaction, without } from "./secretsIn.ts"

/** The secrets to replace. */
export interface Options {
  /**
   * Fields whose whole value is replaced, at any depth of JSON, also in JSON inside a string. A string is a field's name,
   * compared ignoring case, `_` and `-`; with dots it is a path from the root, in which `*` matches any one field and arrays are
   * transparent (`cards.number`). A pattern is tested against the name. These fields add to the usual names of secrets, unless
   * `usual` is `drop`.
   */
  readonly fields?: ReadonlyArray<string | RegExp> | undefined
  /** Schemas whose secret fields are replaced: fields marked by `secret`, and Effect's `Redacted`. Default: none. */
  readonly schemas?: ReadonlyArray<{ readonly ast: SchemaAST.AST }> | undefined
  /** Patterns of text that is replaced anywhere, e.g. `/\b\d{16}\b/`. Default: none. */
  readonly values?: ReadonlyArray<RegExp> | undefined
  /** Whether the usual names apply. Default: `keep`. */
  readonly usual?: "keep" | "drop" | undefined
}

/**
 * The usual names of secrets, in small letters and digits: names that contain an entry of the first list, and names that equal
 * an entry of the second or have it as their last words (`pin`: `card_pin`, and not `spin`).
 */
export const usual: { readonly containing: ReadonlyArray<string>; readonly equal: ReadonlyArray<string> } = {
  containing: [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "signingkey",
    "authorization",
    "credential",
    "cookie",
    "cardnumber",
    "securitycode",
    "identifiedby"
  ],
  equal: ["auth", "cvc", "cvv", "otp", "pan", "pass", "pin", "pwd", "sessionid", "ssn", "jwt", "bearer"]
}

/**
 * Marks a schema as a secret: every redaction that knows the schema replaces its values.
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

interface Rules {
  readonly fields: SecretNames
  /** As `fields`, plus the last names of paths. */
  readonly words: SecretNames
  readonly names: FieldNames
  readonly candidates: Candidates
  readonly paths: ReadonlyArray<ReadonlyArray<string>>
  /** Whether a whole text is the secret. */
  readonly all: boolean
  readonly values: ReadonlyArray<RegExp>
}

const compile = (options: Options): Rules => {
  const fields = options.fields ?? []
  const texts = fields.filter((field) => typeof field === "string")
  const patterns = fields.filter((field) => field instanceof RegExp).map((field) =>
    new RegExp(field, field.flags.replace(/[gy]/g, ""))
  )
  const marked = (options.schemas ?? []).map(({ ast }) => secretFields(ast))
  const marks = marked.flatMap((each) => each.paths)
  const whole = new Set(texts.filter((word) => !word.includes(".")).map(plain))
  const isUsual = OptionCheck.make("Redaction").oneOf("usual", options.usual ?? "keep", ["keep", "drop"]) === "keep"
  // paths of a recursive schema have no end, so its secrets are found by name
  for (const { paths, recursive } of marked) {
    if (recursive) { for (const path of paths) whole.add(plain(path.findLast((part) => part !== "*") ?? "")) }
  }
  whole.delete("")
  const paths = [...texts.filter((word) => word.includes(".")).map((word) => word.split(".")), ...marks]
    .filter((path) => path.length > 0)
    .map((path) => path.map((part) => part === "*" ? "*" : plain(part)))
  const named = {
    whole,
    patterns,
    last: new Set(isUsual ? usual.equal : []),
    containing: isUsual ? usual.containing : []
  }
  const lasts = paths.map((path) => path.at(-1)!)
  const words = { ...named, whole: new Set([...whole, ...lasts.filter((name) => name !== "*" && name !== "")]) }
  const inJson = secretNames(named)
  // any name may match the end of a path that ends with `*`
  const candidates = lasts.includes("*") ? always : secretCandidates(words, inQuery)
  return {
    fields: inJson,
    words: secretNames(words),
    names: fieldNames(inJson.has, candidates),
    candidates,
    paths,
    all: marks.some((path) => path.length === 0),
    values: (options.values ?? []).map((each) =>
      new RegExp(each, each.flags.includes("g") ? each.flags : `${each.flags}g`)
    )
  }
}

/** A replacement of a part of a text. */
type Edit = readonly [from: number, to: number, by: string]

/** Applies edits, given in any order; an edit inside another one, or overlapping it, is merged into it. */
const edited = (text: string, edits: ReadonlyArray<Edit>): string => {
  const [first, second] = edits
  if (first === undefined) return text
  if (second === undefined) return text.slice(0, first[0]) + first[2] + text.slice(first[1])
  // of two equal edits the later one wins: it is more precise
  const sorted = edits.toReversed().sort(([a, aEnd], [b, bEnd]) => a - b || bEnd - aEnd)
  let out = ""
  let copied = 0
  for (const [from, to, by] of sorted) {
    if (to <= copied) continue
    // the rest of an overlapping edit is removed without another placeholder
    out += from >= copied ? text.slice(copied, from) + by : ""
    copied = to
  }
  return out + text.slice(copied)
}

const keep = (found: Array<string> | undefined, ...secrets: ReadonlyArray<string>): void => {
  for (const each of secrets) if (found !== undefined && each.length >= 3) found.push(each)
}

/** Lists the edits of JSON, up to the first character that is not JSON. */
const editsOfJson = (
  rules: Rules,
  text: string,
  found: Array<string> | undefined
): { readonly edits: Array<Edit>; readonly stopped: Stopped } => {
  const edits: Array<Edit> = []
  const clean = (value: string): string => redact(rules, value, found)
  const { candidates, fields, names, paths } = rules
  const stopped = secretsInJson({ candidates, names, paths, isSecret: fields.has, clean }, text, (from, to, by) => {
    if (by === "secret" && found !== undefined) leavesOf(text.slice(from, to), (leaf) => keep(found, leaf))
    edits.push([from, to, by === "secret" ? `"${placeholder}"` : by.text])
  })
  return { edits, stopped }
}

/** The possible starts of JSON inside a text. */
const embedded = /[{[]\s{0,8}["{[]/g

/** Lists the edits of JSON that starts inside a text. */
const editsOfEmbedded = (rules: Rules, text: string, found: Array<string> | undefined): Array<Edit> => {
  const all: Array<Edit> = []
  embedded.lastIndex = 0
  const begins = embedded.exec(text)?.index
  if (begins === undefined) return all
  for (let at = begins; at < text.length;) {
    const { edits, stopped } = editsOfJson(rules, text.slice(at), found)
    for (const [from, to, by] of edits) all.push([at + from, at + to, by])
    embedded.lastIndex = at + Math.max(stopped.at, 1)
    const next = embedded.exec(text)
    if (next === null) break
    at = next.index
  }
  return all
}

/** Escapes that encode a letter, a digit or a separator, or whose own letter would seem part of the following word. */
const telling = /%|\\[nrtbfu]|&[#c]/i

/** Tells whether a text may hold a secret; a text without secrets costs one pass, and a second one if it has escapes. */
const mayHold = (rules: Rules, text: string): boolean => {
  const verdict = rules.candidates(text)
  if (verdict !== "escapes") return verdict === "candidate"
  if (!telling.test(text)) return false
  const view = unescaped(text)
  return view.isCut || rules.candidates(view.text) === "candidate"
}

/** Each notation of a secret has one of these: most texts are a few words, and have none. */
const trigger = /[=:>"'`%&\\]|eyJ|bearer|basic|(?:^|\s)-/i

const redactText = (rules: Rules, text: string, found: Array<string> | undefined): string => {
  if (!trigger.test(text)) return text
  const edits = editsOfEmbedded(rules, text, found)
  const view = unescaped(text)
  secretsInText(rules.words, view, (from, to, value) => {
    const [start, end] = [view.at(from), view.at(to)]
    edits.push([start, end, placeholder])
    const written = text.slice(start, end)
    keep(found, written, ...(value === written ? [] : [value]))
  })
  // JSON encoded as a whole
  if (view.text !== text && text.includes("%")) {
    for (const [from, to] of editsOfEmbedded(rules, view.text, found)) {
      edits.push([view.at(from), view.at(to), placeholder])
    }
  }
  return edited(text, edits)
}

const redactJson = (rules: Rules, text: string, found: Array<string> | undefined): string => {
  const { edits, stopped } = editsOfJson(rules, text, found)
  if (stopped.at === text.length) return edited(text, edits)
  const last = edits.reduce((most, [, to]) => Math.max(most, to), stopped.lastString)
  return edited(text.slice(0, last), edits) + redactText(rules, text.slice(last), found)
}

const redact = (rules: Rules, text: string, found: Array<string> | undefined): string => {
  if (rules.all) {
    found?.push(text)
    return JSON.stringify(placeholder)
  }
  if (!mayHold(rules, text)) return text
  return isJson(text) ? redactJson(rules, text, found) : redactText(rules, text, found)
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
    isSecret: rules.fields.has,
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
