/**
 * Every option that is a duration or a count is checked, and refuses what it cannot be with a sentence that names module and
 * option. The options are found in the sources: a new one without a line here fails the first test.
 */
import { Cause, Effect, Exit, Layer } from "effect"
import { assert, describe, it } from "vitest"
import { made } from "./optionCases.ts"
import { others } from "./otherFields.ts"
import { read, sources } from "./workspace.ts"

const isOther = (file: string, field: string): boolean =>
  Object.keys(others).some((name) => name === `${file}: ${field}` || (!name.includes(":") && file.startsWith(name)))

/** Fields of the sources that are durations or optional numbers, as `file: field`. */
const found = (): ReadonlyArray<string> => {
  const all = new Set<string>()
  for (const path of sources("packages/*/src/**/*.ts")) {
    const file = path.replace("packages/", "")
    const code = read(path)
    const fields = [
      ...code.matchAll(/readonly (\w+)\??: (?!\()[^\n=]*\bDuration\.Input\b/g),
      ...code.matchAll(/readonly (\w+)\?: number \| undefined/g),
      ...code.matchAll(/readonly (characters): number\b/g)
    ]
    for (const [, field = ""] of fields) if (!isOther(file, field)) all.add(`${file}: ${field}`)
  }
  return [...all].sort()
}

const at = (base: object, path: ReadonlyArray<string>, value: unknown): object => {
  const [name = "", ...rest] = path
  const inner: unknown = Reflect.get(base, name)
  return {
    ...base,
    [name]: rest.length === 0 ? value : at(typeof inner === "object" && inner !== null ? inner : {}, rest, value)
  }
}

/** What a constructor says of its options: at once, or when its effect or layer runs. */
const said = async (make: () => unknown): Promise<string> => {
  try {
    const value = make()
    const effect: unknown = Layer.isLayer(value) ? Layer.build(value) : value
    if (!Effect.isEffect(effect)) return "nothing"
    const exit = await Effect.runPromiseExit(Effect.scoped(effect as Effect.Effect<unknown>))
    return Exit.isSuccess(exit) ? "nothing" : String(Cause.squash(exit.cause))
  } catch (error) {
    return String(error)
  }
}

const words = ["5 bananas", "5", ""] as const
const wrongNumbers: ReadonlyArray<unknown> = [Number.NaN, -1, Infinity, ...words, true, {}]

describe("options", () => {
  it("every duration and every count of the sources is tried here", () => {
    const tried = Object.entries(made).flatMap(([file, constructors]) =>
      constructors.flatMap(({ durations = [], numbers = [] }) =>
        [...durations, ...numbers].map((path) => `${file}: ${path.split(".").at(-1)}`)
      )
    )
    // required counts are tried, and not found
    const known = new Set(["core/src/pipeline/Batch.ts: size", "redis/src/internal/client/Publisher.ts: replicas"])
    assert.deepStrictEqual([...new Set(tried)].filter((each) => !known.has(each)).sort(), found())
  })

  for (const [file, constructors] of Object.entries(made)) {
    it(`${file} refuses what an option cannot be, by module and option`, async () => {
      const wrong: Array<string> = []
      for (const { base = {}, durations = [], endless = [], make, numbers = [] } of constructors) {
        for (const path of [...durations, ...numbers]) {
          for (const value of wrongNumbers) {
            if (value === Infinity && endless.includes(path)) continue
            const sentence = await said(() => make(at(base, path.split("."), value) as never))
            const name = path.split(".").at(-1)!
            const names = new RegExp(`^(?:\\w+: )?[A-Z]\\w+(?:\\.\\w+)?: .*\\b${name}\\b.* must be .*, got `)
            if (!names.test(sentence)) wrong.push(`${path} = ${String(value)}: ${sentence}`)
          }
        }
      }
      assert.deepStrictEqual(wrong, [])
    })
  }
})
