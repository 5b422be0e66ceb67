import { SchemaRegistry } from "@millrace/codecs"
import { Apicurio, ServerUnavailable } from "@millrace/testing/servers"
import { Effect, Exit, Scope } from "effect"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import { around, at, errorOf, withRegistry } from "./registry.ts"

const scope = Scope.makeUnsafe()
let server: Apicurio.ApicurioServer | undefined
let missing = ""

beforeAll(async () => {
  const exit = await Effect.runPromise(
    Effect.result(Scope.provide(Apicurio.own(), scope)).pipe(Effect.timeout("4 minutes"))
  )
  if (exit._tag === "Success") server = exit.success
  else if (exit.failure instanceof ServerUnavailable) missing = exit.failure.message
  else throw exit.failure
}, 250_000)

afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

const version = (...more: ReadonlyArray<object>) => ({
  type: "record",
  name: "Order",
  namespace: "shop",
  fields: [{ name: "id", type: "string" }, ...more]
})

describe("SchemaRegistry with Apicurio", () => {
  it("F14 X22 registers, looks up, reads every version, and outlives a restart of the registry", async (test) => {
    if (server === undefined) return test.skip(missing)
    const { kill, start, url } = server
    await withRegistry(
      { url, timeout: "30 seconds" },
      Effect.gen(function*() {
        const old = SchemaRegistry.avro(version(), { register: true })
        assert.include(yield* errorOf(() => SchemaRegistry.avro(version()).encode({ id: "a" }, around)), {
          failure: "permanent",
          reason: "unregistered"
        })
        const { bytes } = yield* Effect.suspend(() => old.encode({ id: "a" }, around))
        // its schema is known now, and registered no second time
        const [again] = yield* at(() => SchemaRegistry.avro(version()).encode({ id: "a" }, around))
        assert.deepStrictEqual(again.bytes, bytes)

        const now = SchemaRegistry.avro(version({ name: "region", type: "string", default: "eu" }), { register: true })
        assert.deepStrictEqual(yield* Effect.suspend(() => now.decode(bytes, around)), { id: "a", region: "eu" })
        const newer = yield* Effect.suspend(() => now.encode({ id: "b", region: "us" }, around))
        assert.notDeepEqual(newer.bytes.slice(0, 5), bytes.slice(0, 5))
        assert.deepStrictEqual(yield* Effect.suspend(() => old.decode(newer.bytes, around)), { id: "b" })

        const unknown = Buffer.from(bytes)
        unknown.writeUInt32BE(4_000_000, 1)
        assert.include(yield* errorOf(() => old.decode(unknown, around)), {
          failure: "poison",
          reason: "unknownSchema"
        })

        yield* kill
        assert.deepStrictEqual(yield* Effect.suspend(() => old.decode(bytes, around)), { id: "a" })
        assert.include(yield* errorOf(() => old.decode(unknown, around)), { failure: "dependency" })
        yield* start
        assert.include(yield* errorOf(() => old.decode(unknown, around)), { failure: "poison" })
      })
    )
  }, 400_000)

  it("F14 registers a schema with references, and reads by them", async (test) => {
    if (server === undefined) return test.skip(missing)
    const address = { type: "record", name: "shop.Address", fields: [{ name: "city", type: "string" }] }
    await withRegistry(
      { url: server.url, timeout: "30 seconds" },
      Effect.gen(function*() {
        yield* Effect.suspend(() =>
          SchemaRegistry.avro(address, { register: true, subject: "recordName" }).encode({ city: "b" }, around)
        )
        const codec = SchemaRegistry.avro(version({ name: "to", type: "shop.Address" }), {
          register: true,
          subject: "topicRecordName",
          references: [{ name: "shop.Address", subject: "shop.Address", version: 1, schema: address }]
        })
        const value = { id: "a", to: { city: "b" } }
        const { bytes } = yield* Effect.suspend(() => codec.encode(value, around))
        assert.deepStrictEqual(yield* Effect.suspend(() => codec.decode(bytes, around)), value)
      })
    )
  }, 400_000)
})
