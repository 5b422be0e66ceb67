/** Compiles the readers of a schema, by the rules of schema resolution (specification 1.12.0) where writer and reader differ. */
import { AvroSchemaError, type Field, nameOf, shortName, type Type } from "./schema.ts"
import type { Tap } from "./Tap.ts"

export type Read = (tap: Tap) => unknown
type Skip = (tap: Tap) => void

type Of<K extends Type["kind"]> = Extract<Type, { readonly kind: K }>

/** The least size of a value in bytes: 0 or 1 is all that matters, and a record inside itself counts as 1. */
const leastOf = (type: Type, inside: ReadonlySet<Type> = new Set()): number => {
  switch (type.kind) {
    case "null":
      return 0
    case "fixed":
      return type.size
    case "record":
      if (inside.has(type)) return 1
      return type.fields.reduce(
        (sum, field) => Math.min(sum + leastOf(field.type, new Set([...inside, type])), 1024),
        0
      )
    case "float":
      return 4
    case "double":
      return 8
    default:
      return 1
  }
}

const mismatch = (writer: Type, reader: Type, path: string): never => {
  throw new AvroSchemaError({
    path,
    message: `Avro: data written as ${nameOf(writer)} cannot be read as ${nameOf(reader)}${
      path === "" ? "" : `, at ${path.slice(0, 500)}`
    }`
  })
}

const latin = (json: unknown): Uint8Array | undefined =>
  typeof json === "string" && !/[^\0-\xff]/.test(json) ? new Uint8Array(Buffer.from(json, "latin1")) : undefined

const int = (json: unknown): number | undefined =>
  typeof json === "number" && Number.isInteger(json) && json === (json | 0) ? json : undefined

const isPlain = (json: unknown): json is { readonly [key: string]: unknown } =>
  typeof json === "object" && json !== null && !Array.isArray(json)

/** Makes the default of a field, a new one for each call; undefined if the JSON is no value of the type. */
const defaultOf = (type: Type, json: unknown, path: string): () => unknown => {
  const wrong = (): never => {
    throw new AvroSchemaError({
      path,
      message: `Avro: the schema has a default that is no ${nameOf(type)}, at ${path}`
    })
  }
  const constant = (value: unknown): () => unknown => value === undefined ? wrong() : () => value
  switch (type.kind) {
    case "null":
      return json === null ? () => null : wrong()
    case "boolean":
      return constant(typeof json === "boolean" ? json : undefined)
    case "int":
      return constant(int(json))
    case "long":
      return constant(typeof json === "number" && Number.isSafeInteger(json) ? json : undefined)
    case "float":
    case "double":
      return constant(typeof json === "number" ? json : undefined)
    case "string":
      return constant(typeof json === "string" ? json : undefined)
    case "enum":
      return constant(typeof json === "string" && type.symbols.includes(json) ? json : undefined)
    case "bytes":
    case "fixed": {
      const bytes = latin(json)
      return bytes === undefined || (type.kind === "fixed" && bytes.length !== type.size)
        ? wrong()
        : () => bytes.slice()
    }
    case "array": {
      if (!Array.isArray(json)) return wrong()
      const items = json.map((each: unknown, index) => defaultOf(type.items, each, `${path}[${index}]`))
      return () => items.map((make) => make())
    }
    case "map":
    case "record": {
      if (!isPlain(json)) return wrong()
      const entries = type.kind === "map"
        ? Object.keys(json).map((key) => [key, defaultOf(type.values, json[key], `${path}.${key}`)] as const)
        : type.fields.map((field) => {
          const given = field.name in json ? { json: json[field.name] } : field.default
          return [
            field.name,
            given === undefined ? wrong() : defaultOf(field.type, given.json, `${path}.${field.name}`)
          ] as const
        })
      return () => Object.fromEntries(entries.map(([key, make]) => [key, make()]))
    }
    case "union": {
      for (const branch of type.branches) {
        try {
          return defaultOf(branch, json, path)
        } catch {
          // the next branch may take it
        }
      }
      return wrong()
    }
  }
}

/** Types that a writer's type may become. */
export const promotions: { readonly [writer: string]: ReadonlyArray<string> } = {
  int: ["long", "float", "double"],
  long: ["float", "double"],
  float: ["double"],
  string: ["bytes"],
  bytes: ["string"]
}

/** Tells whether two named types are the same: by name, by name without namespace, or by an alias of the reader. */
export const sameName = (
  writer: { readonly name: string },
  reader: { readonly name: string; readonly aliases: ReadonlyArray<string> }
): boolean =>
  writer.name === reader.name || shortName(writer.name) === shortName(reader.name) ||
  reader.aliases.includes(writer.name)

/** Tells whether a union's branch is one for this writer, without a look inside. */
export const isBranchFor = (writer: Type, reader: Type): "same" | "promoted" | undefined =>
  writer.kind === reader.kind
    ? !("name" in writer) || !("name" in reader) || sameName(writer, reader) ? "same" : undefined
    : promotions[writer.kind]?.includes(reader.kind) === true
    ? "promoted"
    : undefined

