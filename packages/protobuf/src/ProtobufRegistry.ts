/**
 * Protocol Buffers with a schema registry: bodies name the schema that wrote them, and their message in it.
 */
import { type DescFile, type DescMessage, toBinary } from "@bufbuild/protobuf"
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt"
import { SchemaRegistry } from "@millrace/codecs"
import type { PayloadCodec } from "@millrace/core"
import { importsOf, indexesOf, placesOf } from "./internal/messagePlaces.ts"
import * as Protobuf from "./Protobuf.ts"

/** Options of `codec`. */
export interface Options extends SchemaRegistry.CodecOptions, Protobuf.Options {
  /**
   * The texts of `.proto` files by their import paths, e.g. `{ "shop/order.proto": text }`: they are registered as they are.
   * Default: the descriptor of a file in base64, which registries take, too.
   */
  readonly texts?: { readonly [path: string]: string } | undefined
  /** The subject of an imported file. Default: its import path. */
  readonly importSubject?: ((path: string) => string) | undefined
}

const pathOf = (file: DescFile): string => `${file.name}.proto`

const textOf = (file: DescFile, options: Options): string => {
  const text = options.texts?.[pathOf(file)]
  if (text !== undefined) return text
  const { sourceCodeInfo: _, ...proto } = file.proto
  return Buffer.from(toBinary(FileDescriptorProtoSchema, proto)).toString("base64")
}

const referencesOf = (
  file: DescFile,
  options: Options,
  made: Map<DescFile, SchemaRegistry.Reference>
): ReadonlyArray<SchemaRegistry.Reference> =>
  importsOf(file).map((each) => {
    const before = made.get(each)
    if (before !== undefined) return before
    const name = pathOf(each)
    const reference = {
      name,
      subject: options.importSubject?.(name) ?? name,
      schema: textOf(each, options),
      references: referencesOf(each, options, made)
    }
    made.set(each, reference)
    return reference
  })

/** Finds the place of a message in a schema. */
const placeIn = (schema: string, typeName: string): string => {
  const place = placesOf(schema).plain.get(typeName)
  if (place === undefined) throw new Protobuf.ProtobufError(`Protobuf: the schema has no message ${typeName}`)
  return place
}

/**
 * Makes a codec of Protobuf bodies in Confluent's wire format: a zero byte, the id of the writer's schema in four bytes, the
 * indexes of the message in the schema, the message.
 *
 * Values, limits and refusals are those of `Protobuf.codec`. Publishers look the id of their schema up once, and those of its
 * imports before; they register them only if told. Files of `google/protobuf/` need no registration.
 *
 * @example
 * ```ts
 * import { StringValueSchema } from "@bufbuild/protobuf/wkt"
 * import { Channel } from "@millrace/core"
 * import { ProtobufRegistry } from "@millrace/protobuf"
 *
 * const Names = Channel.unchecked("names", ProtobufRegistry.codec(StringValueSchema))
 * ```
 *
 * Errors: those of `SchemaRegistry.make`. A body of another message type is class `poison`.
 *
 * @throws RangeError for a wrong option
 * @category constructors
 */
export const codec = <Desc extends DescMessage>(
  desc: Desc,
  options: Options = {}
): PayloadCodec.PayloadCodec<SchemaRegistry.Registry> => {
  const plain = Protobuf.codec(desc, options)
  const write: SchemaRegistry.Format["write"] = (value, prefix) => {
    const body = plain.encode(value)
    const bytes = new Uint8Array(prefix.length + body.length)
    bytes.set(prefix)
    bytes.set(body, prefix.length)
    return bytes
  }
  const schema = textOf(desc.file, options)
  const own = SchemaRegistry.messageIndexes(indexesOf(desc))
  return SchemaRegistry.make({
    name: "ProtobufRegistry.codec",
    contentType: plain.contentType,
    values: plain.values,
    schemaType: "PROTOBUF",
    schema,
    references: referencesOf(desc.file, options, new Map()),
    record: desc.typeName,
    indexes: (written) =>
      written === schema
        ? own
        : SchemaRegistry.messageIndexes(placeIn(written, desc.typeName).split(".").map(Number)),
    write,
    writeAs: (latest) => {
      placeIn(latest.schema, desc.typeName)
      return write
    },
    read: (written, place) => {
      const { plain: places, withEntries } = placesOf(written.schema)
      if (places.get(desc.typeName) !== place && withEntries.get(desc.typeName) !== place) {
        throw new Protobuf.ProtobufError(`Protobuf: the message at ${place} of the schema is no ${desc.typeName}`)
      }
      return (bytes, at) => plain.decode(bytes.subarray(at))
    }
  }, options)
}
