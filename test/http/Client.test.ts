import {
  Auth,
  type Envelope,
  type Failure,
  Hedge,
  Log,
  Middleware,
  RateLimit,
  Retry,
  Stack,
  Timeout,
  Trace
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { NodeHttpClient } from "@effect/platform-node"
import { type Call, Client } from "@millrace/http"
import { Clock, Duration, Effect, Exit, Fiber, Layer, pipe, Redacted, Schedule, type Scope, Tracer } from "effect"
import { FetchHttpClient, HttpClient, type HttpClientError, HttpClientResponse } from "effect/http"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import { type AddressInfo, createServer as createSocket } from "node:net"
import { format as formatWait, parse as parseWait } from "@millrace/core/retryAfter"
import { recording } from "../core/support.ts"

/** A server of Node's own at a free port, closed with the scope. */
const server = (
  answer: (request: IncomingMessage, response: ServerResponse, count: number) => void
): Effect.Effect<{ readonly base: string; readonly seen: Array<IncomingMessage> }, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.callback<{ readonly http: Server; readonly seen: Array<IncomingMessage> }>((resume) => {
        const seen: Array<IncomingMessage> = []
        const http = createServer((request, response) => {
          request.resume()
          seen.push(request)
          answer(request, response, seen.length)
        })
        http.listen(0, "127.0.0.1", () => resume(Effect.succeed({ http, seen })))
      }),
      ({ http }) =>
        Effect.callback<void>((resume) => {
          http.close(() => resume(Effect.void))
          http.closeAllConnections()
        })
    ),
    ({ http, seen }) => ({ base: `http://127.0.0.1:${(http.address() as AddressInfo).port}`, seen })
  )

const status =
  (code: number, headers: Record<string, string> = {}) => (_: IncomingMessage, response: ServerResponse) => {
    response.writeHead(code, headers)
    response.end("the answer")
  }

const quick = Retry.middleware({ schedule: Schedule.recurs(2) })

const both = [["fetch", FetchHttpClient.layer], ["node:http", NodeHttpClient.layerNodeHttp]] as const

const failureOf = <A, E>(exit: Exit.Exit<A, E>): E | undefined =>
  Exit.isFailure(exit)
    ? exit.cause.reasons.flatMap((reason) => reason._tag === "Fail" ? [reason.error] : [])[0]
    : undefined

