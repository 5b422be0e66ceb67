import { assert, describe, it } from "vitest"
import { packages, read, readJson, sources } from "./workspace.ts"

describe("packages and workflows", () => {
  it.each(packages)("%s tells a registry's reader what it is and where it comes from", (name) => {
    const found = readJson(`packages/${name}/package.json`)
    assert.strictEqual(found.license, "MIT")
    assert.include(found.keywords, "effect")
    assert.deepStrictEqual(found.repository, {
      ...readJson("packages/core/package.json").repository,
      directory: `packages/${name}`
    })
    assert.include(found.homepage, `/packages/${name}#readme`)
    const readme = read(`packages/${name}/README.md`)
    assert.match(readme, new RegExp(`^# @millrace/${name}\n`))
    const install = /^npm install .*$/m.exec(readme)?.[0] ?? ""
    const { "@millrace/core": _, ...peers } = found.peerDependencies
    const optional = Object.keys(found.peerDependenciesMeta ?? {})
    for (const peer of Object.keys(peers)) {
      if (!optional.includes(peer)) assert.include(readme, peer, `the README of ${name} does not install its peer`)
    }
    assert.include(install, `@millrace/${name}`)
  })

  it("all packages are released together, with one version", () => {
    assert.deepStrictEqual(readJson(".changeset/config.json").fixed, [packages.map((name) => `@millrace/${name}`)])
    assert.strictEqual(new Set(packages.map((name) => readJson(`packages/${name}/package.json`).version)).size, 1)
  })

  it("workflows run actions of one commit each, with the version beside it", () => {
    const uses = sources(".github/workflows/*.yml").flatMap((file) =>
      [...read(file).matchAll(/^.*\buses:.*$/gm)].map(([line]) => `${file}: ${line.trim()}`)
    )
    assert.isNotEmpty(uses)
    assert.deepStrictEqual(
      uses.filter((line) => !/uses: [\w.-]+\/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/.test(line)),
      []
    )
  })
})
