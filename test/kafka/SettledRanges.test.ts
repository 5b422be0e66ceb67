import { it } from "@effect/vitest"
import { decode, encode, merge } from "../../packages/kafka/src/internal/SettledRanges.ts"
import { Progress } from "../../packages/kafka/src/internal/Progress.ts"
import { Effect } from "effect"
import * as fc from "fast-check"
import { describe, expect } from "vitest"

const offsets = fc.integer({ min: 0, max: 2 ** 50 })

/** Ranges beyond an offset from gaps and lengths, in order and apart. */
const rangesOf = (offset: number, pairs: ReadonlyArray<readonly [number, number]>) => {
  let at = offset
  return pairs.map(([gap, length]) => {
    const from = at + gap
    at = from + length
    return { from, to: at }
  })
}

const pairs = (gap: number, length: number, maxLength: number) =>
  fc.array(fc.tuple(fc.integer({ min: 1, max: gap }), fc.integer({ min: 1, max: length })), { maxLength })

describe("X9 what is settled beyond an offset, as metadata", () => {
  it("is read as it was written, while it fits", () => {
    fc.assert(fc.property(offsets, pairs(5000, 5000, 500), (offset, pairs) => {
      const ranges = rangesOf(offset, pairs)
      const text = encode(offset, ranges)
      if (ranges.length === 0) expect(text).toBeNull()
      else expect(decode(offset, text)).toEqual(ranges)
    }))
  })

  it("never names what is not settled, and stays below 3 KiB where it does not fit", () => {
    fc.assert(
      fc.property(offsets, pairs(3, 3, 30_000), pairs(2 ** 30, 2 ** 20, 3000), (offset, near, far) => {
        for (const pairs of [near, far, [...near, ...far]]) {
          const ranges = rangesOf(offset, pairs)
          const text = encode(offset, ranges)
          expect(text?.length ?? 0).toBeLessThanOrEqual(3072)
          const found = decode(offset, text)
          expect(found.length > 0).toBe(ranges.length > 0)
          let at = 0
          for (const { from, to } of found) {
            while (ranges[at]!.to < to) at++
            expect(ranges[at]!.from).toBeLessThanOrEqual(from)
          }
        }
      }),
      { numRuns: 20 }
    )
  })

  it("says nothing for another offset, another version, another program or a text that is broken", () => {
    const text = encode(100, [{ from: 102, to: 105 }])!
    expect(decode(101, text)).toEqual([])
    expect(decode(100, text.replace("millrace1", "millrace2"))).toEqual([])
    expect(decode(100, "")).toEqual([])
    expect(decode(100, null)).toEqual([])
    expect(decode(100, "{}")).toEqual([])
    fc.assert(fc.property(fc.string(), fc.constantFrom("r", "b"), (data, coding) => {
      for (const { from, to } of decode(100, `millrace1 2s ${coding} ${data}`)) {
        expect(from).toBeGreaterThanOrEqual(100)
        expect(to).toBeGreaterThan(from)
      }
    }))
  })

  it("merges what one member and the one before it have settled", () => {
    const one = [{ from: 3, to: 6 }, { from: 10, to: 12 }]
    expect(merge(5, one, [{ from: 6, to: 8 }, { from: 20, to: 21 }])).toEqual([
      { from: 5, to: 8 },
      { from: 10, to: 12 },
      { from: 20, to: 21 }
    ])
  })

  it.effect("any order of settling and crashing repeats what was in flight alone, and loses nothing", () =>
    Effect.gen(function*() {
      const plan = fc.array(fc.array(fc.nat({ max: 40 }), { maxLength: 30 }), { minLength: 1, maxLength: 5 })
      yield* Effect.promise(() =>
        fc.assert(fc.asyncProperty(plan, async (lives) => {
          const done = new Set<number>()
          let offset = 0
          let metadata: string | null = null
          for (const life of [...lives, Array.from({ length: 40 }, (_, position) => position)]) {
            const progress = new Progress(
              offset,
              (position, text) =>
                Effect.sync(() => {
                  offset = position
                  metadata = text
                }),
              decode(offset, metadata)
            )
            const left = Array.from({ length: 40 }, (_, position) => ({ position })).slice(offset)
            const messages = progress.unsettled(left)
            progress.found(messages.at(-1)?.position, 40)
            // every message that is settled is passed over, and no other
            expect(messages.map(({ position }) => position)).toEqual(
              Array.from({ length: 40 }, (_, position) => position).filter((position) => !done.has(position))
            )
            const settled = new Set<number>()
            for (const position of life) {
              if (!messages.some((message) => message.position === position)) continue
              settled.add(position)
              done.add(position)
              const first = messages.find((message) => !settled.has(message.position))?.position ?? 40
              const beyond = Array.from(settled).filter((each) => each > first).toSorted((a, b) => a - b)
              await Effect.runPromise(progress.commit(
                first === 40 ? messages.at(-1)!.position + 1 : first,
                () => beyond.map((each) => ({ from: each, to: each + 1 }))
              ))
            }
          }
          expect(done.size).toBe(40)
          expect(offset).toBe(40)
        }))
      )
    }))
})
