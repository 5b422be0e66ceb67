import type * as Core from "@millrace/core"
import type { Simulation } from "@millrace/testing"

/** The channel of all histories. */
export const channel = "c"

/** The code under test: the real core, or a copy with a bug planted in it. */
export type Subject = typeof Core

/**
 * Kinds of trouble beside those that every history has. A history has each kind that is switched on with its probability, so
 * that a kind can be built before the engine withstands it.
 */
export const kinds = {
  /** The broker takes a message back whose claim is not extended. */
  claims: 0.4,
  /** Calls to the broker are never answered. */
  silence: 0.15,
  /** Rules, hooks, loggers and getters of errors throw, and handlers return nothing. */
  throwing: 0.15,
  /** The driver throws, or dies with a defect. */
  broken: 0.15,
  /** The broker refuses commits and settlements for seconds. */
  refusals: 0.15,
  /** The broker refuses some dead letters for good. */
  letters: 0.15,
  /** The dead letter channel cannot be declared when a subscription starts. */
  undeclared: 0.1,
  /** Spans are recorded by a tracer that throws. */
  tracers: 0.1,
  /** Observers stand in the chain: an audit and metrics. */
  observers: 0.2,
  /** Whether hooks and broker are told the same is checked. */
  told: 1,
  /** What an ended consumer holds is checked. */
  leaks: 1,
  /** The history is one of uneven load, and not a storm. */
  fairness: 0.06
}

export type Kind = keyof typeof kinds

/** How a history is set up; decided by its seed. */
export interface Settings {
  readonly has: { readonly [K in Exclude<Kind, "fairness">]: boolean }
  readonly lanes: Core.Lanes.Lanes
  readonly settlement: "position" | "message"
  /** Whether the broker writes dead letters by itself. */
  readonly native: boolean
  /** Whether the broker delays by itself. */
  readonly delay: boolean
  /** Milliseconds after which the broker takes an unsettled message back; undefined where it does not. */
  readonly claim: number | undefined
  readonly partitions: number
  readonly keys: number
  readonly messages: number
  readonly inFlight: { readonly messages: number; readonly bytes: number }
  readonly hold: { readonly attempts: number; readonly age: number; readonly span: number }
  /** What becomes of a message whose dead letter is refused in every form. */
  readonly refusedDeadLetter: "wait" | "drop"
  readonly grace: { readonly revoke: number; readonly drain: number }
  readonly restart: { readonly base: number; readonly cap: number }
  /** What is allowed beyond a grace: what was interrupted ends, and the broker is told the last of it. */
  readonly farewell: number
}

/** What the seed decides before anything happens. */
export const setUp = (world: Simulation.World, subject: Subject): Settings => {
  const { chance, integer, pick } = world
  const settlement = pick(["position", "message"] as const)
  const lanes = pick([
    subject.Lanes.partition,
    subject.Lanes.key(integer(1, 6)),
    subject.Lanes.key(integer(1, 6), { keyless: "partition" }),
    subject.Lanes.unordered(integer(1, 6))
  ])
  // what is switched off takes no number from the world
  const happens = (kind: Kind) => kinds[kind] > 0 && chance(kinds[kind])
  const has: Settings["has"] = {
    claims: settlement === "message" && happens("claims"),
    silence: happens("silence"),
    throwing: happens("throwing"),
    broken: happens("broken"),
    refusals: happens("refusals"),
    letters: happens("letters"),
    undeclared: happens("undeclared"),
    tracers: happens("tracers"),
    observers: happens("observers"),
    told: happens("told"),
    leaks: happens("leaks")
  }
  return {
    has,
    lanes,
    settlement,
    native: settlement === "message" && chance(0.2),
    delay: settlement === "message" && chance(0.2) && lanes._tag === "unordered",
    // a claim outlives one lost call, however slow the calls beside it are
    claim: has.claims ? pick([600, 1500]) : undefined,
    partitions: integer(1, 4),
    keys: integer(1, 6),
    messages: integer(1, 40),
    inFlight: { messages: pick([1, 2, 5, 20, 1000]), bytes: pick([1, 40, 100_000]) },
    hold: {
      attempts: pick([1, 2, 3, 6, 1000]),
      age: pick([20, 500, 1_000_000]),
      span: pick([2, 10, 1_000_000])
    },
    refusedDeadLetter: has.letters ? pick(["wait", "drop"] as const) : "wait",
    grace: { revoke: pick([0, 20, 200]), drain: pick([0, 20, 200]) },
    restart: has.refusals ? { base: pick([1, 20]), cap: pick([40, 2000]) } : { base: 1, cap: 40 },
    farewell: 6000
  }
}
