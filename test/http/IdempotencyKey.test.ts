import { Auth, Idempotency, Plain, RateLimit, Timeout } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Body, IdempotencyKey, type Request, Server } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import { Context, Data, Effect, Exit, Fiber, Layer, pipe, Schema, Stream } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { createServer, type IncomingMessage } from "node:http"
import { connect, type Socket } from "node:net"
import { call, type Line, logging, post, serveWith, signal } from "./support.ts"

const Payment = Schema.Struct({ amount: Schema.Finite })

class Declined extends Data.TaggedError("Declined")<{ readonly failure: "permanent" }> {}
class Unreachable extends Data.TaggedError("Unreachable")<{ readonly failure: "dependency" }> {}

const Known = Auth.layerMemory({ "of-ada": { subject: "ada" }, "of-bob": { subject: "bob" } })

const bearer = (of: string) => ({ authorization: `Bearer of-${of}` })

type Needs = Idempotency.Store | Auth.Verifier | RateLimit.Store

/** One set of routes on both servers, each with stores of its own: Effect's router, and Node's own. */
const both = <R extends Needs>(
  routes: ReadonlyArray<Server.Route<R>>,
  store: Layer.Layer<Idempotency.Store> = Idempotency.layerMemory()
) =>
  Effect.gen(function*() {
    const provided = () =>
      Effect.map(Layer.build(Layer.fresh(Layer.mergeAll(store, Known, RateLimit.layerMemory()))), Layer.succeedContext)
    const app = Server.layer(...routes as ReadonlyArray<Server.Route<Needs>>)
    const router = yield* serveWith(app.pipe(HttpRouter.provideRequest(yield* provided())))
    const listener = Listener.layer(createServer, routes, { port: 0, host: "127.0.0.1" })
    const { port } = Context.get(
      yield* Layer.build(Layer.provide(listener, yield* provided())),
      Listener.Address
    )
    return [["router", router], ["listener", `http://127.0.0.1:${port}`]] as const
  })

const send = (
  base: string,
  path: string,
  key: string | undefined,
  body: unknown = { amount: 1 },
  headers: Record<string, string> = {}
) =>
  Effect.promise(() => post(base, path, body, { ...(key === undefined ? {} : { "idempotency-key": key }), ...headers }))

/** The connection of a request, of either server. */
const socketOf = (request: Request): Socket => {
  const { request: own } = request.source as unknown as {
    readonly request: IncomingMessage | { readonly source: IncomingMessage }
  }
  return "source" in own ? own.source.socket : own.socket
}

/** What a client sees, but for what each answer has of its own. */
const seen = (
  { headers: { connection: _, date: _2, "keep-alive": _3, "idempotent-replayed": _4, ...headers }, status, text }: {
    readonly status: number
    readonly headers: Record<string, unknown>
    readonly text: string
  }
) => ({ status, headers, text })

