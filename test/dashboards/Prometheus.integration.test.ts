import { assert, describe, it } from "@effect/vitest"
import {
  Channel,
  CircuitBreaker,
  ConsumerLag,
  DeadLetter,
  Fallback,
  Health,
  MemoryBroker,
  type Message,
  Metrics,
  type Outgoing,
  Publisher,
  RateLimit,
  Retry,
  Stack,
  Subscription,
  Subscriptions
} from "@millrace/core"
import * as Client from "@millrace/http/Client"
import * as Listener from "@millrace/http/Listener"
import { HealthRoutes, type Request as HttpRequest, Server } from "@millrace/http"
import { Data, Effect, Layer, Logger, pipe, Schedule } from "effect"
import { FetchHttpClient, HttpClient, HttpClientRequest, HttpServerResponse } from "effect/http"
import { PrometheusMetrics } from "effect/observability"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { root } from "../repo/workspace.ts"
import { folder } from "./files.ts"
import { rows } from "./Panels.ts"

class Busy extends Data.TaggedError("Busy") {
  readonly failure = "dependency" as const
}

/** What cannot be made to happen here: no broker refuses both forms of a dead letter, and replies do not come late. */
const unprovoked = new Set(["millrace.dead_letters.dropped", "millrace.request.late", "millrace.request.expired"])

const page = Effect.map(
  PrometheusMetrics.format(),
  (text) => HttpServerResponse.text(text, { contentType: "text/plain; version=0.0.4" })
)

const Orders = Channel.bytes("orders")
const Bills = Channel.bytes("bills")
const Stock = Channel.bytes("stock")
const Quotes = Channel.bytes("quotes")

/** Every fourth message fails. */
const handled = ({ payload }: Message<Uint8Array>): Effect.Effect<void, Busy> =>
  payload[0] === 0 ? Effect.fail(new Busy()) : Effect.void

const down = new RateLimit.RateLimitUnavailable({ message: "down" })
const lost = Effect.fail(down)
const limitsDown = Layer.succeed(RateLimit.Store, { take: () => lost, renew: () => lost, release: () => lost })

const subscriptions = Subscriptions.layer([
  Subscription.make(
    Orders,
    { group: "shop", name: "placeOrder" },
    Stack.start().use(Metrics.middleware()).use(DeadLetter.tags("Busy")).use(Retry.middleware({ times: 1 })).handle(
      handled
    )
  ),
  Subscription.make(
    Bills,
    { group: "shop", name: "bill" },
    pipe(
      (message: Message<Uint8Array>) => handled(message),
      Fallback.tags(["Busy"], () => Effect.void),
      Metrics.middleware()
    )
  ),
  Subscription.make(
    Stock,
    { group: "shop", name: "reserve" },
    Stack.start().use(Metrics.middleware())
      .use(CircuitBreaker.middleware({ name: "stock", trip: CircuitBreaker.consecutive(1), openFor: "1 second" }))
      .handle(handled)
  ),
  Subscription.make(
    Quotes,
    { group: "shop", name: "quote" },
    Stack.start().use(Metrics.middleware()).use(RateLimit.middleware({ limit: 10, unavailable: "pass" })).handle(
      handled
    )
  )
])

const publisherOf = (channel: typeof Orders) =>
  Publisher.make(channel, Stack.start<Outgoing<Uint8Array>>().use(Metrics.middleware()))
const publishers = [Orders, Bills, Stock, Quotes].map(publisherOf)

const place = Stack.start<HttpRequest>().use(Metrics.middleware()).handle((request) =>
  Effect.flatMap(
    request.bytes(10),
    (bytes) => Effect.forEach(publishers, (publisher) => publisher.publish(bytes), { discard: true })
  )
)

/** Calls the shop as its clients do, until the test ends. */
const traffic = Effect.gen(function*() {
  const { port } = yield* Listener.Address
  const client = Client.make(yield* HttpClient.HttpClient, (next) => pipe(next, Metrics.middleware()))
  let sent = 0
  const turn = Effect.suspend(() =>
    Effect.all([
      client.execute(
        HttpClientRequest.post(`http://127.0.0.1:${port}/orders`).pipe(
          HttpClientRequest.bodyUint8Array(Uint8Array.of(sent++ % 4))
        )
      ),
      Effect.ignore(client.execute(HttpClientRequest.get(`http://127.0.0.1:${port}/nothing`))),
      // checks run when a probe asks for them
      client.execute(HttpClientRequest.get(`http://127.0.0.1:${port}/readyz`))
    ])
  )
  yield* Effect.forkScoped(Effect.repeat(turn, Schedule.spaced("50 millis")))
  return port
})

