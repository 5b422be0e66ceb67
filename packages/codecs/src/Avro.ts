/**
 * Avro (specification 1.12.0): bodies of one schema, read by the rules of schema resolution where the writer's schema differs.
 */
import type { Channel } from "@millrace/core"
import { compile as compileReader, type Read } from "./internal/avro/reader.ts"
import * as Schema from "./internal/avro/schema.ts"
import * as Errors from "./internal/avro/Tap.ts"
import { compile as compileWriter } from "./internal/avro/writer.ts"
import type * as Bounds from "./internal/bounds.ts"
import { resolve } from "./internal/bounds.ts"
import { bufferOf } from "./internal/text.ts"

/** Limits of a decoder. */
export type Limits = Bounds.Limits

/** The bytes are no value of the schema, or a value does not fit it. Its message holds no value of the body. */
export const AvroError = Errors.AvroError
/** The bytes are no value of the schema, or a value does not fit it. Its message holds no value of the body. */
export type AvroError = Errors.AvroError

/** The definition is no Avro schema, or data of one schema cannot be read by another; `path` is the place in the schema. */
export const SchemaError = Schema.AvroSchemaError
/** The definition is no Avro schema, or data of one schema cannot be read by another; `path` is the place in the schema. */
export type SchemaError = Schema.AvroSchemaError

/** A schema as JSON text, as parsed JSON, or as the name of a primitive type. */
export type Definition = string | { readonly [key: string]: unknown } | ReadonlyArray<unknown>

/** Options of `codec`. */
export interface Options extends Limits {
  /** The schema that the bodies were written by, if it is not the reader's. Default: the reader's. */
  readonly writer?: Definition | undefined
}

/** Options of `singleObject`. */
export interface SingleObjectOptions extends Limits {
  /** Other schemas that bodies may have been written by, e.g. older versions. Default: none. */
  readonly writers?: ReadonlyArray<Definition> | undefined
}

const readAll = (read: Read, bytes: Uint8Array, at: number, limits: Bounds.ResolvedLimits): unknown => {
  const tap = new Errors.Tap(bufferOf(bytes), at, limits)
  const value = read(tap)
  return tap.at === tap.end ? value : tap.fail("the body goes on after its value")
}

/**
 * Makes a codec of bare Avro bodies, `avro/binary`: without a header that says which schema wrote them.
 *
 * Values: records and maps are objects, `bytes` and `fixed` are `Uint8Array`, a `long` is a number, and a bigint outside of the
 * safe integers. A union's value stands for itself: the first branch that it fits is written. Logical types keep the value
 * of the type below them.
 *
 * Errors: `AvroError` for bytes and values that do not fit, for bytes behind the value, for a map key `__proto__`, and beyond
 * the limits.
 *
 * @example
 * ```ts
 * import { Avro } from "@millrace/codecs"
 *
 * const codec = Avro.codec({
 *   type: "record",
 *   name: "Order",
 *   fields: [{ name: "id", type: "string" }, { name: "amount", type: "long" }]
 * })
 * const bytes = codec.encode({ id: "a", amount: 5 })
 * console.log(bytes.length, codec.decode(bytes)) // => 3 { id: 'a', amount: 5 }
 * ```
 *
 * @throws SchemaError when a definition is no schema, or the writer's cannot be read; RangeError for a wrong limit
 * @category constructors
 */
export const codec = (definition: Definition, options: Options = {}): Channel.Codec => {
  const limits = resolve("Avro", options)
  const schema = Schema.parse(definition)
  const read = compileReader(options.writer === undefined ? schema : Schema.parse(options.writer), schema)
  const write = compileWriter(schema)
  return {
    contentType: "avro/binary",
    values: "native",
    encode: (value) => write(value),
    decode: (bytes) => readAll(read, bytes, 0, limits)
  }
}

/** The head of a single-object body: two bytes, and the fingerprint in little endian. */
const headOf = (schema: Schema.Type): Buffer => {
  const head = Buffer.from([0xc3, 0x01, 0, 0, 0, 0, 0, 0, 0, 0])
  head.writeBigUInt64LE(Schema.fingerprint(schema), 2)
  return head
}

/**
 * Makes a codec of Avro's single-object encoding: each body begins with the fingerprint of the schema that wrote it, so older
 * versions in `writers` are read without a registry.
 *
 * Errors: as of `codec`, and an `AvroError` for a fingerprint of no known schema.
 *
 * @throws SchemaError when a definition is no schema, or a writer's cannot be read; RangeError for a wrong limit
 * @category constructors
 */
export const singleObject = (definition: Definition, options: SingleObjectOptions = {}): Channel.Codec => {
  const limits = resolve("Avro", options)
  const schema = Schema.parse(definition)
  const head = headOf(schema)
  const reads = new Map<string, Read>()
  for (const writer of [schema, ...(options.writers ?? []).map((each) => Schema.parse(each))]) {
    reads.set(headOf(writer).toString("latin1"), compileReader(writer, schema))
  }
  const write = compileWriter(schema)
  return {
    contentType: "avro/binary",
    values: "native",
    encode: (value) => write(value, head),
    decode: (bytes) => {
      const read = reads.get(bufferOf(bytes).toString("latin1", 0, head.length))
      if (read === undefined) {
        throw new AvroError(
          "Avro: the body begins with no fingerprint of a known schema: add the schema that wrote it to writers"
        )
      }
      return readAll(read, bytes, head.length, limits)
    }
  }
}

/**
 * Returns the Parsing Canonical Form of a schema, which is equal for schemas that write the same bytes.
 *
 * @throws SchemaError when the definition is no schema
 */
export const canonicalForm = (definition: Definition): string => Schema.canonical(Schema.parse(definition))

/**
 * Returns the 64-bit fingerprint of a schema (CRC-64-AVRO of its canonical form), as single-object encoding carries it.
 *
 * @throws SchemaError when the definition is no schema
 */
export const fingerprint = (definition: Definition): bigint => Schema.fingerprint(Schema.parse(definition))

/**
 * Tells whether data that was written by one schema can be read by another; the answer is undefined, or the sentence that says
 * why not.
 *
 * @throws SchemaError when a definition is no schema
 */
export const unreadable = (writer: Definition, reader: Definition): string | undefined => {
  const from = Schema.parse(writer)
  const to = Schema.parse(reader)
  try {
    compileReader(from, to)
    return undefined
  } catch (error) {
    if (error instanceof Schema.AvroSchemaError) return error.message
    throw error
  }
}
