/**
 * Values as JSON texts, in one form for equal values, so that a hash of the text identifies the value.
 */
import { Effect, Exit, Schema, SchemaParser } from "effect"

/** Sorts the keys of objects, at every depth; the texts of equal values are equal. */
const sorted = (_: string, value: unknown): unknown => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value
  const keys = Object.keys(value)
  let isSorted = true
  for (let i = 1; i < keys.length && isSorted; i++) isSorted = keys[i - 1]! < keys[i]!
  if (isSorted) return value
  const copy: Record<string, unknown> = Object.create(null)
  for (const key of keys.sort()) copy[key] = (value as Readonly<Record<string, unknown>>)[key]
  return copy
}

/** Writes a JSON value; undefined, the value of a schema without a value, is written as null. */
export const write = (value: unknown): string => JSON.stringify(value, sorted) ?? "null"

/** A schema, compiled to functions between values and JSON texts. */
export interface Codec<A> {
  /** Fails with a text that names the place and not the value. */
  readonly encode: (value: A) => Effect.Effect<string, string>
  readonly decode: (text: string) => Effect.Effect<A, string>
}

const refused = (cause: unknown): string => {
  const text = cause instanceof Error ? cause.message : String(cause)
  return text.length > 300 ? `${text.slice(0, 300)}…` : text
}

/** Compiles a schema; the results are Exits, unless the schema itself suspends. */
export const codecOf = <A>(schema: Schema.ConstraintCodec<A, unknown>): Codec<A> => {
  const json = Schema.toCodecJson(schema)
  const write_ = SchemaParser.encodeUnknownEffect(json)
  const read = SchemaParser.decodeUnknownEffect(json)
  return {
    encode: (value) => {
      try {
        return Effect.mapErrorEager(Effect.mapEager(write_(value), write), refused)
      } catch (cause) {
        return Exit.fail(refused(cause))
      }
    },
    decode: (text) => {
      let value: unknown
      try {
        value = JSON.parse(text)
      } catch {
        return Exit.fail("it is not JSON")
      }
      // a schema of no value reads undefined, and null stands for it
      return value === null
        ? Effect.catchEager(read(null), () => Effect.mapErrorEager(read(undefined), refused))
        : Effect.mapErrorEager(read(value), refused)
    }
  }
}
