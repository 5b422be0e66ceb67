/** Avro schemas (specification 1.12.0): parsed from JSON into types whose names are resolved. */
import { Data } from "effect"

/**
 * The text or value is no Avro schema. `path` is the place inside the schema, e.g. `fields[1].type`.
 */
export class AvroSchemaError extends Data.TaggedError("AvroSchemaError")<{
  readonly message: string
  readonly path: string
}> {
  readonly failure = "permanent" as const
}

export type Primitive = "null" | "boolean" | "int" | "long" | "float" | "double" | "bytes" | "string"

export interface Field {
  readonly name: string
  readonly aliases: ReadonlyArray<string>
  readonly type: Type
  /** As JSON; undefined means that the field has none. */
  readonly default: { readonly json: unknown } | undefined
}

export interface Record {
  readonly kind: "record"
  readonly name: string
  readonly aliases: ReadonlyArray<string>
  // filled while the record is parsed, because its fields may name it
  fields: ReadonlyArray<Field>
}

export interface Enum {
  readonly kind: "enum"
  readonly name: string
  readonly aliases: ReadonlyArray<string>
  readonly symbols: ReadonlyArray<string>
  readonly default: string | undefined
}

export interface Fixed {
  readonly kind: "fixed"
  readonly name: string
  readonly aliases: ReadonlyArray<string>
  readonly size: number
}

export type Named = Record | Enum | Fixed

export type Type =
  | { readonly kind: Primitive }
  | Named
  | { readonly kind: "array"; readonly items: Type }
  | { readonly kind: "map"; readonly values: Type }
  | { readonly kind: "union"; readonly branches: ReadonlyArray<Type> }

/** The types that a schema may name although other schemas define them. */
export type Names = Map<string, Named>

const primitives: ReadonlyMap<string, Type> = new Map(
  (["null", "boolean", "int", "long", "float", "double", "bytes", "string"] as const).map((kind) => [kind, { kind }])
)

/** A schema that comes from a registry is input: its size and depth are bounded. */
const most = { nodes: 20_000, depth: 64, text: 4 * 1024 * 1024, fixed: 1024 * 1024 }

const simple = /^[A-Za-z_][A-Za-z0-9_]*$/

type Json = { readonly [key: string]: unknown }

const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

/** The name of a type in a union: the full name of a named type, else its kind. */
export const nameOf = (type: Type): string => "name" in type ? type.name : type.kind

/** The name without its namespace. */
export const shortName = (name: string): string => name.slice(name.lastIndexOf(".") + 1)

class Parser {
  readonly names: Names
  private nodes = 0
  private depth = 0
  private readonly used: Set<string> | undefined

  constructor(names: Names, used: Set<string> | undefined) {
    this.names = names
    this.used = used
  }

  fail(path: string, sentence: string): never {
    throw new AvroSchemaError({
      path,
      message: `Avro: the schema ${sentence}${path === "" ? "" : `, at ${path.slice(0, 500)}`}`
    })
  }

  parse(json: unknown, namespace: string, path: string): Type {
    if (++this.nodes > most.nodes) this.fail(path, `has more than ${most.nodes} types`)
    if (++this.depth > most.depth) this.fail(path, `is nested more than ${most.depth} deep`)
    const type = typeof json === "string"
      ? this.named(json, namespace, path)
      : Array.isArray(json)
      ? this.union(json, namespace, path)
      : isObject(json)
      ? this.complex(json, namespace, path)
      : this.fail(path, "must be a name, a list or an object")
    this.depth--
    return type
  }

  private named(name: string, namespace: string, path: string): Type {
    const primitive = primitives.get(name)
    if (primitive !== undefined) return primitive
    const found = this.names.get(name.includes(".") || namespace === "" ? name : `${namespace}.${name}`) ??
      this.names.get(name) ??
      this.fail(path, `names the type ${JSON.stringify(name.slice(0, 100))}, which it does not define before`)
    this.used?.add(found.name)
    return found
  }

  private union(json: ReadonlyArray<unknown>, namespace: string, path: string): Type {
    const branches = json.map((each, index) => this.parse(each, namespace, `${path}[${index}]`))
    const seen = new Set<string>()
    for (const branch of branches) {
      const name = nameOf(branch)
      if (branch.kind === "union") this.fail(path, "has a union directly in a union")
      if (seen.has(name)) this.fail(path, `has two branches ${name} in one union`)
      seen.add(name)
    }
    return { kind: "union", branches }
  }

