/**
 * A text without its escapes, with the original place of each character: one search finds `password=`, `password%3D` and
 * `\"password\":`, however deeply texts are nested in each other.
 */

/** A text without escapes. */
export interface Unescaped {
  readonly text: string
  /** Returns the place of a character, or of the end, in the text with escapes. */
  readonly at: (index: number) => number
  /**
   * Returns how often a character was escaped: a bare quote 0, `\"` 1, `\\\"` 2, `%22` 1, `%2522` 2. A quote opened at one
   * level is closed at that level or below.
   */
  readonly level: (index: number) => number
  /** Whether escapes are left, nested deeper than the limit. */
  readonly isCut: boolean
}

// a run of backslashes matches as a whole, or a long run would be scanned from each of its places
const escape =
  /%(?:25){0,8}[\da-f]{2}|\\+(?:u[\da-f]{4}|["'`/nrtbf])?|&(?:quot|apos|amp|lt|gt|equals|colon|#\d{2,3}|#x[\da-f]{2});/gi

const named: Readonly<Record<string, string>> = {
  amp: "&",
  apos: "'",
  colon: ":",
  equals: "=",
  gt: ">",
  lt: "<",
  quot: "\""
}

const controls: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t", b: "\b", f: "\f" }

/** Returns the level of a quote after this many backslashes: each escape doubles them and adds one. */
const quoteLevel = (backslashes: number): number => {
  let level = 0
  for (let left = backslashes; left % 2 === 1; left = (left - 1) / 2) level++
  return level
}

const read = (token: string): readonly [char: string, level: number] => {
  const first = token[0]
  if (first === "%") {
    return [String.fromCharCode(Number.parseInt(token.slice(-2), 16)), (token.length - 3) / 2 + 1]
  }
  if (first === "&") {
    const name = token.slice(1, -1).toLowerCase()
    const code = name.startsWith("#x") ? Number.parseInt(name.slice(2), 16) : Number(name.slice(1))
    // the separator between two parameters is not part of a value
    return name === "amp" ? ["&", 0] : [named[name] ?? String.fromCharCode(code), 1]
  }
  const backslashes = token.lastIndexOf("\\") + 1
  const rest = token.slice(backslashes)
  if (rest.length > 1) {
    return [String.fromCharCode(Number.parseInt(rest.slice(1), 16)), Math.floor(Math.log2(backslashes)) + 1]
  }
  return [
    controls[rest] ?? rest,
    controls[rest] === undefined ? quoteLevel(backslashes) : Math.floor(Math.log2(backslashes)) + 1
  ]
}

const zero = (): number => 0
const same = (index: number): number => index

/** The most kinds of escapes nested in each other, e.g. an entity in a URL. */
const mostPasses = 4

/** Removes the escapes of a text, in one pass for each nested kind. */
export const unescaped = (text: string): Unescaped => {
  let view = once(text)
  for (let passes = 1; passes < mostPasses; passes++) {
    const outer = view
    const inner = once(outer.text)
    if (inner.text === outer.text) return view
    view = {
      text: inner.text,
      at: (index) => outer.at(inner.at(index)),
      level: (index) => outer.level(inner.at(index)) + inner.level(index),
      isCut: false
    }
  }
  return { ...view, isCut: true }
}

const once = (text: string): Unescaped => {
  if (!/[%\\&]/.test(text)) return { text, at: same, level: zero, isCut: false }
  const found: Array<readonly [from: number, to: number, char: string, level: number]> = []
  escape.lastIndex = 0
  for (let match = escape.exec(text); match !== null; match = escape.exec(text)) {
    if (match[0].endsWith("\\")) continue
    found.push([match.index, match.index + match[0].length, ...read(match[0])])
  }
  if (found.length === 0) return { text, at: same, level: zero, isCut: false }
  const starts = new Uint32Array(text.length + 1)
  const levels = new Uint8Array(text.length + 1)
  let out = ""
  let size = 0
  let from = 0
  const copy = (to: number): void => {
    out += text.slice(from, to)
    for (let i = from; i < to; i++) starts[size++] = i
  }
  for (const [start, end, char, level] of found) {
    copy(start)
    out += char
    levels[size] = level
    starts[size++] = start
    from = end
  }
  copy(text.length)
  starts[size] = text.length
  return { text: out, at: (index) => starts[index]!, level: (index) => levels[index]!, isCut: false }
}