/** Runs Prometheus of the system, which reads the shop each second and evaluates the rules. */
const prometheus = (target: number) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const home = mkdtempSync(join(tmpdir(), "millrace-prometheus-"))
      const port = await freePort()
      writeFileSync(
        join(home, "prometheus.yml"),
        JSON.stringify({
          global: { scrape_interval: "1s", evaluation_interval: "1s" },
          rule_files: [join(root, folder, "prometheus-rules.yml")],
          scrape_configs: [{ job_name: "shop", static_configs: [{ targets: [`127.0.0.1:${target}`] }] }]
        })
      )
      const server = spawn("prometheus", [
        `--config.file=${join(home, "prometheus.yml")}`,
        `--storage.tsdb.path=${join(home, "data")}`,
        `--web.listen-address=127.0.0.1:${port}`
      ], { stdio: "ignore" })
      return { home, port, server }
    }),
    ({ home, server }) =>
      Effect.promise(async () => {
        const ended = once(server, "exit")
        server.kill("SIGKILL")
        await ended
        rmSync(home, { recursive: true, force: true })
      })
  )

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const { port } = server.address() as AddressInfo
  server.close()
  return port
}

interface Answer {
  readonly error?: string
  readonly data?: { readonly result: ReadonlyArray<{ readonly metric: Readonly<Record<string, string>> }> }
}

/** The samples of a query; none while Prometheus starts. */
const samples = (
  port: number,
  query: string
): Effect.Effect<NonNullable<Answer["data"]>["result"]> =>
  Effect.promise(async () => {
    const answer = await fetch(`http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent(query)}`).catch(
      () => {}
    )
    if (answer === undefined || answer.status === 503) return []
    const { data, error } = await answer.json() as Answer
    assert.isDefined(data, `${query}: ${error}`)
    return data?.result ?? []
  })

const shop = Listener.layer(createServer, [
  Server.route("POST", "/orders", place),
  Server.route("GET", "/metrics", () => page),
  ...HealthRoutes.make()
], { port: 0 }).pipe(
  Layer.provideMerge(Health.layer([Health.broker()], { cache: "1 second" })),
  Layer.provideMerge(Layer.provideMerge(ConsumerLag.layer({ every: "500 millis" }), subscriptions)),
  Layer.provideMerge(Layer.mergeAll(
    MemoryBroker.layer(),
    Metrics.layer,
    CircuitBreaker.layer(),
    limitsDown,
    FetchHttpClient.layer
  ))
)

describe("a real Prometheus", () => {
  it.live(
    "H22 each panel of the dashboard shows what a running program does, and the alerts fire",
    () =>
      Effect.gen(function*() {
        const port = yield* traffic
        const { port: asked } = yield* prometheus(port)
        const queries = rows.flatMap(({ panels }) => panels).filter(({ metrics }) =>
          !metrics.some((metric) => unprovoked.has(metric))
        )
        const expr = (text: string) =>
          text.replaceAll("$__rate_interval", "5s").replaceAll("$job", "shop").replaceAll("$group", ".+")
        for (const { queries: all, title } of queries) {
          for (const query of all) {
            const found = yield* samples(asked, expr(query.expr)).pipe(
              Effect.repeat({ until: (result) => result.length > 0, schedule: Schedule.spaced("500 millis") }),
              Effect.timeout("30 seconds"),
              Effect.catchTag("TimeoutError", () => Effect.die(new Error(`${title} shows nothing: ${query.expr}`)))
            )
            // a legend that names a label which no sample has is an empty line in the legend
            for (const { metric } of found) {
              const shown = query.legend.replaceAll(/\{\{(\w+)\}\}/g, (_, label) => metric[label] ?? "")
              assert.notMatch(shown, /^\s*$/, `${title}: ${JSON.stringify(metric)}`)
            }
          }
        }
        const firing = yield* samples(asked, `ALERTS{alertstate="firing"}`).pipe(
          Effect.repeat({
            until: (result) => result.some(({ metric }) => metric["alertname"] === "MillraceDeadLetters"),
            schedule: Schedule.spaced("500 millis")
          }),
          Effect.timeout("30 seconds")
        )
        const names = firing.map(({ metric }) => metric["alertname"])
        assert.includeMembers(names, ["MillraceDeadLetters", "MillraceDegraded", "MillraceRateLimitUnavailable"])
      }).pipe(Effect.scoped, Effect.provide(Layer.mergeAll(shop, Logger.layer([])))),
    120_000
  )
})
