/**
 * The simulation as tests of the core: the shorter ranges come first, since most mutants need few seeds.
 */
import * as Core from "@millrace/core"
import { Simulation } from "@millrace/testing"
import { describe, it } from "@effect/vitest"
import { delayed } from "../simulate/delayed.ts"
import { survey } from "../simulate/survey.ts"

const ranges = [[0, 10], [10, 60], [60, 200], [200, 500]] as const

describe("histories", () => {
  for (const [from, to] of ranges) {
    it.effect(`seeds ${from} to ${to}`, () => survey(Core, { from, seeds: to - from }))
    it.effect(`delayed retries, seeds ${from} to ${to}`, () =>
      Simulation.check(delayed(Core), { from, seeds: to - from }))
  }
})
