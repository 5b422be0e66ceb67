import type { ResolvedLimits } from "../bounds.ts"
import { Sink } from "../Sink.ts"
import { MessagePackError } from "./decode.ts"

const fail = (sentence: string): never => {
  throw new MessagePackError(`MessagePack: ${sentence}`)
}

const writeInteger = (value: number, sink: Sink): void => {
  if (value >= 0) {
    if (value < 0x80) {
      const at = sink.reserve(1)
      sink.buffer[at] = value
    } else if (value < 0x100) {
      const at = sink.reserve(2)
      sink.buffer[at] = 0xcc
      sink.buffer[at + 1] = value
    } else if (value < 0x10000) {
      const at = sink.reserve(3)
      sink.buffer[at] = 0xcd
      sink.buffer.writeUInt16BE(value, at + 1)
    } else if (value < 0x100000000) {
      const at = sink.reserve(5)
      sink.buffer[at] = 0xce
      sink.buffer.writeUInt32BE(value, at + 1)
    } else {
      const at = sink.reserve(9)
      sink.buffer[at] = 0xcf
      sink.buffer.writeUInt32BE(Math.floor(value / 0x100000000), at + 1)
      sink.buffer.writeUInt32BE(value % 0x100000000, at + 5)
    }
  } else if (value >= -0x20) {
    const at = sink.reserve(1)
    sink.buffer[at] = value + 0x100
  } else if (value >= -0x80) {
    const at = sink.reserve(2)
    sink.buffer[at] = 0xd0
    sink.buffer.writeInt8(value, at + 1)
  } else if (value >= -0x8000) {
    const at = sink.reserve(3)
    sink.buffer[at] = 0xd1
    sink.buffer.writeInt16BE(value, at + 1)
  } else if (value >= -0x80000000) {
    const at = sink.reserve(5)
    sink.buffer[at] = 0xd2
    sink.buffer.writeInt32BE(value, at + 1)
  } else {
    const at = sink.reserve(9)
    sink.buffer[at] = 0xd3
    sink.buffer.writeBigInt64BE(BigInt(value), at + 1)
  }
}

const writeBigInt = (value: bigint, sink: Sink): void => {
  const number = Number(value)
  if (Number.isSafeInteger(number)) return writeInteger(number, sink)
  const isUnsigned = value > 0n
  if (isUnsigned ? BigInt.asUintN(64, value) !== value : BigInt.asIntN(64, value) !== value) {
    fail("a bigint has more than 64 bits")
  }
  const at = sink.reserve(9)
  sink.buffer[at] = isUnsigned ? 0xcf : 0xd3
  if (isUnsigned) sink.buffer.writeBigUInt64BE(value, at + 1)
  else sink.buffer.writeBigInt64BE(value, at + 1)
}

/** The head of a text, list, map or byte string; `short` is the form that holds the length itself. */
const writeHead = (
  length: number,
  short: number,
  shorter: number,
  byte: number,
  two: number,
  four: number,
  sink: Sink
): void => {
  if (length < shorter) {
    const at = sink.reserve(1)
    sink.buffer[at] = short | length
  } else if (byte !== 0 && length < 0x100) {
    const at = sink.reserve(2)
    sink.buffer[at] = byte
    sink.buffer[at + 1] = length
  } else if (length < 0x10000) {
    const at = sink.reserve(3)
    sink.buffer[at] = two
    sink.buffer.writeUInt16BE(length, at + 1)
  } else {
    const at = sink.reserve(5)
    sink.buffer[at] = four
    sink.buffer.writeUInt32BE(length, at + 1)
  }
}

const writeText = (value: string, sink: Sink): void => {
  const { length } = value
  if (length < 32) {
    let at = sink.reserve(length + 1)
    const { buffer } = sink
    buffer[at++] = 0xa0 | length
    let index = 0
    for (; index < length; index++) {
      const code = value.charCodeAt(index)
      if (code > 127) break
      buffer[at++] = code
    }
    if (index === length) return
    sink.at = at - index - 1
  }
  // a lone surrogate would become another character
  if (!value.isWellFormed()) fail("a text has half of a surrogate pair")
  const size = Buffer.byteLength(value)
  writeHead(size, 0xa0, 32, 0xd9, 0xda, 0xdb, sink)
  const at = sink.reserve(size)
  sink.buffer.write(value, at, size, "utf8")
}