class Compiler {
  private readonly records = new Map<Type, Map<Type, { read: Read | undefined }>>()
  private readonly skips = new Map<Type, { skip: Skip | undefined }>()

  read(writer: Type, reader: Type, path: string): Read {
    if (writer.kind === "union") return this.fromUnion(writer, reader, path)
    if (reader.kind === "union") {
      // the first branch of the same type, else the first that the writer's may become
      const branch = reader.branches.find((each) => isBranchFor(writer, each) === "same") ??
        reader.branches.find((each) => isBranchFor(writer, each) === "promoted")
      return branch === undefined ? mismatch(writer, reader, path) : this.read(writer, branch, path)
    }
    if (writer.kind === reader.kind) return this.same(writer, reader, path)
    if (promotions[writer.kind]?.includes(reader.kind) !== true) return mismatch(writer, reader, path)
    switch (writer.kind) {
      case "int":
        return (tap) => tap.int()
      case "long":
        return reader.kind === "long" ? readLong : (tap) => Number(tap.long())
      case "float":
        return (tap) => tap.buffer.readFloatLE(tap.take(4))
      case "string":
        return (tap) => tap.bytes(tap.length())
      default:
        return (tap) => tap.string()
    }
  }

  private fromUnion(writer: Of<"union">, reader: Type, path: string): Read {
    // a branch that the reader does not know fails when a value has it, not before
    const reads = writer.branches.map((branch, index): Read => {
      try {
        return this.read(branch, reader, `${path}[${index}]`)
      } catch (error) {
        return (tap) =>
          tap.fail(error instanceof AvroSchemaError ? `a value of a union cannot be read: ${error.message}` : "failed")
      }
    })
    const [first, second] = writer.branches
    if (first !== undefined && second !== undefined && reads.length === 2 && first.kind === "null") {
      const value = reads[1]!
      const nothing = reads[0]!
      return (tap) => {
        const index = tap.buffer[tap.at]
        if (index !== 0 && index !== 2) return reads[branchOf(tap, 2)]!(tap)
        tap.at++
        return index === 2 ? value(tap) : nothing(tap)
      }
    }
    const count = reads.length
    return (tap) => reads[branchOf(tap, count)]!(tap)
  }

  private same(writer: Type, reader: Type, path: string): Read {
    switch (writer.kind) {
      case "null":
        return () => null
      case "boolean":
        return (tap) => tap.boolean()
      case "int":
        return (tap) => tap.int()
      case "long":
        return readLong
      case "float":
        return (tap) => tap.buffer.readFloatLE(tap.take(4))
      case "double":
        return (tap) => tap.buffer.readDoubleLE(tap.take(8))
      case "bytes":
        return (tap) => tap.bytes(tap.length())
      case "string":
        return (tap) => tap.string()
      case "fixed": {
        const { size } = writer
        if (reader.kind !== "fixed" || reader.size !== size || !sameName(writer, reader)) {
          return mismatch(writer, reader, path)
        }
        return (tap) => tap.bytes(size)
      }
      case "enum": {
        if (reader.kind !== "enum" || !sameName(writer, reader)) return mismatch(writer, reader, path)
        const symbols = writer.symbols.map((symbol) => reader.symbols.includes(symbol) ? symbol : reader.default)
        return (tap) => {
          const index = tap.int()
          if (index < 0 || index >= symbols.length) {
            return tap.fail("an enum has a symbol that its schema does not have")
          }
          return symbols[index] ?? tap.fail("an enum has a symbol that the reader's schema does not have")
        }
      }
      case "array": {
        if (reader.kind !== "array") return mismatch(writer, reader, path)
        const read = this.read(writer.items, reader.items, `${path}[]`)
        const least = leastOf(writer.items)
        return (tap) => {
          const items: Array<unknown> = []
          for (let count = tap.block(least); count > 0; count = tap.block(least)) {
            for (; count > 0; count--) items.push(read(tap))
          }
          return items
        }
      }
      case "map": {
        if (reader.kind !== "map") return mismatch(writer, reader, path)
        const read = this.read(writer.values, reader.values, `${path}{}`)
        return (tap) => {
          const entries: { [key: string]: unknown } = {}
          for (let count = tap.block(1); count > 0; count = tap.block(1)) {
            for (; count > 0; count--) {
              const key = tap.string()
              // it would become the prototype
              if (key === "__proto__") tap.fail("a map has the key __proto__")
              entries[key] = read(tap)
            }
          }
          return entries
        }
      }
      case "record":
        return reader.kind === "record" ? this.record(writer, reader, path) : mismatch(writer, reader, path)
      default:
        return mismatch(writer, reader, path)
    }
  }

