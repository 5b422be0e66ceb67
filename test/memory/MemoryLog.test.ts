import { Outgoing } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { Log, Partition, Publication } from "../../packages/core/src/memory/MemoryLog.ts"
import { collectGarbage } from "../engine/collectGarbage.ts"

const bytes = (text: string) => new TextEncoder().encode(text)
const message = (text: string, key?: string, native?: ConstructorParameters<typeof Outgoing>[4]) =>
  new Outgoing("c", bytes(text), key, { plain: text }, native)
const origin = { system: "memory", channel: "c", group: "g", partition: 0, handler: "h", holdLimit: 1 }
const textOf = (partition: Partition, position: number): string =>
  new TextDecoder().decode(partition.deliver(origin, position, 1).payload)

/** Every message that the partition keeps, with its position and the time of its publish. */
const kept = (partition: Partition) =>
  Array.from({ length: partition.end - partition.base }, (_, i) => {
    const delivery = partition.deliver(origin, partition.base + i, 1)
    return [delivery.position, textOf(partition, partition.base + i), delivery.timestamp]
  })

describe("X19 a partition of the memory broker", () => {
  it("X19 keeps what is appended until it is trimmed, at any length", () => {
    const step = fc.record({ append: fc.integer({ min: 0, max: 150 }), keep: fc.integer({ min: 0, max: 400 }) })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 8 }), (steps) => {
        const partition = new Partition()
        let model: Array<[number, string, number]> = []
        let next = 0
        for (const { append, keep } of steps) {
          for (let i = 0; i < append; i++) {
            partition.append(message(`m${next}`), new Publication(1000 + next))
            model.push([next, `m${next}`, 1000 + next])
            next++
          }
          assert.deepStrictEqual(kept(partition), model)
          partition.trim(next - keep)
          model = model.slice(Math.max(0, model.length - keep))
          assert.strictEqual(partition.end, next)
          assert.strictEqual(partition.base, model[0]?.[0] ?? next)
          assert.deepStrictEqual(kept(partition), model)
        }
      }),
      { numRuns: 40 }
    )
  })

  it("X19 a trim below the first position that is kept drops nothing", () => {
    const partition = new Partition()
    for (let i = 0; i < 3; i++) partition.append(message(String(i)), new Publication(i))
    partition.trim(2)
    partition.trim(1)
    assert.deepStrictEqual([partition.base, partition.end], [2, 3])
    assert.strictEqual(textOf(partition, 2), "2")
  })

  it("X19 holds nothing that was trimmed", () => {
    const partition = new Partition()
    const dropped = [0, 1, 2].map((i) => {
      const [outgoing, publication] = [message(String(i)), new Publication(i)]
      partition.append(outgoing, publication)
      return [new WeakRef(outgoing), new WeakRef(publication)] as const
    })
    const count = () => dropped.flat().filter((ref) => ref.deref() !== undefined).length
    return new Promise<void>((resolve) => setImmediate(resolve)).then(() => {
      collectGarbage()
      assert.strictEqual(count(), 6)
      partition.trim(2)
      return new Promise<void>((resolve) => setImmediate(resolve))
    }).then(() => {
      collectGarbage()
      assert.strictEqual(count(), 2)
      assert.strictEqual(textOf(partition, 2), "2")
    })
  })

  it("X19 gives its memory back when a backlog is gone, and only then", () => {
    const partition = new Partition()
    const [outgoing, publication] = [message("x"), new Publication(0)]
    const size = (): number => {
      collectGarbage()
      return process.memoryUsage().heapUsed
    }
    const count = 1 << 18
    const before = size()
    for (let i = 0; i < count; i++) partition.append(outgoing, publication)
    const full = size() - before
    // Two places of at least 4 bytes for each message.
    assert.isAbove(full, count * 8 * 0.9)
    partition.trim(count / 2)
    assert.isAbove(size() - before, full * 0.9)
    partition.trim(count - 10)
    assert.isBelow(size() - before, full * 0.5)
    assert.deepStrictEqual(kept(partition).length, 10)
  })

  it("X1 F13 delivers a message as it was published: body, key, headers, fields, time, attempt", () => {
    const partition = new Partition()
    partition.append(message("a", "k"), new Publication(5))
    const native = { keyBytes: new Uint8Array([255]), fields: [["Tenant", bytes("7")]] as const, tombstone: true }
    partition.append(message("b", "k", native), new Publication(6))
    partition.append(message("c"), new Publication(7))
    const [plain, full, keyless] = [0, 1, 2].map((position) => partition.deliver(origin, position, position + 3))
    assert.deepStrictEqual([plain!.key, plain!.keyBytes, plain!.tombstone], ["k", bytes("k"), false])
    assert.deepStrictEqual({ ...plain!.headers }, { plain: "a" })
    assert.deepStrictEqual(plain!.fields, [["plain", bytes("a")]])
    assert.deepStrictEqual([plain!.timestamp, plain!.attempt, plain!.position], [5, 3, 0])
    assert.deepStrictEqual([full!.key, full!.keyBytes, full!.tombstone], ["\uFFFD", new Uint8Array([255]), true])
    assert.deepStrictEqual({ ...full!.headers }, { tenant: "7", plain: "b" })
    assert.deepStrictEqual(full!.fields, [["Tenant", bytes("7")], ["plain", bytes("b")]])
    assert.deepStrictEqual([full!.timestamp, full!.attempt, full!.payload.length], [6, 4, 0])
    assert.deepStrictEqual([keyless!.key, keyless!.keyBytes], [undefined, undefined])
  })
})

describe("X19 a channel of the memory broker", () => {
  const places = (log: Log) => log.partitions.map(({ end }) => end)

  it("X3 messages without a key go to the partitions in turn, from the first", () => {
    const log = new Log(3)
    const publication = new Publication(0)
    log.append(message("0"), publication)
    assert.deepStrictEqual([places(log), [...log.fresh]], [[1, 0, 0], [1, 0, 0]])
    log.append(message("1"), publication)
    assert.deepStrictEqual([places(log), [...log.fresh]], [[1, 1, 0], [1, 1, 0]])
    for (let i = 2; i < 7; i++) log.append(message(String(i)), publication)
    assert.deepStrictEqual(places(log), [3, 2, 2])
  })

  it("X3 a key names one partition, by 32-bit FNV-1a, and takes no turn", () => {
    const publication = new Publication(0)
    // Published values of the hash.
    const hashes = [["", 0x811c9dc5], ["a", 0xe40c292c], ["foobar", 0xbf9cf968]] as const
    for (const [key, hash] of hashes) {
      for (const count of [1, 2, 3, 7, 64]) {
        const log = new Log(count)
        log.append(message("keyed", key), publication)
        log.append(message("keyed", key), publication)
        log.append(message("bytes", "other", { keyBytes: bytes(key) }), publication)
        assert.strictEqual(places(log)[hash % count], 3)
        log.append(message("keyless"), publication)
        assert.strictEqual(places(log)[0], hash % count === 0 ? 4 : 1)
      }
    }
  })
})
