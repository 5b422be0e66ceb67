import { assert, describe, it } from "@effect/vitest"
import { Metrics, Retry, Trace } from "@millrace/core"
import { Client } from "@millrace/http"
import { Effect, Layer, Metric, pipe } from "effect"
import { FetchHttpClient, HttpClient } from "effect/http"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { recording } from "../core/support.ts"

/** A server that answers a path of digits with that status, and cuts the connection of any other. */
const server = Effect.acquireRelease(
  Effect.callback<{ readonly port: number; readonly close: Effect.Effect<void> }>((resume) => {
    const server = createServer(({ url }, response) => {
      const status = Number(/^\/(\d+)/.exec(url ?? "")?.[1])
      if (Number.isNaN(status)) response.destroy()
      else response.writeHead(status).end()
    })
    server.listen(0, "127.0.0.1", () =>
      resume(Effect.succeed({
        port: (server.address() as AddressInfo).port,
        close: Effect.sync(() => {
          server.close()
          server.closeAllConnections()
        })
      })))
  }),
  ({ close }) => close
)

const fresh = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => Effect.provideService(self, Metric.MetricRegistry, new Map()))

describe("telemetry of a client", () => {
  it.live("W13 spans have the names and attributes of OpenTelemetry's HTTP clients, and no secret of the URL", () =>
    Effect.gen(function*() {
      const { port } = yield* server
      const { spans, traced } = recording()
      const raw = yield* HttpClient.HttpClient
      const ask = (path: string, options?: Client.Options) =>
        traced(Effect.exit(Client.make(raw, Trace.middleware(), options).get(path)))
      const base = `http://127.0.0.1:${port}`
      yield* ask(`${base}/200/orders?token=s3cret#x`)
      // fetch refuses a URL with a user
      yield* ask(`http://me:hunter2@127.0.0.1:${port}/200`)
      yield* ask(`${base}/404`)
      yield* ask(`${base}/503`)
      yield* ask(`${base}/cut`)
      yield* ask(`${base}/200/hooks/s3cret`, { shows: "origin" })
      yield* ask(`${base}/200/7`, { channel: () => "GET /orders/{id}" })
      const own = { "http.request.method": "GET", "server.address": "127.0.0.1", "server.port": port }
      const of = (path: string, more: object) => ({ ...own, "url.full": `${base}${path}`, ...more })
      assert.deepStrictEqual(spans.map(({ attributes, kind, name }) => [kind, name, Object.fromEntries(attributes)]), [
        ["client", "GET", of("/200/orders", { "http.response.status_code": 200 })],
        ["client", "GET", of("/200", { "millrace.status": "failed", "error.type": "RequestFailed" })],
        [
          "client",
          "GET",
          of("/404", { "http.response.status_code": 404, "millrace.status": "failed", "error.type": "404" })
        ],
        [
          "client",
          "GET",
          of("/503", { "http.response.status_code": 503, "millrace.status": "failed", "error.type": "503" })
        ],
        ["client", "GET", of("/cut", { "millrace.status": "failed", "error.type": "RequestFailed" })],
        ["client", "GET", of("/…", { "http.response.status_code": 200 })],
        [
          "client",
          "GET /orders/{id}",
          of("/200/7", { "url.template": "GET /orders/{id}", "http.response.status_code": 200 })
        ]
      ])
      assert.deepStrictEqual(
        spans.map(({ status }) => status._tag === "Ended" ? status.exit._tag : status._tag),
        ["Success", "Failure", "Failure", "Failure", "Failure", "Success", "Success"]
      )
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))

  it.live("W13 durations have method, server, scheme, status and error, and no label is a route", () =>
    fresh(
      Effect.gen(function*() {
        const { port } = yield* server
        const raw = yield* HttpClient.HttpClient
        const client = Client.make(raw, (next) => pipe(next, Retry.middleware({ times: 1 }), Metrics.middleware()))
        for (const path of ["200", "404", "503", "cut"]) {
          yield* Effect.exit(client.get(`http://127.0.0.1:${port}/${path}`))
        }
        const all = yield* Metric.snapshot
        const durations = all.filter(({ id }) => id === "http.client.request.duration")
        const own = {
          "http.request.method": "GET",
          "server.address": "127.0.0.1",
          "server.port": String(port),
          "url.scheme": "http",
          unit: "s"
        }
        assert.sameDeepMembers(
          durations.map(({ attributes, state }) => [attributes, "count" in state && state.count]),
          [
            [{ ...own, "http.response.status_code": "200" }, 1],
            [{ ...own, "http.response.status_code": "404", "error.type": "404" }, 1],
            [{ ...own, "http.response.status_code": "503", "error.type": "503" }, 1],
            [{ ...own, "error.type": "RequestFailed" }, 1]
          ]
        )
        assert.isEmpty(all.filter(({ attributes }) => attributes?.["http.route"] !== undefined))
        const retries = all.filter(({ id }) => id === "millrace.retries")
        assert.isNotEmpty(retries)
        assert.isTrue(retries.every(({ attributes }) => attributes?.["server.address"] === "127.0.0.1"))
      }).pipe(
        Effect.scoped,
        Effect.provide(Layer.merge(FetchHttpClient.layer, Metrics.layer))
      )
    ))
})
