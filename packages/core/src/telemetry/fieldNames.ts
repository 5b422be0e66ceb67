/**
 * The meaning of JSON field names, read from a text without copying the name: the same few names recur in each message.
 */
import { readToken } from "./jsonTokens.ts"
import type { Candidates } from "./secretCandidates.ts"
import { isHolding, naming, plain } from "./secretNames.ts"

/** A name of a field. */
export interface FieldName {
  /** The name as written, with its escapes. */
  readonly written: string
  readonly name: string
  readonly isSecret: boolean
  /** Whether the name itself may hold a secret: a query, or a URL. */
  readonly mayHold: boolean
  /** Whether the field holds the value, or the name, of another field: `{"name":"password","value":"x"}`. */
  readonly role: "holding" | "naming" | "none"
}

/** Reads the name that spans a text from `from` to `to`, without its quotes. */
export interface FieldNames {
  (text: string, from: number, to: number): FieldName
}

/** The longest cached name. */
const longest = 64

/** The size of the cache: each name has one place, and a later name with the same place replaces it. */
const places = 1024

/** Returns the cache place of a name, by FNV-1a. */
const placeOf = (text: string, from: number, to: number): number => {
  let hash = 0x811c9dc5
  for (let i = from; i < to; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return (hash ^ hash >>> 15) & (places - 1)
}

/** Makes the reader of field names; it asks `isSecret` and `candidates` once for each cached name. */
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
    // V8 keeps a whole text alive for a slice of it: copy the slice first
    const made = read(` ${text.slice(from, to)}`.slice(1))
    kept[place] = made
    return made
  }
}
