import { assert, describe, it } from "@effect/vitest"
import * as Core from "@millrace/core"
import { Effect } from "effect"
import { Coverage, survey } from "./survey.ts"

const seeds = 10_000
const part = 1_000
// Beyond what chance could leave out, far below what ten thousand histories see.
const least = 50
const coverage = new Coverage()

describe("X16 the settlement rules hold in ten thousand histories", { timeout: 120_000 }, () => {
  it.effect.each(Array.from({ length: seeds / part }, (_, i) => i * part))(
    `X16 a thousand seeds from %i`,
    (from) => survey(Core, { from, seeds: part }, coverage)
  )

  it.effect("X16 every rule was put to the test, and everything that can go wrong did", () =>
    Effect.sync(() => {
      console.log(coverage.print())
      assert.deepStrictEqual(coverage.rare(least), [])
    }))
})
