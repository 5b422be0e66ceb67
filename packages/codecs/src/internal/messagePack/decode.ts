/** Decodes MessagePack (specification of 2017: https://github.com/msgpack/msgpack/blob/master/spec.md). */
import type { ResolvedLimits } from "../bounds.ts"
import { bufferOf, readText } from "../text.ts"

/** Bytes that are no MessagePack, or a value that it has no form for. */
export class MessagePackError extends Error {
  override readonly name = "MessagePackError"
}

/** Keys come again and again: the text of a short one is kept by its bytes. */
class Keys {
  private readonly slots: Array<{ readonly bytes: Uint8Array; readonly text: string } | undefined> = new Array(1024)

  find(buffer: Buffer, start: number, end: number): string | undefined {
    let hash = end - start
    for (let at = start; at < end; at++) hash = (hash * 31 + buffer[at]!) | 0
    const slot = hash & 1023
    const known = this.slots[slot]
    if (known !== undefined && known.bytes.length === end - start) {
      const { bytes } = known
      let index = 0
      while (index < bytes.length && bytes[index] === buffer[start + index]) index++
      if (index === bytes.length) return known.text
    }
    const text = readText(buffer, start, end)
    if (text !== undefined) this.slots[slot] = { bytes: new Uint8Array(buffer.subarray(start, end)), text }
    return text
  }
}

const keys = new Keys()
const longestKey = 32

class Decoder {
  private readonly buffer: Buffer
  private readonly limits: ResolvedLimits
  private at = 0
  private items: number

  constructor(buffer: Buffer, limits: ResolvedLimits) {
    this.buffer = buffer
    this.limits = limits
    this.items = limits.items
  }

  private fail(sentence: string): never {
    throw new MessagePackError(`MessagePack: ${sentence} at position ${this.at}`)
  }

  private take(count: number): number {
    const start = this.at
    if (count > this.buffer.length - start) this.fail("the body ends inside a value")
    this.at = start + count
    return start
  }

  whole(): unknown {
    const value = this.value(0)
    if (this.at !== this.buffer.length) this.fail("the body goes on after its value")
    return value
  }

  private value(depth: number): unknown {
    const first = this.buffer[this.take(1)]!
    if (first < 0x80) return first
    if (first >= 0xe0) return first - 0x100
    if (first < 0x90) return this.map(first & 0x0f, depth)
    if (first < 0xa0) return this.list(first & 0x0f, depth)
    if (first < 0xc0) return this.text(first & 0x1f)
    const { buffer } = this
    switch (first) {
      case 0xc0:
        return null
      case 0xc2:
        return false
      case 0xc3:
        return true
      case 0xc4:
        return this.bytes(buffer[this.take(1)]!)
      case 0xc5:
        return this.bytes(buffer.readUInt16BE(this.take(2)))
      case 0xc6:
        return this.bytes(buffer.readUInt32BE(this.take(4)))
      case 0xc7:
        return this.extension(buffer[this.take(1)]!)
      case 0xca:
        return buffer.readFloatBE(this.take(4))
      case 0xcb:
        return buffer.readDoubleBE(this.take(8))
      case 0xcc:
        return buffer[this.take(1)]!
      case 0xcd:
        return buffer.readUInt16BE(this.take(2))
      case 0xce:
        return buffer.readUInt32BE(this.take(4))
      case 0xcf:
        return this.long(buffer.readBigUInt64BE(this.take(8)))
      case 0xd0:
        return buffer.readInt8(this.take(1))
      case 0xd1:
        return buffer.readInt16BE(this.take(2))
      case 0xd2:
        return buffer.readInt32BE(this.take(4))
      case 0xd3:
        return this.long(buffer.readBigInt64BE(this.take(8)))
      case 0xd6:
        return this.extension(4)
      case 0xd7:
        return this.extension(8)
      case 0xd9:
        return this.text(buffer[this.take(1)]!)
      case 0xda:
        return this.text(buffer.readUInt16BE(this.take(2)))
      case 0xdb:
        return this.text(buffer.readUInt32BE(this.take(4)))
      case 0xdc:
        return this.list(buffer.readUInt16BE(this.take(2)), depth)
      case 0xdd:
        return this.list(buffer.readUInt32BE(this.take(4)), depth)
      case 0xde:
        return this.map(buffer.readUInt16BE(this.take(2)), depth)
      case 0xdf:
        return this.map(buffer.readUInt32BE(this.take(4)), depth)
      default:
        return this.fail(`the byte 0x${first.toString(16)} begins no value that is accepted`)
    }
  }

