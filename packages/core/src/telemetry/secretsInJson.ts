/**
 * Finds secrets in JSON that may be cut anywhere: after names, on paths, in pairs of a name and a value, and inside strings. One
 * pass over any text.
 */
import type { FieldName, FieldNames } from "./fieldNames.ts"
import { endOfString, endOfValue, isClosed, isSpace, literal, quote, readToken, skipSpace } from "./jsonTokens.ts"
import type { Candidates } from "./secretCandidates.ts"
import { isName, plain } from "./secretNames.ts"

/** The rules of a search. */
export interface Rules {
  readonly names: FieldNames
  /** Tells whether a field of this name is a secret. */
  readonly isSecret: (name: string) => boolean
  /** Tells whether a text between two quotes may hold a secret. */
  readonly candidates: Candidates
  /** Paths from the root, in small letters and digits; `*` is any one name. */
  readonly paths: ReadonlyArray<ReadonlyArray<string>>
  /** Replaces the secrets of a text. */
  readonly clean: (text: string) => string
}

/** Receives the place of a value, and its replacement; `secret` means the value as a whole. */
export interface Replaces {
  (from: number, to: number, by: "secret" | { readonly text: string }): void
}

/** The end of JSON in a text: its end, or a character that JSON cannot hold. */
export interface Stopped {
  readonly at: number
  /** The start of the last string before, which may be the name of the next value. */
  readonly lastString: number
}

interface Frame {
  readonly isArray: boolean
  readonly start: number
  /** In an object, the current field. */
  name: string
  role: FieldName["role"]
  /** Whether a secret was just named: in an array by the previous element, in an object by the value of a field like `name`. */
  isNamed: boolean
  /** Places of the values of fields like `value`, which may precede the name. */
  values: Array<readonly [number, number]> | undefined
}

/** The deepest tracked nesting; below it only names are checked: frames would take more memory than the text. */
const deepest = 1000

class Walk {
  private readonly rules: Rules
  private readonly text: string
  private readonly replaces: Replaces
  private readonly frames: Array<Frame> = []
  /** The frames of the open objects. */
  private readonly names: Array<Frame> = []
  private beyond = 0
  private readonly longestPath: number

  constructor(rules: Rules, text: string, replaces: Replaces) {
    this.rules = rules
    this.text = text
    this.replaces = replaces
    this.longestPath = rules.paths.reduce((most, path) => Math.max(most, path.length), 0)
  }

  run(): Stopped {
    const { text } = this
    let i = 0
    let lastString = 0
    while (i < text.length) {
      const code = text.charCodeAt(i)
      if (code === quote) {
        lastString = i
        const end = endOfString(text, i)
        const next = skipSpace(text, end)
        i = text.charCodeAt(next) === 58 ? this.field(i, end, next) : this.string(i, end)
      } else if (code === 123 || code === 91) {
        i = this.open(i, code === 91)
      } else if (code === 125 || code === 93) {
        i++
        this.close(i)
      } else if (code === 44 || code === 58 || isSpace(code)) {
        i++
      } else {
        literal.lastIndex = i
        if (!literal.test(text)) return { at: i, lastString }
        i = this.element(i, literal.lastIndex)
      }
    }
    return { at: text.length, lastString: text.length }
  }

  // in JSON a string before a colon is the name of a field, so names are found without a grammar
  private field(from: number, end: number, colon: number): number {
    const { rules, text } = this
    const { isSecret, mayHold, name, role } = rules.names(text, from + 1, end - 1)
    const frame = this.beyond === 0 ? this.frames.at(-1) : undefined
    if (frame !== undefined) {
      frame.name = name
      frame.role = role
    }
    const begin = skipSpace(text, colon + 1)
    if (isSecret || (rules.paths.length > 0 && this.isOnPath(name))) return this.secret(begin)
    if (mayHold) this.inside(from, end)
    if (frame === undefined || frame.isArray) return begin
    if (role === "holding") {
      if (frame.isNamed) return this.secret(begin)
      const first = text.charCodeAt(begin)
      // the end of a list or an object is known when it is closed
      if (first !== 123 && first !== 91) (frame.values ??= []).push([begin, endOfValue(text, begin)])
    } else if (role === "naming" && text.charCodeAt(begin) === quote && this.isNameAt(begin)) this.name(frame)
    return begin
  }

