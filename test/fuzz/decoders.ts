/** Every decoder of bodies, with samples that it reads. */
import { Avro, CloudEvents, Compression, Csv, MessagePack, SchemaRegistry, Text } from "@millrace/codecs"
import { Channel, Headers, PayloadCodec } from "@millrace/core"
import { Protobuf } from "@millrace/protobuf"
import { AnySchema, StructSchema } from "@bufbuild/protobuf/wkt"
import { Cause, Effect, Exit } from "effect"

/** A decoder, whose errors have this name. */
export interface Decoder {
  readonly decode: (bytes: Uint8Array) => unknown
  readonly samples: ReadonlyArray<Uint8Array>
  readonly error: string
}

const utf8 = new TextEncoder()

/** A message around a body. */
export const around = (headers: Readonly<Record<string, string>>, system = "kafka"): PayloadCodec.Metadata => ({
  system,
  channel: "orders",
  key: undefined,
  keyBytes: undefined,
  headers: Headers.fromRecord(headers),
  fields: [],
  attempt: 1,
  timestamp: undefined
})

/** Runs a decoder that ends at once; throws its error. */
const now = (effect: Effect.Effect<unknown, PayloadCodec.PayloadError>): unknown => {
  const exit = Effect.runSyncExit(effect)
  if (Exit.isSuccess(exit)) return exit.value
  throw Cause.squash(exit.cause)
}

const definition = {
  type: "record",
  name: "Node",
  fields: [
    { name: "id", type: "string" },
    { name: "next", type: ["null", "Node"] },
    { name: "all", type: { type: "array", items: ["null", "double", { type: "map", values: "Node" }] } }
  ]
}
const node = { id: "a", next: { id: "é", next: null, all: [null] }, all: [1.5, { x: { id: "", next: null, all: [] } }] }
const avro = Avro.codec(definition)
const single = Avro.singleObject(definition)
const packed = MessagePack.codec()
const struct = Protobuf.codec(StructSchema)
const any = Protobuf.codec(AnySchema)

const compression = Compression.make({ from: 1, maximumRatio: 16 })
const compressed = (algorithm: "gzip" | "brotli" | "zstd"): Uint8Array => {
  const { encode } = Compression.make({ algorithm, from: 1 })
  const text = utf8.encode("a text that repeats itself, a text that repeats itself, a text that repeats itself")
  return Effect.runSync(encode(text, around({}))).bytes
}
const restored = (coding: string) => (bytes: Uint8Array) =>
  now(compression.decode(bytes, around({ "content-encoding": coding })))

const unknown = Exit.fail(PayloadCodec.poison({ codec: "fuzz", message: "no such schema" }))
const registry = SchemaRegistry.avro(definition)
const framed = (id: number): Uint8Array => Buffer.concat([Buffer.from([0, 0, 0, 0, id]), avro.encode(node)])
const registered: SchemaRegistry.Registry["Service"] = {
  schemaOf: (id) =>
    id === 2 || id === 3
      ? Exit.succeed({ schemaType: id === 2 ? "AVRO" : "JSON", schema: JSON.stringify(definition), references: [] })
      : unknown,
  identityOf: () => unknown,
  latest: () => unknown
}

const events = CloudEvents.event(Channel.json)
const packedEvents = CloudEvents.event(packed)
const structured = [
  `{"specversion":"1.0","id":"1","source":"/a","type":"t","ext":true,"data":{"a":[1,null]}}`,
  `{"specversion":"1.0","id":"1","source":"/a","type":"t","time":"2020-01-01T00:00:00Z","data_base64":"eyJhIjoxfQ=="}`,
  `{"specversion":"1.0","id":"1","source":"/a","type":"t","datacontenttype":"text/plain","data":"x","subject":null}`
].map((text) => utf8.encode(text))
const packedSamples = [{ id: "a" }, [1, [new Uint8Array(2)]]].map((data) =>
  utf8.encode(
    `{"specversion":"1.0","id":"1","source":"/a","type":"t","datacontenttype":"application/vnd.msgpack","data_base64":"${
      Buffer.from(packed.encode(data)).toString("base64")
    }"}`
  )
)
const binary = structured.map((body) =>
  Buffer.concat([utf8.encode(`1.0\n1\n/a\n%41"b"\nt\n2020-01-01T00:00:00Z\n`), body])
)

/** Reads a body whose first lines are the headers of an event. */
const fromHeaders = (system: string, prefix: string) => (bytes: Uint8Array) => {
  const [specversion = "", id = "", source = "", subject = "", type = "", time = "", ...body] = Buffer.from(bytes)
    .toString().split("\n")
  const headers: Record<string, string> = { "content-type": "application/json" }
  for (const [name, value] of Object.entries({ specversion, id, source, subject, type, time })) {
    headers[`${prefix}${name}`] = value
  }
  return now(events.decode(utf8.encode(body.join("\n")), around(headers, system)))
}

const tables = ["a,b\r\n1,2\r\n", "b,a,c\n\"x\"\"y\",,\"\r\n\"\n", "a,b\n,\n,\n"].map((text) => utf8.encode(text))

/** The decoders by name. */
export const decoders: Readonly<Record<string, Decoder>> = {
  avro: { decode: avro.decode, samples: [avro.encode(node)], error: "AvroError" },
  "avro-single-object": { decode: single.decode, samples: [single.encode(node)], error: "AvroError" },
  "message-pack": {
    decode: packed.decode,
    samples: [packed.encode({ a: [1, -1, 1.5, 2n ** 63n, "é", new Uint8Array(3), new Date(5), null] })],
    error: "MessagePackError"
  },
  protobuf: {
    decode: struct.decode,
    samples: [Buffer.from("0a0d0a01611208320612041202080 1".replaceAll(" ", ""), "hex"), any.encode({ typeUrl: "a" })],
    error: "ProtobufError"
  },
  gzip: { decode: restored("gzip"), samples: [compressed("gzip")], error: "PayloadError" },
  brotli: { decode: restored("br"), samples: [compressed("brotli")], error: "PayloadError" },
  zstd: { decode: restored("zstd"), samples: [compressed("zstd")], error: "PayloadError" },
  registry: {
    decode: (bytes) =>
      now(
        Effect.provideService(
          Effect.suspend(() => registry.decode(bytes, around({}))),
          SchemaRegistry.Registry,
          registered
        )
      ),
    samples: [framed(2), framed(3)],
    error: "PayloadError"
  },
  "cloud-events": {
    decode: (bytes) => now(events.decode(bytes, around({ "content-type": "application/cloudevents+json" }))),
    samples: structured,
    error: "PayloadError"
  },
  "cloud-events-packed": {
    decode: (bytes) => now(packedEvents.decode(bytes, around({ "content-type": "application/cloudevents+json" }))),
    samples: packedSamples,
    error: "PayloadError"
  },
  "cloud-events-http": { decode: fromHeaders("http", "ce-"), samples: binary, error: "PayloadError" },
  "cloud-events-mqtt": { decode: fromHeaders("mqtt", ""), samples: binary, error: "PayloadError" },
  csv: { decode: Csv.codec(["a", "b"]).decode, samples: tables, error: "CsvError" },
  text: { decode: Text.codec().decode, samples: tables, error: "TextError" }
}
