/**
 * What the names of JSON's fields mean, read from a text without a copy of the name: the same few names come with each message.
 */
import { readToken } from "./jsonTokens.ts"
import type { Candidates } from "./secretCandidates.ts"
import { isHolding, naming, plain } from "./secretNames.ts"

/** A name of a field. */
export interface FieldName {
  /** The name as it is written, with its escapes. */
  readonly written: string
  readonly name: string
  readonly isSecret: boolean
  /** Whether the name itself may hold a secret: a query, or a URL. */
  readonly mayHold: boolean
  /** Whether the field holds the value, or the name, of another one: `{"name":"password","value":"x"}`. */
  readonly role: "holding" | "naming" | "none"
}

/** Tells of the name that stands in a text from `from` to `to`, without its quotes. */
export interface FieldNames {
  (text: string, from: number, to: number): FieldName
}

/** The longest name that is kept. */
const longest = 64

/** How many names are kept: each has one place, and a name that comes later takes it over. */
const places = 1024

/** The place of a name, by FNV-1a. */
const placeOf = (text: string, from: number, to: number): number => {
  let hash = 0x811c9dc5
  for (let i = from; i < to; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return (hash ^ hash >>> 15) & (places - 1)
}

/** Reads names of fields; `isSecret` and `candidates` decide of each once, while it is kept. */
export const fieldNames = (isSecret: (name: string) => boolean, candidates: Candidates): FieldNames => {
  const kept: Array<FieldName | undefined> = new Array<undefined>(places).fill(undefined)
  const read = (written: string): FieldName => {
    const name = written.includes("\\") ? readToken(`"${written}"`) ?? written : written
    const bare = plain(name)
    const role = isHolding(bare) ? "holding" : naming.has(bare) ? "naming" : "none"
    return { written, name, isSecret: isSecret(name), mayHold: candidates(written) !== "none", role }
  }
  return (text, from, to) => {
    if (to - from > longest) return read(text.slice(from, to))
    const place = placeOf(text, from, to)
    const known = kept[place]
    if (known !== undefined && known.written.length === to - from && text.startsWith(known.written, from)) return known
    // V8 keeps a whole text alive for a part of it: the part is copied first
    const made = read(` ${text.slice(from, to)}`.slice(1))
    kept[place] = made
    return made
  }
}
