import { Health, MemoryBroker } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Data, Effect, Exit, Fiber, Layer, Logger, Metric, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"

class Refused extends Data.TaggedError("Refused")<{ readonly secret: string }> {
  readonly failure = "dependency" as const
}

const refused = Effect.fail(new Refused({ secret: "hunter2" }))

/** A check whose runs are counted. */
const counted = (name: string, effect: Effect.Effect<Health.Answer, unknown>, options: object = {}) => {
  const counts = { runs: 0, now: 0, most: 0 }
  const check = Health.check({
    name,
    ...options,
    check: Effect.suspend(() => {
      counts.runs += 1
      counts.most = Math.max(counts.most, ++counts.now)
      return Effect.ensuring(effect, Effect.sync(() => void counts.now--))
    })
  })
  return { check, counts }
}

/** What a program that has started reports, and the virtual milliseconds that it took. */
const asked = (kind: Health.Report["kind"] = "readiness", most = "10 seconds" as const) =>
  Effect.gen(function*() {
    const begun = yield* Clock.currentTimeMillis
    let took = -1
    const fiber = yield* Effect.forkChild(
      Effect.tap(Health.report(kind), () => Effect.map(Clock.currentTimeMillis, (now) => void (took = now - begun)))
    )
    yield* TestClock.adjust(most)
    return { took, report: yield* Fiber.join(fiber) }
  })

const running = (checks: ReadonlyArray<Health.Check<never> | Health.Liveness>, options: Health.Options = {}) =>
  Layer.provide(noisy(checks, options), Logger.layer([]))

const noisy = (checks: ReadonlyArray<Health.Check<never> | Health.Liveness>, options: Health.Options = {}) =>
  Layer.tap(Health.layer(checks, options), (context) => Effect.provideContext(Health.started, context))

const statuses = ({ checks }: Health.Report) => Object.fromEntries(checks.map(({ name, status }) => [name, status]))

const logging = (lines: Array<string>) =>
  Logger.layer([
    Logger.make(({ cause, logLevel, message }) => {
      lines.push(`${logLevel} ${String(message)} ${cause.reasons.length === 0 ? "" : JSON.stringify(cause)}`.trim())
    })
  ])

