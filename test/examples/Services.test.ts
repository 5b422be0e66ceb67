import { spawn } from "node:child_process"
import { setTimeout as sleep } from "node:timers/promises"
import { assert, describe, it } from "vitest"
import { root, run } from "../repo/workspace.ts"

const main = "examples/03-services/main.ts"

/** Runs it until its output fits, ends it by a signal, and answers all of it. */
const until = async (args: ReadonlyArray<string>, fits: RegExp, signal: NodeJS.Signals) => {
  const child = spawn(process.execPath, [main, ...args], { cwd: root })
  let output = ""
  child.stdout.on("data", (chunk) => output += chunk)
  child.stderr.on("data", (chunk) => output += chunk)
  const ended = new Promise<number | null>((resolve) => child.on("close", resolve))
  try {
    for (let waited = 0; !fits.test(output) && waited < 60_000; waited += 50) await sleep(50)
    child.kill(signal)
    const code = await ended
    return { output, code }
  } finally {
    child.kill("SIGKILL")
  }
}

describe("several services in one process", { timeout: 120_000 }, () => {
  it("T7 T8 T17 each reads what is its own, a slow one delays no other, and SIGTERM ends them in order", async () => {
    const { code, output } = await until(["--rate", "100"], /mail: [1-9]\d* done, [1-9]\d+ behind/, "SIGTERM")
    assert.match(output, /statistics: \d+ orders placed, [1-9]\d* cancelled/)
    assert.match(output, /approvals: order \d+ over 9\d\d needs a second look/)
    assert.match(output, /bill: [1-9]\d+ done, \d behind/)
    assert.match(
      output,
      /Stopping: what was begun is finished\n[^]*Stopped: what had not begun stays with the broker\n$/
    )
    assert.notMatch(output, /level=(WARN|ERROR)/i)
    assert.strictEqual(code, 0)
  })

  it("T7 some of them run alone, until Ctrl-C", async () => {
    const { code, output } = await until(["--only", "billing", "--only", "producer"], /bill: [1-9]\d* done/, "SIGINT")
    assert.notMatch(output, /statistics|mail:/)
    assert.strictEqual(code, 0)
  })

  it("help names every service, and a wrong name is refused", async () => {
    const help = await run(process.execPath, [main, "--help"])
    assert.match(help.output, /billing, approvals, mailer, statistics, producer/)
    const wrong = await run(process.execPath, [main, "--only", "pigeons"])
    assert.include(wrong.output, "billing")
    assert.notStrictEqual(wrong.code, 0)
  })
})
