import { createFileRegistry, type DescMessage, fromBinary, toBinary } from "@bufbuild/protobuf"
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt"
import { Avro, MessagePack, SchemaRegistry } from "@millrace/codecs"
import { type Channel, Eager, Headers, type PayloadCodec } from "@millrace/core"
import { Protobuf, ProtobufRegistry } from "@millrace/protobuf"
import * as msgpack from "@msgpack/msgpack"
import avsc from "avsc"
import { Effect, Exit, Layer } from "effect"
import { readFileSync } from "node:fs"
import { type Bench, type Goal, measure, type Measured, type Variant } from "./Bench.ts"

const definition = {
  type: "record",
  name: "Order",
  fields: [
    { name: "id", type: "string" },
    { name: "customer", type: "string" },
    { name: "email", type: ["null", "string"] },
    { name: "total", type: "double" },
    { name: "currency", type: { type: "enum", name: "Currency", symbols: ["EUR", "USD"] } },
    { name: "placed", type: "long" },
    {
      name: "lines",
      type: {
        type: "array",
        items: {
          type: "record",
          name: "Line",
          fields: [
            { name: "sku", type: "string" },
            { name: "quantity", type: "int" },
            { name: "note", type: "string" }
          ]
        }
      }
    },
    { name: "tags", type: { type: "map", values: "string" } }
  ]
} as const

const line = (index: number) => ({ sku: `sku-${index}-0123456789`, quantity: index, note: "leave it at the door" })

/** About 300 bytes in Avro. */
const order = {
  id: "order-0123456789",
  customer: "customer-0123456789",
  email: "customer@example.org",
  total: 129.5,
  currency: "EUR",
  placed: 1_764_547_200_000,
  lines: [1, 2, 3, 4].map(line),
  tags: { region: "eu", channel: "web", campaign: "winter" }
}

const typeOf = (): DescMessage => {
  const path = new URL("../protobuf/order.binpb", import.meta.url)
  const found = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(path))).getMessage("shop.Order")
  if (found === undefined) throw new Error("no shop.Order")
  return found
}

const message = {
  id: "order-0123456789",
  amount: 12_950n,
  price: 129.5,
  lines: [1, 2, 3, 4].map((index) => ({ sku: `sku-${index}-0123456789-0123456789`, quantity: index })),
  tags: { region: "eu", channel: "web", campaign: "winter" },
  picture: new Uint8Array(64),
  status: 1
}

const repeated = (once: () => unknown) => (): Promise<Measured> =>
  measure((total) => {
    let last: unknown
    for (let i = 0; i < total; i++) last = once()
    return last
  })

const around: PayloadCodec.Metadata = {
  system: "kafka",
  channel: "orders",
  key: undefined,
  keyBytes: undefined,
  headers: Headers.empty,
  fields: [],
  attempt: 1,
  timestamp: undefined
}

/** A registry that has answered before: what is measured is a message in steady state. */
const answered = (schemaType: string, schema: string) =>
  Layer.succeed(SchemaRegistry.Registry, {
    schemaOf: () => Exit.succeed({ schemaType, schema, references: [] }),
    identityOf: () => Exit.succeed({ id: 7, guid: undefined }),
    latest: () => Exit.succeed({ id: 7, guid: undefined, schemaType, schema, references: [] })
  })

const onFiber = (
  layer: Layer.Layer<SchemaRegistry.Registry>,
  once: () => Effect.Effect<unknown, PayloadCodec.PayloadError, SchemaRegistry.Registry>
) =>
(): Promise<Measured> =>
  measure((total) =>
    Effect.runPromise(Effect.provide(
      Effect.suspend(() => {
        for (let i = 0; i < total; i++) {
          const result = once()
          if (!Eager.isDone(result) || Exit.isFailure(result)) return Effect.die(new Error("not at once"))
        }
        return Effect.void
      }),
      layer
    ))
  )

const pair = (name: string, whose: Variant["whose"], codec: () => Channel.Codec, value: unknown): Array<Variant> => [
  {
    name: `${name} encode`,
    whose,
    run: () => {
      const { encode } = codec()
      return repeated(() => encode(value))()
    }
  },
  {
    name: `${name} decode`,
    whose,
    run: () => {
      const { decode, encode } = codec()
      const bytes = encode(value)
      return repeated(() => decode(bytes))()
    }
  }
]

