import { it } from "@effect/vitest"
import { Effect, Random } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { reconcile, run, server } from "./support.ts"

const drains = 10
const messages = 60_000

describeServer("A consumer that is told to end", server, (kafka) => {
  it.live(
    "X4 X9 SIGTERM under load ends with 0, and all that was handled is committed: nothing comes again",
    () => {
      // in the order of its partition, what is handled leaves no gap behind it that would hold its commit
      const how = { inFlight: 1024, session: 6000, slowest: 4, lanes: "partition" } as const
      return run("drain", kafka(), { partitions: 4, keys: 257 }, how, (run) =>
        Effect.gen(function*() {
          const { check, evidence, say, start } = run
          yield* evidence.publish(messages)
          for (let drain = 1; drain <= drains; drain++) {
            const life = yield* start
            const before = evidence.runs
            while (evidence.runs === before) {
              expect(life.isRunning(), life.printed()).toBe(true)
              yield* Effect.sleep("5 millis")
            }
            yield* Effect.sleep(yield* Random.nextIntBetween(0, 400))
            expect(yield* life.terminate, life.printed()).toBe(0)
            yield* check
            expect(evidence.uncommitted).toEqual([])
          }
          expect(evidence.handled).toBeLessThan(messages)
          yield* say(`${drains} drains, ${evidence.handled} of ${messages} handled`)
          yield* reconcile(run, yield* start)
          expect(evidence.repeated).toBe(0)
        }))
    },
    120_000
  )
})
