/** Histories for tests of the monitor. */
import { type AlertRule, Fold, Severity } from "@millrace/monitor"
import type { Failure } from "@millrace/core"
import * as fc from "fast-check"

const severityOf = Severity.make()

/** An error of a call at a time. */
export const failed = (at: number, options: Partial<Fold.Failed> = {}): Fold.Failed => {
  const failure: Failure.FailureClass | undefined = "failure" in options ? options.failure : "dependency"
  const tag = options.tag ?? "Down"
  const message = options.message ?? "the server is down"
  return {
    type: "failed",
    at,
    channel: "orders",
    handler: "placeOrder",
    tag,
    failure,
    severity: severityOf(tag, failure),
    fingerprint: `1:${tag}:${message}`,
    message,
    correlationId: undefined,
    affected: undefined,
    ...options
  }
}

/** Messages, retries or dead letters of a channel. */
export const counted = (at: number, count: number, options: Partial<Fold.Counted> = {}): Fold.Counted => ({
  type: "counted",
  at,
  measure: "messages",
  channel: "orders",
  tag: undefined,
  count,
  ...options
})

export const tick = (at: number): Fold.Tick => ({ type: "tick", at })

export const minute = 60_000
export const hour = 60 * minute
export const day = 24 * hour

/** A fold that sends alerts at once. */
export const promptly = (rules: ReadonlyArray<AlertRule.Rule>, options: Fold.Options = {}) =>
  Fold.make({ rules, groupWait: 0, groupInterval: "1 second", ...options })

/** Times at which a rule begins and ceases to fire. */
export const changes = (state: Fold.State): ReadonlyArray<string> =>
  Fold.transitions(state, 168).toReversed().map(({ at, label, status }) =>
    `${at / 1_000} ${status}${label === "" ? "" : ` ${label}`}`
  )

const tags = ["Down", "SoldOut", "Late"] as const
const classes: ReadonlyArray<Failure.FailureClass | undefined> = ["dependency", "defect", "auth", "poison", undefined]

/** Events of an hour, in order of time. */
export const events: fc.Arbitrary<ReadonlyArray<Fold.Event>> = fc.array(
  fc.record({
    at: fc.integer({ min: 0, max: hour }),
    event: fc.oneof(
      {
        weight: 4,
        arbitrary: fc.record({
          tag: fc.constantFrom(...tags),
          failure: fc.constantFrom(...classes),
          message: fc.constantFrom("a", "b", "c"),
          channel: fc.constantFrom("orders", "bills", "mails"),
          affected: fc.option(fc.integer({ min: 0, max: 200 }).map(String), { nil: undefined }),
          correlationId: fc.option(fc.integer({ min: 0, max: 9 }).map(String), { nil: undefined })
        }).map((options) => (at: number): Fold.Event => failed(at, options))
      },
      fc.record({
        count: fc.integer({ min: 0, max: 50 }),
        measure: fc.constantFrom("messages", "retries", "deadLetters"),
        channel: fc.constantFrom("orders", "bills")
      }).map(({ count, ...options }) => (at: number): Fold.Event => counted(at, count, options))
    )
  }),
  { maxLength: 120 }
).map((list) => list.map(({ at, event }) => event(at)).sort((a, b) => a.at - b.at))

/** Events with a tick every 15 seconds. */
export const ticked = (list: ReadonlyArray<Fold.Event>, until = hour): ReadonlyArray<Fold.Input> => {
  const ticks = Array.from({ length: Math.ceil(until / 15_000) }, (_, i): Fold.Input => tick((i + 1) * 15_000))
  return [...list, ...ticks].sort((a, b) => a.at - b.at || (a.type === "tick" ? -1 : 0))
}
