/**
 * Decides in one pass whether a text can hold a secret: an automaton (Aho and Corasick, 1975) reads the letters and digits of
 * the text and skips all other characters, so that `api key`, `API_KEY` and `apikey` are the same. A text without a candidate
 * has no secret; a text with one is searched.
 */
import type { Named } from "./secretNames.ts"
import { endOfUser } from "./textParts.ts"

/** `none`: no secret. `escapes`: no secret as written, but the text has characters that begin an escape. `candidate`: maybe. */
export type Verdict = "none" | "escapes" | "candidate"

/** Tells whether a text, or its part from `from` to `to`, may hold a secret. */
export interface Candidates {
  (text: string, from?: number, to?: number): Verdict
}

/** Forms of secrets that need no name before them: HTTP credentials, JSON web tokens and private keys. */
const forms = ["bearer", "basic", "eyj", "privatekey"]

/** Letters and digits from 1 on; 0 for all other characters, which the automaton skips. */
const classes = new Uint8Array(128)
for (let i = 0; i < 10; i++) classes[48 + i] = 27 + i
for (let i = 0; i < 26; i++) classes[65 + i] = classes[97 + i] = 1 + i
const width = 37

/** Returns the class of a character beyond ASCII: two such characters are `i` and `k` in small letters. */
const beyond = (code: number): number => code === 0x130 ? 9 : code === 0x212a ? 11 : 0

const classOf = (code: number): number => code < 128 ? classes[code]! : beyond(code)

const percent = 37
const ampersand = 38
const colon = 58
const commercialAt = 64
const backslash = 92

const isLower = (code: number): boolean => code >= 97 && code <= 122
const isLetter = (code: number): boolean => isLower(code | 32)

/** The places in which a name counts: anywhere, as words of its own, or as a parameter of a URL. */
type Kind = "anywhere" | "words" | "parameter"

/** A name that ends at a state of the automaton. */
interface End {
  readonly kind: Kind
  readonly length: number
}

/** Finds the first of the last `length` letters and digits before `end`. */
const startOf = (text: string, end: number, length: number): number => {
  let at = end
  for (let left = length; left > 0;) if (classOf(text.charCodeAt(--at)) !== 0) left--
  return at
}

/** Tells whether the name is a word: `pin` is one in `card_pin`, `cardPin` and `PIN`, not in `spin`, `pins` and `pinned`. */
const isWord = (text: string, start: number, end: number): boolean =>
  classOf(text.charCodeAt(end)) === 0 && !(isLower(text.charCodeAt(start)) && isLetter(text.charCodeAt(start - 1)))

/** Tells whether `?`, `&`, `#` or an entity of `&` precedes the name, with only punctuation between them. */
const isParameter = (text: string, start: number, end: number): boolean => {
  if (classOf(text.charCodeAt(end)) !== 0) return false
  let at = start
  while (at > 0 && "$-.@[]_".includes(text[at - 1]!)) at--
  return at > 0 && "?&#;".includes(text[at - 1]!)
}

const holds = (text: string, end: number, ends: ReadonlyArray<End>): boolean => {
  for (const { kind, length } of ends) {
    if (kind === "anywhere") return true
    const start = startOf(text, end, length)
    if (kind === "words" ? isWord(text, start, end) : isParameter(text, start, end)) return true
  }
  return false
}

class Automaton {
  /** The next state by the sum of the state and the character's class; a state is the index of its row. */
  private readonly next: Array<number> = new Array<number>(width).fill(0)
  private readonly ends: Array<Array<End>> = [[]]

  add(name: string, kind: Kind): void {
    let state = 0
    let length = 0
    for (let i = 0; i < name.length; i++) {
      const at = classOf(name.charCodeAt(i))
      if (at === 0) continue
      length++
      if (this.next[state + at] === 0) {
        this.next[state + at] = this.next.length
        this.ends.push([])
        for (let n = 0; n < width; n++) this.next.push(0)
      }
      state = this.next[state + at]!
    }
    this.ends[state / width]!.push({ kind, length })
  }

  /** Fills each row: a character that continues no name leads to the longest name that ends with the characters before it. */
  compile(): Candidates {
    const next = Int32Array.from(this.next)
    const { ends } = this
    const shorter = new Int32Array(ends.length)
    const queue: Array<number> = []
    for (let at = 1; at < width; at++) if (next[at] !== 0) queue.push(next[at]!)
    for (let i = 0; i < queue.length; i++) {
      const state = queue[i]!
      const suffix = shorter[state / width]!
      ends[state / width]!.push(...ends[suffix / width]!)
      for (let at = 1; at < width; at++) {
        const to = next[state + at]!
        if (to === 0) next[state + at] = next[suffix + at]!
        else {
          shorter[to / width] = next[suffix + at]!
          queue.push(to)
        }
      }
    }
    // a state at which a name ends is stored as its complement: one load for each character
    for (let at = 0; at < next.length; at++) {
      const to = next[at]!
      if (ends[to / width]!.length > 0) next[at] = ~to
    }
    return (text, from = 0, to = text.length) => {
      let state = 0
      let hasEscapes = false
      // the start of the last URL's authority
      let authority = -1
      for (let i = from; i < to; i++) {
        const code = text.charCodeAt(i)
        const letter = code < 128 ? classes[code]! : beyond(code)
        if (letter === 0) {
          if (code === colon && text.startsWith("//", i + 1)) authority = i + 3
          else if (code === commercialAt && authority !== -1) {
            if (endOfUser(text, authority) !== -1) return "candidate"
            authority = -1
          } else if (code === percent || code === ampersand || code === backslash) hasEscapes = true
          continue
        }
        state = next[state + letter]!
        if (state < 0) {
          state = ~state
          if (holds(text, i + 1, ends[state / width]!)) return "candidate"
        }
      }
      return hasEscapes ? "escapes" : "none"
    }
  }
}

/** Accepts each text as a candidate. */
export const always: Candidates = () => "candidate"

/** Compiles the names; `parameters` are names in a URL's query. If the names include patterns, each text is a candidate. */
export const secretCandidates = (named: Named, parameters: Iterable<string>): Candidates => {
  const { containing, last, patterns, whole } = named
  const names = [...containing, ...last, ...whole]
  // a name in another script has no letters that the automaton reads
  if (patterns.length > 0 || names.some((name) => !/[a-z0-9]/i.test(name))) return always
  const automaton = new Automaton()
  for (const name of [...forms, ...containing]) automaton.add(name, "anywhere")
  for (const name of [...last, ...whole]) automaton.add(name, "words")
  for (const name of parameters) automaton.add(name, "parameter")
  automaton.add("signature", "anywhere")
  return automaton.compile()
}
