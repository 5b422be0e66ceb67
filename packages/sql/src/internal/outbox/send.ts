/**
 * Sends rows in rounds with at most a few rows of each key, so the broker confirms no row before an earlier row of its key.
 */
import { type Broker, BrokerError } from "@millrace/core"
import { Cause, Duration, Effect, Exit } from "effect"
import { limited } from "../database/limited.ts"
import type { Verdict } from "./claims.ts"
import type { Stored } from "./rows.ts"

/** The rules for rows that fail. */
export interface Rules {
  readonly perKey: number
  readonly attempts: number
  /** Milliseconds before the second attempt; doubled with each, up to `cap`. */
  readonly base: number
  readonly cap: number
  /** Milliseconds that one publish may take. */
  readonly limit: number
}

/** The results of sent rows; rows in neither list are unchanged. */
export class Sent {
  done: Array<string> = []
  failed: Array<Verdict> = []
  /** Whether the broker has answered for a row, by a confirmation or a refusal. */
  isAnswered = false
  /** Why the remaining rows were not sent. */
  stopped: BrokerError.BrokerError | undefined
  lastError: BrokerError.BrokerError | undefined
  /** The number of rows whose publish had no answer. */
  late = 0
  /** Takes the results since the last call. */
  take(): { readonly done: ReadonlyArray<string>; readonly failed: ReadonlyArray<Verdict> } {
    const { done, failed } = this
    this.done = []
    this.failed = []
    return { done, failed }
  }
}

/** The most rows that are published singly at the same time, after their batch has failed. */
export const concurrency = 16

/** Whether the broker accepts nothing at all, so that the row is not at fault. */
const isWhole = ({ failure, reason }: BrokerError.BrokerError): boolean =>
  reason === "Unreachable" || reason === "Lost" || reason === "Credentials" ||
  // a single full queue delays only its rows
  (reason === "Full" && failure === "dependency")

const laneOf = ({ id, lane }: Stored): string => lane ?? `row ${id}`

class Late extends Error {}

const isLate = (error: BrokerError.BrokerError): boolean => error.cause instanceof Late

const verdictOf = ({ attempts, id }: Stored, error: BrokerError.BrokerError, rules: Rules): Verdict => {
  const told = { id, tag: `${error._tag} ${error.reason}`, message: error.message }
  if (!error.retriable && attempts + 1 >= rules.attempts) return { ...told, after: undefined }
  const asked = error.retryAfter === undefined ? 0 : Duration.toMillis(error.retryAfter)
  const wait = Math.min(rules.cap, rules.base * 2 ** Math.min(attempts, 40))
  // rows that fail together should not be retried together; the row's id serves as jitter
  return { ...told, after: Math.max(asked, wait * (1 - (Number(id) % 32) / 128)) }
}

/** Sends rows for as long as `isHeld`, and adds results to `sent` as they happen. */
export interface Send {
  /** Sends rows that have not failed yet, oldest first. */
  readonly together: (rows: ReadonlyArray<Stored>, sent: Sent) => Effect.Effect<void>
  /** Sends failed rows, each by itself. */
  readonly apart: (rows: ReadonlyArray<Stored>, sent: Sent) => Effect.Effect<void>
}

/** Makes the senders for a broker. */
export const make = (broker: Broker.Broker["Service"], rules: Rules, isHeld: () => boolean): Send => {
  const noAnswer = () =>
    BrokerError.make({
      system: broker.system,
      operation: "publish",
      reason: "Unknown",
      message: `The broker has not answered for ${rules.limit} ms`,
      cause: new Late()
    })
  const timely = (publish: () => Effect.Effect<void, BrokerError.BrokerError>) =>
    Effect.exit(limited(Effect.suspend(publish), rules.limit, noAnswer))

  const failureOf = (exit: Exit.Failure<void, BrokerError.BrokerError>): BrokerError.BrokerError => {
    for (const reason of exit.cause.reasons) if (reason._tag === "Fail") return reason.error
    return defect(broker.system, exit.cause)
  }

  /** Sends the rows of one lane, one after the other, up to the first failure. */
  const alone = (rows: ReadonlyArray<Stored>, sent: Sent, stuck: Set<string>, all: number): Effect.Effect<void> =>
    Effect.forEach(rows, (row) =>
      Effect.suspend(() => {
        if (sent.stopped !== undefined || stuck.has(laneOf(row)) || !isHeld()) return Effect.void
        return Effect.map(timely(() => broker.publish(row.outgoing)), (exit) => {
          if (Exit.isSuccess(exit)) {
            sent.isAnswered = true
            return void sent.done.push(row.id)
          }
          stuck.add(laneOf(row))
          const error = failureOf(exit)
          sent.lastError = error
          if (isWhole(error)) {
            sent.stopped = error
            return
          }
          if (!isLate(error)) sent.isAnswered = true
          // if none of many rows has an answer, the broker itself does not answer
          else if (++sent.late >= Math.min(all, concurrency) && all > 1 && !sent.isAnswered) sent.stopped = error
          sent.failed.push(verdictOf(row, error, rules))
        })
      }), { discard: true })

  const oneByOne = (rows: ReadonlyArray<Stored>, sent: Sent, stuck: Set<string>): Effect.Effect<void> =>
    Effect.forEach(Map.groupBy(rows, laneOf).values(), (lane) => alone(lane, sent, stuck, rows.length), {
      concurrency,
      discard: true
    })

  /** Filters out unreadable rows and records them as failed for good. */
  const readable = (rows: ReadonlyArray<Stored>, sent: Sent): ReadonlyArray<Stored> =>
    rows.filter(({ id, unreadable }) => {
      if (unreadable === undefined) return true
      sent.failed.push({ id, after: undefined, tag: "Unreadable", message: unreadable })
      return false
    })

  return {
    apart: (rows, sent) => oneByOne(readable(rows, sent), sent, new Set()),
    together: (rows, sent) =>
      Effect.gen(function*() {
        const stuck = new Set<string>()
        let rest = readable(rows, sent)
        while (rest.length > 0 && sent.stopped === undefined && isHeld()) {
          const round: Array<Stored> = []
          const later: Array<Stored> = []
          const taken = new Map<string, number>()
          for (const row of rest) {
            const lane = laneOf(row)
            const count = taken.get(lane) ?? 0
            taken.set(lane, count + 1)
            if (count >= rules.perKey) later.push(row)
            else round.push(row)
          }
          if (round.length === 1) yield* oneByOne(round, sent, stuck)
          else {
            const exit = yield* timely(() => broker.publishAll(round.map(({ outgoing }) => outgoing)))
            if (Exit.isSuccess(exit)) {
              sent.isAnswered = true
              round.forEach(({ id }) => sent.done.push(id))
            } else {
              const error = failureOf(exit)
              sent.lastError = error
              if (isWhole(error)) sent.stopped = error
              else yield* oneByOne(round, sent, stuck)
            }
          }
          rest = later.filter((row) => !stuck.has(laneOf(row)))
        }
      })
  }
}

const defect = (system: string, cause: Cause.Cause<unknown>): BrokerError.BrokerError =>
  BrokerError.make({
    system,
    operation: "publish",
    reason: "Unknown",
    failure: "defect",
    message: `The broker's publish ended with a defect: ${Cause.pretty(cause)}`,
    cause
  })
