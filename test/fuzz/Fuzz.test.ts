import { assert, describe, it } from "vitest"
import { decoders } from "./decoders.ts"
import { fuzz } from "./fuzz.ts"

describe("decoders", () => {
  for (const [name, { decode, error, samples }] of Object.entries(decoders)) {
    it(`F14 ${name} reads a sample, and withstands changed, cut and random bodies`, () => {
      assert.doesNotThrow(() => decode(samples[0]!))
      assert.isAbove(fuzz(decode, samples, error, { span: 250 }), 20)
    })
  }

  it("F14 a decoder that hangs, grows, throws or changes its body is found", () => {
    const sample = [new Uint8Array(8)]
    const wait = (bytes: Uint8Array) => {
      const until = performance.now() + 101
      while (performance.now() < until) bytes.at(0)
    }
    assert.throws(() => fuzz(wait, sample, "Any"), /at least 1\d\d/)
    assert.throws(() => fuzz(() => "x".repeat(1e5), sample, "Any"), /size of the value/)
    assert.throws(() => fuzz(() => BigInt("x"), sample, "Any"), /fails with SyntaxError/)
    assert.throws(() => fuzz((bytes) => bytes.fill(7), sample, "Any"), /was changed/)
  })
})