  private complex(json: Json, namespace: string, path: string): Type {
    const kind = json["type"]
    if (typeof kind !== "string") return this.parse(kind, namespace, `${path === "" ? "" : `${path}.`}type`)
    const inside = path === "" ? "" : `${path}.`
    switch (kind) {
      case "array":
        return { kind, items: this.parse(json["items"], namespace, `${inside}items`) }
      case "map":
        return { kind, values: this.parse(json["values"], namespace, `${inside}values`) }
      case "record":
      case "error":
        return this.record(json, namespace, path, inside)
      case "enum": {
        const symbols = json["symbols"]
        if (!Array.isArray(symbols) || !symbols.every((each) => typeof each === "string" && simple.test(each))) {
          return this.fail(path, "has an enum whose symbols are no list of names")
        }
        if (new Set(symbols).size !== symbols.length) this.fail(path, "has an enum with equal symbols")
        const fallback = json["default"]
        if (fallback !== undefined && !symbols.includes(fallback)) {
          this.fail(path, "has an enum whose default is none of its symbols")
        }
        return this.define({ kind, ...this.title(json, namespace, path), symbols, default: fallback as string }, path)
      }
      case "fixed": {
        const size = json["size"]
        if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0 || size > most.fixed) {
          return this.fail(path, `has a fixed whose size is no integer from 0 to ${most.fixed}`)
        }
        return this.define({ kind, ...this.title(json, namespace, path), size }, path)
      }
      default:
        return this.named(kind, namespace, path)
    }
  }

  private define<T extends Named>(type: T, path: string): T {
    if (this.names.has(type.name)) this.fail(path, `defines ${type.name} twice`)
    this.names.set(type.name, type)
    return type
  }

  private title(json: Json, namespace: string, path: string): { name: string; aliases: ReadonlyArray<string> } {
    const { aliases = [], name, namespace: own } = json
    const isName = (each: unknown): each is string =>
      typeof each === "string" && each !== "" && each.split(".").every((part) => simple.test(part))
    if (!isName(name)) return this.fail(path, "has a type whose name is none")
    if (primitives.has(name)) this.fail(path, `defines a type with the name of a primitive, ${name}`)
    if (!Array.isArray(aliases) || !aliases.every(isName)) return this.fail(path, "has aliases that are no names")
    const space = name.includes(".")
      ? name.slice(0, name.lastIndexOf("."))
      : typeof own === "string"
      ? own
      : namespace
    if (space !== "" && !isName(space)) this.fail(path, "has a namespace that is none")
    const full = (each: string) => each.includes(".") || space === "" ? each : `${space}.${each}`
    return { name: full(name), aliases: aliases.map(full) }
  }

  private record(json: Json, namespace: string, path: string, inside: string): Type {
    const title = this.title(json, namespace, path)
    const type: Record = this.define({ kind: "record", ...title, fields: [] }, path)
    const space = title.name.includes(".") ? title.name.slice(0, title.name.lastIndexOf(".")) : ""
    const list = json["fields"]
    if (!Array.isArray(list)) return this.fail(path, "has a record whose fields are no list")
    const seen = new Set<string>()
    type.fields = list.map((field: unknown, index): Field => {
      const place = `${inside}fields[${index}]`
      const name = isObject(field) ? field["name"] : undefined
      if (!isObject(field) || typeof name !== "string" || !simple.test(name)) {
        return this.fail(place, "has a field whose name is none")
      }
      // as a key of an object it would be the prototype
      if (name === "__proto__") this.fail(place, "has a field with the name __proto__")
      if (seen.has(name)) this.fail(place, `has two fields ${name} in one record`)
      seen.add(name)
      const aliases = field["aliases"] ?? []
      if (!Array.isArray(aliases) || !aliases.every((each) => typeof each === "string" && simple.test(each))) {
        return this.fail(place, "has aliases that are no names")
      }
      return {
        name,
        aliases,
        type: this.parse(field["type"], space, `${place}.type`),
        default: "default" in field ? { json: field["default"] } : undefined
      }
    })
    return type
  }
}

/**
 * Parses a schema: JSON text, the parsed JSON, or the name of a primitive type. `names` holds the types of other schemas, and
 * gets those of this one; `used` gets the names of types that the schema names.
 */
export const parse = (schema: unknown, names: Names = new Map(), used?: Set<string>): Type => {
  const parser = new Parser(names, used)
  if (typeof schema !== "string" || !/^\s*[[{"]/.test(schema)) return parser.parse(schema, "", "")
  if (schema.length > most.text) parser.fail("", `has more than ${most.text} characters`)
  let json: unknown
  try {
    json = JSON.parse(schema)
  } catch {
    return parser.fail("", "is no JSON")
  }
  return parser.parse(json, "", "")
}

/** Writes the Parsing Canonical Form. */
export const canonical = (type: Type, seen: Set<string> = new Set()): string => {
  if ("name" in type) {
    const name = JSON.stringify(type.name)
    if (seen.has(type.name)) return name
    seen.add(type.name)
    if (type.kind === "enum") {
      return `{"name":${name},"type":"enum","symbols":[${type.symbols.map((each) => JSON.stringify(each)).join(",")}]}`
    }
    if (type.kind === "fixed") return `{"name":${name},"type":"fixed","size":${type.size}}`
    const fields = type.fields.map((field) =>
      `{"name":${JSON.stringify(field.name)},"type":${canonical(field.type, seen)}}`
    )
    return `{"name":${name},"type":"record","fields":[${fields.join(",")}]}`
  }
  switch (type.kind) {
    case "array":
      return `{"type":"array","items":${canonical(type.items, seen)}}`
    case "map":
      return `{"type":"map","values":${canonical(type.values, seen)}}`
    case "union":
      return `[${type.branches.map((branch) => canonical(branch, seen)).join(",")}]`
    default:
      return `"${type.kind}"`
  }
}

const empty = 0xc15d213aa4d7a795n

let table: ReadonlyArray<bigint> | undefined

/** The 64-bit Rabin fingerprint of a schema's canonical form, which single-object encoding carries. */
export const fingerprint = (type: Type): bigint => {
  table ??= Array.from({ length: 256 }, (_, index) => {
    let value = BigInt(index)
    for (let bit = 0; bit < 8; bit++) value = (value >> 1n) ^ (empty & -(value & 1n))
    return value
  })
  let value = empty
  for (const byte of new TextEncoder().encode(canonical(type))) {
    value = (value >> 8n) ^ table[Number(value & 0xffn) ^ byte]!
  }
  return BigInt.asUintN(64, value)
}
