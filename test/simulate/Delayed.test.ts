import { assert, describe, it } from "@effect/vitest"
import * as Core from "@millrace/core"
import { Simulation } from "@millrace/testing"
import { Effect } from "effect"
import { delayed } from "./delayed.ts"
import { grow } from "./greenhouse.ts"
import { detours } from "./plants.ts"

const seeds = 10_000
const part = 1_000

describe("X16 X3 X4 F11 delayed retries in ten thousand histories", { timeout: 120_000 }, () => {
  it.effect.each(Array.from({ length: seeds / part }, (_, i) => i * part))(
    `X16 F11 nothing is lost, comes too early or goes round for ever in a thousand seeds from %i`,
    (from) => Simulation.check(delayed(Core), { from, seeds: part })
  )

  it.effect.each(detours.map((plant) => [plant.name, plant] as const))(
    `X16 F11 %s is found within ${part} seeds`,
    ([name, plant]) =>
      Effect.gen(function*() {
        const subject = yield* Effect.promise(() => grow(plant))
        const found = yield* Effect.result(Simulation.check(delayed(subject), { seeds: part }))
        assert.strictEqual(found._tag, "Failure", `${name} is not found: it ${plant.about}`)
        if (found._tag === "Failure") console.log(`${name}: seed ${found.failure.seed}, ${found.failure.faults[0]}`)
      })
  )
})
