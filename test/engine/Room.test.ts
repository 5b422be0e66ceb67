import { type Delivery, Outcome } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import * as fc from "fast-check"
import type { LeaseState } from "../../packages/core/src/internal/engine/LeaseState.ts"
import { Room } from "../../packages/core/src/internal/engine/Room.ts"
import { fakeLease } from "./support.ts"

interface Limit {
  readonly messages: number
  readonly bytes: number
}

type Fake = Effect.Success<ReturnType<typeof fakeLease>>

/** The intake of some leases: each takes messages in and settles them, and the room is told as the engine tells it. */
const make = (limit: Limit, count: number) =>
  Effect.gen(function*() {
    const leases = new Map<unknown, LeaseState>()
    const room = new Room(limit, leases)
    const fakes: Array<{ readonly fake: Fake; readonly open: Array<Delivery> }> = []
    const add = Effect.map(fakeLease(), (fake) => {
      fakes.push({ fake, open: [] })
      leases.set(fake, fake.state)
    })
    for (let i = 0; i < count; i++) yield* add
    return {
      room,
      add,
      count: () => fakes.length,
      states: () => fakes.map(({ fake }) => fake.state),
      take: (at: number, sizes: ReadonlyArray<number>) => {
        const { fake, open } = fakes[at]!
        const deliveries = sizes.map((size) => Deliveries.make({ body: new Uint8Array(size) }))
        fake.state.take(deliveries)
        open.push(...deliveries)
        room.check(fake.state)
      },
      settle: (at: number, messages: number) => {
        const { fake, open } = fakes[at]!
        for (const delivery of open.splice(0, messages)) fake.settle(delivery, Outcome.Ack)
        room.update()
      },
      end: (at: number) => {
        const [ended] = fakes.splice(at, 1)
        leases.delete(ended!.fake)
        room.end(ended!.fake.state)
        room.update()
        return ended!.fake.state
      }
    }
  })

const isOpen = (state: LeaseState): boolean => Exit.isExit(state.whenRoom)
const many = 1_000_000
const ones = (count: number): ReadonlyArray<number> => Array.from({ length: count }, () => 1)

