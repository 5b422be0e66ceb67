import { assert, describe, it } from "vitest"
import { read, sources } from "../repo/workspace.ts"
import { subjects } from "./subjects.ts"

describe("Chaos", () => {
  it("T1 comes over every broker", () => {
    const files = sources("test/chaos/*.integration.test.ts").map((file) =>
      /underChaos\("(.+)"\)/.exec(read(file))?.[1]
    )
    assert.deepStrictEqual(files.toSorted(), Object.keys(subjects).toSorted())
  })
})
