/**
 * Compatibility of two versions of an Avro schema, judged without a registry: in a test, before a release, or in a build.
 */
import { type Misread, misreads } from "./internal/avro/compatibility.ts"
import * as Schema from "./internal/avro/schema.ts"
import type { Definition } from "./Avro.ts"

/**
 * The readers that must go on: `backward`, the new schema reads data of the old one (update consumers first); `forward`, the old
 * schema reads data of the new one (update publishers first); `full`, both.
 */
export type Level = "backward" | "forward" | "full"

/** A place where data of one schema cannot be read by the other. */
export interface Incompatibility {
  /** `backward`: the new schema is the reader; `forward`: the old one. */
  readonly direction: "backward" | "forward"
  /** The place in the reader's schema, e.g. `lines[].sku`: `[]` stands for items, `{}` for values of a map; empty at the root. */
  readonly path: string
  /** The reason, with the names of types and symbols. */
  readonly message: string
  /** The place of the old schema in the list of `checkAll`; 0 for `check`. */
  readonly version: number
}

const levels = new Set<unknown>(["backward", "forward", "full"])

const judged = (
  before: Schema.Type,
  after: Schema.Type,
  level: Level,
  version: number
): ReadonlyArray<Incompatibility> => {
  const told = (direction: Incompatibility["direction"], found: ReadonlyArray<Misread>) =>
    found.map(({ message, path }) => ({ direction, path, message, version }))
  return [
    ...(level === "forward" ? [] : told("backward", misreads(before, after))),
    ...(level === "backward" ? [] : told("forward", misreads(after, before)))
  ]
}

/**
 * Lists the incompatibilities of a new schema with several older ones, as the transitive levels of registries do.
 *
 * @throws SchemaError when a definition is no schema; RangeError for another level
 */
export const checkAll = (
  olds: ReadonlyArray<Definition>,
  now: Definition,
  level: Level
): ReadonlyArray<Incompatibility> => {
  if (!levels.has(level)) {
    throw new RangeError(`Compatibility: level must be one of backward, forward, full, got ${String(level)}`)
  }
  const after = Schema.parse(now)
  return olds.flatMap((old, version) => judged(Schema.parse(old), after, level, version))
}

/**
 * Lists the incompatibilities of a new Avro schema with an old one, by the rules of schema resolution of Avro 1.12; an empty list
 * means that they are compatible.
 *
 * A union's branches count all, also those that no message has used: `Avro.codec` refuses only the bodies that have them.
 *
 * @example
 * ```ts
 * import { Compatibility } from "@millrace/codecs"
 *
 * const id = { name: "id", type: "string" }
 * const before = { type: "record", name: "Order", fields: [id] }
 * const after = { type: "record", name: "Order", fields: [id, { name: "region", type: "string" }] }
 *
 * for (const { message, path } of Compatibility.check(before, after, "backward")) console.log(path, message)
 * // => region the writer has no such field, and the reader gives it no default
 * console.log(Compatibility.check(before, after, "forward").length) // => 0
 * ```
 *
 * @throws SchemaError when a definition is no schema; RangeError for another level
 */
export const check = (old: Definition, now: Definition, level: Level): ReadonlyArray<Incompatibility> =>
  checkAll([old], now, level)
