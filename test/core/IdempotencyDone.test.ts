import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { DoneKeys, halfSipHash } from "../../packages/core/src/middleware/idempotency/done.ts"

const mask = 0xffffffffn
const rotated = (value: bigint, by: bigint) => ((value << by) | (value >> (32n - by))) & mask

/** The published algorithm once more, byte by byte and with integers that have no width. */
const reference = (bytes: Uint8Array, k0: number, k1: number): [number, number] => {
  let [v0, v1, v2, v3] = [BigInt(k0), BigInt(k1) ^ 0xeen, 0x6c796765n ^ BigInt(k0), 0x74656462n ^ BigInt(k1)]
  const rounds = (count: number) => {
    for (let i = 0; i < count; i++) {
      v0 = (v0 + v1) & mask
      v1 = rotated(v1, 5n) ^ v0
      v0 = rotated(v0, 16n)
      v2 = (v2 + v3) & mask
      v3 = rotated(v3, 8n) ^ v2
      v0 = (v0 + v3) & mask
      v3 = rotated(v3, 7n) ^ v0
      v2 = (v2 + v1) & mask
      v1 = rotated(v1, 13n) ^ v2
      v2 = rotated(v2, 16n)
    }
  }
  const padded = new Uint8Array((bytes.length & ~3) + 4)
  padded.set(bytes)
  padded[padded.length - 1] = bytes.length & 0xff
  const view = new DataView(padded.buffer)
  for (let at = 0; at < padded.length; at += 4) {
    const word = BigInt(view.getUint32(at, true))
    v3 ^= word
    rounds(2)
    v0 ^= word
  }
  v2 ^= 0xeen
  rounds(4)
  const low = v1 ^ v3
  v1 ^= 0xddn
  rounds(4)
  return [Number(low), Number(v1 ^ v3)]
}

const ours = (text: string, k0: number, k1: number): Array<number> => {
  const out = new Uint32Array(2)
  halfSipHash(text, k0, k1, out, 0)
  return Array.from(out)
}

const word = fc.integer({ min: 0, max: 2 ** 32 - 1 })

describe("keys that are done", () => {
  it("P15 their hash is HalfSipHash-2-4 of 64 bits", () => {
    // the first of the published vectors: the key 00 to 07, and no bytes
    assert.deepStrictEqual(ours("", 0x03020100, 0x07060504), [0x591f8d21, 0xc83cb8b9])
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 300 }), word, word, (text, k0, k1) => {
        assert.deepStrictEqual(ours(text, k0, k1), reference(Buffer.from(text, "utf16le"), k0, k1))
      })
    )
  })

  it("W5 P15 a table of any size keeps the newest keys that have not ended, their fingerprints and their results", () => {
    const step = fc.record({
      key: fc.integer({ min: 0, max: 400 }).map(String),
      fingerprint: fc.constantFrom("", "a", "b"),
      result: fc.uint8Array({ maxLength: 2 }),
      keep: fc.constantFrom(1, 10, 60, 600),
      waits: fc.integer({ min: 0, max: 3 })
    })
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 200 }),
        fc.array(step, { maxLength: 400, size: "max" }),
        (capacity, steps) => {
          const table = new DoneKeys(capacity)
          /** What was added, oldest first; what has ended in the middle still takes its place. */
          const model: Array<{ key: string; fingerprint: string; result: Uint8Array; until: number }> = []
          let now = 1
          for (const { fingerprint, keep, key, result, waits } of steps) {
            now += waits
            const mark = table.markOf(key, fingerprint)
            const place = table.find(mark, now)
            const known = model.findLast((each) => each.key === key && each.until > now)
            // room is made for want of it only, so whatever is among the newest is there
            if (known !== undefined && model.length - model.indexOf(known) <= capacity) assert.isAtLeast(place, 0)
            if (place >= 0) {
              assert.isDefined(known)
              assert.strictEqual(table.isSame(place, mark), known!.fingerprint === fingerprint)
              assert.deepStrictEqual(table.resultAt(place), known!.result)
              continue
            }
            model.push({ key, fingerprint, result, until: now + keep })
            table.add(mark, result, now + keep, now)
          }
        }
      ),
      { numRuns: 150 }
    )
  })

  it("P15 a table that is full for long keeps the last ones, in the room that it has", () => {
    const table = new DoneKeys(1000)
    const none = new Uint8Array(0)
    for (let i = 0; i < 50_000; i++) {
      const mark = table.markOf(`key-${i}`, "")
      assert.strictEqual(table.find(mark, i), -1)
      table.add(mark, none, i + 1_000_000, i)
    }
    for (let i = 0; i < 50_000; i++) {
      assert.strictEqual(table.find(table.markOf(`key-${i}`, ""), 50_000) >= 0, i >= 49_000)
    }
  })
})
