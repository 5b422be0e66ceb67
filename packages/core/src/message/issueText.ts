/**
 * The messages of a schema's issues, without the refused values: a check may write its own sentence, and most such sentences
 * contain the value.
 */
import { SchemaIssue } from "effect"

/** One invalid place. */
export interface Place {
  readonly message: string
  readonly path: ReadonlyArray<PropertyKey>
}

/** The refused value, if it is available. */
export interface Refused {
  readonly value: unknown
}

/** The sentence shown instead of a hidden one. */
const generic = "Expected a valid value"

// no sentence begins with this character
const mark = "\u0000"

const ownSentence = (issue: SchemaIssue.Issue): string | undefined =>
  issue._tag === "InvalidValue" && typeof issue.annotations?.["message"] === "string"
    ? issue.annotations["message"]
    : undefined

// a schema's own sentences do not depend on the value; a check's sentence, and an issue that reports its input, may
const standard = SchemaIssue.makeFormatterStandardSchemaV1({
  leafHook: (issue) => {
    const text = SchemaIssue.defaultLeafHook(issue)
    return ownSentence(issue) === undefined && !SchemaIssue.hasInput(issue) ? text : mark + text
  },
  checkHook: (issue) => {
    const { message } = issue.filter.annotations ?? {}
    if (typeof message === "string") return message
    const own = ownSentence(issue.issue)
    if (own !== undefined) return mark + own
    return SchemaIssue.hasInput(issue) ? mark : SchemaIssue.defaultCheckHook(issue)
  }
})

/** The number of consecutive characters that a sentence may not share with the value it describes. */
const shared = 4

/** The most values, and characters, compared with a sentence; for a larger value no sentence is shown. */
const most = { values: 10_000, characters: 262_144 }

/** Lists the strings and numbers inside a value, or undefined if there are too many. */
const leavesOf = (value: unknown): ReadonlyArray<string> | undefined => {
  const leaves: Array<string> = []
  const waiting: Array<unknown> = [value]
  let characters = 0
  while (waiting.length > 0) {
    const next = waiting.pop()
    if (typeof next === "object" && next !== null) {
      for (const key of Object.keys(next)) waiting.push(Reflect.get(next, key))
    } else if (typeof next === "string" || typeof next === "number" || typeof next === "bigint") {
      const text = String(next).toLowerCase()
      characters += text.length
      leaves.push(text)
    }
    if (waiting.length > most.values || leaves.length > most.values || characters > most.characters) return undefined
  }
  return leaves
}

const partsOf = (sentence: string): ReadonlySet<string> => {
  const parts = new Set<string>()
  for (let i = 0; i + shared <= sentence.length; i++) parts.add(sentence.slice(i, i + shared))
  return parts
}

const at = (value: unknown, path: ReadonlyArray<PropertyKey>): unknown => {
  let found = value
  for (const key of path) {
    if (typeof found !== "object" || found === null || !Object.hasOwn(found, key)) return value
    found = Reflect.get(found, key)
  }
  return found
}

/** Tells whether a sentence repeats a part of the value it describes, or a value beside it. */
const repeats = (sentence: string, path: ReadonlyArray<PropertyKey>, { value }: Refused): boolean => {
  const all = leavesOf(value)
  const own = leavesOf(at(value, path))
  if (all === undefined || own === undefined) return true
  const text = sentence.toLowerCase()
  const words = new Set(text.split(/[^\p{L}\p{N}]+/u))
  const parts = partsOf(text)
  return all.some((leaf) => leaf.length >= shared && text.includes(leaf)) || own.some((leaf) => {
    if (leaf.length < shared) return words.has(leaf)
    for (let i = 0; i + shared <= leaf.length; i++) if (parts.has(leaf.slice(i, i + shared))) return true
    return false
  })
}

/** The longest sentence of a check that is shown, in characters. */
const longest = 512

/**
 * Lists the invalid places of an issue. A check's own sentence is shown only if the value is available and the sentence contains
 * nothing of it: no four characters in a row, and no shorter value as a word.
 */
export const issueText = (issue: SchemaIssue.Issue, refused?: Refused): ReadonlyArray<Place> =>
  standard(issue).issues.map(({ message, path = [] }) => {
    const keys = path.map((part) => typeof part === "object" ? part.key : part)
    if (!message.startsWith(mark)) return { message, path: keys }
    const sentence = message.slice(mark.length)
    const isShown = sentence !== "" && sentence.length <= longest && refused !== undefined &&
      !repeats(sentence, keys, refused)
    return { message: isShown ? sentence : generic, path: keys }
  })
