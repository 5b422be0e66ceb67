/** A codec of bodies that name their schema, for any type of schema. */
import { Eager, type Headers, OptionCheck, PayloadCodec } from "@millrace/core"
import { Effect, Exit } from "effect"
import * as Requests from "./client.ts"
import { frameAt, type Framed, frameIn, headerOf, prefixOf, valueHeader } from "./framing.ts"
import { SchemaRegistryService } from "./service.ts"

/** Writes a value behind a prefix, in one run of bytes. A throw is a value that does not fit. */
export type Write = (value: unknown, prefix: Uint8Array) => Uint8Array

/** Reads the value that begins at an offset. A throw is poison. */
export type Read = (bytes: Uint8Array, at: number) => unknown

/** One type of schema: how it is registered, and how its values are written and read. */
export interface Format {
  /** The name in errors and descriptions, e.g. `SchemaRegistry.avro`. */
  readonly name: string
  readonly contentType?: string | undefined
  /** The values between the channel's schema and the codec. Default: `json`. */
  readonly values?: "json" | "native" | undefined
  /** The registry's name of the type: `AVRO`, `JSON` or `PROTOBUF`. */
  readonly schemaType: string
  /** The text that is registered. */
  readonly schema: string
  readonly references?: ReadonlyArray<Requests.Reference> | undefined
  /** The name in subjects by record; undefined if the schema has none. */
  readonly record: string | undefined
  readonly write: Write
  /** Makes a writer of the latest schema, for values of ours; throws if it cannot write them. */
  readonly writeAs: (latest: Requests.Registered) => Write
  /**
   * Makes the reader of bodies that a schema wrote; throws if they cannot be read. `place` is the place of a Protobuf message,
   * else empty.
   */
  readonly read: (written: Requests.Registered, place: string) => Read
  /** Returns the bytes between id and value, where the type has some: the indexes of a Protobuf message. */
  readonly indexes?: ((schema: string) => Uint8Array) | undefined
}

/** The subject of a schema: by the channel (`topicName`), by the record (`recordName`), or by both (`topicRecordName`). */
export type SubjectName = "topicName" | "recordName" | "topicRecordName"

/** Options of a codec. */
export interface Options {
  /** Default: `topicName`, `CHANNEL-value`. */
  readonly subject?: SubjectName | undefined
  /** Registers the schema, and those that it names, where the subject does not have it. Default: false, the publish fails. */
  readonly register?: boolean | undefined
  /**
   * Writes by the latest schema of the subject, as the registry had it at the first publish; the registry must call ours
   * compatible with it. Default: false.
   */
  readonly useLatest?: boolean | undefined
  /** The registry compares and keeps schemas in its normal form. Default: false. */
  readonly normalize?: boolean | undefined
  /**
   * The place of the schema's name: its id before the body (`prefix`), or its GUID in the header `__value_schema_id` (`header`,
   * for brokers whose headers hold bytes). Both are read. Default: `prefix`.
   */
  readonly framing?: "prefix" | "header" | undefined
}

type Registry = SchemaRegistryService["Service"]

/** The most channels and schemas whose ids and readers a codec keeps: an address may have parameters. */
const most = 1000

const failed = (
  failure: "poison" | "permanent" | "validation",
  reason: Requests.Reason,
  message: string,
  cause?: unknown
): Exit.Exit<never, PayloadCodec.PayloadError> => Exit.fail(Requests.failure(failure, reason, message, { cause }))

const sentence = (cause: unknown): string => cause instanceof Error ? cause.message : "it cannot be read"

/** The bytes and headers of a channel's messages, apart from the value. */
interface Writer {
  readonly write: Write
  readonly prefix: Uint8Array
  readonly fields: ReadonlyArray<Headers.Field> | undefined
}

const none = new Uint8Array(0)

const subjects = (format: Format, options: Options): (channel: string) => string => {
  const by = OptionCheck.make("SchemaRegistry").oneOf("subject", options.subject ?? "topicName", [
    "topicName",
    "recordName",
    "topicRecordName"
  ])
  const { record } = format
  if (by === "topicName") return (channel) => `${channel}-value`
  if (record === undefined) throw new RangeError(`SchemaRegistry: subject is "${by}", and the schema has no name`)
  return by === "recordName" ? () => record : (channel) => `${channel}-${record}`
}

/** Keeps what belongs to one registry: ids of another would name other schemas. */
class Known {
  readonly writers = new Map<string, Writer>()
  readonly byId = new Map<number, Read>()
  readonly byName = new Map<string, Read>()
  readonly registry: Registry

  constructor(registry: Registry) {
    this.registry = registry
  }

  read(framed: Framed): Read | undefined {
    const { id, place } = framed
    return typeof id === "number" && (place === "" || place === "0")
      ? this.byId.get(id)
      : this.byName.get(`${id} ${place}`)
  }

  keep({ id, place }: Framed, read: Read): void {
    if (typeof id === "number" && (place === "" || place === "0")) {
      if (this.byId.size < most) this.byId.set(id, read)
    } else if (this.byName.size < most) {
      this.byName.set(`${id} ${place}`, read)
    }
  }
}

const prepared = (
  format: Format,
  write: Write,
  { guid, id }: Requests.Identity,
  schema: string,
  framing: "prefix" | "header"
): Exit.Exit<Writer, PayloadCodec.PayloadError> => {
  const indexes = format.indexes?.(schema) ?? none
  if (framing === "prefix") return Exit.succeed({ write, prefix: prefixOf(id, indexes), fields: undefined })
  return guid === undefined
    ? failed("permanent", "framing", "The schema registry gives schemas no GUID: set framing to prefix")
    : Exit.succeed({ write, prefix: none, fields: [[valueHeader, headerOf(guid, indexes)]] })
}

