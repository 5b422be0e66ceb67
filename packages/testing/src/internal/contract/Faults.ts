/**
 * Scenarios of faults: connections that end, calls that fail, a broker that goes down and comes back.
 */
import { type BrokerError, Lanes, Outcome } from "@millrace/core"
import { Effect, Fiber } from "effect"
import { Broken, dawdle, ensure, missing, numbered, refusedWith, same, textOf } from "./Bench.ts"
import { lost } from "./Monitor.ts"
import { type Scenario, scenario } from "./Scenario.ts"
import { interleaved, keyOf } from "./Ordering.ts"

const cut: Scenario = scenario(
  "cut",
  "a subscription whose connection ends comes back by itself, again and again, and nothing is lost",
  ["X4", "X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(2)
      const consumer = yield* bench.consumer(() => dawdle, { name: "cut", lanes: Lanes.key(4) })
      const wanted = interleaved(10, 12)
      const flow = yield* Effect.forkScoped(
        Effect.forEach(wanted, (text) => Effect.andThen(bench.send(text, { key: keyOf(text) }), Effect.sleep(1)), {
          discard: true
        })
      )
      for (const n of [1, 2, 3]) {
        const seen = consumer.done.length
        yield* bench.until("messages flow", () => consumer.done.length > seen + 5)
        yield* bench.monitor.cut("cut")
        yield* bench.untilSome(
          "it is back",
          Effect.map(
            consumer.health,
            ({ restarts, state }) => restarts === n && state === "running" ? true : undefined
          ),
          () => consumer.health
        )
      }
      yield* Fiber.join(flow)
      yield* bench.until(
        "all are done",
        () => missing(consumer.done, wanted).length === 0,
        () => missing(consumer.done, wanted)
      )
      const { lastError, restarts } = yield* consumer.health
      yield* same("restarts", restarts, 3)
      yield* ensure(lastError !== undefined, () => "health does not show why it started again")
    }),
  { needs: ["redelivery"] }
)

const settleFails: Scenario = scenario(
  "settle-fails",
  "what the broker cannot be told is delivered again, and the subscription goes on",
  ["X4", "X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      let failures = 2
      bench.monitor.faults.settle = () => failures-- > 0 ? lost("settle") : undefined
      const consumer = yield* bench.reader()
      yield* bench.sendAll(numbered(3))
      yield* bench.has(consumer, numbered(3))
      yield* bench.until("the broker was told again", () => failures < 0, () => failures)
      yield* bench.send("end")
      yield* bench.has(consumer, ["end"])
      yield* bench.untilSome("all is settled", Effect.map(consumer.health, ({ pending }) => pending === 0 || undefined))
      yield* bench.until("the broker knows", () => bench.monitor.settledAlone + bench.monitor.committed.size > 0)
    }),
  { needs: ["redelivery"] }
)

const attempts: Scenario = scenario(
  "attempts",
  "the broker counts deliveries, so the attempt goes on with the next consumer",
  ["X5"],
  (bench) =>
    Effect.gen(function*() {
      yield* bench.declare(1)
      const first = yield* bench.consumer(() => Effect.never)
      yield* bench.send("m")
      yield* bench.has(first, ["m"])
      yield* first.stop
      const second = yield* bench.reader()
      yield* bench.has(second, ["m"])
      yield* same("attempts", [...first.got, ...second.got].map(({ attempt }) => attempt), [1, 2])
    }),
  { needs: ["attempts"] }
)

const outage: Scenario = scenario(
  "outage",
  "while the broker is down publishing fails with a typed error; when it is back all goes on, and nothing confirmed is lost",
  ["X5", "X4"],
  (bench, { outage }) =>
    Effect.gen(function*() {
      yield* bench.declare(2)
      const keeps = outage.keeps ?? bench.capabilities.persistence
      const fails = (what: string) =>
        Effect.mapError((error: unknown) =>
          new Broken({ message: `the broker could not be ${what}: ${String(error)}` })
        )
      const handle = ({ attempt, raw }: { readonly attempt: number; readonly raw: Uint8Array }) =>
        attempt === 1 && textOf(raw).endsWith("-7") ? Effect.succeed(Outcome.Retry()) : dawdle
      const consumers = yield* Effect.forEach([1, 2], () => bench.consumer(handle, { lanes: Lanes.key(4) }), {
        concurrency: "unbounded"
      })
      yield* bench.shared(consumers, 2)
      const confirmed: Array<string> = []
      const wrong: Array<unknown> = []
      let refused = 0
      let down = false
      let ended = false
      const texts = () => consumers.flatMap(({ done }) => done)
      const flow = yield* Effect.forkScoped(Effect.gen(function*() {
        for (let i = 0; !ended; i++) {
          const text = `m-${i}`
          yield* bench.send(text, { key: `k${i % 5}` }).pipe(
            Effect.map(() => void confirmed.push(text)),
            Effect.catch((error: BrokerError.BrokerError) => {
              if (down) refused++
              if (!error.retriable || !(error.reason === "Unreachable" || error.reason === "Lost")) wrong.push(error)
              return Effect.void
            })
          )
          yield* Effect.sleep(2)
        }
      }))
      yield* bench.until("messages flow", () => texts().length > 20)
      yield* bench.broker.check
      down = true
      yield* outage.stop.pipe(fails("stopped"))
      yield* bench.until("a publish was refused", () => refused > 0)
      yield* refusedWith("asking a broker that is down for its health", bench.broker.check, "Unreachable", "Lost")
      yield* outage.start.pipe(fails("started"))
      down = false
      const before = confirmed.length
      yield* bench.untilSome(
        "it is healthy again",
        Effect.catch(Effect.as(bench.broker.check, true), () => Effect.undefined)
      )
      yield* bench.until("publishing works again", () => confirmed.length > before + 20, () => confirmed.length)
      ended = true
      yield* Fiber.join(flow)
      yield* same("errors that say nothing of the outage", wrong, [])
      const wanted = keeps ? confirmed : confirmed.slice(before)
      yield* bench.until(
        "all that was confirmed is done",
        () => missing(texts(), wanted).length === 0,
        () => missing(texts(), wanted)
      )
      yield* bench.shared(consumers, 2)
      const twice = texts().length - new Set(texts()).size
      yield* ensure(
        twice <= confirmed.length / 2 + 20,
        () => `${twice} messages came twice, of ${confirmed.length}`
      )
    }),
  { needs: ["redelivery", "groups"], alone: true }
)

export const faults: ReadonlyArray<Scenario> = [cut, settleFails, attempts, outage]
