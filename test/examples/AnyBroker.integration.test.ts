import { spawn } from "node:child_process"
import { assert, describe, it } from "vitest"
import { names } from "@millrace/examples/02-any-broker/brokers.ts"
import { root, run } from "../repo/workspace.ts"

const main = "examples/02-any-broker/main.ts"

describe("the same program on every broker", { timeout: 120_000 }, () => {
  it.each(names)("T1 T17 --broker %s charges or declines each of its orders", async (name) => {
    const { code, output } = await run(process.execPath, [main, "--broker", name, "--orders", "500"])
    assert.include(output, "500 orders are published and confirmed\n")
    assert.include(
      output,
      "480 were charged, 40 of them at the second attempt; 20 were declined and are dead letters\n"
    )
    assert.strictEqual(code, 0)
  })

  it.each(["SIGINT", "SIGTERM"] as const)("T8 %s ends it in order, with exit code 0", async (signal) => {
    const child = spawn(process.execPath, [main, "--orders", "100000"], { cwd: root })
    let output = ""
    const read = (chunk: Buffer) => {
      output += chunk.toString()
      if (output.includes("100000 orders are published") && !child.killed) child.kill(signal)
    }
    child.stdout.on("data", read)
    child.stderr.on("data", read)
    const code = await new Promise((closed) => child.once("close", closed))
    assert.notInclude(output, "were charged")
    assert.strictEqual(code, 0)
  })

  it("T9 a broker that does not answer, and one that refuses the password, are named in a sentence without it", async () => {
    const places = [
      ["kafka", "127.0.0.1:1"],
      ["redis", "redis://me:hunter2@127.0.0.1:1"],
      [
        "rabbitmq",
        "amqp://me:hunter2@127.0.0.1:1"
      ],
      ["nats", "nats://me:hunter2@127.0.0.1:1"],
      ["mqtt", "mqtt://me:hunter2@127.0.0.1:1"]
    ] as const
    for (const [name, url] of places) {
      const { code, output } = await run(process.execPath, [main, "--broker", name, "--url", url])
      assert.match(output, /127\.0\.0\.1:1/, name)
      assert.notInclude(output, "hunter2", name)
      assert.notMatch(output, /^ +at /m, name)
      assert.strictEqual(code, 1, name)
    }
  })
})