/** Makes a codec of a format. */
export const make = (format: Format, options: Options = {}): PayloadCodec.PayloadCodec<SchemaRegistryService> => {
  const check = OptionCheck.make("SchemaRegistry")
  const subjectOf = subjects(format, options)
  const framing = check.oneOf("framing", options.framing ?? "prefix", ["prefix", "header"])
  const { normalize = false, register = false, useLatest = false } = options
  if (register && useLatest) throw new RangeError("SchemaRegistry: set register or useLatest, not both")
  const { references = [], schema, schemaType } = format
  const ours: Requests.Unregistered = { schemaType, schema, references }
  const hasIndexes = format.indexes !== undefined
  let known: Known | undefined

  const of = (registry: Registry): Known => known?.registry === registry ? known : known = new Known(registry)

  const current = (registry: Registry, channel: string): Effect.Effect<Writer, PayloadCodec.PayloadError> => {
    const subject = subjectOf(channel)
    if (!useLatest) {
      return Effect.flatMapEager(
        registry.identityOf(subject, ours, { register, normalize }),
        (found) => prepared(format, format.write, found, schema, framing)
      )
    }
    return Effect.flatMapEager(registry.latest(subject, ours), (latest) => {
      if (latest.schemaType !== schemaType) {
        return failed("permanent", "incompatible", `The latest schema of ${subject} is no ${schemaType}`)
      }
      try {
        return prepared(format, format.writeAs(latest), latest, latest.schema, framing)
      } catch (cause) {
        return failed("permanent", "incompatible", `The latest schema of ${subject}: ${sentence(cause)}`, cause)
      }
    })
  }

  const written = (value: unknown, { fields, prefix, write }: Writer) => {
    try {
      const bytes = write(value, prefix)
      return Exit.succeed<PayloadCodec.Encoded>(fields === undefined ? { bytes } : { bytes, fields })
    } catch (cause) {
      return failed("validation", "value", sentence(cause), cause)
    }
  }

  const encode = (registry: Registry, value: unknown, channel: string) => {
    const mine = of(registry)
    const writer = mine.writers.get(channel)
    if (writer !== undefined) return written(value, writer)
    return Effect.flatMapEager(current(registry, channel), (writer) => {
      if (mine.writers.size < most) mine.writers.set(channel, writer)
      return written(value, writer)
    })
  }

  const readBy = (read: Read, bytes: Uint8Array, at: number): Exit.Exit<unknown, PayloadCodec.PayloadError> => {
    try {
      return Exit.succeed(read(bytes, at))
    } catch (cause) {
      return failed("poison", "body", sentence(cause), cause)
    }
  }

  const compiled = (framed: Framed, schema: Requests.Registered) => {
    if (schema.schemaType !== schemaType) {
      return failed(
        "poison",
        "body",
        `The body was written by schema ${framed.id}, of type ${schema.schemaType.slice(0, 20)}`
      )
    }
    try {
      return Exit.succeed(format.read(schema, framed.place))
    } catch (cause) {
      return failed("poison", "body", `The body was written by schema ${framed.id}: ${sentence(cause)}`, cause)
    }
  }

  const decode = (registry: Registry, bytes: Uint8Array, framed: Framed) => {
    const mine = of(registry)
    const read = mine.read(framed)
    if (read !== undefined) return readBy(read, bytes, framed.at)
    return Effect.flatMapEager(
      registry.schemaOf(framed.id),
      (schema) =>
        Effect.flatMapEager(compiled(framed, schema), (read) => {
          mine.keep(framed, read)
          return readBy(read, bytes, framed.at)
        })
    )
  }

  return PayloadCodec.make<SchemaRegistryService>({
    name: format.name,
    contentType: format.contentType,
    values: format.values,
    encode: (value, { channel }) => {
      const registry = Eager.service(SchemaRegistryService)
      return Eager.isDone(registry) && Exit.isSuccess(registry)
        ? encode(registry.value, value, channel)
        : Effect.flatMap(registry, (registry) => encode(registry, value, channel))
    },
    decode: (bytes, metadata) => {
      const header = headerIn(metadata.fields)
      if (header === undefined && !hasIndexes && bytes.length >= 5 && bytes[0] === 0) {
        // most bodies: an id that is known, and no object is made for its frame
        const registry = Eager.service(SchemaRegistryService)
        if (Eager.isDone(registry) && Exit.isSuccess(registry) && known?.registry === registry.value) {
          const read = known.byId.get(((bytes[1]! << 24) | (bytes[2]! << 16) | (bytes[3]! << 8) | bytes[4]!) >>> 0)
          if (read !== undefined) return readBy(read, bytes, 5)
        }
      }
      const framed = header === undefined ? frameAt(bytes, hasIndexes) : frameIn(header, hasIndexes)
      if (framed === undefined) {
        return failed(
          "poison",
          "framing",
          header === undefined
            ? `The body (${bytes.length} bytes) does not begin with the id of a schema`
            : `The header ${valueHeader} (${header.length} bytes) has no id of a schema`
        )
      }
      const registry = Eager.service(SchemaRegistryService)
      return Eager.isDone(registry) && Exit.isSuccess(registry)
        ? decode(registry.value, bytes, framed)
        : Effect.flatMap(registry, (registry) => decode(registry, bytes, framed))
    }
  })
}

/** The last header counts, as for Confluent's clients. */
const headerIn = (fields: ReadonlyArray<Headers.Field>): Uint8Array | undefined => {
  for (let index = fields.length - 1; index >= 0; index--) {
    const field = fields[index]!
    if (field[0] === valueHeader) return field[1] ?? none
  }
  return undefined
}
