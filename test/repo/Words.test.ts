import { assert, describe, it } from "vitest"
import { read, sources } from "./workspace.ts"

/** Subjects that hide the noun; a reader has to guess which message, client or broker is meant. */
const vague = "what|who|whoever|whatever|nobody|somebody"

/** The prose of a page: without code, and without the addresses of links. */
const proseOf = (text: string): string =>
  text.replace(/```[\s\S]*?```/g, "").replace(/`[^`\n]*`/g, "x").replace(/\]\([^)]*\)/g, "]")

/** Sentences, cells of tables, headings and points of lists. */
const sentencesOf = (prose: string): ReadonlyArray<string> =>
  prose.split(/(?<=[.!?:])\s+|\n\s*\n|\||\n[-*#>]|\n\d+\. /)
    .map((sentence) => sentence.replace(/^[\s*_#>-]+/, ""))
    .filter((sentence) => /[A-Za-z]{2,}/.test(sentence))

const countsOf = (text: string) => {
  const prose = proseOf(text)
  const words = prose.match(/[A-Za-z][A-Za-z'’-]*/g)?.length ?? 0
  const sentences = sentencesOf(prose)
  const begin = sentences.filter((sentence) => new RegExp(`^(?:${vague})\\b`, "i").test(sentence))
  return {
    perThousand: 1000 * (prose.match(new RegExp(`\\b(?:${vague})\\b`, "gi"))?.length ?? 0) / Math.max(words, 1),
    begin: begin.length / Math.max(sentences.length, 1),
    first: begin[0]
  }
}

describe("words", () => {
  it("are counted in prose only, and sentences where they begin", () => {
    const { begin, first, perThousand } = countsOf(
      "Unsettled messages are redelivered.\n\n- What waits, waits. `what`\n"
    )
    assert.deepStrictEqual([begin, first, perThousand], [1 / 2, "What waits, waits.", 125])
    assert.strictEqual(countsOf("```ts\n// what\n```\n[page](what.md)").perThousand, 0)
  })

  it("no row of a page's tables stands twice in one section, as merges leave them", () => {
    const twice = sources("README.md", "docs/*.md").flatMap((file) =>
      read(file).split(/^#+ /m).flatMap((section) => {
        const rows = section.split("\n").filter((line) => line.startsWith("|")).map((line) => line.replace(/\s+/g, " "))
        return rows.filter((row, i) => /[a-z]/i.test(row) ? rows.indexOf(row) !== i : row === rows[i - 1]).map((row) =>
          `${file}: ${row}`
        )
      })
    )
    assert.deepStrictEqual(twice, [])
  })

  for (const file of sources("README.md", "docs/**/*.md")) {
    it(`${file} names its subjects`, () => {
      const { begin, first, perThousand } = countsOf(read(file))
      assert.isAtMost(perThousand, 3, `${vague} for each 1,000 words`)
      assert.isBelow(begin, 0.01, `sentences that begin so, e.g. "${first}"`)
    })
  }
})
