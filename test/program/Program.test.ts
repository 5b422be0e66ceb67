import { assert, describe, it } from "@effect/vitest"
import {
  BrokerError,
  BrokerSwitch,
  Channel,
  Health,
  MemoryBroker,
  type Message,
  Publisher,
  Subscription
} from "@millrace/core"
import { Program } from "@millrace/program"
import {
  Config,
  ConfigProvider,
  Context,
  Data,
  Deferred,
  Effect,
  Exit,
  Fiber,
  Layer,
  Logger,
  Metric,
  References,
  Schema,
  Scope
} from "effect"
import { TestClock } from "effect/testing"
import { Workflow, WorkflowEngine } from "effect/workflow"
import * as fc from "fast-check"

class Broken extends Data.TaggedError("Broken")<{ readonly failure: "transient" | "permanent" }> {}
const broken = new Broken({ failure: "transient" })
const restart = { jitter: 0 }

const quietly = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.provideService(Effect.scoped(effect), References.MinimumLogLevel, "None")

const environment = (env: Record<string, string>) =>
  Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnvRecord(env))

const states = (running: Program.Running["Service"]) =>
  Effect.map(running.parts, (parts) => Object.fromEntries(parts.map(({ name, state }) => [name, state])))

/** A layer that writes its start and its stop down. */
const noted = (log: Array<string>, name: string, stop: Effect.Effect<void> = Effect.void) =>
  Layer.effectDiscard(
    Effect.acquireRelease(
      Effect.sync(() => void log.push(`+${name}`)),
      () => Effect.andThen(stop, Effect.sync(() => void log.push(`-${name}`)))
    )
  )

