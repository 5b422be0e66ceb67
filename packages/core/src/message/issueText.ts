/**
 * The sentences of a schema's issues, without the refused values: a check may write its own sentence, and most write the value
 * into it.
 */
import { SchemaIssue } from "effect"

/** One place that is wrong. */
export interface Place {
  readonly message: string
  readonly path: ReadonlyArray<PropertyKey>
}

/** The refused value, where it is at hand. */
export interface Refused {
  readonly value: unknown
}

/** The sentence in place of one that is not shown. */
const generic = "Expected a valid value"

// no sentence begins so
const mark = "\u0000"

const ownSentence = (issue: SchemaIssue.Issue): string | undefined =>
  issue._tag === "InvalidValue" && typeof issue.annotations?.["message"] === "string"
    ? issue.annotations["message"]
    : undefined

// a schema's own sentences are the same for all values; the answer of a check, and an issue that reports its input, are not
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

/** How many characters in a row a sentence may not share with the value that it is about. */
const shared = 4

/** The most values, and characters of them, that a sentence is compared with; a larger value shows no sentence. */
const most = { values: 10_000, characters: 262_144 }

/** The strings and numbers inside a value, or undefined where there are too many. */
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

/** Whether a sentence repeats some of the value that it is about, or a value beside it. */
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
 * The places that an issue names. A sentence that a check made is shown where the value is at hand and the sentence has nothing of
 * it: no four characters in a row, and no shorter value as a word.
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
