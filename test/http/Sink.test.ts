import {
  Channel,
  type Envelope,
  Lanes,
  MemoryBroker,
  Middleware,
  type Outcome,
  Publisher,
  Subscription,
  Trace
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Body, Client, type Request, Server, Sink } from "@millrace/http"
import { Deliveries } from "@millrace/testing"
import { Duration, Effect, Fiber, Layer, pipe, Redacted, Tracer } from "effect"
import { FetchHttpClient, HttpServerResponse } from "effect/http"
import * as fc from "fast-check"
import { inspect } from "node:util"
import { serve } from "./support.ts"

interface Got {
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array
}

/** A server that answers what its path says (`/status/503/7`), and keeps what came. */
const target = (got: Array<Got>) =>
  serve(
    Server.route(
      "*",
      "/*",
      pipe((request: Request<Uint8Array>) => {
        got.push({ path: request.url, headers: request.headers, body: request.payload })
        const [, , status, after] = request.path.split("/")
        const code = Number(status)
        return code >= 200 && code < 600
          ? Effect.succeed(
            HttpServerResponse.empty({
              status: code,
              ...(after === undefined ? {} : { headers: { "retry-after": after } })
            })
          )
          : Effect.never
      }, Body.bytes())
    )
  )

const settle = (options: Sink.Options, delivery: Deliveries.Options) => {
  const subscription = Subscription.make(Channel.bytes("orders"), { group: "g", name: "sink" }, Sink.handler(options))
  return Effect.provide(
    Deliveries.settle(subscription, Deliveries.make({ channel: "orders", ...delivery })),
    FetchHttpClient.layer
  )
}

