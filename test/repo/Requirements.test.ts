import { assert, describe, it } from "vitest"
import { read, sources } from "./workspace.ts"

const [, now = "", later = ""] = read("docs/requirements.md").split(/^## (?:Now|Later)$/m)

const idsOf = (table: string): ReadonlyArray<string> =>
  [...table.matchAll(/^\| ([A-Z]\d+) +\|/gm)].map(([, id = ""]) => id)

/** Ids at the head of a title, of a test or of a group of tests: `it("F13 …`, `describe("X3, X4 …`, `it.effect.prop("F12 …`. */
const title = /\b(?:it|test|describe|layer)\b([\w.]*)(?:\([^()"'`]*\))?\(\s*["'`]((?:[A-Z]\d+\b[,:]?\s*)+)/g

/** A title that starts with ids and belongs to a test that runs. */
const named = new Set(
  sources("test/*/**/*.{test,test-d}.ts", "packages/testing/src/**/*.ts").filter((file) =>
    !file.startsWith("test/repo/")
  ).flatMap((file) =>
    [...read(file).matchAll(title)]
      .filter(([, modifiers = ""]) => !/\.(?:skip|todo)\b/.test(modifiers))
      .flatMap(([, , ids = ""]) => ids.match(/[A-Z]\d+/g) ?? [])
  )
)

describe("requirements", () => {
  it("each id stands once", () => {
    const ids = [...idsOf(now), ...idsOf(later)]
    assert.isAbove(idsOf(now).length, 50)
    assert.isAbove(idsOf(now).length + idsOf(later).length, 80)
    assert.deepStrictEqual(ids.filter((id, index) => ids.indexOf(id) !== index), [])
  })

  it("each row under Now is named by a test", () => {
    assert.deepStrictEqual(idsOf(now).filter((id) => !named.has(id)), [])
  })

  it("the rows under Later that no test names are printed", () => {
    const open = idsOf(later).filter((id) => !named.has(id))
    console.log(`Open: ${open.join(" ")}`)
  })
})