describe("Health", () => {
  it.effect("W8 H20 checks run side by side: the answer takes as long as the slowest, and each latency is its own", () =>
    Effect.gen(function*() {
      const { report, took } = yield* asked()
      assert.strictEqual(took, 900)
      assert.strictEqual(report.status, "up")
      assert.deepStrictEqual(report.checks.map(({ latency, name }) => [name, latency]), [
        ["a", 100],
        ["b", 900],
        ["c", 500]
      ])
      assert.deepStrictEqual(report.checks.map(({ at }) => at), [100, 900, 500])
      assert.strictEqual(report.timestamp, 900)
    }).pipe(Effect.provide(running([
      Health.check({ name: "a", check: Effect.sleep(100) }),
      Health.check({ name: "b", check: Effect.sleep(900) }),
      Health.check({ name: "c", check: Effect.sleep(500) })
    ]))))

  it.effect("W8 what hangs, dies, fails or ignores interruption is down within its time, and holds up nobody", () => {
    const stubborn = counted("stubborn", Effect.uninterruptible(Effect.never), { timeLimit: "300 millis", cache: 0 })
    return Effect.gen(function*() {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(
        running([
          Health.check({ name: "hangs", check: Effect.never }),
          Health.check({ name: "dies", check: Effect.die(new TypeError("hunter2")) }),
          Health.check({ name: "fails", check: refused }),
          Health.check({
            name: "explains",
            check: refused,
            explain: (error) => `no answer (${error._tag})`
          }),
          Health.check({
            name: "throws",
            check: refused,
            explain: () => {
              throw new Error("hunter2")
            }
          }),
          Health.check({ name: "well", check: Effect.succeed({ connections: 3 }) }),
          stubborn.check
        ]),
        scope
      )
      const { report, took } = yield* Effect.provideContext(asked(), context)
      assert.strictEqual(took, 1000)
      assert.strictEqual(report.status, "down")
      const errors = Object.fromEntries(report.checks.map(({ error, name }) => [name, error]))
      const dependency: Health.Shown = { failure: "dependency", tag: "Refused", message: undefined }
      assert.deepStrictEqual(errors, {
        hangs: { failure: "timeout", tag: "Timeout", message: undefined },
        dies: { failure: "defect", tag: "TypeError", message: undefined },
        fails: dependency,
        explains: { ...dependency, message: "no answer (Refused)" },
        throws: dependency,
        well: undefined,
        stubborn: { failure: "timeout", tag: "Timeout", message: undefined }
      })
      assert.notInclude(JSON.stringify(report), "hunter2")
      assert.deepStrictEqual(report.checks.find(({ name }) => name === "well")?.details, { connections: 3 })
      // it still hangs, so it is not begun a second time, and is known to be down at once
      const again = yield* Effect.provideContext(asked(), context)
      assert.strictEqual(again.took, 1000)
      assert.strictEqual(again.report.checks.at(-1)?.latency, 10_000)
      assert.strictEqual(stubborn.counts.runs, 1)
      // and the program ends in spite of it
      yield* Scope.close(scope, Exit.void)
    })
  })

  it.effect("W8 an answer at the very end of its time is one or the other, and the next run begins", () => {
    const { check, counts } = counted("a", Effect.sleep("1 second"), { cache: 0 })
    const stubborn = counted("b", Effect.uninterruptible(Effect.sleep("1 second")), { cache: 0 })
    return Effect.gen(function*() {
      for (const runs of [1, 2, 3]) {
        assert.strictEqual((yield* asked()).took, 1000)
        assert.deepStrictEqual([counts.runs, stubborn.counts.runs], [runs, runs])
      }
    }).pipe(Effect.provide(running([check, stubborn.check])))
  })

  it.effect("W8 what is asked when the registry goes is interrupted", () => {
    let interrupted = 0
    const check = Health.check({
      name: "a",
      check: Effect.onInterrupt(Effect.never, () => Effect.sync(() => void interrupted++))
    })
    return Effect.gen(function*() {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(running([check]), scope)
      const asking = yield* Effect.forkChild(Effect.provideContext(Health.report("readiness"), context))
      yield* TestClock.adjust(1)
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust(0)
      assert.strictEqual(interrupted, 1)
      yield* Fiber.join(asking)
    })
  })

  it.effect("W8 a flood of a thousand askers is one run, whoever of them goes, until the answer is too old", () => {
    const { check, counts } = counted("a", Effect.sleep(100))
    return Effect.gen(function*() {
      const first = yield* Effect.forkChild(Health.report())
      const fibers = yield* Effect.forEach(
        Array.from({ length: 1000 }),
        () => Effect.forkChild(Health.report("readiness"))
      )
      yield* TestClock.adjust(50)
      yield* Fiber.interrupt(first)
      yield* Fiber.interrupt(fibers[0]!)
      yield* TestClock.adjust(50)
      const reports = yield* Effect.forEach(fibers.slice(1), Fiber.join)
      assert.strictEqual(reports.length, 999)
      assert.isTrue(reports.every(({ status }) => status === "up"))
      assert.strictEqual(counts.runs, 1)
      // the answer came at 100
      yield* TestClock.adjust(999)
      assert.strictEqual((yield* asked("readiness")).took, 0)
      assert.strictEqual(counts.runs, 1)
      assert.strictEqual((yield* asked("readiness")).took, 100)
      assert.strictEqual(counts.runs, 2)
    }).pipe(Effect.provide(running([check])))
  })

  it.effect("W8 no more checks run at once than may", () => {
    let now = 0
    let most = 0
    const checks = Array.from({ length: 10 }, (_, i) =>
      Health.check({
        name: `c${i}`,
        check: Effect.acquireUseRelease(
          Effect.sync(() => void (most = Math.max(most, ++now))),
          () => Effect.sleep(100),
          () => Effect.sync(() => void now--)
        )
      }))
    return Effect.gen(function*() {
      const { report, took } = yield* asked()
      assert.deepStrictEqual([most, took, report.checks.length], [3, 400, 10])
    }).pipe(Effect.provide(running(checks, { concurrency: 3 })))
  })

  it.effect("W8 all is as its worst check is, by what each makes of it", () =>
    Effect.promise(() =>
      fc.assert(fc.asyncProperty(
        fc.array(
          fc.record({
            found: fc.constantFrom("up", "degraded", "down"),
            whenDown: fc.constantFrom("down", "degraded"),
            late: fc.nat(3)
          }),
          { maxLength: 12 }
        ),
        (drawn) =>
          Effect.gen(function*() {
            const { report } = yield* asked()
            const critical = drawn.filter(({ found, whenDown }) => found === "down" && whenDown === "down")
            const wrong = drawn.filter(({ found }) => found !== "up")
            assert.strictEqual(report.status, critical.length > 0 ? "down" : wrong.length > 0 ? "degraded" : "up")
            assert.deepStrictEqual(report.checks.map(({ status }) => status), drawn.map(({ found }) => found))
          }).pipe(
            Effect.provide(Layer.provideMerge(
              running(drawn.map(({ found, late, whenDown }, i) =>
                Health.check({
                  name: `c${i}`,
                  whenDown,
                  check: Effect.delay(
                    found === "up" ? Effect.void : found === "down" ? refused : Effect.succeed(Health.degraded("slow")),
                    late
                  )
                })
              )),
              TestClock.layer()
            )),
            Effect.scoped,
            Effect.runPromise
          )
      ))
    ))

  it.effect("W8 it is down after so many failures in a row, up at the first answer, and tells each change once", () => {
    const lines: Array<string> = []
    let fails = false
    const check = Health.check({
      name: "a",
      check: Effect.suspend(() => fails ? refused : Effect.void),
      downAfter: 3
    })
    return Effect.gen(function*() {
      const next = Effect.map(asked(), ({ report }) => {
        const [{ failures, since, status }] = report.checks as [Health.Result]
        return [report.status, status, failures, since]
      })
      assert.deepStrictEqual(yield* next, ["up", "up", 0, 0])
      fails = true
      assert.deepStrictEqual(yield* next, ["up", "up", 1, 0])
      assert.deepStrictEqual(yield* next, ["up", "up", 2, 0])
      assert.deepStrictEqual(yield* next, ["down", "down", 3, 30_000])
      assert.deepStrictEqual(yield* next, ["down", "down", 4, 30_000])
      fails = false
      assert.deepStrictEqual(yield* next, ["up", "up", 0, 50_000])
      fails = true
      assert.deepStrictEqual(yield* next, ["up", "up", 1, 50_000])
      assert.strictEqual(lines.length, 2)
      // the whole cause is for the log only
      assert.match(lines[0]!, /^Warn Health: a is down .*hunter2/)
      assert.strictEqual(lines[1], "Info Health: a is up again")
    }).pipe(Effect.provide(Layer.provideMerge(noisy([check]), logging(lines))))
  })

  it.effect("W8 what has never been up is down at its first failure, however many it may have", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* asked()).report.status, "down")
    }).pipe(Effect.provide(running([Health.check({ name: "a", check: refused, downAfter: 5 })]))))

  it.effect("W8 readiness is down until the program has started and as soon as it drains; liveness is neither", () => {
    const { check, counts } = counted("a", Effect.void)
    const all = ["liveness", "readiness", "startup", "all"] as const
    const each = Effect.forEach(all, (kind) => Effect.map(Health.report(kind), ({ status }) => status))
    return Effect.gen(function*() {
      assert.deepStrictEqual(yield* each, ["up", "down", "down", "down"])
      yield* Health.started
      assert.deepStrictEqual(yield* each, ["up", "up", "up", "up"])
      yield* TestClock.adjust("1 minute")
      const { runs } = counts
      yield* Health.draining
      assert.deepStrictEqual(yield* each, ["up", "down", "up", "down"])
      assert.strictEqual(counts.runs, runs)
      assert.strictEqual((yield* Health.report("readiness")).phase, "draining")
      yield* Health.started
      assert.deepStrictEqual(yield* each, ["up", "down", "up", "down"])
    }).pipe(Effect.provide(Health.layer([check])))
  })

  it.effect("W8 a program that hangs in all it depends on is alive, and says so at once", () =>
    Effect.gen(function*() {
      const ready = yield* Effect.forkChild(Health.report("readiness"))
      yield* TestClock.adjust(1)
      const report = yield* Health.report("liveness")
      assert.deepStrictEqual([report.status, statuses(report)], ["up", { "event loop": "up", memory: "up" }])
      assert.isUndefined(ready.pollUnsafe())
    }).pipe(Effect.provide(running([
      Health.liveness("memory", () => true),
      Health.check({ name: "a", check: Effect.never }),
      Health.check({ name: "b", check: Effect.never })
    ], { concurrency: 1 }))))

  it.effect("W8 a process is not alive by its own word, or when its fibers run late three times in a row", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      let late = 0n
      const warped: Clock.Clock = { ...clock, monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe() + late }
      let alive = true
      const context = yield* Effect.provideService(
        Layer.build(Health.layer([
          Health.liveness("own", () => {
            if (!alive) throw new Error("hunter2")
            return true
          })
        ])),
        Clock.Clock,
        warped
      )
      const live = Effect.map(Effect.provideContext(Health.report("liveness"), context), ({ status }) => status)
      const beat = (behind: bigint) => {
        late += behind * 1_000_000n
        return Effect.andThen(TestClock.adjust("1 second"), live)
      }
      assert.deepStrictEqual(yield* Effect.forEach([0n, 2001n, 2001n, 0n, 2001n], beat), ["up", "up", "up", "up", "up"])
      assert.deepStrictEqual(yield* Effect.forEach([2001n, 2001n, 0n], beat), ["up", "down", "up"])
      late += 60_000_000_000n
      assert.strictEqual(yield* live, "down")
      assert.strictEqual(yield* beat(0n), "up")
      alive = false
      assert.strictEqual(yield* live, "down")
    }))

  it.effect("W8 a check of startup is asked until it has succeeded, and then no more", () => {
    let fails = true
    const { check, counts } = counted("migrations", Effect.suspend(() => fails ? refused : Effect.void), {
      kind: "startup",
      cache: 0
    })
    return Effect.gen(function*() {
      assert.strictEqual((yield* asked("startup")).report.status, "down")
      fails = false
      assert.strictEqual((yield* asked("startup")).report.status, "up")
      fails = true
      assert.strictEqual((yield* asked("startup")).report.status, "up")
      assert.deepStrictEqual((yield* asked("readiness")).report.checks, [])
      assert.strictEqual(counts.runs, 2)
    }).pipe(Effect.provide(running([check])))
  })

  it.effect("W8 one that refreshes itself answers at once with what is known", () => {
    const { check, counts } = counted("a", Effect.sleep(800), { refresh: "5 seconds" })
    return Effect.gen(function*() {
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(counts.runs, 4)
      assert.deepStrictEqual((yield* asked("readiness")).took, 0)
      const result = (yield* Health.report()).checks.find(({ name }) => name === "a")
      assert.isTrue(result !== undefined && result.at > 25_000)
    }).pipe(Effect.provide(running([check])))
  })

  it.effect("W8 details are bounded, whatever a check says", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.dictionary(
            fc.string({ maxLength: 400, size: "max" }),
            fc.oneof(
              fc.string({ maxLength: 800, size: "max" }),
              fc.double(),
              fc.boolean(),
              fc.constant(null),
              fc.object({ maxDepth: 1, maxKeys: 1 })
            ),
            { maxKeys: 80, size: "max" }
          ),
          fc.boolean(),
          (details, isDegraded) => {
            // what comes from untyped code
            const answer = details as Health.Details
            return Effect.gen(function*() {
              const { checks } = yield* Health.report("readiness")
              const entries = Object.entries(checks[0]?.details ?? {})
              assert.isAtMost(entries.length, Health.maximumDetails)
              for (const [name, value] of entries) {
                assert.isAtMost(name.length, Health.maximumText)
                assert.include(["string", "number", "boolean", "object"], typeof value)
                if (typeof value === "object") assert.isNull(value)
                if (typeof value === "string") assert.isAtMost(value.length, Health.maximumText)
              }
            }).pipe(
              Effect.provide(running([Health.check({
                name: "a",
                check: Effect.succeed(isDegraded ? Health.degraded("x".repeat(1000), answer) : answer)
              })], { eventLoop: "off" })),
              Effect.runPromise
            )
          }
        ),
        { numRuns: 50 }
      )
    ))

  it.effect("W8 checks come and go with their scope, and a name or a number too many is refused", () =>
    Effect.gen(function*() {
      const registry = yield* Health.Registry
      const scope = yield* Scope.make()
      yield* Effect.provideService(registry.add(Health.check({ name: "a", check: refused })), Scope.Scope, scope)
      yield* registry.add(Health.liveness("b", () => true))
      assert.deepStrictEqual(statuses(yield* Health.report()), { "event loop": "up", a: "down", b: "up" })
      const refusal = (check: Health.Check<never>) =>
        Effect.map(Effect.exit(registry.add(check)), (exit) => Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "")
      assert.match(
        yield* refusal(Health.check({ name: "a", check: Effect.void })),
        /RangeError: Health: .* one check, got a twice/
      )
      assert.match(yield* refusal(Health.check({ name: "c", check: Effect.void })), /at most 3/)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(statuses(yield* Health.report()), { "event loop": "up", b: "up" })
      // what it asks is what adding it needs
      yield* Effect.provide(registry.add(Health.broker()), MemoryBroker.layer())
    }).pipe(Effect.provide(running([], { maximumChecks: 3 })), Effect.scoped))

  it.effect("W8 the gauge follows each check", () =>
    Effect.gen(function*() {
      yield* asked()
      const found = (yield* Metric.snapshot).flatMap(({ attributes, id, state }) =>
        id === "millrace.health.up" ? [[attributes?.["check"], state]] : []
      )
      assert.containSubset(Object.fromEntries(found), { a: { value: 0 }, b: { value: 1 }, c: { value: 0.5 } })
    }).pipe(
      Effect.provide(running([
        Health.check({ name: "a", check: refused, whenDown: "degraded" }),
        Health.check({ name: "b", check: Effect.void }),
        Health.check({ name: "c", check: Effect.succeed(Health.degraded("slow")) })
      ])),
      Effect.provideService(Metric.MetricRegistry, new Map())
    ))

  it("W8 a check of a dependency cannot be liveness, and options out of range are refused", () => {
    // @ts-expect-error a dependency has no say in whether the process is ended
    const kind: Health.CheckOptions<never, never>["kind"] = "liveness"
    assert.throws(
      () => Health.check({ name: "a", check: Effect.void, kind }),
      RangeError,
      "Health: kind must be \"readiness\" or \"startup\", got liveness"
    )
    // @ts-expect-error what answers later would ask somebody
    Health.liveness("a", () => Promise.resolve(true))
    const of = (options: object) => () => Health.check({ name: "a", check: Effect.void, ...options })
    assert.throws(of({ name: "a:b" }), RangeError, "Health: name must be 1 to 64 letters")
    assert.throws(of({ name: "" }), RangeError, "Health: name must be")
    assert.throws(of({ timeLimit: 0 }), RangeError, "Health: timeLimit must be a finite duration from 1 ms, got 0")
    assert.throws(of({ downAfter: 0 }), RangeError, "Health: downAfter must be an integer from 1, got 0")
    assert.throws(of({ refresh: 1 }), RangeError, "Health: refresh must be a finite duration from 10 ms, got 1")
    assert.throws(of({ cache: -1 }), RangeError, "Health: cache must be")
    const a = Health.check({ name: "a", check: Effect.void })
    assert.throws(() => Health.layer([a, a]), RangeError, "Health: name must be of one check, got a twice")
    assert.throws(() => Health.layer([a], { maximumChecks: 1 }), RangeError, "Health: checks must be at most 1")
    assert.throws(() => Health.layer([], { concurrency: 0 }), RangeError, "Health: concurrency must be")
    assert.throws(() => Health.layer([], { eventLoop: { delay: 1 } }), RangeError, "Health: eventLoop.delay must be")
    assert.throws(() => Health.layerLifetime({ wait: -1 }), RangeError, "Health: wait must be")
    assert.throws(() => Health.subscriptions({ stuck: 0 }), RangeError, "Health: stuck must be")
    assert.throws(() => Health.lag({ channel: "a", group: "g", most: 0 }), RangeError, "Health: most must be")
  })
})
