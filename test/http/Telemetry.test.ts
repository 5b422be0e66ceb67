import { assert, describe, it } from "@effect/vitest"
import { Auth, Log, Metrics, RateLimit, Stack, Trace } from "@millrace/core"
import { Body, type Request } from "@millrace/http"
import { Server } from "@millrace/http"
import { Data, Effect, Layer, Metric, Option, pipe, Schedule, Schema, Stream } from "effect"
import { HttpServerResponse } from "effect/http"
import { request as nodeRequest } from "node:http"
import { recording } from "../core/support.ts"
import { call, type Line, logging, post, servers } from "./support.ts"

class Gone extends Data.TaggedError("Gone")<{}> {
  readonly failure = "permanent" as const
}
class Missing extends Data.TaggedError("Missing")<{}> {}

const until = (isSo: () => boolean) =>
  Effect.promise(async () => isSo()).pipe(
    Effect.repeat({ until: (is) => is, schedule: Schedule.spaced("5 millis") }),
    Effect.timeout("10 seconds")
  )

const agent = { headers: { "user-agent": "probe/1" } }

/** Routes behind one stack, of every kind of end. */
const routesOf = (stack: ReturnType<typeof lines>) => [
  Server.route("GET", "/ok/:id", stack.handle((_: Request) => Effect.succeed({ ok: true }))),
  Server.route(
    "GET",
    "/answers-404",
    stack.handle((_: Request) => Effect.succeed(HttpServerResponse.empty({ status: 404 })))
  ),
  Server.route(
    "GET",
    "/answers-503",
    stack.handle((_: Request) => Effect.succeed(HttpServerResponse.empty({ status: 503 })))
  ),
  Server.route("GET", "/gone", stack.handle((_: Request) => Effect.fail(new Gone()))),
  Server.route("GET", "/missing", stack.handle((_: Request) => Effect.fail(new Missing())), {
    errors: { Missing: { status: 404 } }
  }),
  Server.route("GET", "/dies", stack.handle((_: Request) => Effect.die(new Error("broken"))))
]

const lines = (options: Log.Options = {}) => Stack.start<Request>().use(Log.middleware(options))

