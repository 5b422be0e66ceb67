import { type Driver, Lanes, Outcome } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Data, Effect, Exit } from "effect"
import { TestClock } from "effect/testing"
import { refusal } from "./altered.ts"
import { startWorker } from "./workers.ts"

class Busy extends Data.TaggedError("Busy") {
  readonly failure = "transient" as const
}
class Wrong extends Data.TaggedError("Wrong") {
  readonly failure = "permanent" as const
}

/** How a handler ends, and the outcome that this is. */
const ends = {
  "a success": [Exit.void, "Ack"],
  "a transient error": [Exit.fail(new Busy()), "Retry"],
  "a permanent error": [Exit.fail(new Wrong()), "DeadLetter"],
  "a defect": [Exit.die("broken"), "DeadLetter"],
  "the outcome Reject": [Exit.succeed(Outcome.Reject()), "Reject"],
  "the outcome Release": [Exit.succeed(Outcome.Release), "Retry"]
} as const

/** What a finalizer or a hook of the first message does. */
const finalizers = ["none", "at once", "later", "dies"] as const
const hooks = ["none", "at once", "later", "fails at once", "fails for now", "fails for good"] as const
/** When the broker confirms a dead letter. */
const letters = ["at once", "later", "the second time"] as const
const lanes = { partition: Lanes.partition, key: Lanes.key(4), unordered: Lanes.unordered(4) } as const

interface Life {
  readonly end: keyof typeof ends
  readonly isLater: boolean
  readonly finalizer: typeof finalizers[number]
  readonly hook: typeof hooks[number]
  readonly letter: typeof letters[number]
  readonly kind: keyof typeof lanes
  readonly settlement: "position" | "message"
}

/** The milliseconds of each step that takes time. */
const handling = 5
const closing = 7
const hooking = 11
const writing = 13
const waiting = 100

interface Event {
  readonly at: number
  readonly text: string
}

/** All that happens to two messages of one key, of which the second ends well at once: the rules of settlement in the design. */
const expected = ({ end, finalizer, hook, isLater, kind, letter, settlement }: Life) => {
  const first: string = ends[end][1]
  const events: Array<Event> = []
  let at = 0
  const say = (text: string) => void events.push({ at, text })
  say("handle 0")
  if (isLater) at += handling
  // an acknowledgement that waits keeps no lane shut
  const isAwaited = finalizer !== "none" || hook === "later" || hook === "fails for now" || hook === "fails for good"
  const isAcknowledged = first === "Ack" || first === "Reject"
  const free = kind === "unordered" ? 0 : isAwaited && isAcknowledged ? at : undefined
  let outcome = first
  let isBroken = false
  if (finalizer !== "none") {
    if (finalizer !== "at once") at += closing
    say("close 0")
    isBroken = finalizer === "dies" && first !== "Retry"
    if (isBroken) outcome = "DeadLetter"
  }
  if (hook !== "none") {
    say(`hook 0 ${outcome}`)
    if (hook !== "at once" && hook !== "fails at once") at += hooking
    // a message that is to run again does so, and the first failure counts
    if (!isBroken && first !== "Retry") {
      outcome = hook === "fails for now" ? "Retry" : hook.startsWith("fails") ? "DeadLetter" : outcome
    }
  }
  if (outcome === "DeadLetter") {
    say("letter 0")
    if (letter === "later") at += writing
    if (letter === "the second time") {
      at += waiting
      say("letter 0")
    }
  }
  if (outcome === "Retry") {
    at += waiting
    say("handle 0 again")
    outcome = "Ack"
  }
  const next = free ?? at
  const before = events.filter((event) => event.at <= next)
  const seen = [...before, { at: next, text: "handle 1" }, ...events.slice(before.length)]
  const told: Array<Event> = settlement === "message"
    ? [{ at, text: `settle 0 ${outcome}` }, { at: next, text: "settle 1 Ack" }]
    : [{ at: Math.max(at, next), text: "commit 2" }]
  if (settlement === "position" && at < next) told.push({ at, text: "commit 1" })
  return { seen, told, outcome, isClosed: finalizer === "dies" }
}

