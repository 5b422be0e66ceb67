import { it } from "@effect/vitest"
import { Console, Effect, Fiber, Random } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import type { Process } from "./Lives.ts"
import { reconcile, run, server } from "./support.ts"

const members = 3
const time = 60_000

describeServer("Consumers that come and go", server, (kafka) => {
  it.live(
    "X3 X4 X9 up to three consumers join, leave and are killed for a minute: nothing is lost, each key stays in order",
    () =>
      run(
        "members",
        kafka(),
        { partitions: 6, keys: 257 },
        { inFlight: 1024, session: 3000, slowest: 40, lanes: "key" },
        (run) =>
          Effect.gen(function*() {
            const { check, evidence, say, start } = run
            let publishing = true
            const producer = yield* Effect.forkChild(Effect.gen(function*() {
              while (publishing) {
                yield* evidence.publish(300)
                yield* Effect.sleep("100 millis")
              }
            }))
            const counts = { joined: members, left: 0, killed: 0 }
            const leaving: Array<Fiber.Fiber<void>> = []
            const leave = Effect.fnUntraced(function*(life: Process) {
              const code = yield* life.terminate
              if (code !== 0) yield* Console.log(life.printed())
              expect(code).toBe(0)
            })
            const lives = yield* Effect.replicateEffect(start, members)
            const began = performance.now()
            for (let round = 1; performance.now() - began < time; round++) {
              yield* Effect.sleep(yield* Random.nextIntBetween(500, 3000))
              const one = lives[yield* Random.nextIntBetween(0, lives.length)]
              if (one === undefined || (lives.length < members && (yield* Random.nextBoolean))) {
                lives.push(yield* start)
                counts.joined++
              } else {
                expect(one.isRunning(), one.printed()).toBe(true)
                lives.splice(lives.indexOf(one), 1)
                if (yield* Random.nextBoolean) {
                  counts.left++
                  leaving.push(yield* Effect.forkChild(leave(one)))
                } else {
                  counts.killed++
                  yield* one.kill
                }
              }
              yield* check
              if (round % 10 === 0) {
                yield* say(`${JSON.stringify(counts)}, ${evidence.handled} of ${evidence.confirmed.size} handled`)
              }
            }
            publishing = false
            yield* Fiber.join(producer)
            yield* Effect.forEach(leaving, Fiber.join)
            if (lives.length === 0) lives.push(yield* start)
            yield* reconcile(run, ...lives)
            yield* say(`${counts.joined} joined, ${counts.left} left, ${counts.killed} were killed`)
          })
      ),
    240_000
  )
})
