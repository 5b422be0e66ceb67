/** Compiles the writer of a schema. */
import { Sink } from "../Sink.ts"
import { nameOf, type Type } from "./schema.ts"
import { AvroError } from "./Tap.ts"

type Write = (value: unknown, sink: Sink) => void

type Plain = { readonly [key: string]: unknown }

const isPlain = (value: unknown): value is Plain =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array)

const isInt = (value: unknown): value is number => typeof value === "number" && value === (value | 0)

const isLong = (value: unknown): value is number | bigint =>
  typeof value === "number"
    ? Number.isSafeInteger(value)
    : typeof value === "bigint" && BigInt.asIntN(64, value) === value

const most = 200

/** Returns the place where a value is none of its type, or undefined if it fits. */
const misfit = (type: Type, value: unknown, path: string, depth: number): { path: string; type: Type } | undefined => {
  const wrong = (fits: boolean) => fits ? undefined : { path, type }
  switch (type.kind) {
    case "null":
      return wrong(value === null || value === undefined)
    case "boolean":
      return wrong(typeof value === "boolean")
    case "int":
      return wrong(isInt(value))
    case "long":
      return wrong(isLong(value))
    case "float":
    case "double":
      return wrong(typeof value === "number")
    case "string":
      return wrong(typeof value === "string" && value.isWellFormed())
    case "bytes":
      return wrong(value instanceof Uint8Array)
    case "fixed":
      return wrong(value instanceof Uint8Array && value.length === type.size)
    case "enum":
      return wrong(typeof value === "string" && type.symbols.includes(value))
    case "array": {
      if (!Array.isArray(value)) return { path, type }
      for (let index = 0; index < value.length; index++) {
        const found = misfit(type.items, value[index], `${path}[${index}]`, depth)
        if (found !== undefined) return found
      }
      return undefined
    }
    case "map":
    case "record": {
      if (!isPlain(value) || depth > most) return { path, type }
      const before = path === "" ? "" : `${path}.`
      if (type.kind === "map") {
        for (const key of Object.keys(value)) {
          if (key === "__proto__") return { path, type }
          const found = misfit(type.values, value[key], `${before}${key.slice(0, 100)}`, depth + 1)
          if (found !== undefined) return found
        }
        return undefined
      }
      for (const field of type.fields) {
        const found = misfit(field.type, value[field.name], `${before}${field.name}`, depth + 1)
        if (found !== undefined) return found
      }
      return undefined
    }
    case "union": {
      let deepest: { path: string; type: Type } | undefined
      for (const branch of type.branches) {
        const found = misfit(branch, value, path, depth)
        if (found === undefined) return undefined
        if (found.path.length > (deepest?.path.length ?? path.length)) deepest = found
      }
      return deepest ?? { path, type }
    }
  }
}

/** A text that stands for the value's type; the value itself does not belong into logs. */
const shown = (value: unknown): string =>
  value === null ? "null" : Array.isArray(value) ? "a list" : value instanceof Uint8Array ? "bytes" : typeof value

const expected = (type: Type): string =>
  type.kind === "union" ? `one of ${type.branches.map(nameOf).join(", ")}` : type.kind === "fixed"
    ? `${type.size} bytes of ${type.name}`
    : nameOf(type)

const at = (value: unknown, path: string): unknown => {
  let found = value
  for (const part of path.split(/[.[\]]/)) {
    if (part !== "" && isIndexable(found)) found = found[part]
  }
  return found
}

const isIndexable = (value: unknown): value is Plain => typeof value === "object" && value !== null

/** Thrown inside writers; the sentence is made from the whole value. */
class Misfit extends Error {}

const refuse = (): never => {
  throw new Misfit()
}

const writeInt = (value: number, sink: Sink): void => {
  let bits = (value << 1) ^ (value >> 31)
  let start = sink.reserve(5)
  const { buffer } = sink
  while ((bits & ~0x7f) !== 0) {
    buffer[start++] = (bits & 0x7f) | 0x80
    bits >>>= 7
  }
  buffer[start++] = bits
  sink.at = start
}

const writeLong = (value: number | bigint, sink: Sink): void => {
  if (typeof value === "number") {
    if (value === (value | 0)) return writeInt(value, sink)
    if (Math.abs(value) < 2 ** 51) {
      let bits = value < 0 ? -value * 2 - 1 : value * 2
      let start = sink.reserve(10)
      const { buffer } = sink
      while (bits > 127) {
        buffer[start++] = (bits % 128) | 0x80
        bits = Math.floor(bits / 128)
      }
      buffer[start++] = bits
      sink.at = start
      return
    }
  }
  const big = BigInt(value)
  let bits = big < 0n ? -big * 2n - 1n : big * 2n
  let start = sink.reserve(10)
  const { buffer } = sink
  while (bits > 127n) {
    buffer[start++] = Number(bits & 0x7fn) | 0x80
    bits >>= 7n
  }
  buffer[start++] = Number(bits)
  sink.at = start
}

const writeString = (value: unknown, sink: Sink): void => {
  if (typeof value !== "string") return refuse()
  const { length } = value
  if (length < 64) {
    let start = sink.reserve(length + 1)
    const { buffer } = sink
    buffer[start++] = length << 1
    let index = 0
    for (; index < length; index++) {
      const code = value.charCodeAt(index)
      if (code > 127) break
      buffer[start++] = code
    }
    if (index === length) return
    sink.at = start - index - 1
  }
  // a lone surrogate would become another character
  if (!value.isWellFormed()) return refuse()
  const size = Buffer.byteLength(value)
  writeLong(size, sink)
  const start = sink.reserve(size)
  sink.buffer.write(value, start, size, "utf8")
}

