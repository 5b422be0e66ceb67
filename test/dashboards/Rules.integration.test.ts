import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, describe, it } from "vitest"
import { root, run } from "../repo/workspace.ts"
import { type Case, cases } from "./cases.ts"
import { folder } from "./files.ts"
import { rows } from "./Panels.ts"
import { alerts } from "./Rules.ts"

const home = mkdtempSync(join(tmpdir(), "millrace-rules-"))
afterAll(() => rmSync(home, { recursive: true, force: true }))

const rules = join(root, folder, "prometheus-rules.yml")

const promtool = async (...args: ReadonlyArray<string>): Promise<string> => {
  const { code, output } = await run("promtool", args)
  assert.strictEqual(code, 0, output)
  return output
}

/** A test of promtool: the series of one case, and whether the alert fires with them. */
const unit = (alert: string, { at, input }: Case, name: string) => ({
  interval: "1m",
  name: `${alert} ${name}`,
  input_series: Object.entries(input).map(([series, values]) => ({ series, values })),
  // promtool compares labels, which are not the subject: it prints what fired, and the test reads that
  alert_rule_test: [{ eval_time: at, alertname: alert, exp_alerts: [] }]
})

describe("rules of Prometheus", () => {
  it("H22 promtool accepts the rules", async () => {
    assert.include(await promtool("check", "rules", rules), "SUCCESS")
  })

  it("H22 promtool parses each query of the dashboard", async () => {
    const file = join(home, "queries.yml")
    const queries = rows.flatMap(({ panels }) => panels.flatMap(({ queries }) => queries))
    const parsed = queries.map(({ expr }, i) => ({
      record: `query:${i}`,
      expr: expr.replaceAll("$__rate_interval", "1m").replaceAll(/\$(?:job|group)/g, ".+")
    }))
    writeFileSync(file, JSON.stringify({ groups: [{ name: "queries", rules: parsed }] }))
    assert.include(await promtool("check", "rules", file), `${queries.length} rules found`)
  })

  it("H22 each alert fires with series that deserve it, and not with ones close to them", async () => {
    assert.deepStrictEqual(Object.keys(cases).sort(), alerts.map(({ name }) => name).sort())
    const all = (pick: "fires" | "quiet") =>
      JSON.stringify({
        rule_files: [rules],
        tests: alerts.map(({ name }) => unit(name, (cases[name] ?? assert.fail(name))[pick], pick))
      })
    writeFileSync(join(home, "quiet.yml"), all("quiet"))
    await promtool("test", "rules", join(home, "quiet.yml"))
    writeFileSync(join(home, "fires.yml"), all("fires"))
    const { output } = await run("promtool", ["test", "rules", join(home, "fires.yml")])
    for (const { name } of alerts) {
      const [, fired = assert.fail(`${name} does not fire\n${output}`)] =
        new RegExp(`got:\\[\\s*\\d+:\\s*Labels:\\{alertname="${name}"([^]*?)\\n\\s*\\]`).exec(output) ?? []
      const [, summary = ""] = /summary="((?:[^"\\\\]|\\\\.)*)"/.exec(fired) ?? []
      assert.isAbove(summary.length, 10, fired)
      // a label that the alert does not have is an empty text in its summary
      assert.notMatch(
        summary,
        /<no value>|  |^ | $|\b(?:of|for|check|limit|breaker|to)(?: do\b| is\b| does\b| has\b|:|$)/,
        fired
      )
    }
  }, 60_000)
})
