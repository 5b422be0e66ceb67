import { AlertRule, Fold } from "@millrace/monitor"
import * as fc from "fast-check"
import { assert, describe, it } from "vitest"
import { changes, counted, day, failed, hour, minute, promptly, tick, ticked } from "./support.ts"

const rule = (options: Partial<AlertRule.Options> & Pick<AlertRule.Options, "when">): AlertRule.Rule =>
  AlertRule.make({ name: "rule", level: "warning", cooldown: 0, ...options })

const seconds = (...list: ReadonlyArray<number>): ReadonlyArray<Fold.Failed> => list.map((at) => failed(at * 1_000))

/** When a rule begins and ceases to fire. */
const told = (
  when: AlertRule.Condition,
  inputs: ReadonlyArray<Fold.Event>,
  options: Partial<AlertRule.Options> = {},
  until = 20 * minute
): ReadonlyArray<string> => {
  const fold = promptly([rule({ when, ...options })])
  return changes(fold.run(fold.empty(), ticked(inputs, until))[0])
}

const every = (from: number, to: number, gap: number): ReadonlyArray<number> =>
  Array.from({ length: Math.floor((to - from) / gap) + 1 }, (_, i) => from + i * gap)

describe("AlertRule", () => {
  it("H13 count: fires at the tick after the crossing, and resolves when the window has passed", () => {
    const when = { kind: "count", of: "errors", window: "1 minute", atLeast: 3 } as const
    assert.deepStrictEqual(told(when, seconds(1, 2)), [])
    assert.deepStrictEqual(told(when, seconds(1, 2, 16)), ["30 firing", "75 resolved"])
    // three errors that are never within a minute
    assert.deepStrictEqual(told(when, seconds(1, 40, 80, 120)), [])
  })

  it("H13 count by a label judges each label by itself, or one label only", () => {
    const when = { kind: "count", of: "errors", by: "tag", window: "1 minute", atLeast: 2 } as const
    const inputs = ["Down", "Late", "Late", "SoldOut"].map((tag, i) => failed(i, { tag }))
    assert.deepStrictEqual(told(when, inputs), ["15 firing Late", "75 resolved Late"])
    assert.deepStrictEqual(told({ ...when, only: "Down" }, inputs), [])
  })

  it("H13 rate: is of the real age of the counts, not of a constant", () => {
    const when = { kind: "rate", of: "errors", window: "10 minutes", atLeast: 4 } as const
    // 2 errors in 15 seconds are 8 a minute, in 30 seconds 4, in 45 fewer
    assert.deepStrictEqual(told(when, seconds(0, 1)), ["15 firing", "45 resolved"])
    assert.deepStrictEqual(told(when, [counted(0, 1), ...seconds(61, 62)]), [])
  })

  it("H13 ratio: needs enough messages, and an empty window is no alert", () => {
    const when = {
      kind: "ratio",
      of: "errors",
      to: "messages",
      by: "channel",
      window: "5 minutes",
      atLeast: 0.05
    } as const
    const inputs = (messages: number, errors: number) => [
      counted(1_000, messages),
      ...Array.from({ length: errors }, () => failed(2_000))
    ]
    assert.deepStrictEqual(told(when, inputs(100, 4)), [])
    assert.deepStrictEqual(told(when, inputs(100, 5)), ["15 firing orders", "315 resolved orders"])
    assert.deepStrictEqual(told(when, inputs(99, 99)), [])
    assert.deepStrictEqual(told(when, inputs(0, 0)), [])
    assert.deepStrictEqual(told({ ...when, minimum: 10 }, inputs(10, 1)), ["15 firing orders", "315 resolved orders"])
  })

  it("H13 absence: fires after a window without messages, never before the window is over, and for a known channel", () => {
    const when = { kind: "absence", of: "messages", window: "10 minutes" } as const
    const steady = every(0, 20 * minute, minute).map((at) => counted(at, 1))
    assert.deepStrictEqual(told(when, steady), [])
    assert.deepStrictEqual(told(when, steady.filter(({ at }) => at < 5 * minute)), ["855 firing"])
    const other = steady.map((each) => ({ ...each, channel: "bills" }))
    assert.deepStrictEqual(
      told(
        { ...when, by: "channel" },
        [...steady.filter(({ at }) => at < 5 * minute), ...other].sort((a, b) => a.at - b.at)
      ),
      ["855 firing orders"]
    )
    assert.deepStrictEqual(told({ ...when, by: "channel", only: "mails" }, other), ["600 firing mails"])
  })

  it("H13 group: fires for a new fingerprint once, and for one that is back after a day", () => {
    const isNew = { kind: "group", is: "new" } as const
    const isBack = { kind: "group", is: "regressed" } as const
    const inputs = [failed(0), failed(minute), failed(2 * minute, { tag: "Late" })]
    assert.deepStrictEqual(told(isNew, inputs), [
      "15 firing 1:Down:the server is down",
      "135 firing 1:Late:the server is down",
      "315 resolved 1:Down:the server is down",
      "435 resolved 1:Late:the server is down"
    ])
    assert.deepStrictEqual(told(isBack, inputs), [])
    assert.deepStrictEqual(told(isBack, [failed(0), failed(23 * hour)], {}, 25 * hour), [])
    assert.deepStrictEqual(
      told(isBack, [failed(0), failed(25 * hour)], {}, 26 * hour)[0],
      `${25 * 3_600} firing 1:Down:the server is down`.replace(`${25 * 3_600}`, `${25 * 3_600 + 15}`)
    )
  })

  it("H13 gauge: fires for the label whose value is too high, with a lower bound to end", () => {
    const gauged = (at: number, value: number): Fold.Event => ({
      type: "gauged",
      at: at * 1_000,
      name: "lag",
      label: "orders",
      value
    })
    assert.deepStrictEqual(
      told({ kind: "gauge", name: "lag", atLeast: 100, under: 50 }, [
        gauged(1, 99),
        gauged(20, 120),
        gauged(40, 60),
        gauged(70, 49)
      ]),
      ["30 firing orders", "75 resolved orders"]
    )
  })

  it("H13 for: one false tick begins anew, and a condition that holds fires", () => {
    const gauged = (at: number, value: number): Fold.Event => ({
      type: "gauged",
      at: at * 1_000,
      name: "lag",
      label: "",
      value
    })
    const when = { kind: "gauge", name: "lag", atLeast: 1 } as const
    assert.deepStrictEqual(told(when, [gauged(1, 1), gauged(50, 0)], { for: "1 minute" }), [])
    assert.deepStrictEqual(told(when, [gauged(1, 1)], { for: "1 minute" }, 5 * minute), ["75 firing"])
  })

  it("H13 hysteresis and keepFiring: a value around the threshold does not flap", () => {
    const wave = every(0, 10 * minute, 15_000).map((at, i): Fold.Event => ({
      type: "gauged",
      at,
      name: "lag",
      label: "",
      value: i % 2 === 0 ? 100 : 95
    }))
    const end: Fold.Event = { type: "gauged", at: 10 * minute + 1, name: "lag", label: "", value: 0 }
    const when = { kind: "gauge", name: "lag", atLeast: 100 } as const
    assert.isAbove(told(when, [...wave, end]).length, 20)
    assert.lengthOf(told({ ...when, under: 90 }, [...wave, end]), 2)
    assert.lengthOf(told(when, [...wave, end], { keepFiring: "1 minute" }), 2)
  })

  it("H13 no label fires twice within the cooldown, and one that stays true fires when it is over", () => {
    const when = { kind: "count", of: "errors", by: "tag", window: "15 seconds", atLeast: 1 } as const
    fc.assert(
      fc.property(
        fc.array(fc.nat({ max: 60 * 60 }), { maxLength: 60 }),
        fc.integer({ min: 0, max: 20 }),
        (at, cooldown) => {
          const fold = promptly([rule({ when, cooldown: `${cooldown} minutes` })])
          const inputs = ticked(seconds(...[...at].sort((a, b) => a - b)), 90 * minute)
          const fired = Fold.transitions(fold.run(fold.empty(), inputs)[0], 168).toReversed()
            .filter(({ status }) => status === "firing").map((each) => each.at)
          for (let i = 1; i < fired.length; i++) assert.isAtLeast(fired[i]! - fired[i - 1]!, cooldown * minute)
          if (at.length > 0) assert.isNotEmpty(fired)
        }
      ),
      { numRuns: 100 }
    )
    assert.deepStrictEqual(
      told({ ...when, window: "10 minutes" }, seconds(1, 700, 701), { cooldown: "14 minutes" }),
      ["15 firing Down", "615 resolved Down", "855 firing Down"]
    )
  })

  it("H13 alerts of one rule are sent together, after a wait, at intervals, and again when nothing changed", () => {
    const when = { kind: "count", of: "errors", by: "tag", window: "15 minutes", atLeast: 1 } as const
    const fold = Fold.make({ rules: [rule({ when })], repeat: "10 minutes" })
    const tags = (from: number, to: number) => every(from, to, 1).map((n) => failed(n, { tag: `Tag${n}` }))
    const inputs = [...tags(1, 3), ...tags(40_000, 40_029)]
    const [, alerts] = fold.run(fold.empty(), ticked(inputs, 40 * minute))
    assert.deepStrictEqual(
      alerts.map(({ at, items, more, repeated, status }) => [at / 1_000, status, items.length + more, repeated]),
      [
        [45, "firing", 33, false],
        [645, "firing", 33, true],
        // the first three are over
        [945, "resolved", 33, false]
      ]
    )
    assert.strictEqual(alerts[0]?.items.length, 20)
    assert.strictEqual(alerts[0]?.thread, alerts[2]?.thread)
    assert.notStrictEqual(alerts[0]?.id, alerts[2]?.id)
  })

  it("H13 a resolved alert is sent only if the firing one was", () => {
    const when = { kind: "count", of: "errors", window: "15 seconds", atLeast: 1 } as const
    const fold = Fold.make({ rules: [rule({ when })], groupWait: "1 minute" })
    assert.deepStrictEqual(fold.run(fold.empty(), ticked(seconds(1)))[1], [])
    const [state] = fold.run(fold.empty(), ticked(seconds(1)))
    assert.deepStrictEqual(changes(state), ["15 firing", "30 resolved"])
  })

  it("H13 a mute and an inhibition send nothing while they last, and the alert comes afterwards", () => {
    const when = { kind: "count", of: "errors", window: "15 minutes", atLeast: 1 } as const
    const muted: Fold.Muted = {
      type: "muted",
      at: 0,
      rule: "rule",
      from: 0,
      until: 5 * minute,
      author: "ada",
      reason: "a planned restart"
    }
    const fold = promptly([rule({ when })])
    const sent = (inputs: ReadonlyArray<Fold.Event>) =>
      fold.run(fold.empty(), ticked(inputs, 12 * minute))[1].map(({ at, status }) => `${at / 1_000} ${status}`)
    assert.deepStrictEqual(sent([muted, ...seconds(1)]), ["300 firing"])
    assert.deepStrictEqual(sent([{ ...muted, rule: "other" }, ...seconds(1)]), ["15 firing"])

    const lag = { kind: "gauge", name: "broker.down", atLeast: 1 } as const
    const both = promptly([rule({ name: "down", when: lag }), rule({ when, inhibitedBy: ["down"] })])
    const gauged = (at: number, value: number): Fold.Event => ({
      type: "gauged",
      at,
      name: "broker.down",
      label: "",
      value
    })
    const [, alerts] = both.run(
      both.empty(),
      ticked([gauged(0, 1), ...seconds(1), gauged(4 * minute, 0)], 10 * minute)
    )
    assert.deepStrictEqual(
      alerts.map(({ at, rule: { length: _ }, status, thread }) => `${at / 1_000} ${thread} ${status}`),
      [
        "15 down firing",
        "255 down resolved",
        "255 rule firing"
      ]
    )
  })

  it("H13 thirty days of a storm: alerts of a live fold and of a dry run are the same, and each begun is ended", () => {
    let seed = 7
    const random = () => (seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0) / 2 ** 32
    const storms = every(0, 29, 1).map((n) => n * day + Math.floor(random() * 20) * hour)
    const history: Array<Fold.Event> = []
    for (let at = 0; at < 30 * day; at += 10 * minute) {
      history.push(counted(at, 1_000))
      if (random() < 0.02) history.push(failed(at + 1, { tag: "Late", failure: "timeout" }))
      if (!storms.some((from) => at >= from && at < from + hour)) continue
      for (let i = 0; i < 100; i++) history.push(failed(at + 2 + i * 100))
      history.push(counted(at + 3 * minute, 2, { measure: "deadLetters", tag: "Down" }))
    }
    const dry = Fold.dryRun(history, { rules: AlertRule.standard })
    const fold = Fold.make({ rules: AlertRule.standard })
    let state = fold.empty()
    const live: Array<Fold.Alert> = []
    let next = 0
    for (let at = 15_000; at <= 30 * day + 10 * minute; at += 15_000) {
      const own = fold.empty()
      while (next < history.length && history[next]!.at < at) fold.add(own, history[next++]!)
      // nothing happens at most ticks: a copy for each would only make the test slow
      const [after, alerts] = fold.run(own.since === undefined ? state : fold.merge(state, own), [tick(at)])
      state = after
      live.push(...alerts)
    }
    assert.deepStrictEqual(
      live.map(({ id, status }) => `${id} ${status}`),
      dry.map(({ id, status }) => `${id} ${status}`)
    )
    const medium = dry.filter(({ rule }) => rule === "medium-errors")
    assert.isAtLeast(medium.filter(({ status }) => status === "firing").length, storms.length)
    const last = new Map(dry.map(({ rule, status }) => [rule, status]))
    assert.deepStrictEqual([...new Set(last.values())], ["resolved"])
    assert.deepStrictEqual(dry.filter(({ rule }) => rule === "critical-errors"), [])
  }, 60_000)

  it("H13 rules that are always true, unmeasured windows and unknown placeholders are refused", () => {
    const refusal = (options: object): string => {
      try {
        AlertRule.make(
          {
            name: "r",
            level: "info",
            when: { kind: "count", of: "errors", window: "1 minute", atLeast: 1 },
            ...options
          } as AlertRule.Options
        )
        return "nothing"
      } catch (error) {
        return String(error)
      }
    }
    const count = { kind: "count", of: "errors", window: "1 minute", atLeast: 1 }
    const ratio = { kind: "ratio", of: "errors", to: "messages", window: "1 minute", atLeast: 0.1 }
    assert.strictEqual(refusal({}), "nothing")
    const wrong: ReadonlyArray<readonly [object, string]> = [
      [{ when: { ...count, atLeast: 0 } }, "when.atLeast must be a number from 1, got 0"],
      [{ when: { ...ratio, atLeast: 0 } }, "when.atLeast must be a number from 5e-324 to 1, got 0"],
      [{ when: { ...ratio, atLeast: 2 } }, "when.atLeast"],
      [{ when: { ...ratio, to: "errors" } }, "the ratio is always 1"],
      [{ when: { ...ratio, minimum: 0 } }, "when.minimum must be an integer from 1"],
      [{ when: { ...count, under: 0 } }, "when.under must be a number from 5e-324 to 1, got 0"],
      [{ when: { ...count, under: 2 } }, "when.under"],
      [{ when: { ...count, by: "tag", window: "20 minutes" } }, "whole hours"],
      [{ when: { ...count, window: "2 days" } }, "when.window must be a duration from 15000 ms"],
      [{ when: { ...count, of: "retries", by: "class" } }, "when.by must be \"tag\" or \"channel\""],
      [{ when: { ...count, only: "Down" } }, "when.only needs when.by"],
      [{ when: { kind: "severity", severity: "high", atLeast: 0, window: "1 minute" } }, "when.atLeast"],
      [{ when: { kind: "gauge", name: "", atLeast: 1 } }, "when.name"],
      [{ when: { kind: "always" } }, "when.kind must be"],
      [{ template: "{errorType} failed" }, "template has {errorType}"],
      [{ template: "{label} failed" }, "template has {label}"],
      [{ name: "a b" }, "name must be"],
      [{ level: "fatal" }, "level must be"],
      [{ for: "-1 minutes" }, "for must be"]
    ]
    for (const [options, sentence] of wrong) assert.include(refusal(options), sentence)
    assert.throws(
      () =>
        Fold.make({
          rules: [rule({ when: { kind: "group", is: "new" } }), rule({ when: { kind: "group", is: "new" } })]
        }),
      "different names"
    )
    assert.throws(
      () => Fold.make({ rules: [rule({ when: { kind: "group", is: "new" }, inhibitedBy: ["none"] })] }),
      "got none"
    )
    assert.throws(() => Fold.make({ repeat: "1 minute" }), "Fold: repeat must be")
  })

  it("H13 a template is filled with the value, the label and the threshold, on one line", () => {
    const fold = promptly([rule({
      when: { kind: "count", of: "errors", by: "tag", window: "1 minute", atLeast: 2 },
      template: "{level}: {value} of {label} in {window}, from {threshold}"
    })])
    const tag = "Bad\r\nBcc: all"
    const [, alerts] = fold.run(fold.empty(), [failed(0, { tag }), failed(1, { tag }), tick(15_000)])
    assert.strictEqual(alerts[0]?.items[0]?.text, "warning: 2 of Bad Bcc: all in 1m, from 2")
  })

  it("H13 the default rules speak for themselves", () => {
    assert.deepStrictEqual(AlertRule.standard.map(({ level, name, template }) => `${level} ${name}: ${template}`), [
      "critical critical-errors: {value} errors of severity {label} in {window}, from {threshold}",
      "critical high-errors: {value} errors of severity {label} in {window}, from {threshold}",
      "warning medium-errors: {value} errors of severity {label} in {window}, from {threshold}",
      "info low-errors: {value} errors of severity {label} in {window}, from {threshold}",
      "warning dead-letters: {value} dead letters of channel {label} in {window}, from {threshold}",
      "critical error-ratio: {value} of messages of channel {label} are errors in {window}, from {threshold}",
      "info new-error: new error {tag}: {message} ({count} times)",
      "warning regressed-error: regressed error {tag}: {message} ({count} times)"
    ])
  })
})
