import { assert, describe, it } from "@effect/vitest"
import { Auth, type Envelope, type Metrics, Outcome, Outgoing, Retry } from "@millrace/core"
import { Client, Server } from "@millrace/http"
import { AlertRule, type Fold, Monitor, Preset } from "@millrace/monitor"
import { Deliveries } from "@millrace/testing"
import { Data, Effect, Fiber, Layer, Logger, Metric, pipe } from "effect"
import { FetchHttpClient, HttpClient, HttpRouter } from "effect/http"
import { TestClock } from "effect/testing"
import { serveWith } from "../http/support.ts"

class Down extends Data.TaggedError("Down")<{ readonly message: string }> {
  readonly failure = "dependency" as const
}
class Denied extends Data.TaggedError("Denied")<{}> {
  readonly failure = "auth" as const
}

const watching = <E = never, R = never>(
  options: Monitor.Options<E, R> = {},
  preset: Preset.Preset = Preset.production
) => Layer.provide(Monitor.layer(preset, options), Monitor.layerMemory)

/** Gives a test a registry of metrics of its own. */
const apart = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.provideService(self, Metric.MetricRegistry, new Map())

const failing = pipe(
  (message: Envelope) => Effect.fail(new Down({ message: `server ${message.key} of "${message.key}" is down` })),
  Monitor.middleware()
)

const deliver = (key: string, options: Deliveries.Options = {}) =>
  Deliveries.run(failing, Deliveries.make({ ...options, key }))

