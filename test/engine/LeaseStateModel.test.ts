import { BrokerError, type Delivery, Outcome } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, type Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { fakeLease, type Options } from "./support.ts"

const refused = BrokerError.make({ system: "fake", operation: "settle", reason: "Unreachable", message: "no" })

type Step =
  | { readonly take: ReadonlyArray<number> }
  | { readonly settle: number }
  | { readonly release: number }
  | { readonly answer: boolean }
  | "tell"
  | "offer"

const step: fc.Arbitrary<Step> = fc.oneof(
  // positions with gaps, as compacted logs have them
  {
    weight: 2,
    arbitrary: fc.record({ take: fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 5 }) })
  },
  { weight: 8, arbitrary: fc.record({ settle: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ release: fc.nat() }) },
  { weight: 4, arbitrary: fc.record({ answer: fc.constantFrom(true, true, false) }) },
  { weight: 4, arbitrary: fc.constant("tell" as const) },
  { weight: 2, arbitrary: fc.constant("offer" as const) }
)

interface Taken {
  readonly delivery: Delivery
  state: "open" | "settled" | "released"
}

type Call = number | ReadonlyArray<string>

/** What a lease should have told its broker, in the plainest way. */
class Model {
  readonly taken: Array<Taken> = []
  readonly calls: Array<Call> = []
  confirmed: number | undefined
  told = 0
  call: Call | undefined
  since: number | undefined
  isSlack = true
  private outcomes: ReadonlyArray<string> = []
  private readonly options: Options
  private readonly span: number

  constructor(options: Options) {
    this.options = options
    this.span = options.settlement === "message" ? Number.POSITIVE_INFINITY : options.span ?? 0
  }

  in(...states: ReadonlyArray<Taken["state"]>): ReadonlyArray<Taken> {
    return this.taken.filter(({ state }) => states.includes(state))
  }

  /** Messages settled before the first that is not. */
  private get passed(): ReadonlyArray<Taken> {
    const first = this.taken.findIndex(({ state }) => state !== "settled")
    return first < 0 ? this.taken : this.taken.slice(0, first)
  }

  private get ahead(): number {
    return this.in("settled").length - this.passed.length
  }

  settle(one: Taken, outcome: string): boolean {
    if (one.state !== "open") return false
    one.state = "settled"
    this.outcomes = [...this.outcomes, `${one.delivery.position} ${outcome}`]
    return true
  }

  release(one: Taken): void {
    if (this.options.settlement !== "message" || one.state !== "open") return
    one.state = "released"
    this.outcomes = [...this.outcomes, `${one.delivery.position} Release`]
  }

  offer(): boolean {
    if (this.ahead >= this.span) this.isSlack = false
    return this.isSlack
  }

  private get next(): Call | undefined {
    if (this.options.settlement === "message") return this.outcomes.length === 0 ? undefined : this.outcomes
    const last = this.passed.at(-1)
    const position = last === undefined ? undefined : last.delivery.position + 1
    return position === this.confirmed ? undefined : position
  }

  /** Whether a call begins. */
  tell(now: number): boolean {
    if (this.call !== undefined) return false
    const { next } = this
    if (this.ahead <= this.span / 2) this.isSlack = true
    if (next === undefined) return false
    this.call = next
    this.since = now
    this.calls.push(next)
    this.outcomes = []
    return true
  }

  answer(isDone: boolean): void {
    const { call } = this
    this.call = this.since = undefined
    if (!isDone && typeof call !== "number") this.outcomes = [...call!, ...this.outcomes]
    if (!isDone) return
    this.told++
    if (typeof call === "number") this.confirmed = call
  }
}

const outcomes = [Outcome.Ack, Outcome.Reject(), Outcome.Retry()]

/** Runs the same steps with a lease and with its model, and compares them after each. */
const run = (options: Options, steps: ReadonlyArray<Step>) =>
  Effect.gen(function*() {
    const lease = yield* fakeLease(options)
    const { state } = lease
    const model = new Model(options)
    let position = -1
    let now = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
    let telling: Fiber.Fiber<void, BrokerError.BrokerError> | undefined
    const compare = () => {
      const unsettled = model.in("open", "released")
      const sum = unsettled.reduce((bytes, { delivery }) => bytes + delivery.payload.length, 0)
      assert.deepStrictEqual(lease.calls, model.calls)
      assert.deepStrictEqual(
        [state.unsettled, state.settled, state.bytes, state.committed, state.settlingSince, lease.told()],
        [unsettled.length, model.in("settled").length, sum, model.confirmed, model.since, model.told]
      )
      assert.deepStrictEqual([...state.open()], model.in("open").map(({ delivery }) => delivery))
      assert.deepStrictEqual(
        [Exit.isExit(state.whenClear), Exit.isExit(state.whenStill)],
        [unsettled.length === 0, model.call === undefined]
      )
    }
    for (const each of steps) {
      yield* TestClock.adjust(1)
      now++
      if (each === "offer") assert.strictEqual(Exit.isExit(state.whenSlack), model.offer())
      else if (each === "tell") {
        const call = state.tell()
        assert.isFalse(state.dirty)
        if (options.isSlow === true) {
          const isBegun = model.tell(now)
          assert.strictEqual(Exit.isExit(call), !isBegun)
          if (isBegun) telling = yield* Effect.forkChild(call, { startImmediately: true })
        } else {
          assert.isTrue(Exit.isExit(call))
          while (model.tell(now)) model.answer(true)
        }
      } else if ("take" in each) {
        const positions = each.take.map((gap) => position += gap)
        model.taken.push(...lease.take(...positions).map((delivery): Taken => ({ delivery, state: "open" })))
      } else if ("answer" in each) {
        if (model.call === undefined) continue
        model.answer(each.answer)
        const isNext = each.answer && model.tell(now)
        yield* lease.answer(each.answer ? Exit.void : Exit.fail(refused))
        const exit = telling!.pollUnsafe()
        assert.strictEqual(exit?._tag, each.answer ? isNext ? undefined : "Success" : "Failure")
      } else if (model.taken.length > 0) {
        // most often one that is open, and more often a late one
        const [isAny, at] = "settle" in each ? [each.settle % 4 === 0, each.settle] : [true, each.release]
        const open = model.in("open").slice(-4)
        const from = isAny || open.length === 0 ? model.taken : open
        const one = from[at % from.length]!
        const outcome = outcomes[one.delivery.position % outcomes.length]!
        if ("settle" in each) {
          assert.strictEqual(lease.settle(one.delivery, outcome), model.settle(one, outcome._tag))
        } else {
          state.release(one.delivery, Outcome.Release)
          model.release(one)
        }
      }
      compare()
    }
    assert.isAtMost(lease.most(), 1)
  })

describe("X3 X5 X19 a lease and its model", () => {
  for (const settlement of ["position", "message"] as const) {
    for (const isSlow of [false, true]) {
      for (const span of settlement === "message" ? [1] : [1, 4, 5]) {
        const name = `settles by ${settlement}, answers ${isSlow ? "later" : "at once"}, span ${span}`
        it.effect(`X3 X5 X19 ${name}`, () =>
          Effect.gen(function*() {
            const plans = fc.sample(fc.array(step, { minLength: 10, maxLength: 60 }), { numRuns: 60, seed: span })
            for (const steps of plans) yield* run({ settlement, isSlow, span }, steps)
          }))
      }
    }
  }
})
