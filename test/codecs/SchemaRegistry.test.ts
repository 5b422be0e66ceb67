import { SchemaRegistry } from "@millrace/codecs"
import { Channel, Decode, type Message } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Duration, Effect, Fiber, pipe, Redacted, Schema } from "effect"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import { around, at, errorOf, withRegistry } from "./registry.ts"

const order = { type: "record", name: "Order", namespace: "shop", fields: [{ name: "id", type: "string" }] }
const text = JSON.stringify(order)
const body = Buffer.from([0, 0, 0, 0, 7, 2, 97])

let answer: (request: IncomingMessage, response: ServerResponse) => void
let asked: Array<string> = []
const server = createServer((request, response) => {
  asked.push(`${request.method} ${request.url}`)
  answer(request, response)
})
let url = ""
beforeAll(async () => {
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/base/`
})
afterAll(() => {
  server.closeAllConnections()
  server.close()
})

const says = (status: number, body: unknown, headers: Record<string, string> = {}) => {
  asked = []
  answer = (_request, response) => {
    response.writeHead(status, { "content-type": "application/json", ...headers })
    response.end(typeof body === "string" ? body : JSON.stringify(body))
  }
}

/** The error of a body that is read while the registry answers so. */
const readFails = (options: Partial<SchemaRegistry.Options> = {}) =>
  withRegistry({ url, ...options }, errorOf(() => SchemaRegistry.avro(order).decode(body, around)))

describe("SchemaRegistry", () => {
  it("F14 a registry that fails in any way is a dependency that is down, and never makes a dead letter", async () => {
    const ways: ReadonlyArray<readonly [number, unknown, Record<string, string>?]> = [
      [500, { error_code: 50001, message: "x" }],
      [503, "down", { "retry-after": "7" }],
      [429, { error_code: 42900 }],
      [401, { error_code: 401 }],
      [403, "<html>"],
      [404, "<html>not here</html>", { "content-type": "text/html" }],
      [404, ""],
      [404, { message: "no route" }],
      [200, "<html>sign in</html>", { "content-type": "text/html" }],
      [200, "[]"],
      [200, { schema: 5 }],
      [200, { schema: text, references: [{ name: "x" }] }],
      [200, `{"schema":"${"x".repeat(5 * 1024 * 1024)}"}`],
      [302, "", { location: "http://127.0.0.1:1/" }]
    ]
    for (const [status, body, headers] of ways) {
      says(status, body, headers)
      const error = await readFails()
      assert.strictEqual(error.failure, "dependency", `${status} ${JSON.stringify(body).slice(0, 50)}`)
      assert.strictEqual(
        Duration.toSeconds(error.retryAfter ?? Duration.zero),
        headers?.["retry-after"] === "7" ? 7 : 5
      )
      assert.strictEqual(error.reason, status === 401 || status === 403 ? "unauthorized" : "unavailable")
      assert.match(error.message, /^The schema registry at 127\.0\.0\.1:\d+ /)
    }
  })

  it("F14 a registry that is slow or away is a dependency that is down", async () => {
    answer = () => {}
    const error = await readFails({ timeout: "50 millis", retryAfter: "2 seconds" })
    assert.include(error, { failure: "dependency", reason: "unavailable" })
    assert.strictEqual(Duration.toMillis(error.retryAfter ?? Duration.zero), 2000)
    const away = await withRegistry(
      { url: "http://127.0.0.1:1" },
      errorOf(() => SchemaRegistry.avro(order).decode(body, around))
    )
    assert.strictEqual(away.failure, "dependency")
  })

  it("F14 asks for a schema once, for ever, also where many ask at once; a failure is asked again", async () => {
    says(200, { schema: text })
    await withRegistry(
      { url },
      Effect.gen(function*() {
        const codec = SchemaRegistry.avro(order)
        yield* Effect.all(Array.from({ length: 50 }, () => Effect.suspend(() => codec.decode(body, around))), {
          concurrency: "unbounded"
        })
        const [value, atOnce] = yield* at(() => codec.decode(body, around))
        assert.deepStrictEqual([value, atOnce], [{ id: "a" }, true])
        // another codec shares the schema
        const [, shared] = yield* at(() => SchemaRegistry.avro(order).decode(body, around))
        assert.isTrue(shared)
      })
    )
    assert.deepStrictEqual(asked, ["GET /base/schemas/ids/7"])
    says(500, {})
    await withRegistry(
      { url },
      Effect.gen(function*() {
        const codec = SchemaRegistry.avro(order)
        yield* errorOf(() => codec.decode(body, around))
        says(200, { schema: text })
        assert.deepStrictEqual(yield* Effect.suspend(() => codec.decode(body, around)), { id: "a" })
      })
    )
  })

  it("F14 the interruption of one caller does not end the request for the others", async () => {
    let release = () => {}
    const arrived = new Promise<void>((seen) => {
      answer = (_request, response) => {
        release = () => response.end(JSON.stringify({ schema: text }))
        seen()
      }
    })
    await withRegistry(
      { url },
      Effect.gen(function*() {
        const codec = SchemaRegistry.avro(order)
        const first = yield* Effect.forkChild(Effect.suspend(() => codec.decode(body, around)))
        yield* Effect.promise(() => arrived)
        const second = yield* Effect.forkChild(Effect.suspend(() => codec.decode(body, around)))
        yield* Effect.yieldNow
        yield* Fiber.interrupt(first)
        release()
        assert.deepStrictEqual(yield* Fiber.join(second), { id: "a" })
      })
    )
  })

  it("F14 a codec does not use one registry's ids for another", async () => {
    const codec = SchemaRegistry.avro(order)
    says(200, { schema: text })
    assert.deepStrictEqual(
      await withRegistry({ url }, Effect.suspend(() => codec.decode(body, around))),
      { id: "a" }
    )
    says(200, { schema: "\"string\"" })
    const error = await withRegistry({ url }, errorOf(() => codec.decode(body, around)))
    assert.strictEqual(error.failure, "poison")
  })

  it("F14 an unknown id, another type of schema and a schema of other data are poison", async () => {
    says(404, { error_code: 40403, message: "Schema 7 not found" })
    assert.include(await readFails(), { failure: "poison", reason: "unknownSchema" })
    says(200, { schema: "{}", schemaType: "JSON" })
    assert.include(await readFails(), { failure: "poison", reason: "body" })
    says(200, { schema: "\"int\"" })
    assert.include(await readFails(), { failure: "poison", reason: "body" })
    says(200, { schema: "{" })
    assert.include(await readFails(), { failure: "poison", reason: "body" })
  })

  it("F14 bodies without the prefix are poison without a request", async () => {
    says(200, { schema: text })
    const codec = SchemaRegistry.avro(order)
    await withRegistry(
      { url },
      Effect.gen(function*() {
        for (const wrong of ["", "00", "00000000", "0100000007", "0200000007", "7b7d7b7d7b7d"]) {
          const error = yield* errorOf(() => codec.decode(Buffer.from(wrong, "hex"), around))
          assert.include(error, { failure: "poison", reason: "framing" })
        }
        assert.deepStrictEqual(asked, [])
        // behind the prefix, the rules of Avro
        for (const wrong of ["0000000007", "0000000007026161", "000000000702ff"]) {
          const error = yield* errorOf(() => codec.decode(Buffer.from(wrong, "hex"), around))
          assert.include(error, { failure: "poison", reason: "body" })
        }
      })
    )
  })

  it("F14 follows references, also those that name each other, and reads by them", async () => {
    const address = { type: "record", name: "shop.Address", fields: [{ name: "city", type: "string" }] }
    const full = { ...order, fields: [{ name: "id", type: "string" }, { name: "to", type: "shop.Address" }] }
    asked = []
    answer = (request, response) => {
      response.setHeader("content-type", "application/json")
      const isAddress = request.url?.includes("/subjects/")
      response.end(JSON.stringify({
        schema: JSON.stringify(isAddress ? address : full),
        references: [{ name: "shop.Address", subject: "address/1", version: 2 }]
      }))
    }
    const codec = SchemaRegistry.avro(full, {
      references: [{ name: "shop.Address", subject: "address/1", version: 2, schema: address }]
    })
    const read = await withRegistry(
      { url },
      Effect.suspend(() => codec.decode(Buffer.concat([body, Buffer.from([2, 98])]), around))
    )
    assert.deepStrictEqual(read, { id: "a", to: { city: "b" } })
    assert.deepStrictEqual(asked, ["GET /base/schemas/ids/7", "GET /base/subjects/address%2F1/versions/2"])
  })

  it("F14 follows 100 references and no more", async () => {
    asked = []
    answer = (request, response) => {
      const version = Number(/versions\/(\d+)$/.exec(request.url ?? "")?.[1] ?? 0) + 1
      response.setHeader("content-type", "application/json")
      response.end(JSON.stringify({ schema: text, references: [{ name: "x", subject: "x", version }] }))
    }
    assert.include(await readFails(), { failure: "dependency", reason: "unavailable" })
    assert.strictEqual(asked.length, 101)
  })

  it("F14 publishers look their schema up by topic, record or both, and register only if told", async () => {
    const written = async (options: SchemaRegistry.CodecOptions) => {
      says(200, { id: 258 })
      const { bytes } = await withRegistry(
        { url },
        Effect.suspend(() => SchemaRegistry.avro(order, options).encode({ id: "a" }, around))
      )
      assert.deepStrictEqual(Buffer.from(bytes), Buffer.from([0, 0, 0, 1, 2, 2, 97]))
      return asked
    }
    assert.deepStrictEqual(await written({}), ["POST /base/subjects/orders-value"])
    assert.deepStrictEqual(await written({ subject: "recordName" }), ["POST /base/subjects/shop.Order"])
    assert.deepStrictEqual(await written({ subject: "topicRecordName" }), ["POST /base/subjects/orders-shop.Order"])
    assert.deepStrictEqual(await written({ register: true }), ["POST /base/subjects/orders-value/versions"])
    assert.throws(
      () => SchemaRegistry.avro("string", { subject: "recordName" }),
      /subject is "recordName", and the schema has no name/
    )
  })

  it("F14 a publish fails for good where the schema is not registered, not compatible or invalid", async () => {
    const writeFails = (options?: SchemaRegistry.CodecOptions) =>
      withRegistry({ url }, errorOf(() => SchemaRegistry.avro(order, options).encode({ id: "a" }, around)))
    says(404, { error_code: 40401 })
    assert.include(await writeFails(), { failure: "permanent", reason: "unregistered" })
    says(409, { error_code: 409 })
    assert.include(await writeFails({ register: true }), { failure: "permanent", reason: "incompatible" })
    says(422, { error_code: 42201 })
    assert.include(await writeFails({ register: true }), { failure: "permanent", reason: "invalidSchema" })
    says(200, { id: 2 ** 40 })
    assert.include(await writeFails(), { failure: "dependency" })
    says(200, { id: 1 })
    const wrong = await withRegistry({ url }, errorOf(() => SchemaRegistry.avro(order).encode({ id: 5 }, around)))
    assert.include(wrong, { failure: "validation", reason: "value", message: "Avro: id must be string, got number" })
  })

  it("F14 sends the credentials, and no error shows them", async () => {
    let sent: string | undefined
    answer = (request, response) => {
      sent = request.headers.authorization
      response.writeHead(401).end()
    }
    const error = await readFails({ auth: { username: "u", password: Redacted.make("pässword") } })
    assert.strictEqual(sent, `Basic ${Buffer.from("u:pässword").toString("base64")}`)
    await readFails({ auth: { token: Redacted.make("t0ken") } })
    assert.strictEqual(sent, "Bearer t0ken")
    assert.notMatch(JSON.stringify(error), /pässword/)
    assert.throws(() => SchemaRegistry.layer({ url: "registry" }), /url must be an address of http or https/)
  })
})

describe("SchemaRegistry in a pipeline", () => {
  const Orders = Channel.make("orders", {
    payload: Schema.Struct({ id: Schema.String, digest: Schema.Uint8Array }),
    codec: SchemaRegistry.avro({ ...order, fields: [...order.fields, { name: "digest", type: "bytes" }] })
  })
  const handler = pipe(
    (message: Message<{ readonly id: string; readonly digest: Uint8Array }>) =>
      Effect.sync(() => void seen.push(message.payload)),
    Decode.middleware(Orders)
  )
  const seen: Array<unknown> = []
  const deliver = (body: Uint8Array) => withRegistry({ url }, Deliveries.run(handler, Deliveries.make({ body })))
  const schema = JSON.stringify({ ...order, fields: [...order.fields, { name: "digest", type: "bytes" }] })
  const whole = Buffer.concat([body, Buffer.from([4, 1, 2])])

  it("F14 hands the handler what the schema says, with bytes as bytes", async () => {
    says(200, { schema })
    assert.strictEqual((await deliver(whole)).outcome._tag, "Ack")
    assert.deepStrictEqual(seen, [{ id: "a", digest: new Uint8Array([1, 2]) }])
  })

  it("F14 a registry that is down retries the message, an unknown id is a dead letter", async () => {
    says(503, "down")
    assert.strictEqual((await deliver(whole)).outcome._tag, "Retry")
    says(404, { error_code: 40403 })
    assert.strictEqual((await deliver(whole)).outcome._tag, "DeadLetter")
  })
})
