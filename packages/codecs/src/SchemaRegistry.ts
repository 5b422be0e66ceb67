/**
 * Schema registries with Confluent's API: bodies name the schema that wrote them, and readers ask for it once.
 */
import { OptionCheck, type PayloadCodec } from "@millrace/core"
import { Duration, Effect, JsonSchema, Layer, Redacted, Schema as EffectSchema } from "effect"
import { HttpClient } from "effect/http"
import { compile as compileReader } from "./internal/avro/reader.ts"
import * as Schema from "./internal/avro/schema.ts"
import { Tap } from "./internal/avro/Tap.ts"
import { compile as compileWriter } from "./internal/avro/writer.ts"
import type * as Bounds from "./internal/bounds.ts"
import { resolve } from "./internal/bounds.ts"
import type * as Requests from "./internal/registry/client.ts"
import * as Codec from "./internal/registry/codec.ts"
import * as Framing from "./internal/registry/framing.ts"
import * as Service from "./internal/registry/service.ts"
import { SchemaRegistryService } from "./internal/registry/service.ts"
import { bufferOf } from "./internal/text.ts"
import type { Definition } from "./Avro.ts"

export { SchemaRegistryService as Registry } from "./internal/registry/service.ts"

/** A reference from one schema to another, with its text. */
export type Reference = Requests.Reference

/** A registered schema, and the texts of the schemas that it names, those that others need first. */
export type Registered = Requests.Registered

/** The id and the GUID of a registered schema. */
export type Identity = Requests.Identity

/** The latest schema of a subject. */
export type Latest = Requests.Latest

/** A schema as a registry takes it. */
export type Unregistered = Requests.Unregistered

/** The way in which a schema is looked up. */
export type Lookup = Requests.Lookup

/** Options of `layer`. */
export interface Options {
  /** The address of the API, e.g. `https://registry.example` or `http://127.0.0.1:8080/apis/ccompat/v7`. */
  readonly url: string | URL
  /** A user and its password, or a bearer token. Default: none. */
  readonly auth?:
    | { readonly username: string; readonly password: Redacted.Redacted<string> }
    | { readonly token: Redacted.Redacted<string> }
    | undefined
  /** The timeout of one request; above 0. Default: 5 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** The wait of a message before it is read again while the registry does not answer; above 0. Default: 5 seconds. */
  readonly retryAfter?: Duration.Input | undefined
  /** The most schemas and the most ids that are kept; an integer from 1. Default: 1,000. */
  readonly cache?: number | undefined
}

/** The defaults of the options of `layer`. */
export const defaults = { timeout: "5 seconds", retryAfter: "5 seconds", cache: 1000 } as const

const authorizationOf = (auth: Options["auth"]): Redacted.Redacted<string> | undefined =>
  auth === undefined
    ? undefined
    : Redacted.make(
      "token" in auth
        ? `Bearer ${Redacted.value(auth.token)}`
        : `Basic ${Buffer.from(`${auth.username}:${Redacted.value(auth.password)}`).toString("base64")}`
    )

/**
 * Makes the registry at an address. Schemas and ids are kept for ever, up to `cache`; in steady state no message causes a
 * request.
 *
 * Errors of its users: `DecodeError` and `EncodeError`. A registry that does not answer in time, refuses the credentials, redirects, or
 * answers with something else than its API is class `dependency` with `retryAfter`, so the message goes back to its source and is
 * never dead-lettered. An id that the registry does not have is class `poison`, after one request.
 *
 * @throws RangeError when an option is wrong
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<SchemaRegistryService, never, HttpClient.HttpClient> => {
  const check = OptionCheck.make("SchemaRegistry")
  if (!URL.canParse(String(options.url)) || !/^https?:$/.test(new URL(options.url).protocol)) {
    throw new RangeError("SchemaRegistry: url must be an address of http or https, got something else")
  }
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout)
  const retryAfter = check.millis("retryAfter", options.retryAfter ?? defaults.retryAfter)
  const cache = check.count("cache", options.cache ?? defaults.cache)
  const settings = {
    url: new URL(options.url),
    authorization: authorizationOf(options.auth),
    timeout,
    retryAfter: Duration.millis(retryAfter)
  }
  return Layer.effect(
    SchemaRegistryService,
    Effect.flatMap(HttpClient.HttpClient, (http) => Service.make(http, settings, cache))
  )
}

/** The subject of a schema: by the channel (`topicName`), by the record (`recordName`), or by both (`topicRecordName`). */
export type SubjectName = Codec.SubjectName