describe("X4 how much may be in flight", () => {
  for (const unit of ["messages", "bytes"] as const) {
    const limit = { messages: many, bytes: many, [unit]: 8 }

    it.effect(`X4 one lease takes in all ${unit} that may be in flight, and goes on at half of them`, () =>
      Effect.gen(function*() {
        const { room, settle, states, take } = yield* make(limit, 1)
        const [state] = states()
        const seen: Array<boolean> = []
        for (let i = 0; i < 9; i++) {
          take(0, [1])
          seen.push(isOpen(state!))
        }
        assert.deepStrictEqual([room.pending, room.pendingBytes], [9, 9])
        for (let i = 0; i < 6; i++) {
          settle(0, 1)
          seen.push(isOpen(state!))
        }
        // 1 to 9 in flight, then 8 to 3
        const expected = [..."ooooooocc"].concat([..."ccccoo"]).map((each) => each === "o")
        assert.deepStrictEqual(seen, expected)
        assert.deepStrictEqual([room.pending, room.pendingBytes], [3, 3])
      }))

    it.effect(`X4 a lease that stands still leaves the others half an equal share of the ${unit} each`, () =>
      Effect.gen(function*() {
        const { settle, states, take } = yield* make(limit, 2)
        const [still, other] = states()
        // all but the 2 that are reserved for the other lease
        take(0, ones(5))
        assert.deepStrictEqual(states().map(isOpen), [true, true])
        take(0, [1])
        assert.deepStrictEqual(states().map(isOpen), [false, true])
        take(1, [1])
        assert.isTrue(isOpen(other!))
        take(1, [1])
        assert.isFalse(isOpen(other!))
        settle(1, 1)
        assert.isTrue(isOpen(other!))
        settle(0, 3)
        assert.isTrue(isOpen(still!))
      }))

    it.effect(`X4 a lease that uses more than its share stops when others fill up the ${unit}`, () =>
      Effect.gen(function*() {
        const { states, take } = yield* make(limit, 2)
        take(0, ones(5))
        take(1, ones(2))
        assert.deepStrictEqual(states().map(isOpen), [true, true])
        // 8 in flight: the lease that has 5 may have 5 no longer
        take(1, [1])
        assert.deepStrictEqual(states().map(isOpen), [false, false])
      }))

    it.effect(`X4 a lease within its share goes on when another one fills up the ${unit}`, () =>
      Effect.gen(function*() {
        const { states, take } = yield* make(limit, 2)
        take(1, [1])
        take(0, ones(7))
        assert.deepStrictEqual(states().map(isOpen), [false, true])
      }))

    it.effect(`X4 leases that come later stop no other one before all ${unit} are in flight`, () =>
      Effect.gen(function*() {
        const { add, states, take } = yield* make(limit, 1)
        take(0, ones(5))
        // 1 is reserved for each of the others now, so that the first may have 5
        for (let i = 0; i < 3; i++) yield* add
        take(1, [1])
        take(2, [1])
        assert.deepStrictEqual(states().map(isOpen), [true, false, false, true])
        take(3, [1])
        assert.deepStrictEqual(states().map(isOpen), [false, false, false, false])
      }))
  }

  it.effect("X4 a paused subscription takes nothing in, also for leases that come or end meanwhile", () =>
    Effect.gen(function*() {
      const { add, end, room, settle, states, take } = yield* make({ messages: 8, bytes: many }, 2)
      assert.isFalse(room.isShut)
      room.shut()
      assert.isTrue(room.isShut)
      assert.deepStrictEqual(states().map(isOpen), [false, false])
      yield* add
      take(2, [1])
      settle(2, 1)
      assert.deepStrictEqual(states().map(isOpen), [false, false, false])
      // the driver of a lease that has ended waits no more
      assert.isTrue(isOpen(end(0)))
      assert.deepStrictEqual(states().map(isOpen), [false, false])
      take(0, ones(7))
      room.open()
      assert.isFalse(room.isShut)
      assert.deepStrictEqual(states().map(isOpen), [false, true])
    }))

  it.effect("X4 each lease has half an equal share for itself, and may use all that is left", () =>
    Effect.gen(function*() {
      const often = ["take", "take", "take", "settle", "settle"] as const
      // without bias: the first lease must not have most of the messages
      const op = fc.noBias(fc.record({
        _tag: fc.constantFrom(...often, ...often, "add", "add", "end", "shut", "open", "open"),
        at: fc.nat(99),
        n: fc.integer({ min: 1, max: 5 })
      }))
      const plan = fc.record({
        limit: fc.record({ messages: fc.integer({ min: 1, max: 20 }), bytes: fc.integer({ min: 1, max: 40 }) }),
        ops: fc.array(op, { minLength: 30, maxLength: 60 })
      })
      for (const { limit, ops } of fc.sample(plan, { numRuns: 150, seed: 7 })) {
        const room = yield* make(limit, 1)
        const closed = new Set<LeaseState>()
        let isShut = false
        const most = (state: LeaseState, field: "unsettled" | "bytes", all: number): number => {
          const share = all / room.count() / 2
          const others = room.states().filter((each) => each !== state).map((each) => Math.max(share, each[field]))
          return Math.max(share, others.reduce((left, each) => left - each, all))
        }
        const isFull = (state: LeaseState): boolean =>
          state.unsettled >= most(state, "unsettled", limit.messages) ||
          state.bytes >= most(state, "bytes", limit.bytes)
        const isHalf = (state: LeaseState): boolean =>
          state.unsettled <= most(state, "unsettled", limit.messages) / 2 &&
          state.bytes <= most(state, "bytes", limit.bytes) / 2
        const reopen = () => {
          if (!isShut) { for (const state of closed) if (isHalf(state)) closed.delete(state) }
        }
        for (const { _tag, at, n } of ops) {
          if (_tag === "add") yield* room.add
          if (_tag === "shut") {
            room.room.shut()
            isShut = true
            for (const state of room.states()) closed.add(state)
          }
          if (_tag === "open") {
            isShut = false
            room.room.open()
            reopen()
          }
          const place = room.count() === 0 ? undefined : at % room.count()
          if (place === undefined) continue
          const state = room.states()[place]!
          // a driver offers nothing while it waits
          if (_tag === "take" && isOpen(state)) {
            room.take(place, Array.from({ length: n }, (_, i) => (at + i) % 5))
            if (isShut || isFull(state)) closed.add(state)
            const [messages, bytes] = [room.room.pending, room.room.pendingBytes]
            if (messages >= limit.messages || bytes >= limit.bytes) {
              for (const each of room.states()) if (isFull(each)) closed.add(each)
            }
          }
          if (_tag === "settle") {
            room.settle(place, n)
            reopen()
          }
          if (_tag === "end") {
            assert.isTrue(isOpen(room.end(place)))
            closed.delete(state)
            reopen()
          }
          assert.deepStrictEqual(room.states().map(isOpen), room.states().map((each) => !closed.has(each)))
        }
      }
    }))
})
