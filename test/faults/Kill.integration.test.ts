import { it } from "@effect/vitest"
import { Effect, Fiber, Random } from "effect"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { reconcile, run, server } from "./support.ts"

const partitions = 4
const inFlight = 1024
// the source asks for room after each batch, and each partition may bring one of up to 512 beyond it
const mostInFlight = inFlight + partitions * 512

// docs/reliability.md has the figures of 50 kills
const kills = Number(process.env["MILLRACE_KILLS"] ?? 20)
const messages = kills * 4000
// so that there is always something to do when a life ends
const ahead = messages / 5

describeServer("A consumer that is killed", server, (kafka) => {
  it.live(
    "X3 X9 kill -9 many times under load: all handled, audited before they are committed, in order",
    () =>
      run(
        "kill",
        kafka(),
        { partitions, keys: 257 },
        { inFlight, session: 1000, slowest: 4, lanes: "key" },
        (run) =>
          Effect.gen(function*() {
            const { check, evidence, say, start } = run
            const most = { audited: 0, inFlight: 0 }
            const sum = { audited: 0, inFlight: 0 }
            yield* evidence.publish(ahead)
            for (let kill = 1; kill <= kills; kill++) {
              const publishing = yield* Effect.forkChild(evidence.publish((messages - ahead) / kills))
              const life = yield* start
              // after some thousand messages; one life in five while it starts, joins its group or has just begun
              if ((yield* Random.nextIntBetween(0, 5)) > 0) {
                const enough = evidence.runs + (yield* Random.nextIntBetween(1, 7000))
                while (evidence.runs < enough && evidence.unhandled > 0) {
                  expect(life.isRunning(), life.printed()).toBe(true)
                  yield* Effect.sleep("5 millis")
                }
                // one in two ends while its audit waits for the file: whatever ran ahead of the rows shows
                if (yield* Random.nextBoolean) {
                  const unlock = evidence.lock()
                  yield* Effect.sleep(yield* Random.nextIntBetween(0, 50))
                  yield* life.kill
                  unlock()
                }
              } else yield* Effect.sleep(yield* Random.nextIntBetween(0, 2000))
              yield* life.kill
              yield* Fiber.join(publishing)
              yield* check
              const left = evidence.left(life.life)
              expect(left.inFlight).toBeLessThanOrEqual(mostInFlight)
              for (const what of ["audited", "inFlight"] as const) {
                sum[what] += left[what]
                most[what] = Math.max(most[what], left[what])
              }
              if (kill % 10 === 0) {
                yield* say(`${kill} kills, ${evidence.handled} handled, ${evidence.repeated} of them again`)
              }
            }
            const rest = yield* start
            yield* reconcile(run, rest)
            expect(evidence.confirmed.size).toBe(messages)
            expect(evidence.handled).toBe(messages + evidence.repeated)
            // each that came again to another life had been left by a kill
            expect(evidence.inherited).toBeLessThanOrEqual(sum.audited + sum.inFlight)
            yield* say(
              `left by a kill: at most ${most.inFlight} in flight (${sum.inFlight} in all), ${most.audited} settled and not committed (${sum.audited} in all)`
            )
          })
      ),
    // each kill takes about a second alone, and up to ten where other tests take the processors
    60_000 + kills * 12_000
  )
})