  /** A number where it is exact, else a bigint. */
  private long(value: bigint): number | bigint {
    const number = Number(value)
    return Number.isSafeInteger(number) ? number : value
  }

  private text(length: number): string {
    const start = this.take(length)
    return readText(this.buffer, start, this.at) ?? this.fail("a text is no UTF-8")
  }

  /** A copy: a view would let a handler change the body, which a dead letter repeats. */
  private bytes(length: number): Uint8Array {
    const start = this.take(length)
    return new Uint8Array(this.buffer.subarray(start, this.at))
  }

  /** The only extension that the specification defines is the timestamp; others could be code of a class. */
  private extension(length: number): Date {
    const type = this.buffer.readInt8(this.take(1))
    if (type !== -1) this.fail(`an extension of type ${type} is not accepted: only timestamps are`)
    const start = this.take(length)
    const { buffer } = this
    let seconds: number
    let nanos = 0
    if (length === 4) {
      seconds = buffer.readUInt32BE(start)
    } else if (length === 8) {
      const bits = buffer.readBigUInt64BE(start)
      nanos = Number(bits >> 34n)
      seconds = Number(bits & 0x3ffffffffn)
    } else if (length === 12) {
      nanos = buffer.readUInt32BE(start)
      seconds = Number(buffer.readBigInt64BE(start + 4))
    } else {
      return this.fail("a timestamp has 4, 8 or 12 bytes")
    }
    // the value of a timestamp in the body, not the time of the program
    // @effect-diagnostics-next-line globalDate:off
    const date = new Date(seconds * 1000 + Math.floor(nanos / 1_000_000))
    return nanos > 999_999_999 || Number.isNaN(date.getTime()) ? this.fail("a timestamp is out of range") : date
  }

  private inside(count: number, least: number, depth: number): void {
    if (depth >= this.limits.depth) this.fail(`a value is nested deeper than maximumDepth, ${this.limits.depth},`)
    if (count * least > this.buffer.length - this.at) {
      this.fail("a list or map has more items than the rest of the body")
    }
    this.items -= count
    if (this.items < 0) this.fail(`the body has more items than maximumItems, ${this.limits.items},`)
  }

  private list(count: number, depth: number): Array<unknown> {
    this.inside(count, 1, depth)
    const items: Array<unknown> = []
    for (; count > 0; count--) items.push(this.value(depth + 1))
    return items
  }

  private map(count: number, depth: number): { [key: string]: unknown } {
    this.inside(count, 2, depth)
    const entries: { [key: string]: unknown } = {}
    for (let left = count; left > 0; left--) {
      const key = this.key()
      // it would become the prototype
      if (key === "__proto__") this.fail("a map has the key __proto__")
      if (Object.hasOwn(entries, key)) this.fail("a map has the same key twice")
      entries[key] = this.value(depth + 1)
    }
    return entries
  }

  private key(): string {
    const { buffer } = this
    const first = buffer[this.at]
    if (first !== undefined && first >= 0xa0 && first < 0xc0) {
      this.at++
      const start = this.take(first & 0x1f)
      return keys.find(buffer, start, this.at) ?? this.fail("a text is no UTF-8")
    }
    if (first === 0xd9 && buffer[this.at + 1]! <= longestKey) {
      const length = buffer[this.at + 1]!
      this.at += 2
      const start = this.take(length)
      return keys.find(buffer, start, this.at) ?? this.fail("a text is no UTF-8")
    }
    const key = this.value(this.limits.depth)
    return typeof key === "string"
      ? key
      : typeof key === "bigint" || (typeof key === "number" && Number.isInteger(key))
      ? String(key)
      : this.fail("a map has a key that is neither text nor integer")
  }
}

/** Decodes one value; throws a `MessagePackError` for anything else, also for bytes behind it. */
export const decode = (bytes: Uint8Array, limits: ResolvedLimits): unknown => {
  if (bytes.length > limits.bytes) {
    throw new MessagePackError(
      `MessagePack: a body of ${bytes.length} bytes is larger than maximumBytes, ${limits.bytes}`
    )
  }
  return new Decoder(bufferOf(bytes), limits).whole()
}
