import { layer } from "@effect/vitest"
import { type Audit, type DeadLetters, Delivery, Description, Headers, type Reader } from "@millrace/core"
import { Effect } from "effect"
import { spawn } from "node:child_process"
import { assert, describe, it } from "vitest"
import { generate, type Planned } from "@millrace/examples/01-orders/generator.ts"
import { fulfilment } from "@millrace/examples/01-orders/pipeline.ts"
import { type Happened, reconcile } from "@millrace/examples/01-orders/reconcile.ts"
import { verdict } from "@millrace/examples/01-orders/report.ts"
import { layerIssuer } from "@millrace/examples/01-orders/tokens.ts"
import { root, run } from "../repo/workspace.ts"

const main = "examples/01-orders/main.ts"

describe("orders", { timeout: 120_000 }, () => {
  it("F15, T17 a run accounts for each of its messages", async () => {
    const { code, output } = await run(process.execPath, [main, "--orders", "1000", "--seed", "7"])
    assert.include(output, "Reconciled: 1,000 published, 915 done, 85 dead letters, each as planned\n")
    assert.match(output, /^ +1,000 {2}received\n +915 {2}done\n +30 {2}retried in place\n +\d+ {2}delayed/m)
    assert.match(output, /^ +15 {4}Unauthorized: The credential was refused: expired$/m)
    assert.match(output, /^ +10 {4}PaymentFailed: No answer from the payment provider$/m)
    assert.match(output, /^ {2}handled in [\d.]+ ms \(p50\), [\d.]+ ms \(p95\), [\d.]+ ms \(p99\)$/m)
    assert.match(
      output,
      /^ {2}publish orders .*\n {2}└ process orders .*\n {4}├ placeOrder .*attempt 1, PaymentFailed\n/m
    )
    assert.notInclude(output, "\x1b")
    assert.strictEqual(code, 0)
  })

  it("X7 draws its own pipeline, from the outside in", () => {
    assert.deepStrictEqual(Description.of(fulfilment).map(({ name }) => name), [
      "Trace",
      "Audit",
      "Metrics",
      "DeadLetter",
      "Auth",
      "RateLimit",
      "Decode",
      "Retry",
      "placeOrder"
    ])
  })

  it("help names every option", async () => {
    const { code, output } = await run(process.execPath, [main, "--help"])
    for (const option of ["--broker", "--brokers", "--audit", "--orders", "--seed"]) assert.include(output, option)
    assert.strictEqual(code, 0)
  })

  it.each([
    [["--orders", "3"], "an integer from 100 to 1000000"],
    [["--brokers", "localhost:1"], "--brokers needs --broker kafka"],
    [["--broker", "pigeon"], "memory"],
    [["--broker", "kafka", "--brokers", "nowhere"], "nowhere"],
    [["--audit", "/no/such/folder/audit.db"], "make its folder"]
  ])("%j is refused in a sentence", async (args, sentence) => {
    const { code, output } = await run(process.execPath, [main, ...args])
    assert.include(output, sentence)
    assert.notMatch(output, /^ +at /m)
    assert.strictEqual(code, 1)
  })

  it.each(["SIGINT", "SIGTERM"] as const)(
    "X4 a run that %s ends drains, and exits as one that ended in order",
    async (signal) => {
      const child = spawn(process.execPath, [main], { cwd: root })
      let output = ""
      child.stdout.on("data", (chunk: Buffer) => {
        output += chunk.toString()
        // once: a second one would not wait for the drain
        if (output.includes("settled") && !child.killed) child.kill(signal)
      })
      const code = await new Promise((closed) => child.once("close", closed))
      assert.match(output, /\nStopped: what was running is finished, the rest stays with the broker\n$/)
      assert.notInclude(output, "Reconciled")
      assert.strictEqual(code, 0)
    }
  )
})

layer(layerIssuer)("the plan of a run", (it) => {
  it.effect("is the same for the same seed, and holds every kind", () =>
    Effect.gen(function*() {
      const plan = yield* generate({ orders: 1000, seed: 7, run: "a" })
      const again = yield* generate({ orders: 1000, seed: 7, run: "a" })
      const other = yield* generate({ orders: 1000, seed: 8, run: "a" })
      const shape = (all: ReadonlyArray<Planned>) => all.map(({ body, id, kind }) => [id, kind, `${body}`])
      assert.deepStrictEqual(shape(plan), shape(again))
      assert.notDeepEqual(shape(plan), shape(other))
      assert.strictEqual(new Set(plan.map(({ kind }) => kind)).size, 9)
      assert.strictEqual(new Set(plan.map(({ id }) => id)).size, 1000)
    }))
})

