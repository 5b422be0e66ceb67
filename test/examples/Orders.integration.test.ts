import { Redacted } from "effect"
import { assert, it } from "vitest"
import { run } from "../repo/workspace.ts"
import { describeKafka, describePostgres } from "../services/describe.ts"

const main = "examples/01-orders/main.ts"

describeKafka("orders on Kafka", (kafka) => {
  describePostgres("with their audit in PostgreSQL", (postgres) => {
    // twice, since the topics and the table of the first run are there for the second
    it.each([1, 2])("F15 the same pipeline accounts for each of its messages, run %d", async (seed) => {
      const url = Redacted.value(postgres().url)
      const places = ["--broker", "kafka", "--brokers", kafka().brokers.join(","), "--audit", url]
      const { code, output } = await run(process.execPath, [main, "--orders", "2000", "--seed", `${seed}`, ...places])
      assert.include(output, "Reconciled: 2,000 published, 1,830 done, 170 dead letters, each as planned\n")
      assert.match(output, /^2,000 orders by kafka, audited in postgres(ql)?:\/\//)
      assert.notInclude(output, url)
      assert.strictEqual(code, 0)
    })
  })
})
