/**
 * Packs a group of rows for the thread: numbers in one buffer that is transferred, long texts as one string, repeated words
 * once. Cloning the rows one by one costs the event loop five times as much.
 */
import type { Audit } from "@millrace/core"
import type { Value } from "./columns.ts"

/** A group of rows. */
export interface Batch {
  /** `width` numbers for each row; NaN is null, and a text is its length or its index in `words`. */
  readonly numbers: Float64Array<ArrayBuffer>
  readonly text: string
  readonly words: ReadonlyArray<string>
}

const width = 14

/** Packs entries; `unpack` reads the numbers in the same order. */
export const pack = (entries: ReadonlyArray<Audit.Entry>): Batch => {
  const numbers = new Float64Array(entries.length * width)
  const words: Array<string> = []
  const places = new Map<string, number>()
  let text = ""
  const word = (value: string | undefined): number => {
    if (value === undefined) return Number.NaN
    let place = places.get(value)
    if (place === undefined) {
      place = words.push(value) - 1
      places.set(value, place)
    }
    return place
  }
  const long = (value: string | undefined): number => {
    if (value === undefined) return Number.NaN
    text += value
    return value.length
  }
  let at = 0
  for (const entry of entries) {
    numbers[at++] = word(entry.kind)
    numbers[at++] = word(entry.channel)
    numbers[at++] = entry.partition ?? Number.NaN
    numbers[at++] = entry.position ?? Number.NaN
    numbers[at++] = long(entry.key)
    numbers[at++] = long(entry.body)
    numbers[at++] = word(entry.handler)
    numbers[at++] = entry.attempt ?? Number.NaN
    numbers[at++] = entry.startedAt
    numbers[at++] = entry.completedAt
    numbers[at++] = entry.duration
    numbers[at++] = word(entry.status)
    numbers[at++] = word(entry.errorTag)
    numbers[at++] = long(entry.errorMessage)
  }
  return { numbers, text, words }
}

/** The kinds of a row's numbers, in the order of `columns`. */
const shape = [
  "word",
  "word",
  "number",
  "number",
  "long",
  "long",
  "word",
  "number",
  "number",
  "number",
  "number",
  "word",
  "word",
  "long"
] as const

/** The values of all rows, one row after the other, in the order of `columns`. */
export const unpack = ({ numbers, text, words }: Batch): Array<Value> => {
  const values = new Array<Value>(numbers.length)
  let from = 0
  for (let at = 0; at < numbers.length; at++) {
    const number = numbers[at]!
    if (Number.isNaN(number)) values[at] = null
    else {
      switch (shape[at % width]) {
        case "word":
          values[at] = words[number]!
          break
        case "long":
          values[at] = text.slice(from, from += number)
          break
        default:
          values[at] = number
      }
    }
  }
  return values
}