describe("Client", () => {
  for (const [name, layer] of both) {
    it.live(`X1 H1 statuses have classes, and Retry-After is read in either form (${name})`, () =>
      Effect.gen(function*() {
        const now = yield* Clock.currentTimeMillis
        const date = new Date(now + 90_000).toUTCString()
        const cases: ReadonlyArray<
          readonly [number, Failure.FailureClass, Record<string, string>, number | undefined]
        > = [
          [400, "validation", {}, undefined],
          [401, "auth", {}, undefined],
          [404, "permanent", { "retry-after": "5" }, undefined],
          [408, "transient", {}, undefined],
          [409, "conflict", {}, undefined],
          [425, "transient", {}, undefined],
          [429, "throttled", { "retry-after": "7" }, 7000],
          [500, "dependency", {}, undefined],
          [501, "permanent", {}, undefined],
          [502, "transient", {}, undefined],
          [503, "transient", { "retry-after": date }, 90_000],
          [504, "transient", { "retry-after": "soon" }, undefined]
        ]
        for (const [code, failure, headers, wait] of cases) {
          const { base } = yield* server(status(code, headers))
          const client = Client.make(yield* HttpClient.HttpClient)
          const error = failureOf(yield* Effect.exit(client.get(`${base}/a?token=secret`)))
          if (error?._tag !== "StatusFailed") return assert.fail(`${code}: ${String(error)}`)
          assert.deepStrictEqual([error.status, error.failure], [code, failure])
          const given = error.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter)
          if (wait === undefined || given === undefined) assert.strictEqual(given, wait)
          else assert.isTrue(given > wait - 5_000 && given <= wait, `${code} ${given}`)
          assert.strictEqual(new TextDecoder().decode(Redacted.value(error.body)), "the answer")
          assert.notInclude(`${error.message} ${JSON.stringify(error)}`, "secret")
          assert.notInclude(JSON.stringify(error), "the answer")
        }
      }).pipe(Effect.provide(layer)))

    it.live(`X1 H1 what may be sent twice is tried again, and nothing else (${name})`, () =>
      Effect.gen(function*() {
        const { base, seen } = yield* server((request, response, count) =>
          status(count % 3 === 0 ? 200 : 503)(request, response)
        )
        const raw = yield* HttpClient.HttpClient
        const client = Client.make(raw, quick)
        assert.strictEqual((yield* client.get(base)).status, 200)
        assert.strictEqual(seen.length, 3)
        const failed = failureOf(yield* Effect.exit(client.post(base)))
        assert.strictEqual(failed?._tag === "StatusFailed" ? failed.failure : undefined, "permanent")
        assert.strictEqual(seen.length, 4)
        // the fifth is refused, the sixth is not
        assert.strictEqual((yield* client.post(base, { headers: { "idempotency-key": `"1"` } })).status, 200)
        assert.strictEqual(seen.length, 6)
        assert.strictEqual((yield* Client.make(raw, quick, { repeat: "always" }).post(base)).status, 200)
        assert.strictEqual(seen.length, 9)
      }).pipe(Effect.provide(layer)))

    it.live(`H1 a connection that is refused is tried again whatever the method, one that breaks off is not (${name})`, () =>
      Effect.gen(function*() {
        const raw = yield* HttpClient.HttpClient
        let attempts = 0
        const count = Middleware.make()({ name: "Count", stage: "consume" }, (next) => (message) => {
          attempts += 1
          return next(message)
        })
        const client = Client.make(raw, (next) => pipe(next, count, quick))
        const free = yield* Effect.callback<number>((resume) => {
          const socket = createSocket()
          socket.listen(0, "127.0.0.1", () => {
            const { port } = socket.address() as AddressInfo
            socket.close(() => resume(Effect.succeed(port)))
          })
        })
        const refused = failureOf(yield* Effect.exit(client.post(`http://127.0.0.1:${free}/a`)))
        assert.deepInclude(refused, { _tag: "RequestFailed", reason: "Connection", failure: "dependency" })
        assert.strictEqual(attempts, 3)
        const { base } = yield* server((request) => void request.socket.destroy())
        attempts = 0
        const broken = failureOf(yield* Effect.exit(client.post(base)))
        assert.deepInclude(broken, { _tag: "RequestFailed", reason: "Lost", failure: "permanent" })
        assert.strictEqual(attempts, 1)
        attempts = 0
        const again = failureOf(yield* Effect.exit(client.put(base)))
        assert.deepInclude(again, { _tag: "RequestFailed", reason: "Lost", failure: "transient" })
        assert.strictEqual(attempts, 3)
      }).pipe(Effect.provide(layer)))
  }

  it.live("X1 a header that could begin another one is refused before anything is sent", () =>
    Effect.gen(function*() {
      const { base, seen } = yield* server(status(200))
      for (
        const [name, value] of [["x-evil", "a\r\nx-admin: 1"], ["x-evil", "a\u0000"], ["x evil", "a"], [
          "x-evil",
          "€"
        ]] as const
      ) {
        const evil = Middleware.make()({ name: "Evil", stage: "consume" }, (next) => (message: Envelope) =>
          next(message.withHeader(name, value)))
        const error = failureOf(yield* Effect.exit(Client.make(yield* HttpClient.HttpClient, evil).get(base)))
        assert.deepInclude(error, { _tag: "RequestFailed", reason: "Invalid", failure: "permanent" })
        assert.notInclude(String(error), "x-admin")
      }
      assert.strictEqual(seen.length, 0)
      const wrong = failureOf(yield* Effect.exit(Client.make(yield* HttpClient.HttpClient).get("http://[nonsense")))
      assert.deepInclude(wrong, { _tag: "RequestFailed", reason: "Invalid" })
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.live("X1 Trace writes its span into the request, once, and Effect's client makes none beside it", () =>
    Effect.gen(function*() {
      const spans: Array<Tracer.Span> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      const { base, seen } = yield* server(status(200))
      const client = Client.make(yield* HttpClient.HttpClient, Trace.middleware())
      yield* Effect.provideService(client.get(base), Tracer.Tracer, tracer)
      assert.strictEqual(spans.length, 1)
      const [span] = spans
      assert.deepStrictEqual([span?.kind, span?.name], ["client", "GET"])
      assert.strictEqual(seen[0]?.headers["traceparent"], `00-${span?.traceId}-${span?.spanId}-01`)
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.live("X1 a stack is as good as a function, and says what requests fail with and need", () =>
    Effect.gen(function*() {
      const { base, seen } = yield* server(status(200))
      const stack = Stack.start<Call>().use(Log.middleware()).use(RateLimit.middleware({ limit: 1, window: "1 day" }))
        .use(
          Timeout.middleware()
        )
      const client = Client.make(yield* HttpClient.HttpClient, stack)
      const typed: HttpClient.HttpClient.With<
        | RateLimit.RateLimited
        | RateLimit.RateLimitUnavailable
        | Timeout.TimeoutExceeded
        | Client.RequestFailed
        | Client.StatusFailed,
        RateLimit.Store
      > = client
      // @ts-expect-error the store is needed
      const wrong: HttpClient.HttpClient.With<unknown> = client
      assert.isDefined(wrong)
      yield* Effect.gen(function*() {
        assert.strictEqual((yield* typed.get(base)).status, 200)
        assert.strictEqual(failureOf(yield* Effect.exit(typed.get(base)))?._tag, "RateLimited")
      }).pipe(Effect.provide(RateLimit.layerMemory()))
      assert.strictEqual(seen.length, 1)
      assert.throws(
        () => Client.make(client, (next) => pipe(next, Auth.middleware(), Auth.scopes("a"))),
        /Scopes must stand inside Auth/
      )
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.live("W10 a hook that fails after the answer does not send the request again, unless it may be", () =>
    Effect.gen(function*() {
      const { base, seen } = yield* server(status(200))
      const hook = Middleware.make()({ name: "Hook", stage: "consume" }, (next) => (message) => {
        message.after(() => Effect.fail({ failure: "transient" as const, _tag: "Spill" }))
        return next(message)
      })
      const client = Client.make(yield* HttpClient.HttpClient, hook)
      const posted = failureOf(yield* Effect.exit(client.post(base)))
      assert.deepInclude(posted, { _tag: "RequestFailed", reason: "Hook", failure: "permanent" })
      const got = failureOf(yield* Effect.exit(client.get(base)))
      assert.deepInclude(got, { _tag: "RequestFailed", reason: "Hook", failure: "transient" })
      assert.strictEqual(seen.length, 2)
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.live("W10 interrupting a request aborts it, and the hooks run", () =>
    Effect.gen(function*() {
      const ends: Array<string> = []
      const note = Middleware.make()({ name: "Note", stage: "consume" }, (next) => (message) => {
        message.after((exit) => {
          ends.push(Exit.hasInterrupts(exit) ? "interrupt" : exit._tag)
          return undefined
        })
        return next(message)
      })
      const closed = Promise.withResolvers<void>()
      const { base } = yield* server((request) => void request.socket.on("close", () => closed.resolve()))
      const client = Client.make(yield* HttpClient.HttpClient, (next) =>
        pipe(next, Timeout.middleware({ after: "50 millis" }), note))
      const error = failureOf(yield* Effect.exit(client.get(base)))
      assert.strictEqual(error?._tag, "TimeoutExceeded")
      yield* Effect.promise(() =>
        closed.promise
      )
      assert.deepStrictEqual(ends, ["Failure"])
      const fiber = yield* Effect.forkChild(Client.make(yield* HttpClient.HttpClient, note).get(base), {
        startImmediately: true
      })
      yield* Effect.yieldNow
      yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
      fiber.interruptUnsafe()
      yield* Effect.exit(Effect.suspend(() => Effect.void))
      while (ends.length < 2) yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
      assert.deepStrictEqual(ends, ["Failure", "interrupt"])
    }).pipe(Effect.provide(FetchHttpClient.layer)), 5_000)

  it("H1 Retry-After: what is written is never early, what is read is from 0 to a day, and nonsense is nothing", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 86_400_000 }),
        fc.integer({ min: 0, max: 4_000_000_000_000 }),
        (millis, now) => {
          const read = parseWait(formatWait(Duration.millis(millis)), now)
          const back = Duration.toMillis(read ?? Duration.zero)
          assert.isTrue(back >= millis && back < millis + 1000)
          const at = Math.floor((now + millis) / 1000) * 1000
          const dated = Duration.toMillis(parseWait(new Date(at).toUTCString(), now) ?? Duration.infinity)
          assert.strictEqual(dated, Math.min(86_400_000, Math.max(0, at - now)))
        }
      )
    )
    fc.assert(
      fc.property(fc.string(), fc.integer({ min: 0 }), (text, now) => {
        const wait = parseWait(text, now)
        if (wait === undefined) assert.notMatch(text.trim(), /^\d+$/)
        else assert.isTrue(Duration.toMillis(wait) >= 0 && Duration.toMillis(wait) <= 86_400_000)
      })
    )
    const now = Date.UTC(1994, 10, 6, 8, 49, 30)
    for (
      const text of ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
    ) {
      assert.strictEqual(Duration.toMillis(parseWait(text, now) ?? Duration.infinity), 7000, text)
    }
    assert.isUndefined(parseWait("-1", now))
    assert.isUndefined(parseWait("1.5", now))
    assert.strictEqual(formatWait(Duration.infinity), "86400")
  })

  it.live("a POST without a key that a Timeout cuts off is sent once, by Retry and by the class of its error", () =>
    Effect.gen(function*() {
      const { base, seen } = yield* server(() => {})
      const through = (next: Client.Innermost<HttpClientError.HttpClientError, never>) =>
        pipe(next, Timeout.middleware({ after: "50 millis" }), Retry.middleware({ schedule: Schedule.recurs(2) }))
      const client = Client.make(yield* HttpClient.HttpClient, through)
      const late = failureOf(yield* Effect.exit(client.post(base)))
      assert.deepInclude(late, { _tag: "TimeoutExceeded", failure: "permanent" })
      assert.strictEqual(seen.length, 1)
      // what may be repeated is repeated
      const again = failureOf(yield* Effect.exit(client.post(base, { headers: { "idempotency-key": "a" } })))
      assert.deepInclude(again, { _tag: "TimeoutExceeded", failure: "timeout" })
      assert.strictEqual(seen.length, 4)
      yield* Effect.exit(client.get(base))
      assert.strictEqual(seen.length, 7)
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))

  it.effect("a POST that a Timeout cuts off before it was sent is tried again", () =>
    Effect.gen(function*() {
      let sent = 0
      const client = Client.make(
        HttpClient.make((request) => Effect.sync(() => (sent++, HttpClientResponse.fromWeb(request, new Response())))),
        (next: Client.Innermost<HttpClientError.HttpClientError, never>) => {
          let calls = 0
          const slow = (call: Call) =>
            Effect.andThen(Effect.sleep(calls++ === 0 ? "1 minute" : 0), Effect.suspend(() => next(call)))
          return pipe(
            slow,
            Timeout.middleware({ after: "1 second" }),
            Retry.middleware({ schedule: Schedule.recurs(2) })
          )
        }
      )
      const fiber = yield* Effect.forkChild(client.post("http://localhost/"))
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* Fiber.join(fiber)).status, 200)
      assert.strictEqual(sent, 1)
    }))

  for (const [name, layer] of both) {
    it.live(`a redirect is an error, and nothing goes to where it says (${name})`, () =>
      Effect.gen(function*() {
        const { base, seen } = yield* server((request, response) =>
          request.url === "/a" || request.url === "/a?token=secret"
            ? status(Number(request.headers["x-status"]), { location: "/b" })(request, response)
            : status(200)(request, response)
        )
        const client = Client.make(yield* HttpClient.HttpClient)
        for (const code of [301, 302, 303, 307, 308]) {
          for (const method of ["get", "post", "put", "del"] as const) {
            const sent = client[method](`${base}/a?token=secret`, { headers: { "x-status": String(code) } })
            const error = failureOf(yield* Effect.exit(sent))
            if (error?._tag !== "StatusFailed") return assert.fail(`${method} ${code}: ${String(error)}`)
            assert.deepStrictEqual([error.status, error.failure], [code, "permanent"])
            assert.include(error.message, "not followed")
            assert.notInclude(error.message, "secret")
          }
        }
        assert.deepStrictEqual(new Set(seen.map(({ url }) => url)), new Set(["/a?token=secret"]))
        // 304 answers a condition
        const unchanged = client.get(`${base}/a`, { headers: { "x-status": "304" } })
        assert.strictEqual((yield* unchanged).status, 304)
      }).pipe(Effect.provide(layer)))
  }

  it.live("GET may follow redirects by choice, POST never does, and what fetch was given beside stays", () =>
    Effect.gen(function*() {
      const { base, seen } = yield* server((request, response) =>
        request.url === "/a" ? status(302, { location: "/b" })(request, response) : status(200)(request, response)
      )
      const raw = yield* HttpClient.HttpClient
      const following = Client.make(raw, { redirects: "follow" })
      assert.strictEqual((yield* following.get(`${base}/a`)).status, 200)
      const posted = failureOf(yield* Effect.exit(following.post(`${base}/a`)))
      assert.strictEqual(posted?._tag === "StatusFailed" ? posted.status : undefined, 302)
      assert.deepStrictEqual(seen.map(({ method, url }) => `${method} ${url}`), ["GET /a", "GET /b", "POST /a"])
      assert.deepStrictEqual(seen.map(({ headers }) => headers["x-given"]), ["yes", "yes", "yes"])
      // a span that is not propagated is no way around it
      const silent = Effect.provideService(Client.make(raw).get(`${base}/a`), Tracer.DisablePropagation, true)
      const error = failureOf(yield* Effect.exit(silent))
      assert.strictEqual(error?._tag === "StatusFailed" ? error.status : undefined, 302)
    }).pipe(Effect.provide(
      // captured by the layer, not by the program
      FetchHttpClient.layer.pipe(
        Layer.provide(Layer.succeed(FetchHttpClient.RequestInit, { headers: { "x-given": "yes" } }))
      )
    )))

  it.live("an error answer whose body drips shows its status, and is asked for once", () =>
    Effect.gen(function*() {
      const { base, seen } = yield* server((_, response) => {
        response.writeHead(422)
        const timer = setInterval(() => response.write("x"), 20)
        response.on("close", () => clearInterval(timer))
      })
      const client = Client.make(yield* HttpClient.HttpClient, (next) =>
        pipe(next, Timeout.middleware({ after: "20 seconds" }), quick))
      const error = failureOf(yield* Effect.exit(client.get(base)))
      assert.deepInclude(error, { _tag: "StatusFailed", status: 422, failure: "validation" })
      assert.strictEqual(seen.length, 1)
      // where even that is cut off, the request is not sent again: the answer was final
      const hasty = Client.make(yield* HttpClient.HttpClient, (next) =>
        pipe(next, Timeout.middleware({ after: "100 millis" }), quick))
      const late = failureOf(yield* Effect.exit(hasty.get(base)))
      assert.deepInclude(late, { _tag: "TimeoutExceeded", failure: "permanent" })
      assert.strictEqual(seen.length, 2)
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.live("what may have been done is not repeated by any filter of Retry, nor by Hedge", () =>
    Effect.gen(function*() {
      const { base, seen } = yield* server((request, response) => {
        if (request.url === "/lost") return void request.socket.destroy()
        if (request.url === "/slow") return void setTimeout(() => status(200)(request, response), 150)
        return status(503)(request, response)
      })
      const raw = yield* HttpClient.HttpClient
      const eager = Client.make(
        raw,
        Retry.middleware({
          schedule: Schedule.recurs(2),
          while: { tags: ["RequestFailed", "StatusFailed"] }
        })
      )
      const always = Client.make(raw, Retry.when(() => true, { schedule: Schedule.recurs(2) }))
      for (const client of [eager, always]) {
        for (const path of ["/lost", "/503"]) {
          seen.length = 0
          assert.isTrue(Exit.isFailure(yield* Effect.exit(client.post(base + path))))
          assert.strictEqual(seen.length, 1, path)
          assert.isTrue(
            Exit.isFailure(yield* Effect.exit(client.post(base + path, { headers: { "idempotency-key": "1" } })))
          )
          assert.strictEqual(seen.length, 4, path)
        }
      }
      const hedged = Client.make(raw, Hedge.middleware({ idempotent: true, after: "20 millis", budget: 1 }))
      yield* Effect.gen(function*() {
        seen.length = 0
        assert.strictEqual((yield* hedged.post(`${base}/slow`)).status, 200)
        assert.strictEqual(seen.length, 1)
        assert.strictEqual((yield* hedged.get(`${base}/slow`)).status, 200)
        assert.strictEqual(seen.length, 3)
      }).pipe(Effect.provide(Hedge.layer))
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.live("H5 no span of the client beneath shows a secret of the URL", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      const { base } = yield* server(status(200))
      const raw = yield* HttpClient.HttpClient
      yield* traced(Client.make(raw).get(`${base}/a?api_key=s3cret&page=2`))
      yield* traced(Client.make(raw, { shows: "origin" }).get(`${base}/s3cret`))
      const text = JSON.stringify(spans.flatMap(({ attributes }) => Array.from(attributes)))
      assert.include(text, "page=2")
      assert.notInclude(text, "s3cret")
      const failed = failureOf(
        yield* Effect.exit(Client.make(raw, { shows: "origin" }).get("http://127.0.0.1:1/s3cret"))
      )
      assert.notInclude(`${String(failed)} ${JSON.stringify(failed)}`, "s3cret")
    }).pipe(Effect.provide(FetchHttpClient.layer)))
})