const writeDate = (value: Date, sink: Sink): void => {
  const millis = value.getTime()
  if (Number.isNaN(millis)) fail("a date is invalid")
  const seconds = Math.floor(millis / 1000)
  const nanos = (millis - seconds * 1000) * 1_000_000
  if (seconds < 0 || seconds >= 0x400000000) {
    const at = sink.reserve(15)
    sink.buffer[at] = 0xc7
    sink.buffer[at + 1] = 12
    sink.buffer[at + 2] = 0xff
    sink.buffer.writeUInt32BE(nanos, at + 3)
    sink.buffer.writeBigInt64BE(BigInt(seconds), at + 7)
  } else if (nanos === 0 && seconds < 0x100000000) {
    const at = sink.reserve(6)
    sink.buffer[at] = 0xd6
    sink.buffer[at + 1] = 0xff
    sink.buffer.writeUInt32BE(seconds, at + 2)
  } else {
    const at = sink.reserve(10)
    sink.buffer[at] = 0xd7
    sink.buffer[at + 1] = 0xff
    sink.buffer.writeBigUInt64BE((BigInt(nanos) << 34n) | BigInt(seconds), at + 2)
  }
}

const isObject = (value: unknown): value is { readonly [key: string]: unknown } =>
  typeof value === "object" && value !== null

const write = (value: unknown, sink: Sink, left: number): void => {
  switch (typeof value) {
    case "string":
      return writeText(value, sink)
    case "number": {
      if (Number.isSafeInteger(value) && !Object.is(value, -0)) return writeInteger(value, sink)
      const at = sink.reserve(9)
      sink.buffer[at] = 0xcb
      sink.buffer.writeDoubleBE(value, at + 1)
      return
    }
    case "boolean": {
      const at = sink.reserve(1)
      sink.buffer[at] = value ? 0xc3 : 0xc2
      return
    }
    case "bigint":
      return writeBigInt(value, sink)
    case "undefined":
      return write(null, sink, left)
  }
  if (value === null) {
    const at = sink.reserve(1)
    sink.buffer[at] = 0xc0
    return
  }
  if (!isObject(value)) return fail(`a ${typeof value} has no form`)
  if (value instanceof Uint8Array) {
    writeHead(value.length, 0, 0, 0xc4, 0xc5, 0xc6, sink)
    const at = sink.reserve(value.length)
    sink.buffer.set(value, at)
    return
  }
  if (value instanceof Date) return writeDate(value, sink)
  if (left === 0) return fail("a value is nested deeper than maximumDepth, or holds itself")
  if (Array.isArray(value)) {
    writeHead(value.length, 0x90, 16, 0, 0xdc, 0xdd, sink)
    for (let index = 0; index < value.length; index++) write(value[index], sink, left - 1)
    return
  }
  if (value instanceof Map || value instanceof Set) {
    return fail(`a ${value.constructor.name} has no form: use an object or a list`)
  }
  const names = Object.keys(value)
  let count = 0
  for (const name of names) if (value[name] !== undefined) count++
  writeHead(count, 0x80, 16, 0, 0xde, 0xdf, sink)
  for (const name of names) {
    const each = value[name]
    if (each === undefined) continue
    if (name === "__proto__") fail("an object has the key __proto__")
    writeText(name, sink)
    write(each, sink, left - 1)
  }
}

const sink = new Sink()

/** Encodes a value; undefined is left out of objects, and null elsewhere. Throws a `MessagePackError` for a value without a form. */
export const encode = (value: unknown, limits: ResolvedLimits): Uint8Array => {
  if (value === undefined) fail("undefined has no form")
  sink.reset()
  write(value, sink, limits.depth)
  return sink.done()
}