/** Options of every codec with a registry. */
export type CodecOptions = Codec.Options

/** A type of schema, for `make`. */
export type Format = Codec.Format

/**
 * Makes a codec of bodies that name their schema, for a type of schema of one's own.
 *
 * Errors: see `layer`; also class `poison` for bodies without id or GUID, of another type of schema, or that `read` refuses, class
 * `permanent` where the registry gives no GUID for `framing: "header"`, and class `validation` for values that `write` refuses.
 *
 * @throws RangeError for a wrong option
 * @category constructors
 */
export const make: (
  format: Format,
  options?: CodecOptions
) => PayloadCodec.PayloadCodec<SchemaRegistryService> = Codec.make

/**
 * Returns the bytes of the indexes of a Protobuf message in its schema, from the outermost message inwards: zig-zag varints,
 * their count first, and one zero byte for the first message (Confluent's wire format).
 */
export const messageIndexes: (indexes: ReadonlyArray<number>) => Uint8Array = Framing.indexBytes

/** A reference of an Avro schema: the name of a type, and the schema that defines it. */
export interface AvroReference extends Omit<Reference, "schema" | "references"> {
  readonly schema: Definition
}

/** Options of `avro`. */
export interface AvroOptions extends CodecOptions, Bounds.Limits {
  /** The schemas that the schema names, those that others need first. Default: none. */
  readonly references?: ReadonlyArray<AvroReference> | undefined
}

