import { type Delivery, Lanes as Kind } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { Lanes } from "../../packages/core/src/internal/engine/Lanes.ts"
import { fakeLease } from "./support.ts"

/** The lanes of a worker, and messages of its only lease by the keys given. */
const make = (kind: Kind.Lanes, keys: ReadonlyArray<string | undefined> = []) =>
  Effect.gen(function*() {
    const { state } = yield* fakeLease()
    const deliveries = keys.map((key, position) => Deliveries.make({ position, key }))
    state.take(deliveries)
    return { lanes: new Lanes(kind), state, deliveries }
  })

const unreadable = (delivery: Delivery): Delivery =>
  Object.defineProperty(delivery, "key", {
    get: () => {
      throw new Error("unreadable")
    }
  })

const positions = (queue: Iterable<Delivery>): ReadonlyArray<number> => Array.from(queue, ({ position }) => position)

describe("X4 O3 the lanes of a worker", () => {
  const kinds = {
    partition: { kind: Kind.partition, keyed: null, keyless: null, unreadable: null },
    key: { kind: Kind.key(2), keyed: "a", keyless: undefined, unreadable: null },
    "key, else partition": { kind: Kind.key(2, { keyless: "partition" }), keyed: "a", keyless: null, unreadable: null },
    unordered: { kind: Kind.unordered(2), keyed: undefined, keyless: undefined, unreadable: undefined }
  }
  for (const [name, expected] of Object.entries(kinds)) {
    it(`O3 the lane of a message: ${name}`, () => {
      const lanes = new Lanes(expected.kind)
      assert.deepStrictEqual(
        [
          lanes.idOf(Deliveries.make({ key: "a" })),
          lanes.idOf(Deliveries.make()),
          lanes.idOf(unreadable(Deliveries.make({ key: "a" })))
        ],
        [expected.keyed, expected.keyless, expected.unreadable]
      )
    })
  }

  it.effect("X4 a message queues behind its own lane while that is open, and behind no other", () =>
    Effect.gen(function*() {
      const { deliveries: [a, b, c], lanes, state } = yield* make(Kind.key(4), ["a", "b", "a"])
      assert.isUndefined(lanes.behind(c!))
      const lane = lanes.hold(a!, undefined)
      assert.deepStrictEqual([lane?.id, lane?.lease === state, lane?.again, lane?.queue.length], [
        "a",
        true,
        undefined,
        0
      ])
      assert.strictEqual(lanes.behind(c!), lane)
      assert.isUndefined(lanes.behind(b!))
      // under another lease the key has a lane of its own
      const other = yield* make(Kind.key(4), ["a"])
      assert.isUndefined(lanes.behind(other.deliveries[0]!))
    }))

  it.effect("X6 no key is read while no lane is open", () =>
    Effect.gen(function*() {
      const { deliveries: [a, b], lanes } = yield* make(Kind.key(4), ["a", "b"])
      let reads = 0
      Object.defineProperty(a!, "key", { get: () => `${reads++}` })
      assert.deepStrictEqual([lanes.behind(a!), reads], [undefined, 0])
      lanes.hold(b!, undefined)
      assert.deepStrictEqual([lanes.behind(a!), reads], [undefined, 1])
    }))

  it.effect("X4 an unfinished message keeps the lane that it has, and opens none once its lane has gone on", () =>
    Effect.gen(function*() {
      const { deliveries: [a], lanes, state } = yield* make(Kind.key(4), ["a"])
      assert.isUndefined(lanes.hold(a!, "late"))
      assert.strictEqual(state.lanes.size, 0)
      const lane = lanes.hold(a!, undefined)
      assert.strictEqual(lanes.hold(a!, lane), lane)
      assert.deepStrictEqual([...state.lanes], [["a", lane]])
      const { deliveries: [b], lanes: unordered, state: free } = yield* make(Kind.unordered(4), ["a"])
      assert.deepStrictEqual([unordered.hold(b!, undefined), free.lanes.size], [undefined, 0])
    }))

  it.effect("X4 a lane whose message is finished may go on, after those that were ready before", () =>
    Effect.gen(function*() {
      const { deliveries: [a, b], lanes } = yield* make(Kind.key(4), ["a", "b"])
      const first = lanes.hold(a!, undefined)
      const second = lanes.hold(b!, undefined)
      lanes.proceed(undefined)
      lanes.proceed("late")
      assert.strictEqual(lanes.ready.length, 0)
      lanes.proceed(second)
      lanes.proceed(first)
      assert.deepStrictEqual([...lanes.ready], [second, first])
    }))

  it.effect("F2 a message that runs again does so before all that queue in its lane", () =>
    Effect.gen(function*() {
      const { deliveries: [a, b, c], lanes } = yield* make(Kind.key(4), ["a", "a", "c"])
      const lane = lanes.hold(a!, undefined)!
      lane.queue.push(b!)
      // lanes that are ready go on in the order of their turns
      const other = lanes.hold(c!, undefined)
      lanes.proceed(other)
      lanes.again(a!, lane)
      assert.deepStrictEqual([lane.again, positions(lane.queue), [...lanes.ready]], [a, [1], [other, lane]])
    }))

  it.effect("F2 a message whose lane went on runs again in a lane of its own, or first in the one that is open", () =>
    Effect.gen(function*() {
      const { deliveries: [a, b, c], lanes, state } = yield* make(Kind.key(4), ["a", "a", "a"])
      lanes.again(a!, undefined)
      const own = state.lanes.get("a")!
      assert.deepStrictEqual([own.again, own.queue.length, [...lanes.ready]], [a, 0, [own]])
      own.queue.push(b!)
      lanes.again(c!, undefined)
      assert.deepStrictEqual([own.again, positions(own.queue), [...lanes.ready]], [a, [2, 1], [own]])
    }))

  it.effect("F2 messages without a lane run again in the order of their turns", () =>
    Effect.gen(function*() {
      const { deliveries: [a, b], lanes } = yield* make(Kind.unordered(4), ["a", "a"])
      lanes.again(b!, undefined)
      lanes.again(a!, undefined)
      assert.deepStrictEqual([positions(lanes.loose), lanes.ready.length], [[1, 0], 0])
    }))

  it.effect("X4 the end of a lease leaves the lanes and messages of others as they were", () =>
    Effect.gen(function*() {
      const kind = Kind.key(4)
      const { deliveries: [a, b], lanes, state } = yield* make(kind, ["a", undefined])
      const other = yield* make(kind, ["a", undefined])
      for (const delivery of [a, ...other.deliveries, b]) lanes.again(delivery!, undefined)
      assert.deepStrictEqual([lanes.ready.length, lanes.loose.length], [2, 2])
      lanes.forget(state)
      assert.deepStrictEqual(Array.from(lanes.ready, ({ lease }) => lease === other.state), [true])
      assert.deepStrictEqual([...lanes.loose], [other.deliveries[1]])
      lanes.forget(other.state)
      assert.deepStrictEqual([lanes.ready.length, lanes.loose.length], [0, 0])
    }))
})
