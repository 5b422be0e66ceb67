/**
 * Finds the position at which a text stops being JSON: JavaScript engines report it in some messages only, and quote the text in
 * others.
 */

type Expected = "value" | "first value" | "key" | "first key" | "colon" | "separator" | "end"

// RFC 8259: numbers and names
const atom = String.raw`-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null`

const hex = /^[\da-fA-F]{4}$/

/**
 * The end of the string that begins at `from`; undefined for an invalid string. A pattern would overflow the stack on a long
 * string.
 */
const endOfString = (source: string, from: number): number | undefined => {
  if (source.charCodeAt(from) !== 34) return undefined
  for (let at = from + 1; at < source.length; at++) {
    const code = source.charCodeAt(at)
    if (code === 34) return at + 1
    if (code < 32) return undefined
    if (code !== 92) continue
    at += 1
    const escape = source[at] ?? ""
    if (escape === "u" && hex.test(source.slice(at + 1, at + 5))) at += 4
    else if (escape === "u" || !`"\\/bfnrt`.includes(escape) || escape === "") return undefined
  }
  return undefined
}

/**
 * The position of the first unexpected token, in characters from 0; the length of the text if it ends too early; undefined for
 * valid JSON.
 */
export const firstError = (source: string): number | undefined => {
  const space = /[ \t\n\r]*/y
  const atoms = new RegExp(atom, "y")
  const open: Array<"]" | "}"> = []
  let expected: Expected = "value"
  let at = 0
  const take = (pattern: RegExp): boolean => {
    pattern.lastIndex = at
    if (!pattern.test(source)) return false
    at = pattern.lastIndex
    return true
  }
  const takeString = (): boolean => {
    const end = endOfString(source, at)
    if (end !== undefined) at = end
    return end !== undefined
  }
  const after = (): Expected => open.length === 0 ? "end" : "separator"
  for (;;) {
    take(space)
    if (expected === "end") return at === source.length ? undefined : at
    const char = source[at]
    if (char === open.at(-1) && (expected === "separator" || expected.startsWith("first"))) {
      open.pop()
      at += 1
      expected = after()
    } else if (expected === "separator") {
      if (char !== ",") return at
      at += 1
      expected = open.at(-1) === "}" ? "key" : "value"
    } else if (expected === "colon") {
      if (char !== ":") return at
      at += 1
      expected = "value"
    } else if (expected === "key" || expected === "first key") {
      if (!takeString()) return at
      expected = "colon"
    } else if (char === "{" || char === "[") {
      open.push(char === "{" ? "}" : "]")
      at += 1
      expected = char === "{" ? "first key" : "first value"
    } else {
      if (!takeString() && !take(atoms)) return at
      expected = after()
    }
  }
}
