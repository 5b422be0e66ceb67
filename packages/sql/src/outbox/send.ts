/**
 * Sends what was read: in rounds of which each has a few rows of a key, so none is confirmed before one that it follows.
 */
import { type Broker, BrokerError } from "@millrace/core"
import { Cause, Duration, Effect, Exit } from "effect"
import type { Verdict } from "./claims.ts"
import type { Stored } from "./rows.ts"

/** What decides on rows that fail. */
export interface Rules {
  readonly perKey: number
  readonly attempts: number
  /** Milliseconds before the second attempt; doubled with each, up to `cap`. */
  readonly base: number
  readonly cap: number
}

/** What became of the rows of one batch; those in neither list are as they were. */
export interface Sent {
  readonly done: Array<string>
  readonly failed: Array<Verdict>
  /** Why the rest was not sent. */
  stopped: BrokerError.BrokerError | undefined
  lastError: BrokerError.BrokerError | undefined
}

/** Rows that are published alone at one time, after a batch of theirs has failed. */
const concurrency = 16

/** No row's own fault: the broker takes nothing at all. */
const isWhole = ({ failure, reason }: BrokerError.BrokerError): boolean =>
  reason === "Unreachable" || reason === "Lost" || reason === "Credentials" ||
  // one queue that is full is throttled
  (reason === "Full" && failure === "dependency")

const laneOf = ({ id, lane }: Stored): string => lane ?? `row ${id}`

const verdictOf = ({ attempts, id }: Stored, error: BrokerError.BrokerError, rules: Rules): Verdict => {
  const told = { id, tag: `${error._tag} ${error.reason}`, message: error.message }
  if (!error.retriable && attempts + 1 >= rules.attempts) return { ...told, after: undefined }
  const asked = error.retryAfter === undefined ? 0 : Duration.toMillis(error.retryAfter)
  return { ...told, after: Math.max(asked, Math.min(rules.cap, rules.base * 2 ** Math.min(attempts, 40))) }
}

/** Sends rows, oldest first, for as long as `isHeld`. */
export const make = (broker: Broker.Broker["Service"], rules: Rules, isHeld: () => boolean) => {
  /** The rows of one lane, one after the other, up to the first that fails. */
  const alone = (rows: ReadonlyArray<Stored>, sent: Sent, stuck: Set<string>): Effect.Effect<void> =>
    Effect.forEach(rows, (row) =>
      Effect.suspend(() => {
        if (sent.stopped !== undefined || stuck.has(laneOf(row)) || !isHeld()) return Effect.void
        return Effect.map(Effect.exit(Effect.suspend(() => broker.publish(row.outgoing))), (exit) => {
          if (Exit.isSuccess(exit)) return void sent.done.push(row.id)
          stuck.add(laneOf(row))
          const error = failureOf(exit)
          sent.lastError = error
          if (isWhole(error)) sent.stopped = error
          else sent.failed.push(verdictOf(row, error, rules))
        })
      }), { discard: true })

  const oneByOne = (rows: ReadonlyArray<Stored>, sent: Sent, stuck: Set<string>): Effect.Effect<void> =>
    Effect.forEach(Map.groupBy(rows, laneOf).values(), (lane) => alone(lane, sent, stuck), {
      concurrency,
      discard: true
    })

  const failureOf = (exit: Exit.Failure<void, BrokerError.BrokerError>): BrokerError.BrokerError => {
    for (const reason of exit.cause.reasons) if (reason._tag === "Fail") return reason.error
    return defect(broker.system, exit.cause)
  }

  return (rows: ReadonlyArray<Stored>): Effect.Effect<Sent> =>
    Effect.gen(function*() {
      const sent: Sent = { done: [], failed: [], stopped: undefined, lastError: undefined }
      const stuck = new Set<string>()
      let rest = rows
      while (rest.length > 0 && sent.stopped === undefined && isHeld()) {
        const together: Array<Stored> = []
        const suspects: Array<Stored> = []
        const later: Array<Stored> = []
        const taken = new Map<string, number>()
        for (const row of rest) {
          const lane = laneOf(row)
          const count = taken.get(lane) ?? 0
          if (count >= rules.perKey) later.push(row)
          else if (row.attempts > 0) {
            // what has failed before fails no others
            taken.set(lane, rules.perKey)
            if (count === 0) suspects.push(row)
            else later.push(row)
          } else {
            taken.set(lane, count + 1)
            together.push(row)
          }
        }
        if (together.length === 1) yield* oneByOne(together, sent, stuck)
        else if (together.length > 0) {
          const exit = yield* Effect.exit(
            Effect.suspend(() => broker.publishAll(together.map(({ outgoing }) => outgoing)))
          )
          if (Exit.isSuccess(exit)) together.forEach(({ id }) => sent.done.push(id))
          else {
            const error = failureOf(exit)
            sent.lastError = error
            if (isWhole(error)) sent.stopped = error
            else yield* oneByOne(together, sent, stuck)
          }
        }
        if (suspects.length > 0 && sent.stopped === undefined) yield* oneByOne(suspects, sent, stuck)
        rest = later.filter((row) => !stuck.has(laneOf(row)))
      }
      return sent
    })
}

const defect = (system: string, cause: Cause.Cause<unknown>): BrokerError.BrokerError =>
  BrokerError.make({
    system,
    operation: "publish",
    reason: "Unknown",
    message: `The broker's publish ended with a defect: ${Cause.pretty(cause)}`,
    cause
  })