const textOf = (definition: Definition): string =>
  typeof definition === "string" && /^\s*[[{"]/.test(definition) ? definition : JSON.stringify(definition)

/** Each schema with the ones before it that it names. */
const avroReferences = (
  given: ReadonlyArray<AvroReference>,
  names: Schema.Names
): ReadonlyArray<Requests.Reference> => {
  const owners = new Map<string, Requests.Reference>()
  return given.map(({ name, schema, subject, version }) => {
    const used = new Set<string>()
    const before = new Set(names.keys())
    Schema.parse(schema, names, used)
    const references = [...new Set([...used].flatMap((each) => owners.get(each) ?? []))]
    const reference = { name, subject, version, schema: textOf(schema), references }
    for (const each of names.keys()) if (!before.has(each)) owners.set(each, reference)
    return reference
  })
}

const parseAll = (written: Registered): Schema.Type => {
  const known: Schema.Names = new Map()
  for (const each of written.references) Schema.parse(each, known)
  return Schema.parse(written.schema, known)
}

/**
 * Makes a codec of Avro bodies in Confluent's wire format: a zero byte, the id of the writer's schema in four bytes, the value.
 *
 * Bodies of every schema under the registry are read by the rules of schema resolution (see `Avro.codec`, whose values, limits
 * and refusals hold here too). Publishers look the id of their schema up once; they register it only if told.
 *
 * @example
 * ```ts
 * import { Channel } from "@millrace/core"
 * import { SchemaRegistry } from "@millrace/codecs"
 * import { Schema } from "effect"
 *
 * const definition = { type: "record", name: "Order", fields: [{ name: "id", type: "string" }] }
 * const Orders = Channel.make("orders", {
 *   payload: Schema.Struct({ id: Schema.String }),
 *   codec: SchemaRegistry.avro(definition)
 * })
 * ```
 *
 * Errors: see `make`; bodies of a schema that ours cannot read are class `poison`.
 *
 * @throws SchemaError when the definition is no schema; RangeError for a wrong option
 * @category constructors
 */
export const avro = (
  definition: Definition,
  options: AvroOptions = {}
): PayloadCodec.PayloadCodec<SchemaRegistryService> => {
  const limits = resolve("SchemaRegistry", options)
  const names: Schema.Names = new Map()
  const references = avroReferences(options.references ?? [], names)
  const ours = Schema.parse(definition, names)
  const write = compileWriter(ours)
  const readerOf = (written: Registered): Codec.Read => {
    const read = compileReader(parseAll(written), ours)
    return (bytes, at) => {
      const tap = new Tap(bufferOf(bytes), at, limits)
      const value = read(tap)
      return tap.at === tap.end ? value : tap.fail("the body goes on after its value")
    }
  }
  return make({
    name: "SchemaRegistry.avro",
    values: "native",
    schemaType: "AVRO",
    schema: textOf(definition),
    references,
    record: "name" in ours ? ours.name : undefined,
    write,
    writeAs: (latest) => {
      const theirs = parseAll(latest)
      if (Schema.canonical(theirs) === Schema.canonical(ours)) return write
      // values of ours become values of the latest by schema resolution, with its defaults
      const resolved = compileReader(ours, theirs)
      const writeLatest = compileWriter(theirs)
      return (value, prefix) => writeLatest(resolved(new Tap(bufferOf(write(value)), 0, limits)), prefix)
    },
    read: readerOf
  }, options)
}

/** Options of `jsonSchema`. */
export interface JsonSchemaOptions extends CodecOptions {
  /** The name of the schema: its `title`, and the name in subjects by record. Default: none. */
  readonly title?: string | undefined
  /** The text that is registered. Default: made from the Effect Schema, as draft 7 of JSON Schema. */
  readonly schema?: string | undefined
  /** The largest body, in bytes; an integer from 1. Default: 16 MiB. */
  readonly maximumBytes?: number | undefined
}

const draft07 = (schema: EffectSchema.Constraint, title: string | undefined): string => {
  const document = JsonSchema.toDocumentDraft07(EffectSchema.toJsonSchemaDocument(schema))
  return JSON.stringify({
    $schema: "http://json-schema.org/draft-07/schema#",
    ...(title === undefined ? {} : { title }),
    ...document.schema,
    ...(Object.keys(document.definitions).length === 0 ? {} : { definitions: document.definitions })
  })
}

const strict = new TextDecoder("utf-8", { fatal: true })

const writeJson: Codec.Write = (value, prefix) => {
  const text: string | undefined = JSON.stringify(value)
  if (text === undefined) throw new TypeError(`JSON has no ${typeof value}`)
  const size = Buffer.byteLength(text)
  const bytes = Buffer.allocUnsafeSlow(prefix.length + size)
  bytes.set(prefix)
  bytes.write(text, prefix.length, size, "utf8")
  return bytes
}

/**
 * Makes a codec of JSON bodies in Confluent's wire format: a zero byte, the id of the writer's JSON Schema in four bytes, the JSON.
 *
 * The JSON Schema that is registered comes from an Effect Schema; give the channel the same one. The Effect Schema judges each
 * value, on both ways. The writer's JSON Schema judges none, so a body that it would refuse can be read if the Effect Schema
 * accepts it.
 *
 * @example
 * ```ts
 * import { Channel } from "@millrace/core"
 * import { SchemaRegistry } from "@millrace/codecs"
 * import { Schema } from "effect"
 *
 * const Order = Schema.Struct({ id: Schema.String, placed: Schema.Date })
 * const Orders = Channel.make("orders", { payload: Order, codec: SchemaRegistry.jsonSchema(Order, { title: "Order" }) })
 * ```
 *
 * Errors: see `make`; bodies that are not JSON, or longer than `maximumBytes`, are class `poison`.
 *
 * @throws RangeError for a wrong option; Error when the Effect Schema has no JSON Schema
 * @category constructors
 */
export const jsonSchema = (
  schema: EffectSchema.Constraint,
  options: JsonSchemaOptions = {}
): PayloadCodec.PayloadCodec<SchemaRegistryService> => {
  const { bytes: maximumBytes } = resolve("SchemaRegistry", { maximumBytes: options.maximumBytes })
  const read: Codec.Read = (bytes, at) => {
    if (bytes.length > maximumBytes) {
      throw new RangeError(`${bytes.length} bytes are more than maximumBytes, ${maximumBytes}`)
    }
    let text: string
    try {
      text = strict.decode(bytes.subarray(at))
    } catch {
      throw new TypeError("the body is no UTF-8")
    }
    try {
      return JSON.parse(text)
    } catch (cause) {
      // the sentence of the parser quotes the body
      throw new SyntaxError(`the body is no JSON${/ at position \d+/.exec(String(cause))?.[0] ?? ""}`)
    }
  }
  return make({
    name: "SchemaRegistry.jsonSchema",
    contentType: "application/json",
    schemaType: "JSON",
    schema: options.schema ?? draft07(schema, options.title),
    record: options.title,
    write: writeJson,
    writeAs: () => writeJson,
    read: () => read
  }, options)
}
