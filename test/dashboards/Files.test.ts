import { readdirSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "vitest"
import { read, root, sources } from "../repo/workspace.ts"
import { files, folder } from "./files.ts"
import { dashboard } from "./Grafana.ts"
import { rows } from "./Panels.ts"
import { alerts } from "./Rules.ts"

/** The metrics that the documentation lists. */
const documented = (): ReadonlyArray<string> =>
  read("docs/telemetry.md").split("\n")
    .filter((line) => /^\| `(?:messaging|http|millrace)\./.test(line))
    .flatMap((line) => Array.from((line.split("|")[1] ?? "").matchAll(/`([^`]+)`/g), ([, name = ""]) => name))

/** Labels, and attributes and events of spans, have names like those of metrics. */
const attributes =
  /^(?:messaging\.(?:batch|consumer|destination|kafka|message|operation|rabbitmq|system)|http\.(?:request|response|route)|millrace\.(?:correlation|dead_letter$|redelivery|retry\.|status|subscription))/

/** The metrics that core and http name in their code. */
const named = (): ReadonlyArray<string> => [
  ...new Set(
    sources("packages/{core,http}/src/**/*.ts").flatMap((file) =>
      Array.from(
        read(file).matchAll(/(?<![*`\w].{0,200})"((?:messaging|http|millrace)\.[a-z_.]+)"/g),
        ([, name = ""]) => name
      )
    ).filter((name) => !attributes.test(name))
  )
]

const underscored = (metric: string): string => metric.replaceAll(".", "_")

describe("dashboards and rules", () => {
  it("the files are those that the command writes", () => {
    for (const [name, content] of Object.entries(files)) {
      assert.strictEqual(read(`${folder}/${name}`), content, `run: npx -y pnpm@12 dashboards`)
    }
  })

  it("H22 each metric is documented and has a panel, and no panel or alert reads another", () => {
    const shown = rows.flatMap(({ panels }) => panels.flatMap(({ metrics }) => metrics))
    const all = [...new Set(documented())].sort()
    assert.isAbove(all.length, 20)
    assert.deepStrictEqual([...new Set(shown)].sort(), all)
    assert.deepStrictEqual([...named()].filter((name) => !all.includes(name)), [])
    for (const { metrics, name } of alerts) assert.includeMembers(all, [...metrics], name)
  })

  it("H22 each query reads the metrics that its panel or alert names", () => {
    const all = documented().map(underscored)
    const readBy = (expr: string) =>
      all.filter((metric) => new RegExp(`\\b${metric}(?:_bucket|_count|_sum)?\\b`).test(expr)).sort()
    for (const { metrics, queries, title } of rows.flatMap(({ panels }) => panels)) {
      const found = new Set(queries.flatMap(({ expr }) => readBy(expr)))
      assert.deepStrictEqual([...found].sort(), metrics.map(underscored).sort(), title)
    }
    for (const { expr, metrics, name } of alerts) {
      // an alert on a recorded ratio names the metrics that the recording reads
      if (!/\bmillrace:/.test(expr)) assert.deepStrictEqual(readBy(expr), metrics.map(underscored).sort(), name)
    }
  })

  it("H22 each alert has a runbook with meaning, impact, diagnosis and mitigation, and each runbook an alert", () => {
    const pages = readdirSync(join(root, "docs/runbooks")).filter((file) => file !== "README.md")
    assert.deepStrictEqual(pages.sort(), alerts.map(({ name }) => `${name}.md`).sort())
    for (const { name, severity } of alerts) {
      const page = read(`docs/runbooks/${name}.md`)
      assert.include(page, `# ${name}\n`)
      assert.include(page, severity)
      for (const title of ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]) {
        assert.include(page, title, name)
      }
    }
  })

  it("H22 Grafana finds the data source by a variable, and panels do not overlap", () => {
    const text = JSON.stringify(dashboard)
    assert.notMatch(text, /DS_PROMETHEUS|__inputs/)
    const ids = dashboard.panels.map(({ id }) => id)
    assert.strictEqual(new Set(ids).size, ids.length)
    const cells = dashboard.panels.flatMap(({ gridPos: { h, w, x, y } }) =>
      Array.from({ length: h * w }, (_, i) => `${x + (i % w)},${y + Math.floor(i / w)}`)
    )
    assert.strictEqual(new Set(cells).size, cells.length)
  })
})
