/**
 * Schema registries with Confluent's API: bodies carry the id of the schema that wrote them, and readers ask for it once.
 */
import { Detached, Eager, OptionCheck, PayloadCodec } from "@millrace/core"
import { Context, Deferred, Duration, Effect, Exit, FiberSet, Layer, Redacted } from "effect"
import { HttpClient } from "effect/http"
import { compile as compileReader } from "./internal/avro/reader.ts"
import * as Schema from "./internal/avro/schema.ts"
import { Tap } from "./internal/avro/Tap.ts"
import { compile as compileWriter } from "./internal/avro/writer.ts"
import type * as Bounds from "./internal/bounds.ts"
import { resolve } from "./internal/bounds.ts"
import * as Requests from "./internal/registry/client.ts"
import { bufferOf } from "./internal/text.ts"
import type { Definition } from "./Avro.ts"

/** A reference from one schema to another: the name in its text, and the subject and version that have it. */
export type Reference = Requests.Reference

/** A registered schema, and the texts of the schemas that it names, those that others need first. */
export type Registered = Requests.Registered

/** A schema as a registry takes it. */
export type Unregistered = Requests.Unregistered

/** Schemas by id, and ids by schema. Known ones are answered at once, as an Exit: an id never changes its schema. */
class SchemaRegistryService extends Context.Service<SchemaRegistryService, {
  readonly byId: (id: number) => Effect.Effect<Registered, PayloadCodec.PayloadError>
  readonly idOf: (
    subject: string,
    schema: Unregistered,
    register: boolean
  ) => Effect.Effect<number, PayloadCodec.PayloadError>
}>()("SchemaRegistry/Registry") {}

export { SchemaRegistryService as Registry }

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

/** Answers for ever once an effect has succeeded; callers that come meanwhile share it. */
const kept = <A>(
  most: number,
  fork: (effect: Effect.Effect<void>) => unknown
) => {
  const known = new Map<string, Exit.Exit<A, PayloadCodec.PayloadError>>()
  const asked = new Map<string, Deferred.Deferred<A, PayloadCodec.PayloadError>>()
  return (
    name: string,
    ask: () => Effect.Effect<A, PayloadCodec.PayloadError>
  ): Effect.Effect<A, PayloadCodec.PayloadError> => {
    const found = known.get(name)
    if (found !== undefined) return found
    const before = asked.get(name)
    if (before !== undefined) return Deferred.await(before)
    const waiting = Deferred.makeUnsafe<A, PayloadCodec.PayloadError>()
    asked.set(name, waiting)
    // on a fiber of the layer: the interruption of one caller does not end it for the others
    fork(Effect.flatMap(Effect.exit(Detached.effect(ask())), (exit) =>
      Effect.sync(() => {
        asked.delete(name)
        if (Exit.isSuccess(exit)) {
          const oldest = known.keys().next()
          if (known.size >= most && oldest.done !== true) known.delete(oldest.value)
          known.set(name, exit)
        }
        Deferred.doneUnsafe(waiting, exit)
      })))
    return Deferred.await(waiting)
  }
}

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
    Effect.gen(function*() {
      const client = new Requests.Client(yield* HttpClient.HttpClient, settings)
      const run = yield* FiberSet.makeRuntime()
      const schemas = kept<Registered>(cache, run)
      const ids = kept<number>(cache, run)
      return {
        byId: (id) => schemas(String(id), () => client.byId(id)),
        idOf: (subject, schema, register) =>
          ids(
            `${subject}\n${schema.schemaType}\n${schema.schema}`,
            () => client.idOf(subject, schema, register)
          )
      }
    })
  )
}

/** The subject of a schema: by the channel (`topicName`), by the record (`recordName`), or by both (`topicRecordName`). */
export type SubjectName = "topicName" | "recordName" | "topicRecordName"

/** Options of `avro`. */
export interface CodecOptions extends Bounds.Limits {
  /** Default: `topicName`, `CHANNEL-value`. */
  readonly subject?: SubjectName | undefined
  /** Registers the schema where the subject does not have it. Default: false, the publish fails. */
  readonly register?: boolean | undefined
  /** The schemas that the schema names, each with its text, those that others need first. Default: none. */
  readonly references?: ReadonlyArray<Reference & { readonly schema: Definition }> | undefined
}

/** The most channels and schemas whose ids and readers a codec keeps: an address may have parameters. */
const mostHeads = 1000

const failed = (
  failure: "poison" | "permanent" | "validation",
  reason: Requests.Reason,
  message: string,
  cause?: unknown
): Exit.Exit<never, PayloadCodec.PayloadError> => Exit.fail(Requests.failure(failure, reason, message, { cause }))

const sentence = (cause: unknown): string => cause instanceof Error ? cause.message : "it cannot be read"

