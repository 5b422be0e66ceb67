import { BrokerContract } from "@millrace/testing"
import { assert, describe, expect, it } from "vitest"
import type { Row } from "../services/row.ts"
import { read, readJson, sources } from "./workspace.ts"

const rows: ReadonlyArray<Row> = sources("test/repo/brokers/*.json").map((file) => readJson(file))

const table = (head: ReadonlyArray<string>, body: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = head.map((_, i) => Math.max(...[head, ...body].map((row) => row[i]!.length)))
  const line = (row: ReadonlyArray<string>) => `| ${row.map((cell, i) => cell.padEnd(widths[i]!)).join(" | ")} |`
  return [line(head), line(widths.map((width) => "-".repeat(width))), ...body.map(line)].join("\n")
}

const word = (value: unknown): string =>
  value === true
    ? "yes"
    : value === false
    ? "no"
    : Array.isArray(value)
    ? value.join(", ")
    : String(value ?? "any")

const titles: Record<string, string> = {
  settlement: "acknowledges by",
  ordering: "keeps order within a",
  redelivery: "delivers again what was not acknowledged",
  attempts: "counts deliveries",
  delay: "delays retries itself",
  deadLetter: "writes dead letters itself",
  groups: "groups share a channel",
  fanOut: "several groups each get all of a channel",
  replay: "a new group gets what was there before",
  retention: "messages stay when they are done",
  persistence: "messages outlive its process",
  browse: "can be browsed",
  tombstones: "has null bodies",
  partitions: "publishers choose partitions",
  timestamps: "keeps a publisher's timestamp in",
  patterns: "subscriptions by pattern",
  lag: "counts how far a group is behind",
  transactions: "transactions",
  maximumBytes: "longest body in bytes",
  instructions: "headers that it obeys"
}

const features = (): string =>
  table(
    ["", ...rows.map(({ name }) => name)],
    Object.entries(titles).map(([name, title]) =>
      [title].concat(
        rows.map(({ capabilities }) => word(capabilities[name] ?? (name === "instructions" ? "none" : undefined)))
      )
    )
  )

const scenarios = (): string =>
  table(
    ["scenario", "rows", ...rows.map(({ name }) => name)],
    BrokerContract.scenarios.map(({ id, rows: proved }) => [
      id,
      proved.join(" "),
      ...rows.map(({ lacks }) => {
        const lacking = lacks[id]
        return lacking === undefined ? "?" : lacking.length === 0 ? "kept" : `no ${lacking.join(", ")}`
      })
    ])
  )

const mark = "<!-- what follows is written by test/repo/Brokers.test.ts from what the contract has shown -->"

describe("T1 X5 the table of brokers", () => {
  it("T1 X5 docs/brokers.md has what every suite has shown, last time it ran", async () => {
    const [prose = ""] = read("docs/brokers.md").split(mark)
    const generated = `## What each can do\n\n${features()}\n\n## What each has shown\n\n${scenarios()}\n`
    await expect(`${prose}${mark}\n\n${generated}`).toMatchFileSnapshot("../../docs/brokers.md")
  })

  it("X5 every scenario was run on every broker", () => {
    const ids = BrokerContract.scenarios.map(({ id }) => id)
    for (const { lacks, name } of rows) assert.deepStrictEqual(Object.keys(lacks), ids, name)
  })
})
