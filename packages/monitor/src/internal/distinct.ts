/**
 * Estimates how many different texts were seen, by HyperLogLog: at most 256 bytes, with a standard error of 6.5 %. Up to 32
 * texts are counted exactly.
 *
 * Source: Flajolet, Fusy, Gandouet, Meunier: HyperLogLog, the analysis of a near-optimal cardinality estimation algorithm, 2007.
 */
import { hash32 } from "./text.ts"

const registers = 256
const exact = 32
const alpha = 0.7213 / (1 + 1.079 / registers)

/** The hashes of up to 32 texts, or the registers for more. */
export interface Distinct {
  few: Array<number>
  many: Uint8Array | undefined
}

/** Makes an estimate of nothing. */
export const empty = (): Distinct => ({ few: [], many: undefined })

const rank = (into: Uint8Array, hash: number): void => {
  const at = hash >>> 24
  // the position of the first 1 among the lower 24 bits
  const zeros = Math.min(Math.clz32((hash << 8) >>> 0), 24) + 1
  if (into[at]! < zeros) into[at] = zeros
}

const addHash = (distinct: Distinct, hash: number): void => {
  if (distinct.many !== undefined) return rank(distinct.many, hash)
  if (distinct.few.includes(hash)) return
  if (distinct.few.length < exact) return void distinct.few.push(hash)
  distinct.many = new Uint8Array(registers)
  for (const each of distinct.few) rank(distinct.many, each)
  distinct.few = []
  rank(distinct.many, hash)
}

/** Adds a text, of which only a hash of 32 bits is kept. */
export const add = (distinct: Distinct, text: string): void => addHash(distinct, hash32(text, 0x5bd1e995))

/** Adds all texts of another estimate. */
export const merge = (into: Distinct, from: Distinct): void => {
  for (const hash of from.few) addHash(into, hash)
  if (from.many === undefined) return
  if (into.many === undefined) {
    const few = into.few
    into.many = from.many.slice()
    into.few = []
    for (const hash of few) rank(into.many, hash)
    return
  }
  for (let i = 0; i < registers; i++) if (into.many[i]! < from.many[i]!) into.many[i] = from.many[i]!
}

/** Returns the estimated number. */
export const count = ({ few, many }: Distinct): number => {
  if (many === undefined) return few.length
  let sum = 0
  let zeros = 0
  for (const each of many) {
    sum += 2 ** -each
    if (each === 0) zeros += 1
  }
  const raw = alpha * registers * registers / sum
  if (raw <= 2.5 * registers && zeros > 0) return Math.round(registers * Math.log(registers / zeros))
  // 32 bits repeat among very many texts
  return Math.round(raw <= 2 ** 32 / 30 ? raw : -(2 ** 32) * Math.log(1 - raw / 2 ** 32))
}

/** Copies an estimate. */
export const copy = ({ few, many }: Distinct): Distinct => ({ few: few.slice(), many: many?.slice() })

/** Turns an estimate into JSON: the hashes, or the registers as text. */
export const encode = ({ few, many }: Distinct): ReadonlyArray<number> | string =>
  many === undefined ? few : Array.from(many, (each) => each.toString(36)).join("")

/** Turns JSON into an estimate. */
export const decode = (json: ReadonlyArray<number> | string): Distinct =>
  typeof json === "string"
    ? { few: [], many: Uint8Array.from(json, (each) => parseInt(each, 36)) }
    : { few: json.slice(0, exact), many: undefined }