describe("IdempotencyKey", () => {
  it.live("W4 W5 X1 duplicates that come together run once, and all get the one answer", () =>
    Effect.gen(function*() {
      let runs = 0
      const pay = (request: Request<typeof Payment.Type>) =>
        Effect.as(Effect.sleep(20), { run: ++runs, paid: request.payload.amount })
      const route = Server.route(
        "POST",
        "/payments",
        pipe(pay, Body.json(Payment), IdempotencyKey.middleware({ running: "wait" }))
      )
      for (const [name, base] of yield* both([route])) {
        runs = 0
        const answers = yield* Effect.all(
          Array.from({ length: 20 }, () => send(base, "/payments", `"together"`)),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(runs, 1, name)
        const first = answers.find(({ headers }) => headers["idempotent-replayed"] === undefined)
        assert.deepStrictEqual([first?.status, first?.json()], [200, { run: 1, paid: 1 }], name)
        for (const answer of answers) assert.deepStrictEqual(seen(answer), seen(first!), name)
        assert.strictEqual(
          answers.filter(({ headers }) => headers["idempotent-replayed"] === "true").length,
          19,
          name
        )
      }
    }))

  it.live("W4 status, fields and bytes are replayed; cookies and the connection's own fields never are", () =>
    Effect.gen(function*() {
      let runs = 0
      const bytes = Uint8Array.from({ length: 256 }, (_, i) => i)
      const answer = (_: Request) =>
        Effect.sync(() =>
          HttpServerResponse.setCookieUnsafe(
            HttpServerResponse.uint8Array(bytes, {
              status: 201,
              contentType: "image/x-own",
              headers: {
                location: `/things/${++runs}`,
                etag: `"${runs}"`,
                connection: "x-hop",
                "x-hop": "1",
                "x-own": "kept",
                "set-cookie": "direct=secret"
              }
            }),
            "session",
            "secret"
          )
        )
      const route = Server.route("POST", "/things", pipe(answer, IdempotencyKey.middleware()))
      const few = Server.route("PATCH", "/few", pipe(answer, IdempotencyKey.middleware({ fields: ["ETag"] })))
      for (const [name, base] of yield* both([route, few])) {
        runs = 0
        const raw = (path: string, method: string) =>
          Effect.promise(async () => {
            const found = await fetch(base + path, { method, headers: { "idempotency-key": `"k"` }, body: "x" })
            return { found, body: new Uint8Array(await found.arrayBuffer()) }
          })
        const first = yield* raw("/things", "POST")
        const second = yield* raw("/things", "POST")
        assert.strictEqual(runs, 1, name)
        assert.include(first.found.headers.get("set-cookie") ?? "", "session=secret", name)
        assert.strictEqual(second.found.headers.get("set-cookie"), null, name)
        assert.strictEqual(second.found.headers.get("x-hop"), null, name)
        assert.strictEqual(second.found.status, 201, name)
        assert.deepStrictEqual(second.body, bytes, name)
        assert.deepStrictEqual(
          ["content-type", "location", "etag", "x-own", "idempotent-replayed"].map((each) =>
            second.found.headers.get(each)
          ),
          ["image/x-own", "/things/1", `"1"`, "kept", "true"],
          name
        )
        yield* raw("/few", "PATCH")
        const chosen = yield* raw("/few", "PATCH")
        assert.deepStrictEqual(
          ["content-type", "location", "etag", "x-own"].map((each) => chosen.found.headers.get(each)),
          ["image/x-own", null, `"2"`, null],
          name
        )
      }
    }))

  it.live("W4 H19 no key is 400, a used one 422, a running one 409, each a problem with its type", () =>
    Effect.gen(function*() {
      const [began, go] = [signal(), signal()]
      const pay = (request: Request<typeof Payment.Type>): Effect.Effect<object> =>
        request.payload.amount === 99
          ? Effect.as(Effect.andThen(Effect.sync(began.now), go.happened), { late: true })
          : Effect.succeed({ id: request.params["id"] })
      const route = Server.route(
        "POST",
        "/accounts/:id",
        pipe(pay, Body.json(Payment), IdempotencyKey.middleware({ lease: "20 seconds" }))
      )
      const get = Server.route("GET", "/accounts/:id", pipe((_: Request) => Effect.void, IdempotencyKey.middleware()))
      const type = (name: string) => `urn:millrace:problem:idempotency-key-${name}`
      const [[, base]] = yield* both([route, get])
      const missing = yield* send(base, "/accounts/1", undefined)
      assert.deepStrictEqual([missing.status, missing.json()["type"]], [400, type("missing")])
      assert.strictEqual(missing.headers["content-type"], "application/problem+json")
      for (
        const wrong of [`""`, `"a`, `a b`, `"a", "b"`, `a,b`, `"${"x".repeat(256)}"`, "x".repeat(256), `"\\x"`, `"a";p`]
      ) {
        const invalid = yield* send(base, "/accounts/1", wrong)
        assert.deepStrictEqual([invalid.status, invalid.json()["type"]], [400, type("invalid")], wrong)
      }
      assert.strictEqual((yield* send(base, "/accounts/1", `"${"x".repeat(255)}"`)).status, 200)
      assert.strictEqual((yield* send(base, "/accounts/1?a=1", `"a"`)).status, 200)
      // bare is the same key
      assert.strictEqual((yield* send(base, "/accounts/1?a=1", "a")).headers["idempotent-replayed"], "true")
      for (
        const [path, body] of [["/accounts/1?a=1", { amount: 2 }], ["/accounts/1?a=2", undefined], [
          "/accounts/2?a=1",
          undefined
        ]] as const
      ) {
        const reused = yield* send(base, path, `"a"`, body)
        assert.deepStrictEqual([reused.status, reused.json()["type"]], [422, type("reused")], path)
      }
      const first = yield* Effect.forkChild(send(base, "/accounts/1", "late", { amount: 99 }), {
        startImmediately: true
      })
      yield* began.happened
      const running = yield* send(base, "/accounts/1", "late", { amount: 99 })
      assert.deepStrictEqual([running.status, running.json()["type"]], [409, type("running")])
      assert.isAtLeast(Number(running.headers["retry-after"]), 1)
      assert.isAtMost(Number(running.headers["retry-after"]), 20)
      go.now()
      assert.deepStrictEqual((yield* Fiber.join(first)).json(), { late: true })
      const later = yield* send(base, "/accounts/1", "late", { amount: 99 })
      assert.deepStrictEqual([later.json(), later.headers["idempotent-replayed"]], [{ late: true }, "true"])
      assert.strictEqual((yield* Effect.promise(() => call(base, "/accounts/1"))).status, 204)
    }))

  it.live("W4 H19 errors are answers, too: what was decided is replayed, all else gives the key back, and is logged once", () => {
    const lines: Array<Line> = []
    return Effect.gen(function*() {
      const runs = new Map<string, number>()
      const fails = (request: Request<typeof Payment.Type>): Effect.Effect<never, Declined | Unreachable> => {
        const what = request.params["what"]!
        runs.set(what, (runs.get(what) ?? 0) + 1)
        return what === "declined"
          ? Effect.fail(new Declined({ failure: "permanent" }))
          : what === "down"
          ? Effect.fail(new Unreachable({ failure: "dependency" }))
          : Effect.die(new Error("secret"))
      }
      const routes = (["/:what", "/all/:what"] as const).map((path, i) =>
        Server.route(
          "POST",
          path,
          pipe(
            fails,
            Body.json(Payment),
            IdempotencyKey.middleware(i === 0 ? {} : { keeps: { statuses: ["2xx", "4xx", "5xx"] } })
          )
        )
      )
      for (const [name, base] of yield* both(routes)) {
        runs.clear()
        const twice = (path: string, body: unknown = { amount: 1 }) =>
          Effect.gen(function*() {
            lines.length = 0
            const found = [yield* send(base, path, path, body), yield* send(base, path, path, body)] as const
            return { found, logged: lines.length }
          })
        const declined = yield* twice("/declined")
        assert.strictEqual(runs.get("declined"), 1, name)
        assert.deepStrictEqual(declined.found.map(({ status }) => status), [422, 422], name)
        assert.strictEqual(declined.found[1].text, declined.found[0].text, name)
        assert.strictEqual(declined.found[1].headers["content-type"], "application/problem+json", name)
        assert.strictEqual(declined.logged, 1, name)
        const down = yield* twice("/down")
        assert.deepStrictEqual([runs.get("down"), down.logged], [2, 2], name)
        assert.isUndefined(down.found[1].headers["idempotent-replayed"], name)
        yield* twice("/dies")
        assert.strictEqual(runs.get("dies"), 2, name)
        runs.clear()
        yield* twice("/all/down")
        const dies = yield* twice("/all/dies")
        assert.deepStrictEqual([...runs], [["down", 1], ["dies", 1]], name)
        assert.strictEqual(dies.found[1].headers["idempotent-replayed"], "true", name)
        assert.notInclude(dies.found[1].text, "secret")
        // before the work begins nothing is decided: the same key may come with a body that is right
        assert.strictEqual((yield* send(base, "/declined", "m", "{")).status, 400, name)
        assert.strictEqual((yield* send(base, "/declined", "m", { amount: "x" })).status, 422, name)
        assert.strictEqual((yield* send(base, "/declined", "m", { amount: 1 })).json()["failure"], "permanent", name)
      }
    }).pipe(Effect.provide(logging(lines)))
  })

  it.live("W4 a key is its caller's and its route's own, and who is refused by Auth takes none", () =>
    Effect.gen(function*() {
      const greet = (_: Request) => Effect.map(Auth.Principal, ({ subject }) => ({ subject }))
      const route = (path: `/${string}`) =>
        Server.route("POST", path, pipe(greet, IdempotencyKey.middleware(), Auth.middleware()))
      for (const [name, base] of yield* both([route("/a"), route("/b")])) {
        const ask = (path: string, headers: Record<string, string>) => send(base, path, "shared", {}, headers)
        assert.strictEqual((yield* ask("/a", {})).status, 401, name)
        assert.deepStrictEqual((yield* ask("/a", bearer("ada"))).json(), { subject: "ada" }, name)
        const bob = yield* ask("/a", bearer("bob"))
        assert.deepStrictEqual([bob.json(), bob.headers["idempotent-replayed"]], [{ subject: "bob" }, undefined], name)
        const again = yield* ask("/a", bearer("ada"))
        assert.deepStrictEqual([again.json(), again.headers["idempotent-replayed"]], [{ subject: "ada" }, "true"], name)
        assert.strictEqual((yield* ask("/a", { authorization: "Bearer forged" })).status, 401, name)
        assert.isUndefined((yield* ask("/b", bearer("ada"))).headers["idempotent-replayed"], name)
      }
      assert.throws(
        () => Server.route("POST", "/", pipe(greet, Auth.middleware(), IdempotencyKey.middleware()) as never),
        /IdempotencyKey must stand inside Auth/
      )
      assert.throws(
        () =>
          Server.route(
            "POST",
            "/",
            pipe((_: Request) => Effect.void, IdempotencyKey.middleware(), Timeout.middleware())
          ),
        /IdempotencyKey must stand outside Timeout/
      )
    }))

  it.live("W4 an answer too long to be kept leaves, says so, and its request is refused and not done again", () =>
    Effect.gen(function*() {
      let runs = 0
      const parts = (count: number) =>
        Stream.fromIterable(Array.from({ length: count }, () => new TextEncoder().encode("0123456789")))
      const answer = (request: Request) =>
        Effect.sync(() => {
          runs += 1
          const size = Number(request.query.get("size"))
          return request.params["as"] === "stream"
            ? HttpServerResponse.stream(parts(size / 10), { contentType: "text/plain" })
            : HttpServerResponse.text("0123456789".repeat(size / 10))
        })
      const web = Plain.handler(async (_: Request) => {
        runs += 1
        return Promise.resolve(Response.json({ web: true }, { status: 202 }))
      })
      const routes = [
        Server.route("POST", "/as/:as", pipe(answer, IdempotencyKey.middleware({ limit: 100 }))),
        Server.route("POST", "/pass/:as", pipe(answer, IdempotencyKey.middleware({ streams: "pass" }))),
        Server.route("POST", "/web", pipe(web, IdempotencyKey.middleware()))
      ]
      for (const [name, base] of yield* both(routes)) {
        const check = (path: string, size: number, isKept: boolean) =>
          Effect.gen(function*() {
            runs = 0
            const [first, second] = [yield* send(base, path, path), yield* send(base, path, path)]
            const label = `${name} ${path}`
            assert.deepStrictEqual([first.status, first.text], [200, "0123456789".repeat(size / 10)], label)
            assert.strictEqual(first.headers["idempotent-kept"], isKept ? undefined : "false", label)
            assert.strictEqual(runs, 1, label)
            if (isKept) assert.deepStrictEqual([second.status, second.text], [200, first.text], label)
            else {
              assert.strictEqual(second.status, 409, label)
              assert.strictEqual(second.json()["type"], "urn:millrace:problem:idempotency-key-answer-lost", label)
              assert.isUndefined(second.headers["retry-after"], label)
            }
          })
        yield* check("/as/text?size=100", 100, true)
        yield* check("/as/text?size=110", 110, false)
        yield* check("/as/stream?size=100", 100, true)
        yield* check("/as/stream?size=5000", 5000, false)
        yield* check("/pass/stream?size=100", 100, false)
        runs = 0
        yield* send(base, "/web", "w")
        const web = yield* send(base, "/web", "w")
        assert.deepStrictEqual([web.status, web.json(), runs], [202, { web: true }, 1], name)
        assert.strictEqual(web.headers["content-type"], "application/json", name)
      }
    }))

  it.live("W4 W5 who goes in the middle finds the answer when he comes back", () =>
    Effect.gen(function*() {
      for (const disconnect of ["finish", "interrupt"] as const) {
        const began = { router: signal(), listener: signal() }
        const go = { router: signal(), listener: signal() }
        const gone = { router: signal(), listener: signal() }
        const interrupted = { router: signal(), listener: signal() }
        let runs = 0
        const slow = (request: Request) => {
          const name = request.query.get("on") === "router" ? "router" : "listener"
          runs += 1
          // after the listeners of the server, which would interrupt
          socketOf(request).once("close", gone[name].now)
          return runs > 1 && disconnect === "interrupt"
            ? Effect.succeed({ runs })
            : Effect.onInterrupt(
              Effect.as(Effect.andThen(Effect.sync(began[name].now), go[name].happened), { runs }),
              () => Effect.sync(interrupted[name].now)
            )
        }
        const route = Server.route(
          "POST",
          "/slow",
          pipe(slow, IdempotencyKey.middleware({ disconnect, running: "wait" }))
        )
        for (const [name, base] of yield* both([route])) {
          runs = 0
          const socket = connect(Number(new URL(base).port), "127.0.0.1")
          socket.on("error", () => {})
          socket.write(
            `POST /slow?on=${name} HTTP/1.1\r\nhost: x\r\nidempotency-key: "k"\r\ncontent-length: 0\r\n\r\n`
          )
          yield* began[name].happened
          socket.destroy()
          yield* disconnect === "interrupt" ? interrupted[name].happened : gone[name].happened
          const back = yield* Effect.forkChild(
            Effect.promise(() =>
              call(base, `/slow?on=${name}`, { method: "POST", headers: { "idempotency-key": `"k"` } })
            ),
            { startImmediately: true }
          )
          if (disconnect === "finish") go[name].now()
          const answer = yield* Fiber.join(back)
          const label = `${disconnect} ${name}`
          assert.deepStrictEqual(answer.json(), { runs: disconnect === "finish" ? 1 : 2 }, label)
          assert.strictEqual(runs, disconnect === "finish" ? 1 : 2, label)
          assert.strictEqual(answer.headers["idempotent-replayed"], disconnect === "finish" ? "true" : undefined, label)
        }
      }
    }))

  it.live("W4 W5 a claim that is lost in the middle interrupts its handler, and whoever comes next runs", () =>
    Effect.gen(function*() {
      let runs = 0
      let isInterrupted = false
      const work = (_: Request) =>
        ++runs % 2 === 1
          ? Effect.onInterrupt(Effect.never, () => Effect.sync(() => void (isInterrupted = true)))
          : Effect.succeed({ runs })
      const cut = Layer.effect(
        Idempotency.Store,
        Effect.map(Idempotency.Store, (store) => ({ ...store, extend: () => Exit.succeed(false) }))
      ).pipe(Layer.provide(Idempotency.layerMemory()))
      const key = IdempotencyKey.middleware({ lease: 100, running: "wait" })
      for (const [name, base] of yield* both([Server.route("POST", "/", pipe(work, key))], cut)) {
        isInterrupted = false
        const lost = yield* send(base, "/", name)
        assert.deepStrictEqual(
          [lost.status, lost.json()["type"], isInterrupted],
          [409, "urn:millrace:problem:idempotency-key-lost", true],
          name
        )
        const next = yield* send(base, "/", name)
        assert.deepStrictEqual([next.status, next.headers["idempotent-replayed"]], [200, undefined], name)
        assert.strictEqual((yield* send(base, "/", name)).headers["idempotent-replayed"], "true", name)
      }
    }))

  it.live("W4 while the store is down requests are refused with 503, or run, by choice", () =>
    Effect.gen(function*() {
      let runs = 0
      const down = Layer.effect(
        Idempotency.Store,
        Effect.map(Idempotency.Store, (store) => ({
          ...store,
          claim: () => Exit.fail(new Idempotency.IdempotencyUnavailable({ message: "redis://app:secret@db is away" }))
        }))
      ).pipe(Layer.provide(Idempotency.layerMemory()))
      const work = (_: Request) => Effect.sync(() => ({ run: ++runs }))
      const routes = [
        Server.route("POST", "/refuse", pipe(work, IdempotencyKey.middleware())),
        Server.route("POST", "/run", pipe(work, IdempotencyKey.middleware({ unavailable: "run" }))),
        Server.route("POST", "/none", pipe(work, IdempotencyKey.middleware({ missing: "run" })))
      ]
      for (const [name, base] of yield* both(routes, down)) {
        runs = 0
        const refused = yield* send(base, "/refuse", "a")
        assert.deepStrictEqual([refused.status, runs], [503, 0], name)
        assert.notInclude(refused.text, "secret")
        assert.deepStrictEqual((yield* send(base, "/run", "a")).json(), { run: 1 }, name)
        assert.deepStrictEqual((yield* send(base, "/run", "a")).json(), { run: 2 }, name)
        assert.deepStrictEqual((yield* send(base, "/none", undefined)).json(), { run: 3 }, name)
      }
    }))

  it.live("W4 X10 what a failed handler wrote in the store's transaction is rolled back, and its answer kept", () =>
    Effect.gen(function*() {
      const notes: Array<string> = []
      const together = Layer.effect(
        Idempotency.Store,
        Effect.map(Idempotency.Store, (store) => ({
          ...store,
          transaction: <A, E, R>(run: Effect.Effect<A, E, R>) =>
            Effect.onExit(
              run,
              (exit) => Effect.sync(() => void notes.push(Exit.isSuccess(exit) ? "commit" : "rollback"))
            )
        }))
      ).pipe(Layer.provide(Idempotency.layerMemory()))
      const work = (request: Request): Effect.Effect<string, Declined | Unreachable> =>
        request.params["what"] === "declined"
          ? Effect.fail(new Declined({ failure: "permanent" }))
          : request.params["what"] === "down"
          ? Effect.fail(new Unreachable({ failure: "dependency" }))
          : Effect.succeed("done")
      const route = Server.route("POST", "/:what", pipe(work, IdempotencyKey.middleware()))
      for (const [name, base] of yield* both([route], together)) {
        for (
          const [what, status, ends] of [
            ["good", 200, ["commit"]],
            ["declined", 422, ["rollback"]],
            ["down", 503, ["rollback", "rollback"]]
          ] as const
        ) {
          notes.length = 0
          const answers = [yield* send(base, `/${what}`, what), yield* send(base, `/${what}`, what)]
          assert.deepStrictEqual(answers.map((answer) => answer.status), [status, status], `${name} ${what}`)
          assert.deepStrictEqual(notes, [...ends], `${name} ${what}`)
        }
      }
    }))
})
