import { it } from "@effect/vitest"
import { Effect, Exit, Fiber, Random } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { reconcile, run, server } from "./support.ts"

const kills = 4

describeServer("A Kafka that is killed", server, (kafka) => {
  it.live(
    "X3 X9 kill -9 and restart of Kafka under producer and consumer: what was confirmed is handled, audited, in order",
    () =>
      run(
        "broker",
        kafka(),
        { partitions: 4, keys: 257 },
        { inFlight: 1024, session: 2000, slowest: 4, lanes: "key" },
        (run) =>
          Effect.gen(function*() {
            const { check, evidence, say, start } = run
            let publishing = true
            let refused = 0
            const producer = yield* Effect.forkChild(Effect.gen(function*() {
              while (publishing) {
                const exit = yield* Effect.exit(evidence.publish(100))
                if (Exit.isFailure(exit)) refused++
                yield* Effect.sleep("10 millis")
              }
            }))
            let life = yield* start
            // 2,000 confirmed and 2,000 handled, so both sides are at work
            const underWay = Effect.gen(function*() {
              const [confirmed, runs] = [evidence.confirmed.size, evidence.runs]
              while (evidence.confirmed.size < confirmed + 2000 || evidence.runs < runs + 2000) {
                expect(life.isRunning(), life.printed()).toBe(true)
                yield* Effect.sleep("5 millis")
              }
            })
            for (let kill = 1; kill <= kills; kill++) {
              yield* underWay
              yield* Effect.sleep(yield* Random.nextIntBetween(0, 500))
              yield* kafka().kill
              // the last time both are gone at once
              if (kill === kills) yield* life.kill
              yield* Effect.sleep(yield* Random.nextIntBetween(0, 2000))
              yield* kafka().start
              if (kill === kills) life = yield* start
              yield* say(`${kill} kills, ${evidence.confirmed.size} confirmed, ${evidence.runs} handled`)
            }
            yield* underWay
            yield* check
            publishing = false
            yield* Fiber.join(producer)
            yield* reconcile(run, life)
            yield* say(`${refused} batches were not confirmed`)
          })
      ),
    180_000
  )
})
