/**
 * What a history leaves behind: messages, runs of the handler, leases.
 */
import type { Broker, Delivery, Metrics, Outcome, Outgoing } from "@millrace/core"
import type { Simulation } from "@millrace/testing"
import type { Fiber, Scope } from "effect"
import type { Said } from "./Letters.ts"
import type { Restarts } from "./Restarts.ts"
import type { Start } from "./Starts.ts"

/** One published message. */
export interface Entry {
  readonly partition: number
  readonly position: number
  readonly outgoing: Outgoing<Uint8Array>
  /** It fails again and again, as long as the storm lasts. */
  readonly isStubborn: boolean
  /** How many forms of its dead letter the broker refuses, from the largest; 4 are all. */
  readonly refused: number
  /** The forms of its dead letter that the broker has refused. */
  readonly tried: Set<number>
  readonly runs: Array<Run>
  /** How often it was offered. */
  offers: number
  /** Dead letters that the broker has. */
  letters: number
  /** When the broker was first told of the retry of its last delivery: it may have heard, and answered with a failure. */
  asked: number | undefined
  /** Before which time its broker, which delays it, must not deliver it. */
  until: number
}

/** What a run has to wait for before it counts. */
export interface Waits {
  /** Which outcome it leads to where it fails; undefined where it does not. */
  failed: Outcome.Outcome["_tag"] | "Throttled" | undefined
  /** When it ended. */
  done: number | undefined
}

/** One run of the handler. */
export interface Run {
  readonly entry: Entry
  readonly delivery: Delivery
  readonly lease: LeaseBook
  readonly consumer: Consumer
  readonly hooks: Array<Waits>
  /** Which outcome it was made to have. */
  expected: Outcome.Outcome["_tag"]
  /** The time that its retry names. */
  after: number | undefined
  selfInterrupt: boolean
  hooksRun: number
  readonly began: number
  ended: number | undefined
  outcome: Outcome.Outcome | undefined
  /** Rows that an audit has written of it. */
  rows: number
}

/** What was seen of one lease. */
export interface LeaseBook {
  readonly consumer: Consumer
  readonly partition: number
  closing: { readonly at: number; readonly how: "revoke" | "lost" } | undefined
  closed: boolean
  /** Its connection has ended, and its engine is about to hear of it. */
  severed: boolean
  /** The broker never answered a commit or a settlement of it: what that call told may come again. */
  unheard: boolean
  /** Batches that were offered since its consumer was paused. */
  offersInPause: number
  calls: number
  /** What was offered, by lane. */
  readonly lanes: Map<unknown, Array<number>>
  readonly concluded: Set<number>
  /** Dead letters written under it. */
  readonly buried: Set<number>
  readonly running: Set<Run>
  /** Messages that ran under it: no fewer than were settled. */
  readonly ran: Set<Entry>
}

/** Its engine may lose it without being asked, or is gone itself. */
export const isGone = (lease: LeaseBook): boolean =>
  lease.closing?.how === "lost" || lease.severed || lease.consumer.killed

export const idOf = (entry: Entry): string => `${entry.partition}/${entry.position}`

/** What a run came to, once all that it waits for has ended; undefined before. */
export const cameTo = (run: Run): Waits["failed"] => {
  if (run.outcome === undefined || run.hooks.some((hook) => hook.done === undefined)) return undefined
  // a hook that fails changes no retry; else the hook that was registered last speaks first
  if (run.outcome._tag === "Retry") return run.outcome.after === undefined ? "Retry" : "Throttled"
  return run.hooks.findLast((hook) => hook.failed !== undefined)?.failed ?? run.outcome._tag
}

/** One process with one subscription. */
export interface Consumer {
  readonly name: string
  readonly process: Simulation.Process
  readonly scope: Scope.Closeable
  readonly suspended: Set<Run>
  running: Broker.Running | undefined
  paused: boolean
  /** When its drain began. */
  draining: number | undefined
  drained: boolean
  /** Its first drain, which ends when the consumer has. */
  ending: Fiber.Fiber<void> | undefined
  killed: boolean
  readonly restarts: Restarts
  /** What its metrics have counted, where it has any. */
  statistics: (() => ReadonlyArray<Metrics.ChannelStatistics>) | undefined
  /** What it has logged and counted, where that is watched. */
  said: Said | undefined
  readonly start: Start
  readonly health: () => Broker.Health | undefined
}
