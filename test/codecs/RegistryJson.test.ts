import { SchemaRegistry } from "@millrace/codecs"
import { Channel, Decode, type Message } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Effect, pipe, Schema } from "effect"
import { assert, describe, it } from "vitest"
import { around, errorOf, withRegistry } from "./registry.ts"
import { registryServer } from "./registryServer.ts"

const Line = Schema.Struct({ sku: Schema.String }).annotate({ identifier: "Line" })
const Order = Schema.Struct({ id: Schema.String, placed: Schema.Date, lines: Schema.Array(Line) })
const server = registryServer()

describe("SchemaRegistry.jsonSchema", () => {
  it("F14 registers the JSON Schema of an Effect Schema, and writes JSON behind the id", async () => {
    server.calls.length = 0
    server.answers = () => ({ id: 258 })
    const codec = SchemaRegistry.jsonSchema(Order, { title: "Order", register: true, subject: "topicRecordName" })
    const value = { id: "ä", placed: "2026-12-01T00:00:00.000Z", lines: [] }
    const { bytes } = await withRegistry({ url: server.url }, Effect.suspend(() => codec.encode(value, around)))
    const json = Buffer.from(JSON.stringify(value))
    assert.deepStrictEqual(Buffer.from(bytes), Buffer.concat([Buffer.from([0, 0, 0, 1, 2]), json]))
    assert.strictEqual(codec.contentType, "application/json")
    const [asked] = server.calls
    assert.strictEqual(asked?.call, "POST /subjects/orders-Order/versions")
    assert.strictEqual(asked?.body?.["schemaType"], "JSON")
    const schema = JSON.parse(String(asked?.body?.["schema"]))
    assert.deepInclude(schema, { $schema: "http://json-schema.org/draft-07/schema#", title: "Order", type: "object" })
    assert.deepStrictEqual(schema.required, ["id", "placed", "lines"])
    assert.deepStrictEqual(schema.properties.lines.items, { $ref: "#/definitions/Line" })
    assert.deepStrictEqual(schema.definitions.Line.properties, { sku: { type: "string" } })
    assert.throws(() => SchemaRegistry.jsonSchema(Order, { subject: "recordName" }), /the schema has no name/)
  })

  it("F14 bodies that are no JSON or too long, and values without JSON, are refused; no error quotes the body", () => {
    server.answers = () => ({ id: 7, schema: "{}", schemaType: "JSON" })
    const codec = SchemaRegistry.jsonSchema(Order, { maximumBytes: 20 })
    return withRegistry(
      { url: server.url },
      Effect.gen(function*() {
        for (const wrong of ["{\"secret\":", "", "\"secret\" secret", `"${"x".repeat(20)}"`]) {
          const body = Buffer.concat([Buffer.from([0, 0, 0, 0, 7]), Buffer.from(wrong)])
          const error = yield* errorOf(() => codec.decode(body, around))
          assert.include(error, { failure: "poison", reason: "body" })
          assert.notMatch(error.message, /secret/)
        }
        const latin = yield* errorOf(() => codec.decode(Buffer.from([0, 0, 0, 0, 7, 34, 0xe4, 34]), around))
        assert.include(latin, { failure: "poison", message: "the body is no UTF-8" })
        assert.include(yield* errorOf(() => codec.encode(undefined, around)), { failure: "validation" })
      })
    )
  })

  it("F14 the Effect Schema judges what the JSON Schema of the writer lets through", async () => {
    server.answers = () => ({ schema: "{}", schemaType: "JSON" })
    const seen: Array<unknown> = []
    const handler = pipe(
      (message: Message<typeof Order.Type>) => Effect.sync(() => void seen.push(message.payload)),
      Decode.middleware(Channel.make("orders", { payload: Order, codec: SchemaRegistry.jsonSchema(Order) }))
    )
    const deliver = (value: unknown) =>
      withRegistry(
        { url: server.url },
        Deliveries.run(
          handler,
          Deliveries.make({ body: Buffer.concat([Buffer.from([0, 0, 0, 0, 7]), Buffer.from(JSON.stringify(value))]) })
        )
      )
    const good = await deliver({ id: "a", placed: "2026-12-01T00:00:00.000Z", lines: [] })
    assert.strictEqual(good.outcome._tag, "Ack")
    assert.deepStrictEqual(seen, [{ id: "a", placed: new Date("2026-12-01"), lines: [] }])
    assert.strictEqual((await deliver({ id: 5, placed: "x", lines: [] })).outcome._tag, "DeadLetter")
  })
})
