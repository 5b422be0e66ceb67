/**
 * Completed keys, in about 37 bytes each: hashes, in order of completion.
 */

const noResult = new Uint8Array(0)

/**
 * HalfSipHash-2-4 of 64 bits, under one key of 64 bits, of a text's UTF-16 units in little-endian order.
 *
 * A caller without the key cannot choose texts that collide. Source: Aumasson and Bernstein, "SipHash: a fast short-input
 * PRF", and the reference code of its half, https://github.com/veorq/SipHash.
 */
export const halfSipHash = (text: string, k0: number, k1: number, out: Uint32Array, at: number): void => {
  let v0 = k0
  let v1 = k1 ^ 0xee
  let v2 = 0x6c796765 ^ k0
  let v3 = 0x74656462 ^ k1
  const { length } = text
  const whole = length & ~1
  // one additional word: the remaining unit, and the number of bytes
  for (let i = 0; i <= whole; i += 2) {
    const word = i < whole
      ? text.charCodeAt(i) | (text.charCodeAt(i + 1) << 16)
      : (whole < length ? text.charCodeAt(i) : 0) | (length << 25)
    v3 ^= word
    for (let round = 0; round < 2; round++) {
      v0 = (v0 + v1) | 0
      v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0
      v0 = (v0 << 16) | (v0 >>> 16)
      v2 = (v2 + v3) | 0
      v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2
      v0 = (v0 + v3) | 0
      v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0
      v2 = (v2 + v1) | 0
      v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2
      v2 = (v2 << 16) | (v2 >>> 16)
    }
    v0 ^= word
  }
  v2 ^= 0xee
  for (let round = 0; round < 8; round++) {
    if (round === 4) {
      out[at] = v1 ^ v3
      v1 ^= 0xdd
    }
    v0 = (v0 + v1) | 0
    v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0
    v0 = (v0 << 16) | (v0 >>> 16)
    v2 = (v2 + v3) | 0
    v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2
    v0 = (v0 + v3) | 0
    v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0
    v2 = (v2 + v1) | 0
    v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2
    v2 = (v2 << 16) | (v2 >>> 16)
  }
  out[at + 1] = v1 ^ v3
}

/** Words of a key's mark: 128 bits of the key, 32 of its fingerprint. */
const words = 5

/** The hashes of a key and its fingerprint. */
export type Mark = Uint32Array

/**
 * A table of at most `capacity` keys. Two keys are mistaken for one with a chance of 2^-128 for each pair; a different
 * fingerprint is mistaken for the same with a chance of 2^-32.
 *
 * Entries are in a ring, oldest first, so the oldest entry is removed when there is no room; `index` finds them, by open
 * addressing with linear probing. A result takes its own room; an empty one takes none.
 */
export class DoneKeys {
  private readonly secret = crypto.getRandomValues(new Uint32Array(6))
  private readonly mark = new Uint32Array(words)
  private readonly capacity: number
  private marks: Uint32Array
  /** The end of each entry's time; 0 for a removed entry. */
  private ends: Float64Array
  /** The place in the ring plus 1; 0 for a free slot. */
  private index: Uint32Array
  private room: number
  private first = 0
  private count = 0
  private readonly results = new Map<number, Uint8Array>()

  constructor(capacity: number) {
    this.capacity = capacity
    this.room = Math.min(capacity, 64)
    this.marks = new Uint32Array(this.room * words)
    this.ends = new Float64Array(this.room)
    this.index = new Uint32Array(indexFor(this.room))
  }

  /** Returns the mark of a key; the next call overwrites it. */
  markOf(key: string, fingerprint: string): Mark {
    const { mark, secret } = this
    halfSipHash(fingerprint, secret[4]!, secret[5]!, mark, 0)
    mark[4] = mark[0]!
    halfSipHash(key, secret[0]!, secret[1]!, mark, 0)
    halfSipHash(key, secret[2]!, secret[3]!, mark, 2)
    return mark
  }

  /** Returns the place of a completed key that has not ended, or -1. */
  find(mark: Mark, now: number): number {
    const at = this.probe(mark)
    if (at < 0) return -1
    const place = this.index[at]! - 1
    if (this.ends[place]! > now) return place
    this.drop(at, place)
    return -1
  }

  isSame(place: number, mark: Mark): boolean {
    return this.marks[place * words + 4] === mark[4]
  }

  resultAt(place: number): Uint8Array {
    return this.results.get(place) ?? noResult
  }

  /** Adds a key that `find` has not found. */
  add(mark: Mark, result: Uint8Array, until: number, now: number): void {
    // entries that have ended are removed first, at most two for each new entry
    for (let i = 0; i < 2 && this.count > 0 && !(this.ends[this.first]! > now); i++) this.shift()
    if (this.count === this.room) {
      if (this.room < this.capacity) this.grow()
      else this.shift()
    }
    const place = (this.first + this.count++) % this.room
    this.marks.set(mark, place * words)
    this.ends[place] = until
    if (result.length > 0) this.results.set(place, result)
    this.enter(place)
  }

  /** Removes the oldest entry. */
  private shift(): void {
    const place = this.first
    if (this.ends[place] !== 0) {
      const from = place * words
      this.drop(this.probe(this.marks.subarray(from, from + words)), place)
    }
    this.first = (place + 1) % this.room
    this.count--
  }

  /** Returns the slot of a key in the index, or -1. */
  private probe(mark: Mark): number {
    const { index, marks } = this
    const mask = index.length - 1
    for (let at = mark[0]! & mask; index[at] !== 0; at = (at + 1) & mask) {
      const from = (index[at]! - 1) * words
      if (
        marks[from] === mark[0] && marks[from + 1] === mark[1] && marks[from + 2] === mark[2] &&
        marks[from + 3] === mark[3]
      ) {
        return at
      }
    }
    return -1
  }

  private enter(place: number): void {
    const mask = this.index.length - 1
    let at = this.marks[place * words]! & mask
    while (this.index[at] !== 0) at = (at + 1) & mask
    this.index[at] = place + 1
  }

  /** Removes a key from the index; later keys that would become unreachable move up. */
  private drop(at: number, place: number): void {
    this.ends[place] = 0
    this.results.delete(place)
    const { index, marks } = this
    const mask = index.length - 1
    let hole = at
    for (let next = (at + 1) & mask; index[next] !== 0; next = (next + 1) & mask) {
      const home = marks[(index[next]! - 1) * words]! & mask
      // the hole lies between the key's home slot and its current one
      if (((next - home) & mask) >= ((next - hole) & mask)) {
        index[hole] = index[next]!
        hole = next
      }
    }
    index[hole] = 0
  }

  /** Doubles the room, up to `capacity`, for the entries that remain. */
  private grow(): void {
    const { count, ends, first, marks, room } = this
    const kept = new Map(this.results)
    this.room = Math.min(this.capacity, room * 2)
    this.marks = new Uint32Array(this.room * words)
    this.ends = new Float64Array(this.room)
    this.index = new Uint32Array(indexFor(this.room))
    this.results.clear()
    this.first = 0
    this.count = 0
    for (let i = 0; i < count; i++) {
      const old = (first + i) % room
      if (ends[old] === 0) continue
      const place = this.count++
      this.marks.set(marks.subarray(old * words, (old + 1) * words), place * words)
      this.ends[place] = ends[old]!
      const result = kept.get(old)
      if (result !== undefined) this.results.set(place, result)
      this.enter(place)
    }
  }
}

/** At most 3 of 4 slots are taken, so a probe soon ends. */
const indexFor = (room: number): number => 2 ** Math.ceil(Math.log2(room * 4 / 3))
