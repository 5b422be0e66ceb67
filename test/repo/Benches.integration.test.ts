import { assert, it } from "vitest"
import { onServers } from "../bench/benches.ts"
import { describeKafka } from "../services/describe.ts"
import { run } from "./workspace.ts"

describeKafka("benchmarks on real servers", (kafka) => {
  it.each(onServers)("%s runs, with few messages", async (name) => {
    const { code, output } = await run(process.execPath, ["test/bench/main.ts", name, "--trial"], {
      env: { ...process.env, MILLRACE_KAFKA: kafka().brokers.join(",") }
    })
    assert.strictEqual(code, 0, output)
    assert.match(output, new RegExp(`^${name}: \\d+ variants work$`, "m"))
  })
})
