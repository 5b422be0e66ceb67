import { assert, it } from "vitest"
import { run } from "../repo/workspace.ts"
import { describeKafka } from "../services/describe.ts"

const main = "examples/08-payloads/main.ts"

describeKafka("payloads", (kafka) => {
  it("F10 F14 X13 Avro by a registry, compressed, encrypted and claimed, on Kafka", { timeout: 120_000 }, async () => {
    const { code, output } = await run(process.execPath, [main, "--url", kafka().brokers.join(",")])
    assert.strictEqual(code, 0, output)
    for (
      const line of [
        "invoice-1: read, 100 of customer 0, attachment of 0 bytes",
        "invoice-5: read, 500 of customer 0, attachment of 3000000 bytes"
      ]
    ) {
      assert.include(output, line)
    }
    const held = [...output.matchAll(/^customer \d: (\d+) bytes in the broker(, a reference)?$/gm)]
    assert.strictEqual(held.length, 5)
    // above the threshold of 64 KiB the broker holds a reference
    assert.deepStrictEqual(held.filter(([, , isReference]) => isReference !== undefined).length, 2)
    assert.isTrue(held.every(([, bytes]) => Number(bytes) < 65_536))
    assert.include(output, "A changed body became a dead letter: The body of a message of invoices was not read")
  })
})
