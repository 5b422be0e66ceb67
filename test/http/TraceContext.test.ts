import { Trace } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Client, type Request, Server } from "@millrace/http"
import { Effect, Option, pipe, Tracer } from "effect"
import { FetchHttpClient, HttpClient } from "effect/http"
import { call, serve } from "./support.ts"

const id = "0af7651916cd43dd8448eb211c80319c"
const parent = "b7ad6b7169203331"

/** From the W3C's own test suite: what comes in, and the trace that goes on; undefined where a new one begins. */
const cases: ReadonlyArray<readonly [string, string, string | undefined]> = [
  ["a good one", `00-${id}-${parent}-01`, id],
  ["not sampled", `00-${id}-${parent}-00`, id],
  ["the random flag", `00-${id}-${parent}-03`, id],
  ["a higher version", `cc-${id}-${parent}-01`, id],
  ["a higher version with more to come", `cc-${id}-${parent}-01-what-the-future-brings`, id],
  ["a higher version that goes on without a dash", `cc-${id}-${parent}-01.what`, undefined],
  ["version 00 with more", `00-${id}-${parent}-01-what`, undefined],
  ["version ff", `ff-${id}-${parent}-01`, undefined],
  ["an illegal version", `.0-${id}-${parent}-01`, undefined],
  ["a version too short", `0-${id}-${parent}-01`, undefined],
  ["zeros as the trace", `00-${"0".repeat(32)}-${parent}-01`, undefined],
  ["an illegal trace", `00-${id.slice(0, -1)}.-${parent}-01`, undefined],
  ["a trace too long", `00-${id}0-${parent}-01`, undefined],
  ["a trace too short", `00-${id.slice(1)}-${parent}-01`, undefined],
  ["upper case", `00-${id.toUpperCase()}-${parent}-01`, undefined],
  ["zeros as the parent", `00-${id}-${"0".repeat(16)}-01`, undefined],
  ["an illegal parent", `00-${id}-${parent.slice(0, -1)}.-01`, undefined],
  ["a parent too short", `00-${id}-${parent.slice(1)}-01`, undefined],
  ["flags too short", `00-${id}-${parent}-1`, undefined],
  ["flags too long", `00-${id}-${parent}-001`, undefined],
  ["illegal flags", `00-${id}-${parent}-.0`, undefined],
  ["nothing", "", undefined]
]

describe("trace context on HTTP", () => {
  it.live("W10 X1 what comes in by a server goes out by a client, or begins anew where it is malformed", () =>
    Effect.gen(function*() {
      const got: Array<Readonly<Record<string, string>>> = []
      const last = yield* serve(
        Server.route("GET", "/last", (request: Request) => Effect.sync(() => void got.push(request.headers)))
      )
      const client = Client.make(yield* HttpClient.HttpClient, Trace.middleware())
      let span: Tracer.AnySpan | undefined
      const spans: Array<Tracer.Span> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
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
      for (const [name, header, expected] of cases) {
        got.length = 0
        yield* Effect.promise(() => call(base, "/first", { headers: { traceparent: header, tracestate: "a=1,b=2" } }))
        const [, version, trace] = /^(\w\w)-(\w{32})-\w{16}-\w\w$/.exec(got[0]?.["traceparent"] ?? "") ?? []
        assert.strictEqual(version, "00", name)
        assert.strictEqual(span?.traceId, trace, name)
        if (expected === undefined) {
          assert.notStrictEqual(trace, id, name)
          // a state whose parent is malformed is nobody's
          assert.isUndefined(got[0]?.["tracestate"], name)
        } else {
          assert.strictEqual(trace, expected, name)
          assert.strictEqual(got[0]?.["tracestate"], "a=1,b=2", name)
        }
      }
      assert.isAbove(spans.length, cases.length)
    }).pipe(Effect.provide(FetchHttpClient.layer)))
})
