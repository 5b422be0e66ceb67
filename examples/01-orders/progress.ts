/**
 * Waits until all messages of a run are settled, and shows meanwhile how far it is: one line that changes on a terminal, a
 * line a second elsewhere.
 */
import type { Broker } from "@millrace/core"
import { Clock, Effect } from "effect"
import { count, isTerminal } from "./terminal.ts"

const bar = (share: number): string => "█".repeat(Math.round(share * 24)).padEnd(24, "░")

const show = (health: Broker.Health, total: number, elapsed: number): string => {
  const share = Math.min(1, health.settled / total)
  return `${bar(share)} ${String(Math.floor(share * 100)).padStart(3)} %  ${count(health.settled)} of ${
    count(total)
  } settled, ${count(health.running)} running, ${(elapsed / 1000).toFixed(1)} s`
}

/** Completes when `total` messages are settled and none is left; answers the milliseconds that it took. */
export const watch = Effect.fnUntraced(function*(running: Broker.Running, total: number) {
  const start = yield* Clock.currentTimeMillis
  let shown = 0
  for (let quiet = 0; quiet < 2;) {
    yield* Effect.sleep("50 millis")
    const health = yield* running.health
    const elapsed = (yield* Clock.currentTimeMillis) - start
    // a message of an earlier run may have been left in the channel, so the number alone is not enough
    quiet = health.settled >= total && health.pending === 0 ? quiet + 1 : 0
    if (isTerminal) process.stdout.write(`\r\x1b[2K  ${show(health, total, elapsed)}`)
    else if (quiet === 2 || elapsed - shown >= 1000) {
      shown = elapsed
      process.stdout.write(`  ${show(health, total, elapsed)}\n`)
    }
  }
  if (isTerminal) process.stdout.write("\n")
  return (yield* Clock.currentTimeMillis) - start
})
