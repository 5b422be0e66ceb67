/** Scenarios of delayed redelivery: beside other messages, after a restart, and during a long-running handler. */
import { Lanes, Outcome } from "@millrace/core"
import { Effect, Latch } from "effect"
import { ensure, numbered, same, textOf } from "./Bench.ts"
import { type Scenario, scenario } from "./Scenario.ts"

const beside: Scenario = scenario(
  "retry-unordered",
  "where order does not matter what waits for its next attempt holds nobody, and its attempts are counted",
  ["F11", "X3"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const consumer = yield* bench.consumer(
        ({ attempt, raw }) =>
          Effect.succeed(textOf(raw) === "again" && attempt < 4 ? Outcome.Retry({ after: "300 millis" }) : Outcome.Ack),
        { lanes: Lanes.unordered(2) }
      )
      const others = numbered(20)
      yield* bench.sendAll(["again", ...others])
      yield* bench.has(consumer, others)
      yield* bench.until("it was tried four times", () => consumer.got.length === 24, () => consumer.texts)
      const attempts = consumer.got.filter(({ text }) => text === "again").map(({ attempt }) => attempt)
      yield* same("attempts", attempts, [1, 2, 3, 4])
      const second = consumer.got.findIndex(({ attempt, text }) => text === "again" && attempt === 2)
      const last = Math.max(...others.map((text) => consumer.texts.indexOf(text)))
      yield* ensure(second > last, () => `the others waited for it: ${consumer.texts}`)
      yield* bench.untilSome("all is settled", Effect.map(consumer.health, ({ pending }) => pending === 0 || undefined))
      yield* bench.quiet
      yield* same("each as often as it should", consumer.got.length, 24)
    })
)

const later: Scenario = scenario(
  "delay-restart",
  "a message that the broker delays comes back after its subscription has ended, in its time and with its attempts",
  ["F11", "X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const first = yield* bench.consumer(
        ({ raw }) => Effect.succeed(textOf(raw) === "late" ? Outcome.Retry({ after: "1 second" }) : Outcome.Ack),
        { lanes: Lanes.unordered(2) }
      )
      yield* bench.sendAll(["late", "done"])
      yield* bench.has(first, ["late", "done"])
      yield* bench.untilSome("both are settled", Effect.map(first.health, ({ pending }) => pending === 0 || undefined))
      yield* first.stop
      const second = yield* bench.reader({ lanes: Lanes.unordered(2) })
      yield* bench.quiet
      yield* same("before its time", second.texts, [])
      yield* bench.has(second, ["late"])
      yield* bench.quiet
      yield* same("attempts", second.got.map(({ attempt, text }) => `${text} ${attempt}`), ["late 2"])
    }),
  { needs: ["delay", "attempts"] }
)

const exhausted: Scenario = scenario(
  "delay-bounded",
  "a message that the broker delays goes round for as long as its attempts last, and then to the dead letters",
  ["F11", "F13"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const letters = yield* bench.letters()
      const consumer = yield* bench.consumer(() => Effect.succeed(Outcome.Retry()), {
        lanes: Lanes.unordered(2),
        hold: { attempts: 3 }
      })
      yield* bench.send("round")
      yield* bench.has(letters, ["round"])
      yield* bench.quiet
      yield* same("attempts", consumer.got.map(({ attempt }) => attempt), [1, 2, 3])
      yield* same("dead letters", letters.texts, ["round"])
    })
)

/** The longest claim in milliseconds that a test can outlive. */
const longest = 4000

const claims: Scenario = scenario(
  "claim",
  "a handler that takes longer than the broker waits keeps its message; nobody else gets it",
  ["X4", "X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const gate = Latch.makeUnsafe(false)
      const handle = () => gate.await
      const consumers = [
        yield* bench.consumer(handle, { lanes: Lanes.unordered(4) }),
        ...bench.capabilities.groups ? [yield* bench.consumer(handle, { lanes: Lanes.unordered(4) })] : []
      ]
      yield* bench.send("long")
      const got = () => consumers.flatMap(({ texts }) => texts)
      yield* bench.until("it runs", () => got().length === 1)
      const claim = bench.monitor.claim
      yield* ensure(
        claim === undefined || claim <= longest,
        () => `claims of ${claim} ms cannot be outlived here: give the driver of the suite at most ${longest} ms`
      )
      yield* Effect.sleep((claim ?? 0) * 2.5)
      yield* bench.quiet
      yield* same("while it runs", got(), ["long"])
      yield* gate.open
      yield* bench.until("it is done", () => consumers.some(({ done }) => done.length === 1))
      yield* Effect.sleep((claim ?? 0) * 1.5)
      yield* same("afterwards", got(), ["long"])
    })
)

export const delaying: ReadonlyArray<Scenario> = [beside, later, exhausted, claims]