  private record(writer: Of<"record">, reader: Of<"record">, path: string): Read {
    if (!sameName(writer, reader) && path !== "") return mismatch(writer, reader, path)
    let readers = this.records.get(writer)
    if (readers === undefined) this.records.set(writer, readers = new Map())
    const known = readers.get(reader)
    if (known !== undefined) {
      // a record inside itself: the only nesting that the schema does not bound
      return known.read ?? ((tap) => {
        tap.deeper()
        const value = known.read!(tap)
        tap.depth--
        return value
      })
    }
    const box: { read: Read | undefined } = { read: undefined }
    readers.set(reader, box)
    const open = new Set(reader.fields)
    const steps = writer.fields.map((field): { readonly name: string | undefined; readonly run: Read } => {
      const target = reader.fields.find((each) => each.name === field.name) ??
        reader.fields.find((each) => each.aliases.includes(field.name))
      if (target === undefined || !open.delete(target)) return { name: undefined, run: this.skip(field.type) }
      return {
        name: target.name,
        run: this.read(field.type, target.type, `${path === "" ? "" : `${path}.`}${field.name}`)
      }
    })
    const missing = [...open].map((field) => ({ name: field.name, run: missingField(field, path) }))
    return box.read = build([...steps, ...missing], reader.fields.map(({ name }) => name))
  }

  skip(type: Type): Skip {
    switch (type.kind) {
      case "null":
        return () => {}
      case "boolean":
        return (tap) => void tap.boolean()
      case "int":
        return (tap) => void tap.int()
      case "enum":
      case "long":
        return (tap) => void tap.long()
      case "float":
        return (tap) => void tap.take(4)
      case "double":
        return (tap) => void tap.take(8)
      case "fixed":
        return (tap) => void tap.take(type.size)
      case "bytes":
      case "string":
        return (tap) => void tap.take(tap.length())
      case "array":
      case "map": {
        const skip = this.skip(type.kind === "array" ? type.items : type.values)
        const least = type.kind === "array" ? leastOf(type.items) : 1
        const isMap = type.kind === "map"
        return (tap) => {
          for (let count = tap.block(least); count > 0; count = tap.block(least)) {
            for (; count > 0; count--) {
              if (isMap) tap.take(tap.length())
              skip(tap)
            }
          }
        }
      }
      case "union": {
        const skips = type.branches.map((branch) => this.skip(branch))
        return (tap) => skips[branchOf(tap, skips.length)]!(tap)
      }
      case "record": {
        const known = this.skips.get(type)
        if (known !== undefined) {
          return (tap) => {
            tap.deeper()
            known.skip!(tap)
            tap.depth--
          }
        }
        const box: { skip: Skip | undefined } = { skip: undefined }
        this.skips.set(type, box)
        const skips = type.fields.map((field) => this.skip(field.type))
        return box.skip = (tap) => {
          for (const skip of skips) skip(tap)
        }
      }
    }
  }
}

const readLong: Read = (tap) => tap.long()

const branchOf = (tap: Tap, count: number): number => {
  const index = tap.int()
  return index < 0 || index >= count ? tap.fail("a union has a branch that its schema does not have") : index
}

const missingField = (field: Field, path: string): Read => {
  const place = `${path === "" ? "" : `${path}.`}${field.name}`
  if (field.default === undefined) {
    throw new AvroSchemaError({
      path: place,
      message: `Avro: the writer has no field ${place}, and the reader's schema gives it no default`
    })
  }
  return defaultOf(field.type, field.default.json, place)
}

/** A runtime may forbid code from text, as a content security policy does. */
const generates = ((): boolean => {
  try {
    return new Function("return true")() === true
  } catch {
    return false
  }
})()

/** Makes a reader of records: all steps in the writer's order, the object's keys in the reader's. */
const build = (
  steps: ReadonlyArray<{ readonly name: string | undefined; readonly run: Read }>,
  names: ReadonlyArray<string>
): Read => {
  const runs = steps.map((step) => step.run)
  const keys = steps.map((step) => step.name)
  // names are those that the parser has let through: a letter or _, then letters, digits and _
  if (generates && keys.length <= 200) {
    const inputs = runs.map((_, index) => `r${index}`)
    const lines = runs.map((_, index) => keys[index] === undefined ? `r${index}(t)` : `const v${index} = r${index}(t)`)
    const fields = names.map((name) => `${JSON.stringify(name)}: v${keys.indexOf(name)}`)
    return new Function(...inputs, `return (t) => {\n${lines.join("\n")}\nreturn {${fields.join(", ")}}\n}`)(
      ...runs
    ) as Read
  }
  return (tap) => {
    const value: { [key: string]: unknown } = {}
    for (const name of names) value[name] = undefined
    for (let index = 0; index < runs.length; index++) {
      const read = runs[index]!(tap)
      const key = keys[index]
      if (key !== undefined) value[key] = read
    }
    return value
  }
}

/**
 * Compiles the reader of data that was written by one schema and is read by another.
 *
 * @throws AvroSchemaError when no value of the writer's schema can be read
 */
export const compile = (writer: Type, reader: Type): Read => new Compiler().read(writer, reader, "")