const writeBytes = (value: Uint8Array, sink: Sink): void => {
  const start = sink.reserve(value.length)
  sink.buffer.set(value, start)
}

const isLeaf = (type: Type): boolean => type.kind !== "record" && type.kind !== "array" && type.kind !== "map"

class Compiler {
  private readonly records = new Map<Type, { write: Write | undefined }>()

  write(type: Type): Write {
    switch (type.kind) {
      case "null":
        return (value) => value === null || value === undefined ? undefined : refuse()
      case "boolean":
        return (value, sink) => {
          if (typeof value !== "boolean") return refuse()
          const start = sink.reserve(1)
          sink.buffer[start] = value ? 1 : 0
        }
      case "int":
        return (value, sink) => isInt(value) ? writeInt(value, sink) : refuse()
      case "long":
        return (value, sink) => isLong(value) ? writeLong(value, sink) : refuse()
      case "float":
        return (value, sink) => {
          if (typeof value !== "number") return refuse()
          const start = sink.reserve(4)
          sink.buffer.writeFloatLE(value, start)
        }
      case "double":
        return (value, sink) => {
          if (typeof value !== "number") return refuse()
          const start = sink.reserve(8)
          sink.buffer.writeDoubleLE(value, start)
        }
      case "string":
        return writeString
      case "bytes":
        return (value, sink) => {
          if (!(value instanceof Uint8Array)) return refuse()
          writeLong(value.length, sink)
          writeBytes(value, sink)
        }
      case "fixed":
        return (value, sink) =>
          value instanceof Uint8Array && value.length === type.size ? writeBytes(value, sink) : refuse()
      case "enum": {
        const symbols = new Map(type.symbols.map((symbol, index) => [symbol, index]))
        return (value, sink) => {
          const index = typeof value === "string" ? symbols.get(value) : undefined
          return index === undefined ? refuse() : writeInt(index, sink)
        }
      }
      case "array": {
        const write = this.write(type.items)
        return (value, sink) => {
          if (!Array.isArray(value)) return refuse()
          if (value.length > 0) {
            writeLong(value.length, sink)
            for (let index = 0; index < value.length; index++) write(value[index], sink)
          }
          writeInt(0, sink)
        }
      }
      case "map": {
        const write = this.write(type.values)
        return (value, sink) => {
          if (!isPlain(value)) return refuse()
          const keys = Object.keys(value)
          if (keys.length > 0) {
            writeLong(keys.length, sink)
            for (const key of keys) {
              if (key === "__proto__") return refuse()
              writeString(key, sink)
              write(value[key], sink)
            }
          }
          writeInt(0, sink)
        }
      }
      case "union":
        return this.union(type.branches)
      case "record": {
        const known = this.records.get(type)
        if (known !== undefined) return known.write ?? ((value, sink) => known.write!(value, sink))
        const box: { write: Write | undefined } = { write: undefined }
        this.records.set(type, box)
        const names = type.fields.map((field) => field.name)
        const writes = type.fields.map((field) => this.write(field.type))
        return box.write = (value, sink) => {
          if (!isPlain(value)) return refuse()
          for (let index = 0; index < writes.length; index++) writes[index]!(value[names[index]!], sink)
        }
      }
    }
  }

  private union(branches: ReadonlyArray<Type>): Write {
    const writes = branches.map((branch) => this.write(branch))
    // where at most one branch can hold an object or list, its writer decides; others are asked by a look inside
    const hasOne = branches.filter((branch) => !isLeaf(branch)).length < 2
    const nothing = branches.findIndex((branch) => branch.kind === "null")
    const fits = branches.map((branch) => {
      switch (branch.kind) {
        case "record":
        case "map":
          return hasOne ? isPlain : (value: unknown) => misfit(branch, value, "", 0) === undefined
        case "array":
          return hasOne ?
            (value: unknown) => Array.isArray(value) :
            (value: unknown) => misfit(branch, value, "", 0) === undefined
        case "string":
          return (value: unknown) => typeof value === "string"
        default:
          return (value: unknown) => misfit(branch, value, "", 0) === undefined
      }
    })
    return (value, sink) => {
      if (value === null || value === undefined) return nothing === -1 ? refuse() : writeInt(nothing, sink)
      for (let index = 0; index < fits.length; index++) {
        if (fits[index]!(value)) {
          writeInt(index, sink)
          return writes[index]!(value, sink)
        }
      }
      return refuse()
    }
  }
}

const sink = new Sink()

/** Compiles the writer of a schema. It throws an `AvroError` for a value that is none of the type. */
export const compile = (type: Type): (value: unknown, prefix?: Uint8Array) => Uint8Array => {
  const write = new Compiler().write(type)
  return (value, prefix) => {
    sink.reset()
    if (prefix !== undefined) writeBytes(prefix, sink)
    try {
      write(value, sink)
    } catch (error) {
      // the stack ends at a value that holds itself
      if (!(error instanceof Misfit) && !(error instanceof RangeError)) throw error
      const found = misfit(type, value, "", 0) ?? { path: "", type }
      const place = found.path === "" ? "the value" : found.path.slice(0, 500)
      throw new AvroError(`Avro: ${place} must be ${expected(found.type)}, got ${shown(at(value, found.path))}`)
    }
    return sink.done()
  }
}
