/**
 * A histogram of positive numbers with a bounded relative error: 64 buckets for each power of two, in one typed array.
 *
 * The bucket is read from the bits of the number, so a record costs one store and one addition. Idea: HdrHistogram; layout:
 * the first six bits of an IEEE 754 double's fraction.
 */

/** The largest relative error of a quantile: half a bucket, 1 / 128 of the value. */
export const relativeError = 1 / 128

const perOctave = 64
const octaves = 44
const size = perOctave * octaves
/** The first octave begins at 1: smaller numbers are counted as 1. */
const offset = 1023 * perOctave

const number = new Float64Array(1)
const words = new Uint32Array(number.buffer)
// the index of the word that holds the exponent
const high = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1 ? 1 : 0

const lowOf = (index: number): number => {
  words[1 - high] = 0
  words[high] = (index + offset) << 14
  return number[0]!
}

/** Figures of a set of numbers; all are 0 for an empty set. */
export interface Distribution {
  readonly count: number
  readonly mean: number
  readonly min: number
  readonly max: number
  readonly p50: number
  readonly p95: number
  readonly p99: number
}

/** Counts numbers from 1 to 2 ** 44 (in nanoseconds: almost five hours); numbers outside count at the nearer end. */
export class Histogram {
  readonly #counts = new Float64Array(size)
  count = 0
  sum = 0
  min = Number.POSITIVE_INFINITY
  max = 0

  record(value: number): void {
    number[0] = value
    const index = (words[high]! >>> 14) - offset
    // a number below 1 has a smaller exponent; the sign bit of a negative number makes the word large
    const bucket = value < 1 ? 0 : index < size ? index : size - 1
    this.#counts[bucket]! += 1
    this.count += 1
    this.sum += value
    if (value < this.min) this.min = value
    if (value > this.max) this.max = value
  }

  /** Adds the contents of another histogram. */
  merge(that: Histogram): void {
    for (let i = 0; i < size; i++) this.#counts[i]! += that.#counts[i]!
    this.count += that.count
    this.sum += that.sum
    this.min = Math.min(this.min, that.min)
    this.max = Math.max(this.max, that.max)
  }

  /** Returns the quantile `q` (0 to 1), within `relativeError`. */
  quantile(q: number): number {
    const rank = Math.max(1, Math.ceil(q * this.count))
    let below = 0
    for (let i = 0; i < size; i++) {
      below += this.#counts[i]!
      if (below >= rank) return Math.min(this.max, Math.max(this.min, (lowOf(i) + lowOf(i + 1)) / 2))
    }
    return 0
  }

  /** Counts the numbers up to each bound, within `relativeError` of the bound. */
  cumulative(bounds: ReadonlyArray<number>): ReadonlyArray<[bound: number, count: number]> {
    let i = 0
    let below = 0
    return bounds.map((bound) => {
      while (i < size && (lowOf(i) + lowOf(i + 1)) / 2 <= bound) below += this.#counts[i++]!
      return [bound, below]
    })
  }

  /** Returns the usual figures, each multiplied by `scale`. */
  distribution(scale = 1): Distribution {
    if (this.count === 0) return { count: 0, mean: 0, min: 0, max: 0, p50: 0, p95: 0, p99: 0 }
    return {
      count: this.count,
      mean: this.sum / this.count * scale,
      min: this.min * scale,
      max: this.max * scale,
      p50: this.quantile(0.5) * scale,
      p95: this.quantile(0.95) * scale,
      p99: this.quantile(0.99) * scale
    }
  }
}
