import type * as Core from "@millrace/core"
import type { Simulation } from "@millrace/testing"

/** The code under test: the real core, or a copy with a bug planted in it. */
export type Subject = typeof Core

/** How a history is set up; decided by its seed. */
export interface Settings {
  readonly lanes: Core.Lanes.Lanes
  readonly settlement: "position" | "message"
  /** Whether the broker writes dead letters by itself. */
  readonly native: boolean
  /** Whether the broker delays by itself. */
  readonly delay: boolean
  readonly partitions: number
  readonly keys: number
  readonly messages: number
  readonly inFlight: { readonly messages: number; readonly bytes: number }
  readonly hold: { readonly attempts: number; readonly age: number; readonly span: number }
  readonly grace: { readonly revoke: number; readonly drain: number }
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
  return {
    lanes,
    settlement,
    native: settlement === "message" && chance(0.2),
    delay: settlement === "message" && chance(0.2) && lanes._tag === "unordered",
    partitions: integer(1, 4),
    keys: integer(1, 6),
    messages: integer(1, 40),
    inFlight: { messages: pick([1, 2, 5, 20, 1000]), bytes: pick([1, 40, 100_000]) },
    hold: {
      attempts: pick([1, 2, 3, 6, 1000]),
      age: pick([20, 500, 1_000_000]),
      span: pick([2, 10, 1_000_000])
    },
    grace: { revoke: pick([0, 20, 200]), drain: pick([0, 20, 200]) },
    farewell: 6000
  }
}
