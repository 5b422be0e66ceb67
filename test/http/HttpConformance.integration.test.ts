import { HttpConformance } from "@millrace/testing"
import { Server } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import { Context, Effect, Exit, Layer, References, Scope } from "effect"
import { HttpRouter } from "effect/http"
import { readFileSync, writeFileSync } from "node:fs"
import { createServer } from "node:http"
import { afterAll, assert, beforeAll, describe, expect, it } from "vitest"
import * as Api from "./fixtures/conformanceApi.ts"
import { routes, serves, services, token } from "./fixtures/conformanceService.ts"
import { serveWith } from "./support.ts"

const names = ["Listener", "HttpRouter", "HttpApi"] as const

const scope = Scope.makeUnsafe()
const subjects = new Map<string, HttpConformance.Subject>()
const results: Record<string, Array<HttpConformance.Result>> = {}

const add = (name: (typeof names)[number], base: string, paths: HttpConformance.Paths) =>
  subjects.set(name, { host: "127.0.0.1", port: Number(new URL(base).port), serves: paths, token })

/** Services of its own for each server: keys and counts are not shared. */
const build = Effect.suspend(() => Layer.build(Layer.fresh(services)))

const routed = (app: Api.App, context: Context.Context<Layer.Success<typeof services>>) =>
  serveWith(app.pipe(HttpRouter.provideRequest(Layer.succeedContext(context))), { config: Server.routerConfig })

const start = Effect.gen(function*() {
  const listener = yield* Layer.build(Listener.layer(createServer, routes(), { port: 0, host: "127.0.0.1" })).pipe(
    Effect.provideContext(yield* build)
  )
  add("Listener", `http://127.0.0.1:${Context.get(listener, Listener.Address).port}`, serves)
  add("HttpRouter", yield* routed(Server.layer(...routes()) as Api.App, yield* build), serves)
  add("HttpApi", yield* routed(Api.layer as Api.App, yield* build), Api.serves)
})

beforeAll(() =>
  Effect.runPromise(start.pipe(Scope.provide(scope), Effect.provideService(References.MinimumLogLevel, "None")))
)
afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

describe.each(names)("the HTTP suite on %s", (name) => {
  it.each(HttpConformance.cases.map((each) => ({ ...each, each })))("W12 W11 $section: $title", async ({ each }) => {
    const result = await HttpConformance.run(subjects.get(name)!, each)
    ;(results[name] ??= []).push(result)
    assert.deepStrictEqual(result.problems, [])
    if (name !== "HttpApi") assert.strictEqual(result.outcome, "passed")
  })
})

describe("the table of docs/http.md", () => {
  it("W12 is that of this run", () => {
    const file = new URL("../../docs/http.md", import.meta.url)
    const text = readFileSync(file, "utf8")
    const [before = "", rest = ""] = text.split("<!-- conformance -->\n", 2)
    const after = rest.slice(rest.indexOf("\n\n"))
    const now = `${before}<!-- conformance -->\n\n${HttpConformance.toTable(results)}\n${
      after.trimStart() === "" ? "" : after
    }`
    // written by vitest -u, as snapshots are
    if (process.argv.includes("-u") || process.env["UPDATE_TABLE"] === "yes") writeFileSync(file, now)
    else expect(text).toBe(now)
  })
})
