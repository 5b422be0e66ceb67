/**
 * Where a text stops being JSON: engines tell it in some messages only, and quote the text in others.
 */

type Expected = "value" | "first value" | "key" | "first key" | "colon" | "separator" | "end"

// RFC 8259: strings, numbers and names
const atom = String.raw`-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null`
const text = String.raw`"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"`

/** The position, in characters from 0, of the first token that cannot stand there; the length where the text ends too early. */
export const firstError = (source: string): number | undefined => {
  const space = /[ \t\n\r]*/y
  const atoms = new RegExp(`${text}|${atom}`, "y")
  const keys = new RegExp(text, "y")
  const open: Array<"]" | "}"> = []
  let expected: Expected = "value"
  let at = 0
  const take = (pattern: RegExp): boolean => {
    pattern.lastIndex = at
    if (!pattern.test(source)) return false
    at = pattern.lastIndex
    return true
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
      if (!take(keys)) return at
      expected = "colon"
    } else if (char === "{" || char === "[") {
      open.push(char === "{" ? "}" : "]")
      at += 1
      expected = char === "{" ? "first key" : "first value"
    } else {
      if (!take(atoms)) return at
      expected = after()
    }
  }
}