describe("Program", () => {
  it.effect("T4 starts services first and stops servers, subscriptions, workers, relays and services in this order", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const slow = Effect.sleep("1 second")
      const orders = Subscription.make(Channel.bytes("orders"), { group: "g", name: "orders" }, () => Effect.void)
      const program = Program.make({
        name: "shop",
        parts: {
          relay: Program.relay(noted(log, "relay", slow)),
          mailer: noted(log, "mailer", slow),
          orders: Program.subscription(orders),
          web: Program.server(noted(log, "web", slow)),
          admin: Program.server(noted(log, "admin", slow))
        },
        services: Layer.merge(MemoryBroker.layer(), noted(log, "services", slow))
      })
      const scope = yield* Scope.make()
      const running = yield* Scope.provide(Program.start(program), scope)
      assert.strictEqual(log[0], "+services")
      assert.sameMembers(log.splice(0), ["+services", "+web", "+admin", "+mailer", "+relay"])
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust(0)
      // servers stop side by side, and the rest one step after the other
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(log, ["-web", "-admin"])
      assert.strictEqual((yield* states(running))["relay"], "ready")
      yield* TestClock.adjust("3 seconds")
      yield* Fiber.join(closing)
      assert.deepStrictEqual(log, ["-web", "-admin", "-mailer", "-relay", "-services"])
      assert.deepStrictEqual(new Set(Object.values(yield* states(running))), new Set(["stopped"]))
    }).pipe(quietly))

  it.effect("T4 one budget holds for the whole stop, and each part has a limit of its own in it", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      const program = Program.make({
        name: "shop",
        parts: {
          web: Program.server(noted(log, "web", Effect.never), { stop: "4 seconds" }),
          worker: Program.worker(noted(log, "worker", Effect.never)),
          relay: Program.relay(noted(log, "relay"))
        },
        services: noted(log, "services"),
        budget: "10 seconds"
      })
      const scope = yield* Scope.make()
      const running = yield* Scope.provide(Program.start(program), scope)
      log.length = 0
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("8999 millis")
      assert.deepStrictEqual(log, [])
      yield* TestClock.adjust("1 millis")
      yield* Fiber.join(closing)
      // those behind the parts that hang are stopped, too
      assert.deepStrictEqual(log, ["-relay", "-services"])
      assert.deepStrictEqual(yield* states(running), { web: "stopping", worker: "stopping", relay: "stopped" })
    }).pipe(quietly))

  it.effect("T3 restarts a part after 100, 200, 400 … ms, at most 5 times in 5 minutes, and then ends the program", () =>
    Effect.gen(function*() {
      let starts = 0
      const job = Effect.suspend(() => {
        starts++
        return Effect.fail(broken)
      })
      const program = Program.make({ name: "shop", parts: { job: Program.worker(job, { restart }), web: Layer.empty } })
      const running = yield* Program.start(program)
      const ended = yield* Effect.forkChild(Effect.flip(running.ended))
      for (
        const [at, count] of [[99, 1], [100, 2], [299, 2], [300, 3], [700, 4], [1500, 5], [3099, 5], [3100, 6]] as const
      ) {
        yield* TestClock.setTime(at)
        assert.strictEqual(starts, count, `at ${at}`)
      }
      const error = yield* Fiber.join(ended)
      assert.deepInclude({ ...error }, { part: "job", failure: "transient" })
      assert.strictEqual(error.cause, broken)
      assert.include(error.message, "The part job failed, 5 restarts in 300000 ms: Broken")
      const [job_] = yield* running.parts
      assert.deepInclude(job_, { state: "failed", restarts: 5, lastError: broken, since: 3100 })
    }).pipe(quietly))

  it.effect("T3 forgets failures that are older than 5 minutes, and counts every restart", () =>
    Effect.gen(function*() {
      let starts = 0
      const job = Effect.delay(Effect.suspend(() => (starts++, Effect.fail(broken))), "2 minutes")
      const running = yield* Program.start(
        Program.make({ name: "shop", parts: { aging: Program.worker(job, { restart }) } })
      )
      yield* TestClock.adjust("10 hours")
      assert.isAbove(starts, 250)
      const [part] = yield* running.parts
      assert.strictEqual(part?.state, "ready")
      assert.strictEqual(part?.restarts, starts)
      const counted = (yield* Metric.snapshot).find(({ attributes, id }) =>
        id === "millrace.part.restarts" && attributes?.["part"] === "aging"
      )
      assert.deepInclude(counted?.state, { count: starts })
    }).pipe(quietly))

  it("T3 a delay is within the jitter of its doubling, and never above the cap with it", () =>
    fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 12 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (failures, jitter) =>
          Effect.gen(function*() {
            const delays: Array<number> = []
            let last = 0
            const job = Effect.suspend(() => {
              const now = clock.currentTimeMillisUnsafe()
              delays.push(now - last)
              last = now
              return delays.length > failures + 1 ? Effect.never : Effect.fail(broken)
            })
            const clock = yield* Effect.clockWith(Effect.succeed)
            yield* Program.start(Program.make({
              name: "shop",
              parts: { job: Program.worker(job, { restart: { jitter, cap: 5000, times: "unlimited" } }) }
            }))
            yield* TestClock.adjust("10 minutes")
            delays.shift()
            for (const [i, delay] of delays.entries()) {
              const whole = Math.min(5000, 100 * 2 ** i)
              assert.isAtLeast(delay, Math.floor(whole * (1 - jitter)))
              assert.isAtMost(delay, Math.ceil(whole * (1 + jitter)))
            }
            assert.lengthOf(delays, failures + 1)
          }).pipe(quietly, Effect.provide(TestClock.layer()), Effect.runPromise)
      ),
      { numRuns: 20 }
    ))

  it.effect("T3 a lasting error is not retried, and with `continue` the other parts run on", () =>
    Effect.gen(function*() {
      const lasting = new Broken({ failure: "permanent" })
      const program = Program.make({
        name: "shop",
        parts: { job: Program.worker(Effect.fail(lasting), { onFailure: "continue" }), web: Layer.empty }
      })
      const running = yield* Program.start(program)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(yield* states(running), { job: "failed", web: "ready" })
      assert.strictEqual((yield* running.parts)[0]?.restarts, 0)
      const alone = yield* Program.start(
        Program.make({ name: "x", parts: { job: Layer.effectDiscard(Effect.fail(lasting)) } })
      )
        .pipe(Effect.flip)
      assert.strictEqual(alone._tag, "PartFailed")
    }).pipe(quietly))

  it.effect("T3 a part that is watched ends with what watches it, and is built anew", () =>
    Effect.gen(function*() {
      class Worker extends Context.Service<Worker, Deferred.Deferred<void, Broken>>()("Worker") {}
      const built: Array<Deferred.Deferred<void, Broken>> = []
      const layer = Layer.effect(
        Worker,
        Effect.sync(() => {
          const one = Deferred.makeUnsafe<void, Broken>()
          built.push(one)
          return one
        })
      )
      const part = Program.worker(layer, {
        restart,
        watch: (services) => Deferred.await(Context.get(services, Worker))
      })
      yield* Program.start(Program.make({ name: "shop", parts: { part } }))
      yield* TestClock.adjust("1 minute")
      assert.lengthOf(built, 1)
      yield* Deferred.fail(built[0]!, broken)
      yield* TestClock.adjust("100 millis")
      assert.lengthOf(built, 2)
    }).pipe(quietly))

  it.effect("T3 a part never runs twice at once: one that does not stop after its failure is given up", () =>
    Effect.gen(function*() {
      let starts = 0
      const layer = Layer.effectDiscard(
        Effect.andThen(Effect.sync(() => starts++), Effect.addFinalizer(() => Effect.never))
      )
      const part = Program.worker(layer, { watch: () => Effect.fail(broken), stop: "3 seconds" })
      const starting = yield* Effect.forkChild(Effect.scoped(
        Effect.flatMap(
          Program.start(Program.make({ name: "shop", parts: { part, web: Layer.empty } })),
          ({ ended }) => Effect.flip(ended)
        )
      ))
      yield* TestClock.adjust("1 minute")
      const error = yield* Fiber.join(starting)
      assert.strictEqual(starts, 1)
      assert.include(error.message, "part did not stop within 3000 ms after it failed")
    }).pipe(quietly))

  it.effect("T3 consumers and workflow workers run side by side, and a worker that dies is restarted while the consumer goes on", () =>
    Effect.gen(function*() {
      const Orders = Channel.bytes("orders")
      const Mail = Workflow.make("Mail", { payload: { id: Schema.String }, idempotencyKey: ({ id }) => id })
      const sent: Array<string> = []
      const orders = Subscription.make(
        Orders,
        { group: "g", name: "orders" },
        (message: Message<Uint8Array>) =>
          Mail.execute({ id: new TextDecoder().decode(message.payload) }, { discard: true })
      )
      const dies = Deferred.makeUnsafe<never, Broken>()
      const mails = Mail.toLayer(({ id }) => Effect.sync(() => void sent.push(id)))
      const program = Program.make({
        name: "shop",
        parts: {
          orders,
          mailer: mails,
          other: Program.worker(Layer.empty, {
            watch: () => Deferred.await(dies),
            restart: { ...restart, times: "unlimited" }
          })
        },
        services: WorkflowEngine.layerMemory
      })
      const publish = (id: string) => Publisher.make(Orders).publish(new TextEncoder().encode(id))
      // the engine hands a workflow to a fiber of its own, so one turn of the clock may be too early
      const until = (count: number) =>
        Effect.repeat(TestClock.adjust("10 millis"), { until: () => sent.length >= count, times: 10_000 })
      const broker = MemoryBroker.layer()
      yield* Effect.gen(function*() {
        const running = yield* Program.start(program)
        yield* publish("a")
        yield* until(1)
        assert.deepStrictEqual(sent, ["a"])
        yield* Deferred.fail(dies, broken)
        yield* TestClock.adjust(0)
        assert.deepInclude(yield* states(running), { orders: "ready", mailer: "ready", other: "restarting" })
        yield* publish("b")
        yield* until(2)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(sent, ["a", "b"])
        const other = (yield* running.parts).find(({ name }) => name === "other")
        assert.isAbove(other?.restarts ?? 0, 1)
      }).pipe(Effect.provide(broker))
    }).pipe(quietly))

  it.effect("T3 an effect that ends is done, or is started again", () =>
    Effect.gen(function*() {
      let runs = 0
      const job = Effect.delay(Effect.sync(() => runs++), "1 second")
      const program = Program.make({
        name: "shop",
        parts: { once: Effect.sleep("1 second"), again: Program.worker(job, { onEnd: "restart", restart }) }
      })
      const running = yield* Program.start(program)
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual(yield* states(running), { once: "done", again: "ready" })
      assert.strictEqual(runs, 2)
      const both = yield* Program.start(
        Program.make({ name: "jobs", parts: { a: Effect.sleep(10), b: Effect.sleep(20) } })
      )
      yield* TestClock.adjust(20)
      yield* both.ended
    }).pipe(quietly))

  it.effect("T4 is ready when all parts are, and not from the first moment of its stop", () =>
    Effect.gen(function*() {
      const health = yield* Layer.build(Health.layer([], { eventLoop: "off", cache: 0 }))
      const registry = Context.get(health, Health.Registry)
      const report = Effect.map(registry.report("readiness"), ({ checks, phase, status }) => ({
        status,
        phase,
        parts: Object.fromEntries(checks.map(({ error, name, status }) => [name, error?.message ?? status]))
      }))
      const gate = Deferred.makeUnsafe<void>()
      const dies = Deferred.makeUnsafe<never, Broken>()
      const program = Program.make({
        name: "shop",
        parts: {
          slow: Layer.effectDiscard(Deferred.await(gate)),
          web: Program.server(Layer.empty, {
            watch: () => Deferred.await(dies),
            restart: "never",
            onFailure: "continue"
          }),
          busy: Program.worker(Layer.effectDiscard(Effect.addFinalizer(() => Effect.sleep("5 seconds"))))
        },
        wait: "2 seconds"
      })
      const scope = yield* Scope.make()
      const starting = yield* Program.start(program).pipe(
        Effect.provideContext(Context.add(health, Scope.Scope, scope)),
        Effect.forkChild
      )
      yield* TestClock.adjust("1 second")
      assert.deepInclude(yield* report, { status: "down", phase: "starting" })
      assert.strictEqual((yield* report).parts["part slow"], "slow is starting")
      yield* Deferred.succeed(gate, undefined)
      const running = yield* Fiber.join(starting)
      assert.deepInclude(yield* report, { status: "up", phase: "started" })
      yield* Deferred.fail(dies, broken)
      yield* TestClock.adjust(0)
      assert.strictEqual((yield* report).status, "degraded")
      assert.strictEqual((yield* report).parts["part web"], "web is failed")
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust(1)
      assert.deepInclude(yield* report, { status: "down", phase: "draining" })
      assert.strictEqual((yield* states(running))["busy"], "ready")
      yield* TestClock.adjust("7 seconds")
      yield* Fiber.join(closing)
    }).pipe(quietly))

  it.effect("T3 parts share the services, also after a restart, and what they provide themselves is their own", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      class Store extends Context.Service<Store, number>()("Store") {}
      let built = 0
      const store = Layer.effect(Store, Effect.sync(() => ++built))
      const seen: Array<number> = []
      const reader = Layer.effectDiscard(Effect.map(Store, (value) => void seen.push(value)))
      const program = Program.make({
        name: "shop",
        parts: {
          a: Program.worker(reader, {
            watch: () => Effect.fail(broken),
            restart: { ...restart, times: 2 },
            onFailure: "continue"
          }),
          b: Layer.provide(reader, store),
          c: Layer.provide(noted(log, "own"), Layer.effect(Store, Effect.sync(() => ++built)))
        },
        services: store
      })
      yield* Program.start(program)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(seen.filter((value) => value !== 1), [])
      assert.lengthOf(seen, 4)
      assert.strictEqual(built, 2)
    }).pipe(quietly))

  it.effect("T3 each part has its own log level, from code or from the environment", () =>
    Effect.gen(function*() {
      const lines: Array<unknown> = []
      const logger = Logger.make<unknown, void>(({ message }) => void lines.push(message))
      const speak = (name: string) => Effect.logDebug(name)
      const program = Program.make({
        name: "shop",
        parts: {
          quiet: Program.worker(speak("quiet")),
          loud: Program.worker(speak("loud"), { logLevel: "Debug" }),
          asked: Program.worker(speak("asked"), { logLevel: Config.LogLevel("ASKED_LOG_LEVEL") })
        }
      })
      yield* Effect.scoped(Program.start(program)).pipe(
        environment({ ASKED_LOG_LEVEL: "Trace" }),
        Effect.provide(Logger.layer([logger]))
      )
      assert.deepStrictEqual(lines.flat().filter((line) => /^\w+$/.test(String(line))), ["loud", "asked"])
    }))

  it.effect("T3 B1 parts are chosen by name; a wrong name lists those that exist", () =>
    Effect.gen(function*() {
      const parts = {
        web: Layer.empty,
        orders: Layer.empty,
        mail: Program.worker(Layer.empty, { enabled: Config.Boolean("MAIL") })
      }
      const program = Program.make({ name: "shop", parts })
      const ran = (choice: Program.Choice<"web" | "orders" | "mail">, env: Record<string, string> = {}) =>
        Effect.map(
          Effect.scoped(Effect.flatMap(Program.start(program, choice), ({ parts }) => parts)),
          (all) => all.filter(({ state }) => state !== "off").map(({ name }) => name)
        ).pipe(environment({ MAIL: "true", ...env }))
      assert.deepStrictEqual(yield* ran({}), ["web", "orders", "mail"])
      assert.deepStrictEqual(yield* ran({ only: ["orders", "web"] }, { MILLRACE_PARTS: "mail" }), ["web", "orders"])
      assert.deepStrictEqual(yield* ran({ without: ["web"] }, { MILLRACE_PARTS: " web, mail" }), ["mail"])
      assert.deepStrictEqual(yield* ran({}, { MILLRACE_PARTS: "", MAIL: "false" }), ["web", "orders"])
      const unknown = yield* Effect.flip(ran({}, { MILLRACE_PARTS: "web,males" }))
      assert.strictEqual(unknown.message, `MILLRACE_PARTS: no part is named "males": the parts are web, orders, mail`)
      for (const wrong of [ran({ without: ["web", "orders", "mail"] }), ran({ only: ["mail"] }, { MAIL: "false" })]) {
        assert.strictEqual((yield* Effect.flip(wrong))._tag, "SelectionError")
      }
      assert.strictEqual((yield* Effect.flip(ran({}, { MAIL: "perhaps" })))._tag, "ConfigError")
    }).pipe(quietly))

  it("T3 refuses names that cannot be chosen", () => {
    for (const name of ["", "a,b", " a", "a b", "-a", "a".repeat(49)]) {
      assert.throws(() => Program.make({ name: "shop", parts: { [name]: Layer.empty } }), RangeError, "1 to 48")
    }
    assert.throws(() => Program.make({ name: "shop", parts: {} }), RangeError, "at least one part")
  })

  it.effect("B1 with its broker switched off a program runs without its subscriptions", () =>
    Effect.gen(function*() {
      const Orders = Channel.bytes("orders")
      const orders = Subscription.make(Orders, { group: "g", name: "orders" }, () => Effect.void)
      const publish = Publisher.make(Orders).publish(new Uint8Array(1))
      const program = Program.make({
        name: "shop",
        parts: {
          orders,
          publish: Program.worker(publish, { restart: "never", onFailure: "continue" }),
          web: Layer.empty
        },
        services: BrokerSwitch.layer({ enabled: Config.Boolean("ON"), broker: MemoryBroker.layer(), name: "ON" })
      })
      const on = yield* Program.start(program).pipe(environment({ ON: "true" }))
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(yield* states(on), { orders: "ready", publish: "done", web: "ready" })
      const off = yield* Program.start(program).pipe(environment({ ON: "false" }))
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(yield* states(off), { orders: "off", publish: "off", web: "ready" })
    }).pipe(quietly))
})