describe("Monitor", () => {
  it.effect("H7, H11, H15 counts a consumer's failures by class, tag, channel and handler, in one group", () =>
    Effect.gen(function*() {
      for (let i = 0; i < 7; i++) yield* deliver(String(i))
      const errors = yield* Monitor.errors
      assert.strictEqual(errors.total, 7)
      const labels = (list: ReadonlyArray<Fold.LabelCount>) => list.map(({ label, total }) => `${label} ${total}`)
      assert.deepStrictEqual(labels(errors.byClass), ["dependency 7"])
      assert.deepStrictEqual(labels(errors.byTag), ["Down 7"])
      assert.deepStrictEqual(labels(errors.byChannel), ["orders 7"])
      assert.deepStrictEqual(labels(errors.byHandler), ["placeOrder 7"])
      assert.deepStrictEqual(labels(errors.bySeverity), ["medium 7"])
      const { groups } = yield* Monitor.insights
      assert.deepStrictEqual(groups.map(({ count, message, tag }) => ({ count, message, tag })), [
        { count: 7, message: "server {number} of {quoted} is down", tag: "Down" }
      ])
    }).pipe(Effect.provide(watching()), apart))

  it.effect("X1, H7, H11 one middleware watches a consumer, a publisher, an HTTP server and an HTTP client", () =>
    Effect.gen(function*() {
      const watched = Monitor.middleware()
      const fail = () => Effect.fail(new Down({ message: "down" }))
      yield* Deliveries.run(pipe(fail, watched), Deliveries.make())
      yield* Effect.exit(pipe(fail, watched)(new Outgoing("bills", new Uint8Array(), undefined, {})))
      const context = yield* Effect.context<Monitor.Service | Metrics.Registry>()
      const base = yield* serveWith(
        Server.layer(Server.route("GET", "/orders/:id", pipe(fail, watched))).pipe(
          HttpRouter.provideRequest(Layer.succeedContext(context))
        )
      )
      const client = Client.make(yield* HttpClient.HttpClient, (next) => pipe(next, watched))
      yield* Effect.exit(client.get(`${base}/orders/7`))
      const { byChannel, total } = yield* Monitor.errors
      assert.isAtLeast(total, 3)
      assert.includeMembers(byChannel.map(({ label }) => label), ["orders", "bills", "GET /orders/:id"])
    }).pipe(Effect.provide([watching(), FetchHttpClient.layer]), apart, Effect.scoped))

  it.effect("H7 a slow call is kept with its phases, whether it succeeds or fails, and a fast one is not", () =>
    Effect.gen(function*() {
      const handler = pipe(
        (message: Envelope) =>
          Effect.andThen(
            Effect.sleep(Number(message.key)),
            message.key === "1500" ? Effect.fail(new Denied()) : Effect.void
          ),
        Monitor.middleware()
      )
      yield* TestClock.setTime(1_000_000)
      for (const key of ["10", "999", "1000", "1500"]) {
        const fiber = yield* Effect.forkChild(Deliveries.run(handler, Deliveries.make({ key, timestamp: 999_000 })))
        yield* TestClock.adjust(Number(key))
        yield* Fiber.join(fiber)
      }
      const { slow, slowCalls } = yield* Monitor.errors
      assert.strictEqual(slow, 2)
      assert.deepStrictEqual(slowCalls.map(({ failed, handled, waited }) => ({ failed, handled, waited })), [
        { failed: false, handled: 1_000, waited: 1_000 + 1_009 },
        { failed: true, handled: 1_500, waited: 1_000 + 2_009 }
      ])
    }).pipe(Effect.provide(watching()), apart))

  it.effect("H11 counts messages, retries and dead letters that core counted, once", () =>
    Effect.gen(function*() {
      const { tick } = yield* Monitor.Service
      let left = 2
      const flaky = pipe(
        () => Effect.suspend(() => left-- > 0 ? Effect.fail(new Down({ message: "down" })) : Effect.void),
        Retry.middleware({ times: 3 }),
        Monitor.middleware()
      )
      const fiber = yield* Effect.forkChild(Deliveries.run(flaky, Deliveries.make()))
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      yield* tick
      yield* tick
      const { messages, retries, total } = yield* Monitor.errors
      assert.deepStrictEqual({ messages, retries, total }, { messages: 1, retries: 2, total: 0 })
    }).pipe(Effect.provide(watching()), apart))

  it.effect("H13 rules are evaluated every 15 seconds of the clock, and alerts are sent through the channels that get them", () =>
    Effect.gen(function*() {
      const sent: Array<string> = []
      const channel = (name: string, routing: object) => ({
        ...routing,
        name,
        send: ({ level, rule, status }: Fold.Alert) =>
          Effect.sync(() => void sent.push(`${name} ${level} ${rule} ${status}`))
      })
      const rule = (name: string, level: AlertRule.Level, labels: Record<string, string>) =>
        AlertRule.make({ name, level, labels, when: { kind: "count", of: "errors", window: "1 minute", atLeast: 1 } })
      yield* Effect.gen(function*() {
        yield* deliver("1")
        yield* TestClock.adjust("14 seconds")
        assert.deepStrictEqual(sent, [])
        yield* TestClock.adjust("1 second")
        assert.sameMembers(sent, [
          "all critical a firing",
          "critical critical a firing",
          "all warning b firing",
          "team warning b firing"
        ])
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual(sent.length, 8)
        assert.isTrue(sent.slice(4).every((line) => line.endsWith("resolved")))
      }).pipe(
        Effect.provide(watching({
          groupWait: 0,
          rules: [rule("a", "critical", {}), rule("b", "warning", { team: "pay" })],
          send: [
            channel("all", {}),
            channel("critical", { levels: ["critical"] }),
            channel("team", { labels: { team: "pay" } })
          ]
        }))
      )
    }).pipe(apart))

  it.effect("H13 a store that is down delays no alert, its counts come later, and one line tells of it", () =>
    Effect.gen(function*() {
      const lines: Array<string> = []
      const sent: Array<string> = []
      let isDown = false
      const store = Layer.effect(
        Monitor.Store,
        Effect.map(Layer.build(Monitor.layerMemory), (context) => {
          const inner = Effect.provide(Monitor.Store, context)
          const guarded = <A>(effect: Effect.Effect<A, Monitor.MonitorUnavailable>) =>
            Effect.suspend(() => isDown ? Effect.fail(new Monitor.MonitorUnavailable({ message: "refused" })) : effect)
          return Monitor.Store.of({
            change: (change) => guarded(Effect.flatMap(inner, (store) => store.change(change))),
            read: guarded(Effect.flatMap(inner, (store) => store.read))
          })
        })
      )
      const rule = AlertRule.make({
        name: "many",
        when: { kind: "count", of: "errors", window: "15 minutes", atLeast: 3 },
        level: "critical"
      })
      yield* Effect.gen(function*() {
        const { tick } = yield* Monitor.Service
        yield* deliver("1")
        yield* tick
        isDown = true
        yield* deliver("2")
        yield* tick
        yield* tick
        assert.deepStrictEqual(sent, [])
        yield* deliver("3")
        yield* tick
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(sent, ["firing 3"])
        isDown = false
        yield* tick
        assert.strictEqual((yield* Monitor.errors).total, 3)
        assert.lengthOf(lines.filter((line) => line.includes("store of the monitor")), 1)
      }).pipe(
        Effect.provide(
          Layer.provide(
            Monitor.layer(Preset.production, {
              rules: [rule],
              groupWait: 0,
              send: [{
                name: "own",
                send: ({ items, status }) => Effect.sync(() => void sent.push(`${status} ${items[0]?.value}`))
              }]
            }),
            store
          ).pipe(Layer.provideMerge(Logger.layer([Logger.make(({ message }) => void lines.push(String(message)))])))
        )
      )
    }).pipe(apart))

  it.effect("H15 affected users are those of the principal inside Auth, and no message holds a secret", () =>
    Effect.gen(function*() {
      const handler = pipe(
        (message: Envelope) => Effect.fail(new Down({ message: `login with password=hunter${message.key} failed` })),
        Monitor.middleware(),
        Auth.middleware()
      )
      for (const user of ["ada", "bob", "ada"]) {
        yield* Deliveries.run(handler, Deliveries.make({ key: "2", headers: { authorization: `Bearer ${user}` } }))
      }
      const { groups } = yield* Monitor.insights
      assert.deepStrictEqual(groups.map(({ affected, count }) => [affected, count]), [[2, 3]])
      assert.notInclude(groups[0]?.message, "hunter")
    }).pipe(
      Effect.provide([watching(), Auth.layerMemory({ ada: { subject: "ada" }, bob: { subject: "bob" } })]),
      apart
    ))

  it.effect("H7, H11 an observer changes no outcome, and interruptions and answered retries are no errors", () =>
    Effect.gen(function*() {
      const odd = new Proxy(new Error("x"), {
        get: () => {
          throw new Error("unreadable")
        }
      })
      const fail = pipe(() => Effect.die(odd), Monitor.middleware())
      yield* Deliveries.run(fail, Deliveries.make())
      const interrupted = pipe(() => Effect.interrupt, Monitor.middleware())
      yield* Deliveries.run(interrupted, Deliveries.make())
      const retried = pipe(() => Effect.succeed(Outcome.Retry()), Monitor.middleware())
      const { outcome } = yield* Deliveries.run(retried, Deliveries.make())
      assert.strictEqual(outcome._tag, "Retry")
      assert.strictEqual((yield* Monitor.errors).total, 1)
    }).pipe(Effect.provide(watching()), apart))

  it.effect("H18 presets: without alerting no rule fires, without monitoring nothing is collected", () =>
    Effect.gen(function*() {
      const run = (preset: Preset.Preset) =>
        Effect.gen(function*() {
          for (let i = 0; i < 30; i++) yield* deliver(String(i))
          const { tick } = yield* Monitor.Service
          yield* tick
          return [(yield* Monitor.errors).total, (yield* Monitor.transitions(1)).length]
        }).pipe(Effect.provide(Layer.fresh(watching({}, preset))))
      assert.deepStrictEqual(yield* run(Preset.production), [30, 2])
      assert.deepStrictEqual(yield* run(Preset.development), [30, 0])
      assert.deepStrictEqual(yield* run(Preset.merge(Preset.production, { monitoring: false })), [0, 0])
    }).pipe(apart))

  it.effect("H13 a mute sends nothing, and a gauge fires its rule", () =>
    Effect.gen(function*() {
      const { gauge, mute, tick } = yield* Monitor.Service
      yield* gauge("lag", "orders", 7)
      yield* mute({ for: "1 hour", author: "ada", reason: "a planned restart" })
      yield* tick
      assert.deepStrictEqual((yield* Monitor.transitions(1)).map(({ label, value }) => `${label} ${value}`), [
        "orders 7"
      ])
      const { mutes } = yield* Effect.flatMap(Monitor.Service, ({ state }) => state)
      assert.deepStrictEqual(mutes.map(({ author }) => author), ["ada"])
    }).pipe(
      Effect.provide(watching({
        rules: [AlertRule.make({ name: "lag", level: "info", when: { kind: "gauge", name: "lag", atLeast: 5 } })]
      })),
      apart
    ))

  it("H13 options that cannot be are refused when the layer is built", () => {
    assert.throws(() => Monitor.layer(Preset.production, { every: 0 }), "Monitor: every must be")
    assert.throws(() => Monitor.layer(Preset.production, { slow: 0 }), "Monitor: slow must be")
    assert.throws(() => Monitor.layer(Preset.production, { groupWait: -1 }), "Fold: groupWait must be")
    assert.throws(() => Monitor.trends(0), "Monitor.trends: hours must be")
  })
})