const reader: Reader<null> = {
  key: () => undefined,
  keyBytes: () => undefined,
  headers: () => Headers.empty,
  fields: () => [],
  timestamp: () => undefined
}

const letter = (planned: Planned, changes: Partial<DeadLetters.DeadLetter> = {}): DeadLetters.DeadLetter => ({
  delivery: new Delivery(
    { system: "memory", channel: "orders.dead-letters", group: "", partition: 0, handler: "", holdLimit: Infinity },
    reader as Reader<never>,
    null as never,
    0,
    planned.body,
    1,
    false
  ),
  channel: "orders",
  partition: 0,
  position: 0,
  timestamp: undefined,
  group: "fulfilment",
  handler: "placeOrder",
  attempts: 1,
  errorType: "Unauthorized",
  errorMessage: "The credential was refused: expired (exp)",
  at: 0,
  passes: 1,
  omitted: [],
  ...changes
})

const row = (changes: Partial<Audit.Row> = {}): Audit.Row => ({
  id: "1",
  kind: "consumer",
  channel: "orders",
  partition: 0,
  position: 0,
  key: undefined,
  body: undefined,
  handler: "placeOrder",
  attempt: 1,
  startedAt: 0,
  completedAt: 0,
  duration: 0,
  status: "done",
  errorTag: undefined,
  errorMessage: undefined,
  ...changes
})

const planned = (id: string, fate: Planned["fate"]): Planned => ({
  id,
  kind: "good",
  key: "ada",
  headers: {},
  body: new TextEncoder().encode(id),
  fate
})

const good = planned("good", { _tag: "Done", calls: 3 })
const bad = planned("bad", { _tag: "Dead", calls: 0, errorType: "Unauthorized", says: "expired" })
const dead = row({ status: "deadLettered", errorTag: "Unauthorized" })

/** What the witnesses see when all is as planned, but for the changes. */
const happened = (changes: Partial<Happened> = {}): Happened => ({
  charges: new Map([["good", { calls: 3, charged: 1 }]]),
  letters: new Map([["bad", [letter(bad)]]]),
  rows: new Map([["good", [row()]], ["bad", [dead]]]),
  ...changes
})

const rows = (of: string, ...found: ReadonlyArray<Audit.Row>) => ({ rows: new Map([...happened().rows, [of, found]]) })
const letters = (of: string, ...found: ReadonlyArray<DeadLetters.DeadLetter>) => ({
  letters: new Map([...happened().letters, [of, found]])
})
const charges = (of: string, calls: number, charged: number) => ({
  charges: new Map([...happened().charges, [of, { calls, charged }]])
})

describe("reconcile", () => {
  it("finds nothing where all is as planned", () => {
    assert.deepStrictEqual(reconcile([good, bad], happened()), [])
  })

  it.each<[what: string, of: string, Partial<Happened>, says: RegExp]>([
    ["a message that was never handled", "good", { charges: new Map() }, /tried 0 times, not 3 times/],
    ["a message that was handled twice", "good", charges("good", 4, 2), /charged 2 times, not once/],
    ["a charge without a token", "bad", charges("bad", 1, 1), /charged once, not 0 times/],
    ["a lost dead letter", "bad", { letters: new Map() }, /0 times among the dead letters, not once/],
    ["a dead letter too many", "good", letters("good", letter(good)), /once among the dead letters, not 0 times/],
    ["a dead letter twice", "bad", letters("bad", letter(bad), letter(bad)), /2 times among/],
    ["another type of error", "bad", letters("bad", letter(bad, { errorType: "DecodeError" })), /says "DecodeError/],
    ["another reason", "bad", letters("bad", letter(bad, { errorMessage: "missing" })), /says "Unauthorized: missing"/],
    ["a changed body", "bad", letters("bad", letter(good)), /not the body that was published/],
    ["a lost audit row", "good", rows("good"), /has 0 audit rows/],
    ["an audit row twice", "good", rows("good", row(), row()), /has 2 audit rows/],
    ["another status", "good", rows("good", row({ status: "retried" })), /says retried, not done/],
    ["another error", "bad", rows("bad", row({ ...dead, errorTag: "Busy" })), /says Busy, not Unauthorized/],
    ["a secret", "good", rows("good", row({ body: "{\"card\":\"4242 4242 4242 4242\"" })), /shows a card number/],
    ["a stranger", "who", rows("who", row()), /never published/]
  ])("finds %s", (_, of, changes, says) => {
    const differences = reconcile([good, bad], happened(changes))
    assert.isAbove(differences.length, 0)
    for (const { id } of differences) assert.strictEqual(id, of)
    assert.match(differences.map(({ what }) => what).join("\n"), says)
    assert.match(verdict([good, bad], differences), /Not reconciled: 1 of 2 messages differ\n {2}\w+: /)
  })
})