describe.each(["Listener", "HttpRouter"] as const)("telemetry of %s", (name) => {
  it.live("W13 a line says method, target, status, client and agent, and 4xx is no failure", () =>
    Effect.gen(function*() {
      const logged: Array<Line> = []
      const base = yield* Effect.provide(servers[name](routesOf(lines())), logging(logged))
      for (const path of ["/ok/7?a=1&token=s3cret", "/answers-404", "/answers-503", "/gone", "/missing", "/dies"]) {
        yield* Effect.promise(() => call(base, path, agent))
      }
      const own = logged.filter(({ annotations }) => annotations["operation"] === "serve")
      assert.deepStrictEqual(
        own.map(({ annotations: { method, status, statusCode, userAgent }, level }) => [
          level,
          method,
          status,
          statusCode,
          userAgent
        ]),
        [
          ["Info", "GET", "done", 200, "probe/1"],
          ["Info", "GET", "rejected", 404, "probe/1"],
          ["Error", "GET", "failed", 503, "probe/1"],
          ["Info", "GET", "rejected", 422, "probe/1"],
          ["Info", "GET", "rejected", 404, "probe/1"],
          ["Error", "GET", "failed", 500, "probe/1"]
        ]
      )
      const [first] = own
      assert.match(String(first!.annotations["target"]), /^\/ok\/7\?a=1&token=<redacted>$/)
      assert.match(String(first!.annotations["client"]), /127\.0\.0\.1$/)
      assert.typeOf(first!.annotations["durationMs"], "number")
      const answered = logged.filter(({ text }) => text.includes("answered"))
      assert.isTrue(
        answered.every(({ annotations }) => annotations["method"] === "GET" && annotations["userAgent"] === "probe/1")
      )
    }))

  it.live("W13 a request of no route leaves a line and a metric", () =>
    Effect.gen(function*() {
      const logged: Array<Line> = []
      const base = yield* servers[name](routesOf(lines())).pipe(Effect.provide(logging(logged)))
      yield* Effect.promise(() => call(base, "/nowhere?x=<script>", agent))
      yield* Effect.promise(() => call(base, "/gone", { ...agent, method: "DELETE" }))
      assert.deepStrictEqual(
        logged.map((
          { annotations: { error, method, status, target, userAgent } }
        ) => [method, target, status, error, userAgent]),
        [
          ["GET", "/nowhere?x=%3Cscript%3E", 404, "RouteNotFound", "probe/1"],
          ["DELETE", "/gone", 405, "MethodNotAllowed", "probe/1"]
        ]
      )
      const counts = (yield* Metric.snapshot).filter(({ id }) => id === "millrace.http.unmatched")
      const labels = counts.map(({ attributes }) =>
        `${attributes?.["http.request.method"]} ${attributes?.["http.response.status_code"]}`
      )
      assert.includeMembers(labels, ["GET 404", "DELETE 405"])
    }))

  it.live("W13 lines can be of slow and failed calls only", () =>
    Effect.gen(function*() {
      const logged: Array<Line> = []
      const stack = lines({ sample: 0, slow: "20 millis" })
      const base = yield* Effect.provide(
        servers[name]([
          ...routesOf(stack),
          Server.route("GET", "/slow", stack.handle((_: Request) => Effect.as(Effect.sleep(40), "late")))
        ]),
        logging(logged)
      )
      for (const path of ["/ok/1", "/ok/2", "/gone", "/slow"]) yield* Effect.promise(() => call(base, path))
      const own = logged.filter(({ annotations }) => annotations["operation"] === "serve")
      assert.deepStrictEqual(own.map(({ annotations: { statusCode } }) => statusCode), [422, 200])
    }))

  it.live("W13 a span is named by its route, has the status, and fails with 5xx only", () =>
    Effect.gen(function*() {
      const { spans, traced: recorded } = recording()
      const traced = Trace.middleware()
      const base = yield* servers[name]([
        Server.route("GET", "/ok/:id", pipe((_: Request) => Effect.succeed({ ok: 1 }), traced)),
        Server.route("GET", "/in", pipe((_: Request) => Effect.succeed("in"), Auth.middleware(), traced)),
        Server.route(
          "POST",
          "/body",
          pipe((_: Request<unknown>) => Effect.void, Body.json(Schema.Struct({ a: Schema.String })), traced)
        ),
        Server.route("GET", "/dies", pipe((_: Request) => Effect.die(new Error("broken")), traced))
      ]).pipe(Effect.provide(Auth.layerMemory({})), recorded)
      yield* Effect.promise(() => call(base, "/ok/7?token=s3cret", agent))
      yield* Effect.promise(() => call(base, "/in"))
      yield* Effect.promise(() => post(base, "/body", {}))
      yield* Effect.promise(() => call(base, "/dies"))
      const own = spans.filter(({ attributes, kind }) => kind === "server" && attributes.has("http.route"))
        // Effect's server has a span of its own
        .filter(({ attributes }) => !attributes.has("url.full"))
      const shown = own.map(({ attributes, name, status }) => [
        name,
        attributes.get("http.response.status_code"),
        attributes.get("error.type"),
        status._tag === "Ended" ? status.exit._tag : "open"
      ])
      assert.deepStrictEqual(shown, [
        ["GET /ok/:id", 200, undefined, "Success"],
        ["GET /in", 401, undefined, "Success"],
        ["POST /body", 422, undefined, "Success"],
        ["GET /dies", 500, "Error", "Failure"]
      ])
      const { attributes } = own[0]!
      assert.deepStrictEqual(
        ["http.request.method", "http.route", "url.path", "url.scheme", "server.address", "user_agent.original"].map((
          key
        ) => attributes.get(key)),
        ["GET", "/ok/:id", "/ok/7", "http", "127.0.0.1", "probe/1"]
      )
      assert.isFalse(JSON.stringify([...attributes]).includes("s3cret"))
      assert.isTrue(Option.isNone(own[0]!.parent) || name === "HttpRouter")
    }))

  it.live("W13 durations are by method, route and status, and 4xx has no error", () =>
    Effect.gen(function*() {
      const stack = Stack.start<Request>().use(Metrics.middleware())
      const services = yield* Layer.build(Metrics.layer)
      const base = yield* servers[name]([
        Server.route(
          "GET",
          "/orders/:id",
          stack.handle(({ params }: Request): Effect.Effect<string, Missing> =>
            params["id"] === "1" ? Effect.succeed("x") : Effect.fail(new Missing())
          ),
          { errors: { Missing: { status: 404 } } }
        ),
        Server.route("GET", "/dies", stack.handle((_: Request) => Effect.die(new Error("broken"))))
      ]).pipe(Effect.provideContext(services))
      for (const path of ["/orders/1", "/orders/2", "/orders/3", "/dies"]) yield* Effect.promise(() => call(base, path))
      const series = (yield* Metric.snapshot).filter(({ attributes, id }) =>
        id === "http.server.request.duration" && /^\/(orders|dies)/.test(String(attributes?.["http.route"]))
      )
      const shown = series.map(({ attributes, state }) => [
        attributes?.["http.request.method"],
        attributes?.["http.route"],
        attributes?.["http.response.status_code"],
        attributes?.["error.type"],
        "count" in state ? state.count : undefined
      ])
      assert.deepStrictEqual(shown, [
        ["GET", "/orders/:id", "200", undefined, 1],
        ["GET", "/orders/:id", "404", undefined, 2],
        ["GET", "/dies", "500", "Error", 1]
      ])
      const [orders] = yield* Effect.provideContext(Metrics.snapshot, services)
      assert.deepInclude(orders, { channel: "GET /orders/:id", done: 1, rejected: 2, failed: 0 })
    }))

  it.live("W13 W6 a streamed answer keeps its place until its last byte has left", () =>
    Effect.gen(function*() {
      const base = yield* servers[name]([
        Server.route(
          "GET",
          "/stream",
          pipe(
            (_: Request) =>
              Effect.succeed(
                HttpServerResponse.stream(
                  Stream.concat(Stream.make(new Uint8Array([1])), Stream.never),
                  { contentType: "application/octet-stream" }
                )
              ),
            RateLimit.middleware({ policies: [{ name: "all", limit: 1, algorithm: "concurrency" }] })
          )
        )
      ]).pipe(Effect.provide(RateLimit.layerMemory()))
      const status = () =>
        Effect.promise(() =>
          new Promise<number>((resolve, reject) => {
            const request = nodeRequest(`${base}/stream`, { agent: false }, (response) => {
              resolve(response.statusCode ?? 0)
              request.destroy()
            }).on("error", reject)
            request.end()
          })
        )
      const first = nodeRequest(`${base}/stream`, { agent: false })
      const begun = new Promise((resolve) => first.once("response", resolve))
      first.on("error", () => {}).end()
      yield* Effect.promise(() => begun)
      assert.strictEqual(yield* status(), 429)
      first.destroy()
      let free = 0
      yield* until(() => {
        Effect.runFork(Effect.map(status(), (found) => free = found))
        return free === 200
      })
    }))
})
