import { Trace } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Client, type Request, Server } from "@millrace/http"
import { Effect, Option, pipe, Tracer } from "effect"
import { FetchHttpClient, HttpClient } from "effect/http"
import { request as nodeRequest } from "node:http"
import { cases, type Fields, traceId } from "../core/traceCases.ts"
import { serve } from "./support.ts"

/** A request whose fields are sent as they stand: names in any case, and twice. */
const send = (base: string, fields: Fields): Promise<void> =>
  new Promise((resolve, reject) => {
    const { host, hostname, port } = new URL(base)
    const headers = ["host", host, ...fields.flatMap(([name, value]) => [name, value])]
    const request = nodeRequest({ hostname, port, path: "/first", headers, agent: false })
    request.on("error", reject)
    request.on("response", (response) => void response.resume().on("end", () => resolve()))
    request.end()
  })

describe("the W3C's cases of Trace Context, on HTTP", () => {
  it.live("W10 X1 B9 what comes in by a server goes out by a client, or begins anew where it is malformed", () =>
    Effect.gen(function*() {
      const got: Array<Readonly<Record<string, string>>> = []
      const last = yield* serve(
        Server.route("GET", "/last", (request: Request) => Effect.sync(() => void got.push(request.headers)))
      )
      const client = Client.make(yield* HttpClient.HttpClient, Trace.middleware())
      let span: Tracer.AnySpan | undefined
      const tracer = Tracer.make({ span: (options) => new Tracer.NativeSpan(options) })
      const handler = (_: Request) =>
        Effect.gen(function*() {
          span = Option.getOrUndefined(yield* Effect.serviceOption(Tracer.ParentSpan))
          yield* Effect.exit(client.get(`${last}/last`))
        })
      const traced = pipe(handler, Trace.middleware())
      const base = yield* serve(
        Server.route(
          "GET",
          "/first",
          (request: Request) => Effect.provideService(Effect.suspend(() => traced(request)), Tracer.Tracer, tracer)
        )
      )
      for (const [name, list] of Object.entries(cases)) {
        const parents = new Set<string | undefined>()
        for (const [fields, expected] of list) {
          const what = `${name} ${JSON.stringify(fields)}`
          got.length = 0
          yield* Effect.promise(() => send(base, fields))
          const [, version, trace, parent] = /^(\w\w)-(\w{32})-(\w{16})-\w\w$/.exec(got[0]?.["traceparent"] ?? "") ?? []
          assert.strictEqual(version, "00", what)
          assert.strictEqual(span?.traceId, trace, what)
          assert.strictEqual(trace === traceId, expected.trace === "same", what)
          assert.strictEqual(got[0]?.["tracestate"], expected.state, what)
          parents.add(parent)
        }
        if (name.startsWith("multiple")) assert.strictEqual(parents.size, list.length, name)
      }
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.live("B9 baggage in several fields goes on as one list, at most 64 members and 8,192 characters", () =>
    Effect.gen(function*() {
      const got: Array<string | undefined> = []
      const last = yield* serve(
        Server.route("GET", "/last", (request: Request) => Effect.sync(() => void got.push(request.headers["baggage"])))
      )
      const client = Client.make(yield* HttpClient.HttpClient, Trace.middleware())
      const base = yield* serve(
        Server.route(
          "GET",
          "/first",
          pipe((_: Request) => Effect.asVoid(Effect.exit(client.get(`${last}/last`))), Trace.middleware())
        )
      )
      const many = Array.from({ length: 64 }, (_, i) => `key${i}=value`).join(",")
      const long = `a=${"0123456789".repeat(819)}`
      for (const fields of [["a=1", "b=%22;p=1"], [many], [long], [many, "over=1"]]) {
        yield* Effect.promise(() => send(base, fields.map((value) => ["Baggage", value] as const)))
      }
      assert.deepStrictEqual(got, ["a=1,b=%22;p=1", many, long, many])
    }).pipe(Effect.provide(FetchHttpClient.layer)))
})