const run = (life: Life) =>
  Effect.gen(function*() {
    const { end, finalizer, hook, isLater, kind, letter, settlement } = life
    const clock = yield* Clock.Clock
    const start = clock.currentTimeMillisUnsafe()
    const seen: Array<Event> = []
    const told: Array<Event> = []
    const event = (text: string): Event => ({ at: clock.currentTimeMillisUnsafe() - start, text })
    const say = (text: string) => void seen.push(event(text))
    let tries = 0
    const lease = (lease: Driver.Lease): Driver.Lease => ({
      ...lease,
      commit: lease.commit && ((position) => {
        told.push(event(`commit ${position}`))
        return Exit.void
      }),
      settle: lease.settle && ((batch) => {
        for (const { delivery, outcome } of batch) told.push(event(`settle ${delivery.position} ${outcome._tag}`))
        return Exit.void
      })
    })
    const bench = yield* startWorker((delivery) => {
      if (delivery.position === 1 || delivery.attempt > 1) {
        say(`handle ${delivery.position}${delivery.attempt > 1 ? " again" : ""}`)
        // with a step of a fiber, and without one
        return isLater ? Effect.sync(() => {}) : Exit.void
      }
      say("handle 0")
      if (hook !== "none") {
        delivery.after((_, outcome) => {
          say(`hook 0 ${outcome?._tag}`)
          if (hook === "at once") return undefined
          if (hook === "fails at once") return Exit.fail(new Wrong())
          const exit = hook === "later" ? Exit.void : Exit.fail(hook === "fails for now" ? new Busy() : new Wrong())
          return Effect.andThen(Effect.sleep(hooking), exit)
        })
      }
      const exit: Exit.Exit<unknown, unknown> = ends[end][0]
      const ending = isLater ? Effect.andThen(Effect.sleep(handling), exit) : exit
      if (finalizer === "none") return ending
      const close = Effect.sync(() => say("close 0"))
      const closed = Effect.andThen(close, finalizer === "dies" ? Effect.die("unclosed") : Effect.void)
      const finalized = finalizer === "at once" ? closed : Effect.andThen(Effect.sleep(closing), closed)
      return Effect.andThen(Effect.addFinalizer(() => finalized), ending)
    }, {
      settlement,
      // the engine holds retries
      capabilities: { delay: false },
      subscription: { lanes: lanes[kind] },
      lease,
      publish: () => {
        say("letter 0")
        if (letter === "the second time" && tries++ === 0) return Effect.fail(refusal("Unreachable"))
        return letter === "later" ? Effect.sleep(writing) : Exit.void
      }
    })
    const opened = bench.open()
    yield* bench.sink.offer(opened, bench.messages("a", "a"))
    yield* TestClock.adjust(1000)
    const state = bench.worker.leases.all.get(opened)
    return { seen, told, bench, state }
  })

const byText = (all: ReadonlyArray<Event>) => all.toSorted((a, b) => a.text < b.text ? -1 : 1)

describe("F13 X3 X4 rules 1 to 6 of settlement: the life of a message", () => {
  for (const end of Object.keys(ends) as Array<keyof typeof ends>) {
    for (const isLater of [false, true]) {
      it.effect(`X3 X4 F13 a handler ends ${isLater ? "later" : "at once"} with ${end}`, () =>
        Effect.gen(function*() {
          let count = isLater ? 1 : 0
          for (const finalizer of finalizers) {
            for (const hook of hooks) {
              for (const kind of ["partition", "key", "unordered"] as const) {
                count++
                const settlement = count % 2 === 0 ? "position" as const : "message" as const
                const life = { end, isLater, finalizer, hook, kind, settlement, letter: letters[count % 3]! }
                const { bench, seen, state, told } = yield* run(life)
                const should = expected(life)
                const context = JSON.stringify(life)
                assert.deepStrictEqual(seen, should.seen, context)
                assert.deepStrictEqual(byText(told), byText(should.told), context)
                // and nothing is left of them
                const { worker } = bench
                const isLetter = should.outcome === "DeadLetter"
                const failures = (should.isClosed ? 1 : 0) + (isLetter && life.letter === "the second time" ? 1 : 0)
                assert.deepStrictEqual(
                  {
                    settled: worker.settled,
                    deadLetters: worker.deadLetters,
                    dropped: worker.dropped,
                    failed: bench.failed,
                    noted: bench.noted.length,
                    inFlight: bench.inFlight(),
                    active: worker.active,
                    pending: worker.leases.room.pending,
                    busy: state?.busy,
                    lanes: state?.lanes.size
                  },
                  {
                    settled: 2,
                    deadLetters: isLetter ? 1 : 0,
                    dropped: 0,
                    failed: [],
                    noted: failures,
                    inFlight: [],
                    active: 0,
                    pending: 0,
                    busy: 0,
                    lanes: 0
                  },
                  context
                )
              }
            }
          }
        }).pipe(Effect.scoped))
    }
  }
})
