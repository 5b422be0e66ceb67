/**
 * Encodes the ranges settled beyond a committed offset as text for the offset's metadata: `millrace1 OFFSET CODING DATA`.
 *
 * `r`: variable-length numbers, alternately the count of unsettled and of settled offsets; `b`: one bit for each offset. The
 * shorter coding is written, at most 3 KiB of Kafka's 4 (`offset.metadata.max.bytes`); if neither fits, the one that covers
 * more. Texts for another offset, of another version or by another program are ignored.
 */
import type { Driver } from "@millrace/core"

type Ranges = ReadonlyArray<Driver.Range>

const version = "millrace1"
const most = 3072
// base64 has 4 characters for 3 bytes; the version, the offset and the coding precede the data
const mostBytes = Math.floor((most - 32) * 3 / 4)

/** Sorts ranges, drops those below an offset, and joins those that touch. */
export const merge = (offset: number, ...lists: ReadonlyArray<Ranges>): Ranges => {
  const sorted = lists.flat().filter(({ to }) => to > offset).toSorted((a, b) => a.from - b.from)
  const merged: Array<{ from: number; to: number }> = []
  for (const { from, to } of sorted) {
    const last = merged.at(-1)
    if (last !== undefined && from <= last.to) last.to = Math.max(last.to, to)
    else merged.push({ from: Math.max(from, offset), to })
  }
  return merged
}

/** Appends a number, seven bits to a byte. */
const append = (into: Array<number>, value: number): void => {
  for (let left = value; left >= 0; left = Math.floor(left / 128) || -1) {
    into.push(left >= 128 ? left % 128 + 128 : left)
  }
}

interface Coded {
  readonly bytes: Uint8Array
  /** The number of settled offsets in `bytes`. */
  readonly covered: number
}

const byRuns = (offset: number, ranges: Ranges): Coded => {
  const bytes: Array<number> = []
  let covered = 0
  let at = offset
  for (const { from, to } of ranges) {
    const pair: Array<number> = []
    append(pair, from - at)
    append(pair, to - from)
    if (bytes.length + pair.length > mostBytes) break
    bytes.push(...pair)
    covered += to - from
    at = to
  }
  return { bytes: Uint8Array.from(bytes), covered }
}

const byBits = (offset: number, ranges: Ranges): Coded => {
  const end = Math.min(offset + mostBytes * 8, ranges.at(-1)?.to ?? offset)
  const bytes = new Uint8Array(Math.ceil((end - offset) / 8))
  let covered = 0
  for (const { from, to } of ranges) {
    for (let at = from; at < Math.min(to, end); at++) {
      bytes[(at - offset) >> 3]! |= 1 << ((at - offset) & 7)
      covered++
    }
  }
  return { bytes, covered }
}

/** Encodes an offset and the ranges settled beyond it, as `merge` returns them; null if there are none. */
export const encode = (offset: number, ranges: Ranges): string | null => {
  if (ranges.length === 0) return null
  const [runs, bits] = [byRuns(offset, ranges), byBits(offset, ranges)]
  const isByRuns = runs.covered === bits.covered
    ? runs.bytes.length <= bits.bytes.length
    : runs.covered > bits.covered
  const { bytes } = isByRuns ? runs : bits
  return `${version} ${offset.toString(36)} ${isByRuns ? "r" : "b"} ${Buffer.from(bytes).toString("base64url")}`
}

const ofRuns = (offset: number, bytes: Uint8Array): Ranges | undefined => {
  const ranges: Array<Driver.Range> = []
  let at = offset
  let value = 0
  let scale = 1
  let gap: number | undefined
  for (const byte of bytes) {
    value += (byte & 127) * scale
    scale *= 128
    if (byte >= 128) continue
    if (gap === undefined) gap = value
    else {
      const from = at + gap
      at = from + value
      if (value === 0 || !Number.isSafeInteger(at)) return undefined
      ranges.push({ from, to: at })
      gap = undefined
    }
    value = 0
    scale = 1
  }
  return gap === undefined && scale === 1 ? ranges : undefined
}

const ofBits = (offset: number, bytes: Uint8Array): Ranges => {
  const ranges: Array<Driver.Range> = []
  let from: number | undefined
  for (let i = 0; i <= bytes.length * 8; i++) {
    const isSettled = ((bytes[i >> 3] ?? 0) >> (i & 7) & 1) === 1
    if (isSettled) from ??= offset + i
    else if (from !== undefined) {
      ranges.push({ from, to: offset + i })
      from = undefined
    }
  }
  return ranges
}

const shape = /^millrace1 ([0-9a-z]+) ([rb]) ([A-Za-z0-9_-]*)$/

/** Decodes the ranges settled beyond an offset from the committed metadata; empty if the metadata is not readable. */
export const decode = (offset: number, metadata: string | null): Ranges => {
  const [, at, coding, data = ""] = (metadata?.length ?? 0) <= most ? shape.exec(metadata ?? "") ?? [] : []
  if (at !== offset.toString(36)) return []
  const bytes = Buffer.from(data, "base64url")
  return (coding === "r" ? ofRuns(offset, bytes) : ofBits(offset, bytes)) ?? []
}
