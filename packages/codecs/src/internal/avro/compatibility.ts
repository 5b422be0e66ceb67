/** Compatibility of Avro schemas: all places where data of one schema cannot be read by another. */
import { isBranchFor, promotions, sameName } from "./reader.ts"
import { nameOf, type Type } from "./schema.ts"

/** A place of the reader's schema, and the reason. */
export interface Misread {
  readonly path: string
  readonly message: string
}

type Of<K extends Type["kind"]> = Extract<Type, { readonly kind: K }>

const inside = (path: string, name: string): string => path === "" ? name : `${path}.${name}`

class Checker {
  // records that hold themselves are compared once
  private readonly compared = new Map<Type, Map<Type, ReadonlyArray<Misread>>>()

  check(writer: Type, reader: Type, path: string): ReadonlyArray<Misread> {
    if (writer.kind === "union") {
      return writer.branches.flatMap((branch) => this.check(branch, reader, path))
    }
    if (reader.kind === "union") return this.intoUnion(writer, reader, path)
    if (writer.kind !== reader.kind) {
      return promotions[writer.kind]?.includes(reader.kind) === true ? [] : this.mismatch(writer, reader, path)
    }
    if ("name" in writer && "name" in reader && !sameName(writer, reader)) return this.mismatch(writer, reader, path)
    switch (writer.kind) {
      case "array":
        return reader.kind === "array" ? this.check(writer.items, reader.items, `${path}[]`) : []
      case "map":
        return reader.kind === "map" ? this.check(writer.values, reader.values, `${path}{}`) : []
      case "fixed":
        return reader.kind === "fixed" && reader.size !== writer.size
          ? [{
            path,
            message: `${writer.name} has ${writer.size} bytes for the writer, and ${reader.size} for the reader`
          }]
          : []
      case "enum":
        return reader.kind === "enum" ? this.symbols(writer, reader, path) : []
      case "record":
        return reader.kind === "record" ? this.record(writer, reader, path) : []
      default:
        return []
    }
  }

  private mismatch(writer: Type, reader: Type, path: string): ReadonlyArray<Misread> {
    return [{ path, message: `data written as ${nameOf(writer)} cannot be read as ${nameOf(reader)}` }]
  }

  private intoUnion(writer: Type, reader: Of<"union">, path: string): ReadonlyArray<Misread> {
    const branch = reader.branches.find((each) => isBranchFor(writer, each) === "same") ??
      reader.branches.find((each) => isBranchFor(writer, each) === "promoted")
    if (branch !== undefined) return this.check(writer, branch, path)
    const names = reader.branches.map(nameOf).join(", ")
    return [{ path, message: `data written as ${nameOf(writer)} fits no branch of the reader's union of ${names}` }]
  }

  private symbols(writer: Of<"enum">, reader: Of<"enum">, path: string): ReadonlyArray<Misread> {
    if (reader.default !== undefined) return []
    const missing = writer.symbols.filter((symbol) => !reader.symbols.includes(symbol))
    return missing.length === 0
      ? []
      : [{ path, message: `the reader's enum has no ${missing.join(", ")} and no default` }]
  }

  private record(writer: Of<"record">, reader: Of<"record">, path: string): ReadonlyArray<Misread> {
    let readers = this.compared.get(writer)
    if (readers === undefined) this.compared.set(writer, readers = new Map())
    const before = readers.get(reader)
    if (before !== undefined) return before
    readers.set(reader, [])
    const found: Array<Misread> = []
    const open = new Set(writer.fields)
    for (const field of reader.fields) {
      const place = inside(path, field.name)
      const source = writer.fields.find((each) => each.name === field.name) ??
        writer.fields.find((each) => field.aliases.includes(each.name) && open.has(each))
      if (source !== undefined) {
        open.delete(source)
        found.push(...this.check(source.type, field.type, place))
      } else if (field.default === undefined) {
        found.push({ path: place, message: "the writer has no such field, and the reader gives it no default" })
      }
    }
    return found
  }
}

/** Returns every place of the reader's schema where data of the writer's cannot be read. */
export const misreads = (writer: Type, reader: Type): ReadonlyArray<Misread> => new Checker().check(writer, reader, "")
