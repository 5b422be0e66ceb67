import { BrokerError, Outgoing } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Logger, References } from "effect"
import { TestClock } from "effect/testing"
import {
  DeadLetterWriter,
  type Leaving,
  type Written
} from "../../packages/core/src/internal/engine/DeadLetterWriter.ts"
import { Fifo } from "../../packages/core/src/internal/engine/Fifo.ts"
import { refusal } from "./altered.ts"
import { fakeLease } from "./support.ts"

type Answer = () => Effect.Effect<void, BrokerError.BrokerError>

interface Logged {
  readonly level: string
  readonly text: string
  readonly annotations: Record<string, unknown>
}

const to = (channel: string) => new Outgoing(channel, new Uint8Array(0), undefined, {})

/** A writer, and everything that it asks, says and logs. The broker gives one answer after the other, the last one for good. */
const setUp = Effect.fnUntraced(function*(answers: ReadonlyArray<Answer>, refusedDeadLetter: "wait" | "drop" = "wait") {
  const logged: Array<Logged> = []
  const logger = Logger.make(({ fiber, logLevel, message }) => {
    const text = String(Array.isArray(message) ? message[0] : message)
    logged.push({ level: logLevel, text, annotations: { ...fiber.getRef(References.CurrentLogAnnotations) } })
  })
  const clock = yield* Clock.Clock
  const context = yield* Effect.provide(Effect.context<never>(), Logger.layer([logger]))
  const asked: Array<string> = []
  const failures: Array<unknown> = []
  const writer = new DeadLetterWriter(context, {
    consumer: { name: "billing", refusedDeadLetter, backoff: { base: 1, factor: 1, cap: 5000, jitter: 0 } },
    publish: (batch) => {
      asked.push(...batch.map(({ channel }) => `${channel} ${clock.currentTimeMillisUnsafe()}`))
      return answers[Math.min(asked.length, answers.length) - 1]!()
    },
    backoff: (count) => count * 100,
    clock,
    instructions: undefined,
    failed: (error) => failures.push(error)
  })
  const lease = yield* fakeLease()
  const [delivery] = lease.take(7)
  const ends: Array<Exit.Exit<Written>> = []
  /** Starts to write; the form stands in place of the channel. */
  const write = (
    kind: Leaving["kind"] = "dead letter",
    lane: Parameters<typeof writer.confirm>[2] = undefined
  ): void => {
    const leaving: Leaving = { delivery: delivery!, kind, compose: (form) => to(form) }
    const first = writer.publish(leaving)
    if (first === true) ends.push(Exit.succeed("written"))
    else writer.confirm(leaving, first, lane, (exit) => ends.push(exit))
  }
  return { writer, write, asked, failures, ends, logged, lease, delivery: delivery! }
})

const failing = (reason: BrokerError.Reason, failure?: BrokerError.BrokerError["failure"]): Answer => {
  const { message, operation, system } = refusal(reason)
  return () => Effect.fail(BrokerError.make({ system, operation, reason, message, failure }))
}
const lost = failing("Lost")
const missing = failing("NotFound")
const tooLarge = failing("TooLarge")
const ok: Answer = () => Effect.void
const throws: Answer = () => {
  throw new Error("the driver throws")
}

/** One that the client library does not explain, and does not expect to go away. */
const unclear = failing("Unknown", "permanent")

const waits = ["whole 0", "whole 100", "whole 300", "whole 600"]
const smaller = ["whole 0", "encoded 0", "bare 0", "digest 0"]
const parked = [...smaller, ...smaller.map((each) => each.replace("0", "5000"))]
const bare = [...smaller.slice(0, 3), ...smaller.slice(0, 3).map((each) => each.replace("0", "100"))]

interface Case {
  readonly kind?: Leaving["kind"]
  readonly drops?: boolean
  readonly answers: ReadonlyArray<Answer>
  /** What the broker is asked, and when; the first of it. */
  readonly asked: ReadonlyArray<string>
  readonly end?: Written
  readonly state?: string
}

const aboutMessage = ["TooLarge", "Invalid", "Unsupported"] as const
const aboutChannel = ["Credentials", "Permission", "NotFound", "Conflict", "Refused"] as const
const temporary = ["Unreachable", "Full", "Lost", "Unknown"] as const

