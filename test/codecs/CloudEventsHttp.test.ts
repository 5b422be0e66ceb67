import { CloudEvents, MessagePack } from "@millrace/codecs"
import { Channel, MemoryBroker, Publisher } from "@millrace/core"
import { Body, type Request, Server, Webhook } from "@millrace/http"
import { it } from "@effect/vitest"
import { CloudEvent, emitterFor, HTTP, httpTransport } from "cloudevents"
import { Effect, Layer, pipe, Schema } from "effect"
import { HttpServerResponse } from "effect/http"
import { createServer } from "node:http"
import { assert, describe } from "vitest"
import { call, serve, servers } from "../http/support.ts"

const Order = Schema.Struct({ amount: Schema.Number })
const Events = Channel.make("orders", {
  payload: CloudEvents.Event(Order),
  codec: CloudEvents.event(Channel.json)
})
const modes = ["binary", "structured"] as const

describe("CloudEvents on HTTP", () => {
  it.live("F14 are read in requests of the SDK of CloudEvents, in both modes", () =>
    Effect.scoped(Effect.gen(function*() {
      const got: Array<unknown> = []
      const base = yield* serve(Server.route(
        "POST",
        "/events",
        pipe(
          (request: Request<typeof Events extends Channel.Channel<infer P, never, never, never> ? P : never>) =>
            Effect.sync(() => {
              const { data, extensions, id, type } = request.payload
              got.push([id, type, data.amount, extensions?.["region"], CloudEvents.attributes(request)?.id])
              return HttpServerResponse.empty({ status: 202 })
            }),
          Body.channel(Events)
        )
      ))
      const event = new CloudEvent({ id: "1", source: "/a", type: "t", region: "eu", data: { amount: 3 } })
      for (const mode of modes) {
        yield* Effect.promise(() =>
          emitterFor(httpTransport(`${base}/events`), { mode: mode as never })(event) as Promise<unknown>
        )
      }
      assert.deepStrictEqual(got, [["1", "t", 3, "eu", "1"], ["1", "t", 3, "eu", "1"]])
      const post = (contentType: string, body: string) =>
        Effect.promise(() => call(base, "/events", { method: "POST", headers: { "content-type": contentType }, body }))
      assert.strictEqual((yield* post("application/cloudevents-batch+json", "[]")).status, 400)
      assert.strictEqual((yield* post("application/json", `{"amount":3}`)).status, 400)
      assert.strictEqual((yield* post("text/plain", "x")).status, 415)
    })))

  it.live("F14 are sent as headers and body that the SDK of CloudEvents reads", () =>
    Effect.gen(function*() {
      const read: Array<unknown> = []
      const peer = createServer((request, response) => {
        let body = ""
        request.on("data", (part: Buffer) => {
          body += String(part)
        })
        request.on("end", () => {
          const { data, id, region, type } = HTTP.toEvent({ headers: request.headers, body }) as CloudEvent<unknown>
          read.push([id, type, region, data])
          response.end()
        })
      })
      const port = yield* Effect.promise(() =>
        new Promise<number>((resolve) =>
          peer.listen(0, "127.0.0.1", () => {
            const address = peer.address()
            resolve(typeof address === "object" && address !== null ? address.port : 0)
          })
        )
      )
      const headers = CloudEvents.headers({
        specversion: "1.0",
        id: "1",
        source: "/a",
        type: "t",
        datacontenttype: "application/json",
        extensions: { region: "eu" }
      }, "http")
      yield* Effect.promise(() =>
        call(`http://127.0.0.1:${port}`, "/", { method: "POST", headers: { ...headers }, body: `{"amount":3}` })
      )
      peer.close()
      assert.deepStrictEqual(read, [["1", "t", "eu", { amount: 3 }]])
    }))

  it.live("F14 pass a webhook to a broker, also where the codec's own type is not JSON", () =>
    Effect.scoped(Effect.gen(function*() {
      const packed = CloudEvents.event(MessagePack.codec())
      const Packed = Channel.make("packed", { payload: CloudEvents.Event(Order), codec: packed })
      const context = yield* Layer.build(MemoryBroker.layer())
      const base = yield* Effect.provideContext(
        servers.Listener([
          Server.route("POST", "/hooks", Webhook.handler(Packed, { publisher: Publisher.make(Packed) }))
        ]),
        context
      )
      const body =
        `{"specversion":"1.0","id":"1","source":"/a","type":"t","datacontenttype":"application/vnd.msgpack","data_base64":"${
          Buffer.from(MessagePack.codec().encode({ amount: 3 })).toString("base64")
        }"}`
      const { status } = yield* Effect.promise(() =>
        call(base, "/hooks", { method: "POST", headers: { "content-type": "application/cloudevents+json" }, body })
      )
      assert.strictEqual(status, 202)
    })))
})
