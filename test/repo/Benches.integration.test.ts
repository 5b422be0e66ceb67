import { assert, it } from "vitest"
import { describeKafka } from "../services/describe.ts"
import { run } from "./workspace.ts"

describeKafka("benchmarks on Kafka", (kafka) => {
  it("run, with few messages", async () => {
    const { code, output } = await run(process.execPath, ["test/bench/main.ts", "kafka", "--trial"], {
      env: { ...process.env, MILLRACE_KAFKA: kafka().brokers.join(",") }
    })
    assert.strictEqual(code, 0, output)
    assert.match(output, /^kafka: \d+ variants work$/m)
  })
})