describe("BrokerSwitch", () => {
  it.effect("B1 a broker that is off refuses every call with a clear error, and its health is degraded", () =>
    Effect.gen(function*() {
      const Orders = Channel.bytes("orders")
      const off = BrokerSwitch.layer({ enabled: false, broker: MemoryBroker.layer(), name: "BROKER" })
      const refused = yield* Effect.provide(
        Effect.all([
          Effect.flip(Publisher.make(Orders).publish(new Uint8Array(1))),
          Effect.flip(Publisher.make(Orders).publishAll([new Uint8Array(1)])),
          Effect.flip(Subscription.run(Subscription.make(Orders, { group: "g", name: "o" }, () => Effect.void)))
        ]),
        off
      )
      for (const error of refused) {
        assert.instanceOf(error, BrokerError.BrokerError)
        assert.deepInclude({ ...error }, { reason: "Disabled", failure: "dependency", system: "off" })
        assert.include(error.message, "switched off by BROKER: switch it on, or publish through an outbox")
      }
      const health = Layer.provide(Health.layer([Health.broker()], { eventLoop: "off" }), off)
      const report = yield* Effect.provide(Effect.andThen(Health.started, Health.report("readiness")), health)
      assert.strictEqual(report.status, "degraded")
      assert.include(report.checks[0]?.why, "switched off by BROKER")
    }).pipe(quietly))
})
