import { AlertRule, Fold, Severity } from "@millrace/monitor"
import * as fc from "fast-check"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { assert, describe, it } from "vitest"
import { changes, counted, day, events, failed, hour, minute, promptly, tick, ticked } from "./support.ts"

const { empty, merge, run, step } = Fold.make({ rules: AlertRule.standard })

const counts = (state: Fold.State) => {
  const { groups } = Fold.insights(state)
  const { slowCalls: _, ...errors } = Fold.errors(state)
  const sorted = (list: ReadonlyArray<Fold.LabelCount>) => [...list].sort((a, b) => a.label.localeCompare(b.label))
  return {
    ...errors,
    bySeverity: sorted(errors.bySeverity),
    byClass: sorted(errors.byClass),
    byTag: sorted(errors.byTag),
    byChannel: sorted(errors.byChannel),
    byHandler: sorted(errors.byHandler),
    trends: Fold.trends(state, 2),
    groups: groups.map(({ affected, count, fingerprint, first, last, lastHour }) => ({
      affected,
      count,
      fingerprint,
      first,
      last,
      lastHour
    })).sort((a, b) => a.fingerprint.localeCompare(b.fingerprint))
  }
}

describe("Fold", () => {
  it("H11, H13 a step leaves its state as it is, and steps are the same as a run", () => {
    fc.assert(
      fc.property(events, (list) => {
        const inputs = ticked(list, 10 * minute)
        let state = empty()
        const alerts: Array<Fold.Alert> = []
        for (const input of inputs) {
          const before = Fold.encode(state)
          const [next, sent] = step(state, input)
          assert.strictEqual(Fold.encode(state), before)
          state = next
          alerts.push(...sent)
        }
        const [whole, all] = run(empty(), inputs)
        assert.strictEqual(Fold.encode(state), Fold.encode(whole))
        assert.deepStrictEqual(alerts, all)
      }),
      { numRuns: 20 }
    )
  })

  it("H11, H13 a restart from the stored state makes no difference", () => {
    fc.assert(
      fc.property(events, fc.nat({ max: 300 }), (list, at) => {
        const inputs = ticked(list)
        const [whole, all] = run(empty(), inputs)
        const [first, before] = run(empty(), inputs.slice(0, at))
        const [second, after] = run(Fold.decode(Fold.encode(first)), inputs.slice(at))
        assert.deepStrictEqual(JSON.parse(Fold.encode(second)), JSON.parse(Fold.encode(whole)))
        assert.deepStrictEqual(JSON.parse(JSON.stringify([...before, ...after])), JSON.parse(JSON.stringify(all)))
      }),
      { numRuns: 50 }
    )
  })

  it("H11, H12 counts do not depend on the order of events between ticks", () => {
    fc.assert(
      fc.property(
        events.chain((list) => fc.tuple(fc.constant(list), fc.shuffledSubarray([...list], { minLength: list.length }))),
        ([list, shuffled]) => {
          assert.deepStrictEqual(counts(run(empty(), shuffled)[0]), counts(run(empty(), list)[0]))
        }
      ),
      { numRuns: 100 }
    )
  })

  it("H11, H12, H15 the counts of several processes add up to those of one", () => {
    fc.assert(
      fc.property(events, fc.array(fc.nat({ max: 2 }), { minLength: 120, maxLength: 120 }), (list, owners) => {
        const parts = [0, 1, 2].map((owner) => run(empty(), list.filter((_, i) => owners[i] === owner))[0])
        const merged = parts.reduce(merge, empty())
        assert.deepStrictEqual(counts(merged), counts(run(empty(), list)[0]))
      }),
      { numRuns: 100 }
    )
  })

  it("H11 totals, the last minutes and the rate are those of a list of all events, at any age", () => {
    fc.assert(
      fc.property(events, fc.integer({ min: 1, max: 240 }), (list, quarters) => {
        const at = quarters * 15_000
        const seen = list.filter((event) => event.at < at)
        const [state] = run(empty(), [...seen, tick(at)])
        const errors = Fold.errors(state)
        const times = seen.filter(({ type }) => type === "failed").map((event) => event.at)
        const recent = times.filter((time) => time >= at - 5 * minute).length
        assert.strictEqual(errors.total, times.length)
        assert.strictEqual(errors.recent, recent)
        const age = Math.max(Math.min(at - (seen[0]?.at ?? at), 5 * minute), 1_000)
        assert.closeTo(errors.perMinute, recent / (age / minute), 1e-9)
        assert.strictEqual(errors.byTag.reduce((sum, { total }) => sum + total, 0), times.length)
      }),
      { numRuns: 200 }
    )
  })

  it("H11 the rate of a monitor that is ten seconds old is not divided by a constant", () => {
    const [state] = run(empty(), [failed(0), failed(5_000), tick(10_000)])
    assert.strictEqual(Fold.errors(state).perMinute, 12)
  })

  it("H12 hours are those of UTC, hours without errors are zeros, and the running hour is partial", () => {
    const from = Date.UTC(2026, 2, 28, 22)
    const [state] = run(empty(), [
      failed(from - 24 * hour),
      ...[0, 0, 2, 5].map((hours) => failed(from + hours * hour + 1)),
      tick(from + 5 * hour + 30 * minute)
    ])
    const { hours, least, mean, most } = Fold.trends(state, 6)
    assert.deepStrictEqual(hours.map(({ errors }) => errors), [2, 0, 1, 0, 0, 1])
    assert.deepStrictEqual(hours.map(({ isPartial }) => isPartial), [false, false, false, false, false, true])
    assert.strictEqual(hours[0]?.from, from)
    assert.strictEqual(hours[0]?.dayBefore, 1)
    assert.deepStrictEqual([least, mean, most], [0, 0.6, 2])
    assert.throws(() => Fold.trends(state, 169), "hours must be an integer from 1 to 168, got 169")
  })

  it("H12 a week of hours is kept, and nothing older", () => {
    const [state] = run(empty(), Array.from({ length: 400 }, (_, i) => failed(i * hour)))
    assert.deepStrictEqual(Fold.trends(state, 168).hours.map(({ errors }) => errors), new Array(168).fill(1))
    assert.isBelow(Fold.encode(state).length, 20_000)
  })

  it("H11, H15 a clock that is set back or forward by an hour neither throws nor loses an error", () => {
    const at = 100 * day
    const [state] = run(empty(), [
      failed(at),
      tick(at),
      failed(at - hour),
      tick(at - hour),
      failed(at + hour),
      tick(at + hour)
    ])
    assert.strictEqual(Fold.errors(state).total, 3)
    assert.deepStrictEqual(Fold.trends(state, 3).hours.map(({ errors }) => errors), [1, 1, 1])
  })

  it("H7, H11, H15 a million different messages, tags and channels stay within 4 MiB", () => {
    setFlagsFromString("--expose-gc")
    const collect: () => void = runInNewContext("gc")
    collect()
    const before = process.memoryUsage().heapUsed
    const fold = Fold.make({ rules: AlertRule.standard })
    const state = fold.empty()
    for (let i = 0; i < 1_000_000; i++) {
      fold.add(state, {
        ...failed(i * 10),
        fingerprint: `1:${i}`,
        tag: `Tag${i}`,
        channel: `channel-${i}`,
        handler: `handler-${i}`,
        message: `message ${i} of a length that an error's message usually has, with some more words to it`,
        correlationId: `018f0000-0000-7000-8000-${i}`,
        affected: `user-${i}`
      })
    }
    collect()
    const grown = process.memoryUsage().heapUsed - before
    assert.isBelow(grown, 4 * 1024 * 1024)
    assert.strictEqual(Fold.errors(state).total, 1_000_000)
    const { dropped, groups } = Fold.insights(state)
    assert.isAtMost(groups.length, 1_000)
    assert.isAtLeast(groups.length, 750)
    assert.strictEqual(groups.reduce((sum, { count }) => sum + count, dropped), 1_000_000)
    assert.isAtMost(Fold.errors(state).byTag.length, 101)
    assert.isAtMost(Fold.errors(state).byChannel.length, 201)
    assert.isBelow(Fold.encode(state).length, 4 * 1024 * 1024)
  }, 120_000)

  it("H11, H15 a group and a label that were not seen for the retention are forgotten, and give their place to others", () => {
    const fold = Fold.make({ retention: "2 hours", tags: 1 })
    const [old] = fold.run(fold.empty(), [failed(0), failed(1, { tag: "Late" }), tick(hour)])
    assert.deepStrictEqual(Fold.errors(old).byTag.map(({ label }) => label), ["Down", "other"])
    const [state] = fold.run(old, [tick(4 * hour), failed(4 * hour, { tag: "Late" }), tick(4 * hour + minute)])
    assert.deepStrictEqual(Fold.errors(state).byTag.map(({ label }) => label), ["Late"])
    assert.deepStrictEqual(Fold.insights(state).groups.map(({ tag }) => tag), ["Late"])
    assert.strictEqual(Fold.errors(state).total, 3)
  })

  it("H15 frequent groups stay when rare ones push others out", () => {
    const fold = Fold.make({ groups: 20 })
    const state = fold.empty()
    for (let i = 0; i < 5_000; i++) {
      fold.add(state, failed(i, { fingerprint: `1:${i}` }))
      if (i % 5 === 0) fold.add(state, failed(i, { fingerprint: "often" }))
    }
    assert.strictEqual(Fold.insights(state).groups.find(({ fingerprint }) => fingerprint === "often")?.count, 1_000)
  })

  it("H15 affected users are counted exactly up to 32, and to about 20 % beyond, without keeping them", () => {
    for (const users of [1, 32, 100, 1_000, 50_000]) {
      const fold = Fold.make()
      const state = fold.empty()
      for (let i = 0; i < users; i++) fold.add(state, failed(i, { affected: `user-${i}` }))
      const found = Fold.insights(state).groups[0]?.affected ?? 0
      if (users <= 32) assert.strictEqual(found, users)
      else assert.closeTo(found, users, users / 5)
      assert.notInclude(Fold.encode(state), "user-1")
    }
  })

  it("H15 a group is new, ongoing, escalating or resolved, and says what to look at", () => {
    const states = (inputs: ReadonlyArray<Fold.Input>) =>
      Fold.insights(run(empty(), inputs)[0]).groups.map(({ state }) => state)
    assert.deepStrictEqual(states([failed(0), tick(minute)]), ["new"])
    assert.deepStrictEqual(states([failed(0), failed(2 * hour), tick(2 * hour)]), ["ongoing"])
    const many = Array.from({ length: 20 }, (_, i) => failed(3 * hour + i))
    assert.deepStrictEqual(states([failed(0), ...many, tick(3 * hour + minute)]), ["escalating"])
    assert.deepStrictEqual(states([failed(0), tick(25 * hour)]), ["resolved"])
    const [group] = Fold.insights(run(empty(), [failed(0, { correlationId: "a" })])[0]).groups
    assert.include(group?.recommendation, "dependency")
    assert.strictEqual(group?.runbook, "docs/resilience.md")
    assert.deepStrictEqual(group?.correlationIds, ["a"])
  })

  it("H3 a threshold is reached exactly when a sliding log of all errors says so, and again only after it re-armed", () => {
    const rule = AlertRule.bySeverity({ high: 5 }).find(({ name }) => name === "high-errors")!
    const fold = promptly([{ ...rule, cooldown: 0 }])
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 4 * minute }), { minLength: 1, maxLength: 60 }),
        fc.integer({ min: 1, max: 15_000 }),
        (gaps, offset) => {
          const times: Array<number> = []
          let at = 0
          for (const gap of gaps) times.push(at += gap)
          const inputs = ticked(times.map((time) => failed(time + offset, { failure: "poison" })), at + hour)
          const [state] = fold.run(fold.empty(), inputs)

          const expected: Array<string> = []
          let isFiring = false
          let log: Array<number> = []
          let isReached = false
          for (const input of inputs) {
            if (input.type === "failed") {
              log.push(input.at)
              if (log.filter((time) => time > input.at - 5 * minute).length >= 5) isReached = true
              continue
            }
            log = log.filter((time) => time > input.at - 5 * minute)
            const isTrue = isReached || log.length >= 5
            if (!isFiring && isTrue) {
              isFiring = true
              expected.push(`${input.at / 1_000} firing high`)
            } else if (isFiring && !isReached && log.length < 4) {
              isFiring = false
              expected.push(`${input.at / 1_000} resolved high`)
            }
            isReached = false
          }
          assert.deepStrictEqual(changes(state), expected)
        }
      ),
      { numRuns: 200 }
    )
  })

  it("H3 the thresholds are 1 critical, 5 high, 20 medium and 100 low errors in 5 minutes", () => {
    const fold = promptly(AlertRule.bySeverity())
    for (const [severity, atLeast] of [["critical", 1], ["high", 5], ["medium", 20], ["low", 100]] as const) {
      const some = (n: number) =>
        Array.from({ length: n }, (_, i) => failed(1_000 + i * 2_900, { severity, failure: "auth" }))
      const alerts = (n: number) => fold.run(fold.empty(), ticked(some(n), 5 * minute))[1]
      assert.deepStrictEqual(alerts(atLeast - 1), [], severity)
      assert.deepStrictEqual(alerts(atLeast).map(({ rule, status }) => `${rule} ${status}`), [
        `${severity}-errors firing`
      ])
    }
  })

  it("H3 the severity of an error comes from its tag and class, and from nothing else", () => {
    const severityOf = Severity.make({ tags: { Lost: "critical" }, classes: { auth: "high" } })
    assert.strictEqual(severityOf("Lost", "auth"), "critical")
    assert.strictEqual(severityOf("Denied", "auth"), "high")
    assert.strictEqual(severityOf("TypeError", undefined), "high")
    assert.strictEqual(severityOf("Down", "dependency"), "medium")
    assert.strictEqual(severityOf("constructor", "validation"), "low")
    assert.throws(() => Severity.make({ tags: { Lost: "fatal" as "low" } }), "Severity: tags.Lost must be")
  })

  it("H7 the last 100 slow calls are kept with their phases", () => {
    const slow = (at: number): Fold.Slow => ({
      type: "slow",
      at,
      kind: "consumer",
      channel: "orders",
      handler: "placeOrder",
      waited: 20,
      handled: 1_500,
      attempt: 1,
      correlationId: undefined,
      traceId: undefined,
      failed: false
    })
    const [state] = run(empty(), Array.from({ length: 150 }, (_, i) => slow(i)))
    const { slow: total, slowCalls } = Fold.errors(state)
    assert.strictEqual(total, 150)
    assert.strictEqual(slowCalls.length, 100)
    assert.strictEqual(slowCalls.at(-1)?.at, 149)
    assert.strictEqual(slowCalls[0]?.waited, 20)
  })

  it("H11 messages, retries and dead letters are counted apart from errors", () => {
    const [state] = run(empty(), [
      counted(0, 100),
      counted(0, 3, { measure: "retries", tag: "Down" }),
      counted(0, 2, { measure: "deadLetters", tag: "Gone" }),
      failed(1)
    ])
    const { deadLetters, messages, retries, total } = Fold.errors(state)
    assert.deepStrictEqual({ deadLetters, messages, retries, total }, {
      deadLetters: 2,
      messages: 100,
      retries: 3,
      total: 1
    })
  })
})