const textOf = (definition: Definition): string =>
  typeof definition === "string" && /^\s*[[{"]/.test(definition) ? definition : JSON.stringify(definition)

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
 * Errors: see `layer`; also class `poison` for bodies without the prefix, of another type of schema, or of a schema that ours
 * cannot read, and class `validation` for values that do not fit.
 *
 * @throws SchemaError when the definition is no schema; RangeError for a wrong option
 * @category constructors
 */
export const avro = (
  definition: Definition,
  options: CodecOptions = {}
): PayloadCodec.PayloadCodec<SchemaRegistryService> => {
  const limits = resolve("SchemaRegistry", options)
  const references = options.references ?? []
  const names: Schema.Names = new Map()
  for (const { schema } of references) Schema.parse(schema, names)
  const ours = Schema.parse(definition, names)
  const write = compileWriter(ours)
  return make(
    {
      schemaType: "AVRO",
      schema: textOf(definition),
      references: references.map(({ name, subject, version }) => ({ name, subject, version }))
    },
    "name" in ours ? ours.name : undefined,
    options,
    (value, prefix) => write(value, prefix),
    (written) => {
      const known: Schema.Names = new Map()
      for (const each of written.references) Schema.parse(each, known)
      const read = compileReader(Schema.parse(written.schema, known), ours)
      return (bytes) => {
        const tap = new Tap(bufferOf(bytes), headLength, limits)
        const value = read(tap)
        return tap.at === tap.end ? value : tap.fail("the body goes on after its value")
      }
    }
  )
}

const headLength = 5

type Reads = (bytes: Uint8Array) => unknown

const make = (
  schema: Unregistered,
  record: string | undefined,
  options: CodecOptions,
  write: (value: unknown, prefix: Uint8Array) => Uint8Array,
  compile: (written: Registered) => Reads
): PayloadCodec.PayloadCodec<SchemaRegistryService> => {
  const check = OptionCheck.make("SchemaRegistry")
  const by = check.oneOf("subject", options.subject ?? "topicName", ["topicName", "recordName", "topicRecordName"])
  const register = options.register ?? false
  if (by !== "topicName" && record === undefined) {
    throw new RangeError(`SchemaRegistry: subject is "${by}", and the schema has no name`)
  }
  const subjectOf = (channel: string): string =>
    by === "topicName" ? `${channel}-value` : by === "recordName" ? `${record}` : `${channel}-${record}`

  const heads = new Map<string, Uint8Array>()
  const readers = new Map<number, Reads>()
  let owner: SchemaRegistryService["Service"] | undefined

  /** Ids of another registry would name other schemas. */
  const owned = (registry: SchemaRegistryService["Service"]): SchemaRegistryService["Service"] => {
    if (registry !== owner) {
      heads.clear()
      readers.clear()
      owner = registry
    }
    return registry
  }

  const headOf = (
    registry: SchemaRegistryService["Service"],
    channel: string
  ): Effect.Effect<Uint8Array, PayloadCodec.PayloadError> => {
    const known = heads.get(channel)
    if (known !== undefined) return Exit.succeed(known)
    return Effect.mapEager(registry.idOf(subjectOf(channel), schema, register), (id) => {
      const head = Buffer.alloc(headLength)
      head.writeUInt32BE(id, 1)
      if (registry === owner && heads.size < mostHeads) heads.set(channel, head)
      return head
    })
  }

  const readerOf = (
    registry: SchemaRegistryService["Service"],
    id: number
  ): Effect.Effect<Reads, PayloadCodec.PayloadError> => {
    const known = readers.get(id)
    if (known !== undefined) return Exit.succeed(known)
    return Effect.flatMapEager(registry.byId(id), (written): Effect.Effect<Reads, PayloadCodec.PayloadError> => {
      if (written.schemaType !== schema.schemaType) {
        return failed(
          "poison",
          "body",
          `The body was written by schema ${id}, of type ${written.schemaType.slice(0, 20)}`
        )
      }
      try {
        const read = compile(written)
        if (registry === owner && readers.size < mostHeads) readers.set(id, read)
        return Exit.succeed(read)
      } catch (cause) {
        return failed("poison", "body", `The body was written by schema ${id}: ${sentence(cause)}`, cause)
      }
    })
  }

  return PayloadCodec.make<SchemaRegistryService>({
    name: "SchemaRegistry.avro",
    values: "native",
    encode: (value, { channel }) =>
      Effect.flatMapEager(
        Eager.service(SchemaRegistryService),
        (registry) =>
          Effect.flatMapEager(headOf(owned(registry), channel), (head) => {
            try {
              return Exit.succeed({ bytes: write(value, head) })
            } catch (cause) {
              return failed("validation", "value", sentence(cause), cause)
            }
          })
      ),
    decode: (bytes) => {
      if (bytes.length < headLength || bytes[0] !== 0) {
        return failed(
          "poison",
          "framing",
          `The body (${bytes.length} bytes) does not begin with a zero byte and the id of a schema`
        )
      }
      const id = ((bytes[1]! << 24) | (bytes[2]! << 16) | (bytes[3]! << 8) | bytes[4]!) >>> 0
      return Effect.flatMapEager(
        Eager.service(SchemaRegistryService),
        (registry) =>
          Effect.flatMapEager(readerOf(owned(registry), id), (read) => {
            try {
              return Exit.succeed(read(bytes))
            } catch (cause) {
              return failed("poison", "body", sentence(cause), cause)
            }
          })
      )
    }
  })
}