const cases: Record<string, Case> = {
  ...Object.fromEntries(temporary.flatMap((reason) => [
    [`${reason}: waits longer after each failure`, { answers: [failing(reason)], asked: waits }],
    [`${reason}: so does a delayed retry`, { kind: "delayed retry", answers: [failing(reason)], asked: waits }]
  ])),
  ...Object.fromEntries(aboutChannel.flatMap((reason) => [
    [`${reason}: waits for an operator`, { answers: [failing(reason)], asked: waits }],
    [`${reason}: is not dropped`, { drops: true, answers: [failing(reason)], asked: waits }],
    [`${reason}: so does a delayed retry`, { kind: "delayed retry", answers: [failing(reason)], asked: waits }]
  ])),
  ...Object.fromEntries(aboutMessage.flatMap((reason) => [
    [`${reason}: tries each smaller form, then parks`, { answers: [failing(reason)], asked: parked, state: "parked" }],
    [`${reason}: tries each smaller form, then drops`, {
      drops: true,
      answers: [failing(reason)],
      asked: smaller,
      end: "dropped"
    }],
    [`${reason}: refuses a delayed retry`, {
      kind: "delayed retry",
      answers: [failing(reason)],
      asked: ["whole 0"],
      end: "refused"
    }],
    [`${reason}: passes where the broker may take the same message later`, {
      answers: [failing(reason, "transient")],
      asked: waits
    }]
  ])),
  ...Object.fromEntries(([["an unclear refusal", unclear], ["a throw", throws]] as const).flatMap(([name, answer]) => [
    [`${name}: keeps the body, and waits`, { answers: [answer], asked: bare }],
    [`${name}: is not dropped`, { drops: true, answers: [answer], asked: bare }],
    [`${name}: refuses a delayed retry`, {
      kind: "delayed retry",
      answers: [answer],
      asked: ["whole 0"],
      end: "refused"
    }]
  ])),
  "a form that fits ends it": { answers: [tooLarge, tooLarge, ok], asked: smaller.slice(0, 3), end: "written" },
  "a broker that comes back is asked for the whole one, and waits go on growing": {
    answers: [lost, tooLarge, lost, ok],
    asked: ["whole 0", "whole 100", "encoded 100", "whole 300"],
    end: "written"
  },
  "one that is parked counts its failures too": {
    answers: [tooLarge, tooLarge, tooLarge, tooLarge, lost, missing, ok],
    asked: [...smaller, "whole 5000", "whole 5200", "whole 5500"],
    end: "written"
  },
  "one that was parked is shown as waiting while the broker is away": {
    answers: [tooLarge, tooLarge, tooLarge, tooLarge, lost],
    asked: [...smaller, "whole 5000"]
  },
  "a smallest form that the broker does not explain is not dropped": {
    drops: true,
    answers: [tooLarge, tooLarge, tooLarge, unclear, ok],
    asked: [...smaller, "whole 100"],
    end: "written"
  }
}

describe("F22 a dead letter or delayed retry that the broker does not take", () => {
  for (
    const [name, { answers, asked, drops = false, end, kind = "dead letter", state = kind }] of Object.entries(cases)
  ) {
    it.effect(`F22 ${name}`, () =>
      Effect.gen(function*() {
        const it = yield* setUp(answers, drops ? "drop" : "wait")
        it.write(kind)
        const last = Number(asked.at(-1)!.split(" ")[1])
        yield* TestClock.adjust(last)
        if (end !== undefined) yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(it.asked, asked)
        assert.deepStrictEqual(it.ends, end === undefined ? [] : [Exit.succeed(end)])
        assert.deepStrictEqual([...it.writer.inFlight()].map((each) => each.state), end === undefined ? [state] : [])
        assert.strictEqual(it.failures.length, asked.length - (end === "written" ? 1 : 0))
        it.writer.giveUp(it.lease.state)
      }))
  }
})

describe("F22 X15 what is seen of messages that leave", () => {
  it.effect("F13 one that the broker confirms at once takes no fiber, and nothing is said", () =>
    Effect.gen(function*() {
      const { ends, lease, logged, write, writer } = yield* setUp([() => Exit.void])
      write()
      assert.deepStrictEqual(ends, [Exit.succeed("written")])
      assert.deepStrictEqual([[...writer.inFlight()], lease.state.busy, logged], [[], 0, []])
    }))

  it.effect("X15 its message, its state, its last error, since when, and how many wait behind it", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust(40)
      const { delivery, ends, failures, lease, write, writer } = yield* setUp([lost, missing, tooLarge])
      const queue = new Fifo<typeof delivery>()
      for (const each of lease.take(8, 9)) queue.push(each)
      write("delayed retry", { lease: lease.state, id: 0, again: undefined, queue })
      const shown = () => [...writer.inFlight()]
      const one = { delivery, state: "delayed retry" as const, since: 40, behind: 2 }
      yield* TestClock.adjust(99)
      assert.deepStrictEqual(shown(), [{ ...one, error: failures[0] }])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(shown(), [{ ...one, error: failures[1] }])
      assert.deepStrictEqual(failures.map((each) => (each as BrokerError.BrokerError).reason), ["Lost", "NotFound"])
      // its lease is busy until its owner has heard the end
      assert.deepStrictEqual([lease.state.busy, ends], [1, []])
      yield* TestClock.adjust(200)
      assert.deepStrictEqual([shown(), lease.state.busy, ends], [[], 1, [Exit.succeed("refused")]])
    }))

  it.effect("F22 each wait is an error, a smaller form one warning with its place", () =>
    Effect.gen(function*() {
      const small = yield* setUp([missing, tooLarge, tooLarge, ok])
      small.write()
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(small.logged, [
        { level: "Error", text: "The dead letter of billing could not be written; its message waits", annotations: {} },
        {
          level: "Warn",
          text: "A dead letter of billing was written in the form \"bare\", since the broker refuses the whole one",
          annotations: { channel: "orders", partition: 0, position: 7 }
        }
      ])
      const none = yield* setUp([tooLarge, tooLarge, tooLarge, tooLarge, ok])
      none.write()
      yield* TestClock.adjust("1 hour")
      const text = "The broker refuses the dead letter of billing in every form; its message is parked"
      assert.deepStrictEqual(none.logged, [{ level: "Error", text, annotations: {} }])
    }))

  it.effect("X4 the end of a lease stops its messages and no others", () =>
    Effect.gen(function*() {
      const { asked, ends, lease, write, writer } = yield* setUp([lost])
      write()
      yield* TestClock.adjust(50)
      assert.deepStrictEqual([...writer.inFlight()].map(({ behind }) => behind), [0])
      writer.giveUp((yield* fakeLease()).state)
      yield* TestClock.adjust(50)
      assert.deepStrictEqual([asked, ends], [waits.slice(0, 2), []])
      writer.giveUp(lease.state)
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual([asked, ends.map((exit) => Exit.hasInterrupts(exit))], [waits.slice(0, 2), [true]])
      assert.deepStrictEqual([...writer.inFlight()], [])
    }))
})