const registered = (
  name: string,
  schema: () => readonly [
    codec: PayloadCodec.PayloadCodec<SchemaRegistry.Registry>,
    layer: Layer.Layer<SchemaRegistry.Registry>
  ],
  value: unknown
): Array<Variant> => [
  {
    name: `${name} encode`,
    whose: "millrace",
    run: () => {
      const [codec, layer] = schema()
      return onFiber(layer, () => codec.encode(value, around))()
    }
  },
  {
    name: `${name} decode`,
    whose: "millrace",
    run: async () => {
      const [codec, layer] = schema()
      const write = Effect.suspend(() => codec.encode(value, around))
      const { bytes } = await Effect.runPromise(Effect.provide(write, layer))
      return onFiber(layer, () => codec.decode(bytes, around))()
    }
  }
]

const ofAvsc = (): Channel.Codec => {
  const type = avsc.Type.forSchema(structuredClone(definition) as unknown as avsc.Schema, { wrapUnions: false })
  return {
    contentType: "avro/binary",
    encode: (value) => type.toBuffer(value),
    decode: (bytes) => type.fromBuffer(bytes as Buffer)
  }
}

const ofBufbuild = (): Channel.Codec => {
  const desc = typeOf()
  // a value of the message type: its making is not the codec's work
  return {
    contentType: "application/x-protobuf",
    encode: (value) => toBinary(desc, value as never),
    decode: (bytes) => fromBinary(desc, bytes)
  }
}

const made = (): unknown => {
  const codec = Protobuf.codec(typeOf())
  return codec.decode(codec.encode(message))
}

const ratio = (id: string, text: string, ours: string, theirs: string): Goal => ({
  id,
  text,
  target: 1.15,
  better: "lower",
  measured: (of) => of(ours).cpu / of(theirs).cpu
})

const above = (text: string, framed: string, bare: string): Goal => ({
  id: "F14",
  text,
  target: 0.1,
  better: "lower",
  measured: (of) => of(framed).cpu - of(bare).cpu
})

export const codecs: Bench = {
  name: "codecs",
  about: "an order of about 300 bytes, encoded or decoded, CPU for each",
  rounds: 5,
  variants: [
    ...pair("Avro", "millrace", () => Avro.codec(definition), order),
    ...pair("avsc", "limit", ofAvsc, order),
    ...registered(
      "Avro with a registry",
      () => [SchemaRegistry.avro(definition), answered("AVRO", JSON.stringify(definition))],
      order
    ),
    ...pair("MessagePack", "millrace", () => MessagePack.codec(), order),
    ...pair("@msgpack/msgpack", "limit", () => ({
      contentType: "application/vnd.msgpack",
      encode: (value) => msgpack.encode(value),
      decode: (bytes) => msgpack.decode(bytes)
    }), order),
    ...pair("Protobuf", "millrace", () => Protobuf.codec(typeOf()), made()),
    ...pair("@bufbuild/protobuf", "limit", ofBufbuild, made()),
    ...registered("Protobuf with a registry", () => {
      const text = readFileSync(new URL("../protobuf/order.proto", import.meta.url), "utf8")
      return [ProtobufRegistry.codec(typeOf(), { texts: { "order.proto": text } }), answered("PROTOBUF", text)]
    }, made())
  ],
  goals: [
    ratio("F14", "Avro encode, times avsc", "Avro encode", "avsc encode"),
    ratio("F14", "Avro decode, times avsc", "Avro decode", "avsc decode"),
    ratio("F14", "MessagePack encode, times @msgpack/msgpack", "MessagePack encode", "@msgpack/msgpack encode"),
    ratio("F14", "MessagePack decode, times @msgpack/msgpack", "MessagePack decode", "@msgpack/msgpack decode"),
    ratio("F14", "Protobuf encode, times @bufbuild/protobuf", "Protobuf encode", "@bufbuild/protobuf encode"),
    ratio("F14", "Protobuf decode, times @bufbuild/protobuf", "Protobuf decode", "@bufbuild/protobuf decode"),
    above("a registry above Avro, encode, in us", "Avro with a registry encode", "Avro encode"),
    above("a registry above Avro, decode, in us", "Avro with a registry decode", "Avro decode")
  ]
}
