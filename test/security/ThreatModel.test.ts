import { existsSync, readFileSync } from "node:fs"
import { assert, describe, it } from "vitest"

const at = (path: string): URL => new URL(`../../${path}`, import.meta.url)

describe("the threat model", () => {
  it("names a test that is there in each line", () => {
    const [, table = ""] = /^## Entrances[^\n]*\n+([\s\S]*?)\n\n/m.exec(readFileSync(at("docs/security.md"), "utf8")) ??
      []
    const rows = table.split("\n").slice(2).map((row) => row.split("|").slice(1, -1).map((cell) => cell.trim()))
    assert.isAbove(rows.length, 15)
    for (const [entrance, attack, , tests = ""] of rows) {
      const files = [...tests.matchAll(/`([^`]+)`/g)].map(([, file = ""]) => file)
      assert.isNotEmpty(files, `${entrance}: ${attack}`)
      for (const file of files) assert.isTrue(existsSync(at(`test/${file}`)), file)
    }
  })
})
