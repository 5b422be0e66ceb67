/** Feeds decoders with changed samples, from a seed. */
import assert from "node:assert/strict"

/** Numbers from a seed, so that a failure repeats. */
const random = (seed: number) => (): number => {
  seed = (seed + 0x6d2b79f5) | 0
  let value = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value
  return ((value ^ (value >>> 14)) >>> 0) / 4294967296
}

/** Values that lengths, counts and tags fear. */
const edges = [0, 1, 2, 0x7f, 0x80, 0x81, 0xc1, 0xc7, 0xdc, 0xdd, 0xdf, 0xfe, 0xff]

const change = (next: () => number, samples: ReadonlyArray<Uint8Array>): Buffer => {
  const pick = (most: number) => Math.floor(next() * most)
  if (samples.length === 0 || next() < 0.1) return Buffer.from(Array.from({ length: pick(64) }, () => pick(256)))
  let body = Buffer.from(samples[pick(samples.length)]!)
  for (let times = 1 + pick(4); times > 0; times--) {
    const at = pick(body.length + 1)
    switch (pick(6)) {
      case 0:
        body = body.subarray(0, at)
        break
      case 1:
        body = Buffer.concat([body.subarray(0, at), Buffer.from([edges[pick(edges.length)]!]), body.subarray(at)])
        break
      case 2:
        if (at < body.length) body[at] = edges[pick(edges.length)]!
        break
      case 3:
        if (at < body.length) body[at] = body[at]! ^ (1 << pick(8))
        break
      case 4: {
        const from = pick(body.length + 1)
        body = Buffer.concat([body.subarray(0, at), body.subarray(from, from + pick(16)), body.subarray(at)])
        break
      }
      default: {
        const other = Buffer.from(samples[pick(samples.length)]!)
        body = Buffer.concat([body.subarray(0, at), other.subarray(pick(other.length + 1))])
      }
    }
  }
  return body
}

/** How long each decoder is fuzzed in the tests, in milliseconds; `pnpm fuzz` takes longer. */
const moment = 400

/** The size of a value in bytes, as an engine lays it out. */
const sizeOf = (value: unknown): number => {
  if (typeof value === "string") return 16 + value.length
  if (typeof value !== "object" || value === null) return typeof value === "bigint" ? 24 : 8
  if (value instanceof Uint8Array) return 32 + value.length
  if (value instanceof Date) return 32
  if (Array.isArray(value)) return value.reduce((sum: number, each) => sum + sizeOf(each), 16)
  return Object.values(value).reduce((sum: number, each) => sum + sizeOf(each), 24)
}

/** The shortest of five runs, in milliseconds. */
const timeOf = (decode: (bytes: Uint8Array) => unknown, body: Uint8Array): number =>
  Math.min(...Array.from({ length: 5 }, () => {
    const started = performance.now()
    try {
      decode(body)
    } catch {
      // its error was checked before
    }
    return performance.now() - started
  }))

/**
 * Feeds a decoder with changed samples: it answers or throws an error of this name, takes less than 100 ms, and its value
 * is at most 16 times as large as the body and 2 KiB. Returns how many bodies it was fed.
 */
export const fuzz = (
  decode: (bytes: Uint8Array) => unknown,
  samples: ReadonlyArray<Uint8Array>,
  name: string,
  { seed = 1, span = moment }: { readonly seed?: number; readonly span?: number } = {}
): number => {
  const next = random(seed)
  const until = performance.now() + span
  let count = 0
  while (performance.now() < until) {
    const body = change(next, samples)
    const copy = Buffer.from(body)
    const started = performance.now()
    let value: unknown
    try {
      value = decode(body)
    } catch (error) {
      if (!(error instanceof Error) || error.name !== name) {
        throw new Error(`${body.toString("hex")} fails with ${String(error)}`, { cause: error })
      }
    }
    const took = performance.now() - started
    // a busy machine or a collection of garbage may stop one run; a decoder that hangs does so again
    if (took > 100) {
      const least = timeOf(decode, body)
      assert.ok(least < 100, `${took} ms, at least ${least} ms, for ${body.toString("hex")}`)
    }
    assert.ok(sizeOf(value) <= 16 * body.length + 2048, `size of the value of ${body.toString("hex")}`)
    assert.ok(body.equals(copy), "the body was changed")
    count++
  }
  return count
}
