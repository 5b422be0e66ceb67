import type { ResolvedLimits } from "../bounds.ts"
import { readText } from "../text.ts"

/** Bytes that are no value of their schema. */
export class AvroError extends Error {
  override readonly name = "AvroError"
}

const long = (low: number, high: number): number => high * 0x10000000 + low

/** A position in a body, and what is left of its limits. */
export class Tap {
  readonly buffer: Buffer
  readonly end: number
  readonly limits: ResolvedLimits
  at: number
  depth = 0
  items: number
  /** Items that take no byte: a count of 5 bytes can claim 2 billion of them. */
  free: number

  constructor(buffer: Buffer, at: number, limits: ResolvedLimits) {
    this.buffer = buffer
    this.at = at
    this.end = buffer.length
    this.limits = limits
    this.items = limits.items
    this.free = Math.max(1024, buffer.length)
    if (buffer.length > limits.bytes) {
      throw new AvroError(`Avro: a body of ${buffer.length} bytes is larger than maximumBytes, ${limits.bytes}`)
    }
  }

  fail(sentence: string): never {
    throw new AvroError(`Avro: ${sentence} at position ${this.at}`)
  }

  int(): number {
    const { buffer } = this
    let byte = buffer[this.at++]!
    if (byte < 128) return (byte >>> 1) ^ -(byte & 1)
    let bits = byte & 0x7f
    let shift = 7
    do {
      if (this.at >= this.end) this.fail("the body ends inside a number")
      byte = buffer[this.at++]!
      if (shift === 28 && byte > 0x0f) this.fail("an int has more than 32 bits")
      bits |= (byte & 0x7f) << shift
      shift += 7
    } while (byte > 127)
    return (bits >>> 1) ^ -(bits & 1)
  }

  /** A number, or a bigint outside of the safe integers. */
  long(): number | bigint {
    const { buffer } = this
    let byte = buffer[this.at++]!
    if (byte < 128) return (byte >>> 1) ^ -(byte & 1)
    let low = byte & 0x7f
    let shift = 7
    do {
      if (this.at >= this.end) this.fail("the body ends inside a number")
      byte = buffer[this.at++]!
      low |= (byte & 0x7f) << shift
      shift += 7
    } while (byte > 127 && shift < 28)
    if (byte < 128) return (low >>> 1) ^ -(low & 1)
    let high = 0
    let factor = 1
    for (let count = 0; count < 3 && byte > 127; count++) {
      if (this.at >= this.end) this.fail("the body ends inside a number")
      byte = buffer[this.at++]!
      high += (byte & 0x7f) * factor
      factor *= 128
    }
    if (byte < 128) {
      // 49 bits at most: exact
      const bits = long(low, high)
      return bits % 2 === 0 ? bits / 2 : -(bits + 1) / 2
    }
    let bits = BigInt(high) << 28n | BigInt(low)
    for (let at = 49n; byte > 127; at += 7n) {
      if (this.at >= this.end) this.fail("the body ends inside a number")
      byte = buffer[this.at++]!
      if (at === 63n && byte > 1) this.fail("a long has more than 64 bits")
      bits |= BigInt(byte & 0x7f) << at
    }
    const value = (bits & 1n) === 0n ? bits >> 1n : -(bits >> 1n) - 1n
    const number = Number(value)
    return Number.isSafeInteger(number) ? number : value
  }

  /** A length or count that the rest of the body can hold. */
  length(): number {
    const length = this.long()
    if (typeof length === "bigint" || length < 0) return this.fail("a length is negative or too large")
    if (length > this.end - this.at) this.fail("a length is larger than the rest of the body")
    return length
  }

  /** Moves over bytes, and returns where they began. */
  take(count: number): number {
    const start = this.at
    if (count > this.end - start) this.fail("the body ends inside a value")
    this.at = start + count
    return start
  }

  boolean(): boolean {
    const byte = this.buffer[this.take(1)]!
    if (byte > 1) this.fail("a boolean is neither 0 nor 1")
    return byte === 1
  }

  string(): string {
    const start = this.take(this.length())
    return readText(this.buffer, start, this.at) ?? this.fail("a string is no UTF-8")
  }

  /** A copy: a view would let a handler change the body, which a dead letter repeats. */
  bytes(count: number): Uint8Array {
    const start = this.take(count)
    return new Uint8Array(this.buffer.subarray(start, this.at))
  }

  /** The count of the next block of an array or map; 0 is its end. `least` is the least size of an item. */
  block(least: number): number {
    let count = this.long()
    if (count < 0) {
      count = typeof count === "bigint" ? -count : -count
      this.length()
    }
    if (typeof count === "bigint") return this.fail("a block has too many items")
    if (count === 0) return 0
    if (least === 0) {
      this.free -= count
      if (this.free < 0) this.fail("a block has more items without bytes than the body has bytes")
    } else if (count * least > this.end - this.at) {
      this.fail("a block has more items than the rest of the body")
    }
    this.items -= count
    if (this.items < 0) this.fail(`the body has more items than maximumItems, ${this.limits.items},`)
    return count
  }

  deeper(): void {
    if (++this.depth > this.limits.depth) this.fail(`a value is nested deeper than maximumDepth, ${this.limits.depth},`)
  }
}