  private isNameAt(from: number): boolean {
    const { text } = this
    const end = endOfString(text, from)
    if (end - from > 100 || this.rules.candidates(text, from + 1, end - 1) === "none") return false
    const value = readToken(text.slice(from, end))
    return value !== undefined && isName(value) && this.rules.isSecret(value)
  }

  /** Marks an object as naming a secret, and reports the values before the name. */
  private name(frame: Frame): void {
    frame.isNamed = true
    for (const [from, to] of frame.values ?? []) this.replaces(from, to, "secret")
    frame.values = undefined
  }

  /** Handles a string that is a value. */
  private string(from: number, end: number): number {
    const frame = this.beyond === 0 ? this.frames.at(-1) : undefined
    if (frame?.isArray === true) {
      if (frame.isNamed) {
        frame.isNamed = false
        return this.secret(from)
      }
      frame.isNamed = this.isNameAt(from)
    }
    this.inside(from, end)
    return end
  }

  /** Handles an array element that is neither a string nor a container. */
  private element(from: number, end: number): number {
    const frame = this.beyond === 0 ? this.frames.at(-1) : undefined
    if (frame?.isArray === true && frame.isNamed) {
      frame.isNamed = false
      return this.secret(from)
    }
    return end
  }

  private open(i: number, isArray: boolean): number {
    const parent = this.frames.at(-1)
    if (this.beyond > 0 || this.frames.length >= deepest) {
      this.beyond++
      return i + 1
    }
    if (parent?.isArray === true && parent.isNamed) {
      parent.isNamed = false
      return this.secret(i)
    }
    const frame: Frame = { isArray, start: i, name: "", role: "none", isNamed: false, values: undefined }
    this.frames.push(frame)
    if (!isArray) this.names.push(frame)
    return i + 1
  }

  private close(end: number): void {
    if (this.beyond > 0) {
      this.beyond--
      return
    }
    const frame = this.frames.pop()
    if (frame === undefined) return
    if (!frame.isArray) this.names.pop()
    const parent = this.frames.at(-1)
    if (parent !== undefined && !parent.isArray && !parent.isNamed && parent.role === "holding") {
      ;(parent.values ??= []).push([frame.start, end])
    }
  }

  private isOnPath(name: string): boolean {
    const { names } = this
    if (names.length > this.longestPath) return false
    return this.rules.paths.some((path) =>
      path.length === names.length &&
      path.every((part, i) => part === "*" || part === plain(i === names.length - 1 ? name : names[i]!.name))
    )
  }

  private secret(from: number): number {
    const to = endOfValue(this.text, from)
    if (to > from) this.replaces(from, to, "secret")
    return to
  }

  /** Cleans the text of a string, which may hold secrets, too: JSON, a URL, a form. */
  private inside(from: number, to: number): void {
    if (to - from < 5 || this.rules.candidates(this.text, from + 1, to) === "none") return
    const token = this.text.slice(from, to)
    const isPlain = !token.includes("\\")
    const value = isPlain ? token.slice(1, isClosed(token) ? -1 : undefined) : readToken(token)
    if (value === undefined) return
    const clean = this.rules.clean(value)
    if (clean === value) return
    const written = JSON.stringify(clean)
    this.replaces(from, to, { text: isClosed(token) ? written : written.slice(0, -1) })
  }
}

/** Reports each value to replace, in any order. */
export const secretsInJson = (rules: Rules, text: string, replaces: Replaces): Stopped =>
  new Walk(rules, text, replaces).run()