describe("Sink", () => {
  it.live("X1 a message becomes a request with its bytes and a key by which it is told, and a status settles it", () =>
    Effect.gen(function*() {
      const got: Array<Got> = []
      const base = yield* target(got)
      const url = `${base}/status/{header.code}/{header.after}?key={key}`
      const cases: ReadonlyArray<readonly [number, Outcome.Outcome["_tag"], number | undefined]> = [
        [200, "Ack", undefined],
        [202, "Ack", undefined],
        [204, "Ack", undefined],
        [304, "DeadLetter", undefined],
        [400, "DeadLetter", undefined],
        [401, "DeadLetter", undefined],
        [404, "DeadLetter", undefined],
        [408, "Retry", 9000],
        [409, "Retry", 9000],
        [413, "DeadLetter", undefined],
        [425, "Retry", 9000],
        [429, "Retry", 9000],
        [500, "Retry", 9000],
        [501, "DeadLetter", undefined],
        [503, "Retry", 9000]
      ]
      for (const [code, tag, after] of cases) {
        const outcome = yield* settle({ url }, {
          key: "a/b c",
          position: code,
          headers: { code: String(code), after: "9", "content-type": "text/plain", "x-secret": "1", traceparent: "t" },
          body: new Uint8Array([0, 255, code % 256])
        })
        assert.strictEqual(outcome._tag, tag, String(code))
        const wait = outcome._tag === "Retry" && outcome.after !== undefined
          ? Duration.toMillis(outcome.after)
          : undefined
        assert.strictEqual(wait, after, String(code))
      }
      const [first] = got
      assert.strictEqual(first?.path, "/status/200/9?key=a%2Fb%20c")
      assert.deepStrictEqual([...first?.body ?? []], [0, 255, 200])
      assert.strictEqual(first?.headers["idempotency-key"], `"orders/0/200"`)
      assert.strictEqual(first?.headers["content-type"], "text/plain")
      assert.strictEqual(first?.headers["traceparent"], "t")
      assert.isUndefined(first?.headers["x-secret"])
      assert.strictEqual(got.length, cases.length)
    }))

  it.live("X1 a server that does not answer in time is tried again, unless the request must not be sent twice", () =>
    Effect.gen(function*() {
      const base = yield* target([])
      const options = { url: `${base}/never/x`, timeout: "30 millis" } as const
      assert.strictEqual((yield* settle(options, {}))._tag, "Retry")
      const unkeyed = yield* settle({ ...options, idempotencyKey: () => undefined }, {})
      assert.strictEqual(unkeyed._tag, "DeadLetter")
      assert.strictEqual((yield* settle({ url: "http://127.0.0.1:1/" }, {}))._tag, "Retry")
    }))

  it.effect("X1 no message leaves its place in the URL, and none brings headers of its own making", () =>
    Effect.gen(function*() {
      const url = "http://127.0.0.1:1/a/{key}/b"
      const refused = (delivery: Deliveries.Options, more: Partial<Sink.Options> = {}) =>
        Effect.map(
          settle({ url, ...more }, delivery),
          (outcome) =>
            outcome._tag === "DeadLetter" && outcome.error instanceof Sink.SinkRefused
              ? outcome.error.message
              : outcome._tag
        )
      for (const key of [".", "..", "", undefined, "\ud800"]) {
        assert.match(yield* refused(key === undefined ? {} : { key }), /http:.*\{key\}|\{key\}.*http:/, String(key))
      }
      for (const value of ["a\r\nx-admin: 1", "a\nb", "\u0000", "€"]) {
        const message = yield* refused({ key: "k", headers: { "content-type": value } })
        assert.match(message, /content-type/)
        assert.notInclude(message, "x-admin")
        assert.match(yield* refused({ key: "k" }, { headers: { "x-own": value } }), /x-own/)
      }
    }))

  it("X1 every value stays in its place: what is rendered has the parts of its template", () => {
    fc.assert(
      fc.asyncProperty(fc.string({ minLength: 1, unit: "binary" }), fc.string({ minLength: 1 }), async (key, code) => {
        let seen: string | undefined
        const spy = Sink.handler({
          url: "https://example.com/a/{key}/b?c={header.code}&d=1",
          client: (client) =>
            Client.make(client, (next) => (call) => {
              seen = call.request.url
              return next(call)
            })
        })
        const delivery = Deliveries.make({ key, headers: { code } })
        await Effect.runPromise(
          Effect.provide(Effect.exit(Effect.timeout(Effect.suspend(() => spy(delivery)), 0)), FetchHttpClient.layer)
        )
        if (seen === undefined) {
          return assert.isTrue(key === "." || key === ".." || !key.isWellFormed() || !code.isWellFormed())
        }
        const url = new URL(seen)
        assert.strictEqual(url.host, "example.com")
        const parts = url.pathname.split("/")
        assert.deepStrictEqual([parts.length, parts[1], parts[3]], [4, "a", "b"])
        assert.strictEqual(decodeURIComponent(parts[2] ?? ""), key)
        assert.deepStrictEqual([...url.searchParams], [["c", code], ["d", "1"]])
      }),
      { numRuns: 50 }
    )
  })

  it("X1 wrong options are refused when it is built", () => {
    for (
      const url of [
        "/a",
        "ftp://a/b",
        "https://{key}.example.com/",
        "https://example.com/{secret}",
        "https://example.com/{key",
        "https://"
      ]
    ) {
      assert.throws(() => Sink.handler({ url }), RangeError, "Sink: url")
    }
    assert.throws(() => Sink.handler({ url: "http://a/", timeout: 0 }), RangeError, "Sink: timeout")
  })

  it.live("X1 middlewares around each request see it as a client's, and Trace writes its span into it", () =>
    Effect.gen(function*() {
      const got: Array<Got> = []
      const seen: Array<string> = []
      const base = yield* target(got)
      const note = Middleware.make()({ name: "Note", stage: "consume" }, (next) => (message: Envelope) => {
        seen.push(`${message.kind} ${message.channel} ${message.key}`)
        return next(message)
      })
      const spans: Array<Tracer.Span> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      const sink = Sink.handler({
        url: `${base}/status/200`,
        client: (client) => Client.make(client, (next) => pipe(next, note, Trace.middleware()))
      })
      const handler = pipe(sink, Trace.middleware())
      const { outcome } = yield* Effect.provideService(
        Deliveries.run(handler, Deliveries.make({ key: "k" })),
        Tracer.Tracer,
        tracer
      ).pipe(Effect.provide(FetchHttpClient.layer))
      assert.strictEqual(outcome._tag, "Ack")
      assert.deepStrictEqual(seen, [`client POST ${new URL(base).host} undefined`])
      const own = spans.filter(({ kind }) => kind === "client" || kind === "consumer")
      assert.deepStrictEqual(own.map(({ kind }) => kind), ["consumer", "client"])
      assert.strictEqual(got[0]?.headers["traceparent"], `00-${own[1]?.traceId}-${own[1]?.spanId}-01`)
    }))

  it.live(
    "X1 H1 from a broker to a server: each message once, in order for each key, and what is refused is a dead letter",
    () =>
      Effect.gen(function*() {
        const got: Array<Got> = []
        const base = yield* target(got)
        const Orders = Channel.bytes("orders")
        const subscription = Subscription.make(
          Orders,
          { group: "partner", name: "partner", lanes: Lanes.key(4) },
          Sink.handler({ url: `${base}/status/{header.code}?n={header.n}&key={key}` })
        )
        const publisher = Publisher.make(Orders)
        const letters: Array<string> = []
        const dead = Subscription.make(
          Channel.bytes("orders.dead-letters"),
          { group: "letters", name: "letters" },
          (message) => Effect.sync(() => void letters.push(message.headers["n"] ?? ""))
        )
        yield* Effect.gen(function*() {
          for (let n = 0; n < 60; n++) {
            yield* publisher.publish(new Uint8Array([n]), {
              key: `key-${n % 6}`,
              headers: { n: String(n), code: n % 10 === 3 ? "404" : "200" }
            })
          }
          const running = yield* Effect.forkChild(
            Layer.launch(Layer.merge(Subscription.layer(subscription), Subscription.layer(dead)))
          )
          while (got.length < 60 || letters.length < 6) yield* Effect.sleep("5 millis")
          yield* Fiber.interrupt(running)
        }).pipe(Effect.provide(Layer.merge(MemoryBroker.layer(), FetchHttpClient.layer)))
        const numbers = got.map(({ path }) => Number(new URLSearchParams(path.split("?")[1]).get("n")))
        assert.deepStrictEqual(numbers.toSorted((a, b) => a - b), Array.from({ length: 60 }, (_, n) => n))
        for (let key = 0; key < 6; key++) {
          const own = numbers.filter((n) => n % 6 === key)
          assert.deepStrictEqual(own, own.toSorted((a, b) => a - b))
        }
        assert.deepStrictEqual(letters.map(Number).sort((a, b) => a - b), [3, 13, 23, 33, 43, 53])
      }),
    10_000
  )

  it.live("X1 a redirect is no acknowledgement: nothing is sent to where it says, and the message is a dead letter", () =>
    Effect.gen(function*() {
      const got: Array<Got> = []
      const base = yield* serve(
        Server.route(
          "*",
          "/*",
          pipe((request: Request<Uint8Array>) => {
            got.push({ path: request.url, headers: request.headers, body: request.payload })
            const [, code = "200"] = request.path.split("/")
            return Effect.succeed(
              HttpServerResponse.empty({ status: Number(code), headers: { location: "/200" } })
            )
          }, Body.bytes())
        )
      )
      for (const method of ["POST", "PUT", "PATCH", "DELETE"] as const) {
        for (const code of [301, 302, 303, 307, 308]) {
          const outcome = yield* settle({ url: `${base}/${code}`, method }, { body: { order: 7 } })
          assert.strictEqual(outcome._tag, "DeadLetter", `${method} ${code}`)
        }
      }
      assert.strictEqual(got.length, 20)
      assert.isFalse(got.some(({ path }) => path === "/200"))
    }))

  it.live("H5 no error shows the user or the query of the URL, and of a redacted one nothing but the origin", () =>
    Effect.gen(function*() {
      const base = yield* target([])
      const errors: Array<unknown> = []
      const cases: ReadonlyArray<readonly [string, Deliveries.Options]> = [
        [`${base}/never?api_key=s3cret`, {}],
        [`${base}/status/404?api_key=s3cret`, {}],
        [`${base}/orders/{key}?api_key=s3cret`, {}],
        [`${base}/orders/{key}?api_key=s3cret`, { key: ".." }],
        ["http://127.0.0.1:1/orders?api_key=s3cret", {}],
        ["http://ada:s3cret@127.0.0.1:1/orders", {}]
      ]
      for (const [url, delivery] of cases) {
        for (const given of [url, Redacted.make(url.replace("?api_key=", "/"))]) {
          for (const more of [{}, { idempotencyKey: () => undefined }]) {
            const outcome = yield* settle({ url: given, timeout: "30 millis", ...more }, delivery)
            errors.push("error" in outcome ? outcome.error : outcome)
          }
        }
      }
      for (const error of errors) {
        assert.notInclude(`${inspect(error, { depth: 5 })} ${JSON.stringify(error)}`, "s3cret")
      }
      assert.strictEqual(
        errors.filter((error) => inspect(error).includes("its URL has a user, which fetch refuses")).length,
        4
      )
      for (
        const url of ["https://a.example/{no}?api_key=s3cret", "https://a.example/{a?api_key=s3cret", "s3cret://a"]
      ) {
        for (const given of [url, Redacted.make(url)]) {
          try {
            Sink.handler({ url: given })
            assert.fail("it was taken")
          } catch (error) {
            if (!url.startsWith("s3cret")) assert.notInclude(String(error), "s3cret")
          }
        }
      }
    }))
})
