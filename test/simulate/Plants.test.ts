import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { grow, mutated } from "./greenhouse.ts"
import { plants } from "./plants.ts"
import { survey } from "./survey.ts"

const seeds = 1_000

describe("X16 planted bugs are found", { timeout: 120_000 }, () => {
  it("X16 there are at least ten, each with a name of its own", () => {
    const names = plants.map(({ name }) => name)
    assert.isAtLeast(names.length, 10)
    assert.strictEqual(new Set(names).size, names.length)
  })

  it("X16 a bug that no longer fits its source says which, and where to mend it", () => {
    const stale = { ...plants[0]!, edits: [{ ...plants[0]!.edits[0]!, find: "not there" }] }
    assert.throws(() => mutated(stale), /stands 0 times in packages\/core\/src\/.*, not once.*plants\.ts/s)
  })

  it.effect.each(plants.map((plant) => [plant.name, plant] as const))(
    `X16 %s is found within ${seeds} seeds`,
    ([name, plant]) =>
      Effect.gen(function*() {
        const subject = yield* Effect.promise(() => grow(plant))
        const found = yield* Effect.result(survey(subject, { from: 0, seeds, plant: name }))
        assert.strictEqual(found._tag, "Failure", `${name} is not found: it ${plant.about}`)
        if (found._tag !== "Failure") return
        const { faults, message, seed } = found.failure
        console.log(`${name}: seed ${seed}, ${faults[0]}`)
        assert.include(message, `again: npx -y pnpm@12 simulate --seed ${seed} --plant ${name}`)
      })
  )
})
