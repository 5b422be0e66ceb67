/**
 * Mutants written by hand: mistakes that an engineer could make, each an exact edit. Tests must kill every one of them.
 */
import type { Plant } from "../simulate/plants.ts"

const mutant = (name: string, about: string, file: string, find: string, replace: string): Plant => ({
  name,
  about,
  edits: [{ file, find, replace }]
})

export const planted: ReadonlyArray<Plant> = [
  mutant(
    "worker-pause-slice",
    "a handler that pauses is not the last that starts",
    "engine/Worker.ts",
    "    this.slice.end()\n",
    ""
  ),
  mutant(
    "worker-wakenow-paused",
    "an offer while paused wakes the loop on the spot",
    "engine/Worker.ts",
    "if (!this.isIdle || this.paused || !this.slice.isOpen())",
    "if (!this.isIdle || !this.slice.isOpen())"
  ),
  mutant(
    "memory-attempt",
    "a retry is not counted",
    "memory/MemoryGroup.ts",
    "own.back.push({ position: settled.position, attempt: out.attempt + 1, due })",
    "own.back.push({ position: settled.position, attempt: out.attempt, due })"
  ),
  mutant(
    "memory-trim",
    "drops what a slow group has not done",
    "memory/MemoryBroker.ts",
    "    for (const group of this.groups.get(channel)!.values()) low = Math.min(low, group.doneOf(p))\n",
    ""
  ),
  mutant(
    "memory-turn",
    "the first partition is always read first",
    "memory/MemoryGroup.ts",
    "        member.turn = (member.turn + i + 1) % owned.length\n",
    ""
  ),
  mutant(
    "memory-done-back",
    "what waits for its next delivery counts as done",
    "memory/MemoryGroup.ts",
    "    for (const { position } of own.back) low = Math.min(low, position)\n",
    ""
  ),
  mutant(
    "after-second-hook",
    "a failing hook stops the ones after it",
    "pipeline/After.ts",
    "exit._tag === \"Success\" ? second : Effect.andThen(Effect.exit(second), exit)",
    "exit._tag === \"Success\" ? second : exit"
  ),
  mutant(
    "eager-around-net",
    "no net for who is interrupted before the first step",
    "pipeline/Eager.ts",
    "  message.after(() => once(Exit.interrupt()))\n",
    ""
  ),
  mutant(
    "eager-run-net",
    "the same for handlers that run ahead",
    "pipeline/Eager.ts",
    "    envelope.after(() => fiber.pollUnsafe() === undefined ? Fiber.interrupt(fiber) : undefined)\n",
    ""
  ),
  mutant(
    "batch-gone",
    "a batch that nobody waits for runs on",
    "pipeline/Batch.ts",
    "return group.gone < group.members.length ? Exit.void",
    "return group.gone <= group.members.length ? Exit.void"
  ),
  mutant(
    "gather-capacity",
    "one item beyond the capacity",
    "pipeline/Gather.ts",
    "if (unwritten >= capacity) return addLater(item)",
    "if (unwritten > capacity) return addLater(item)"
  ),
  mutant(
    "retry-times",
    "one retry less",
    "middleware/Retry.ts",
    "if (attempt > policy.times ||",
    "if (attempt >= policy.times ||"
  ),
  mutant(
    "retry-hold-limit",
    "the time of the next attempt is not reckoned",
    "middleware/Retry.ts",
    "if (now + delay + (now - at) - start > limit) return last",
    "if (now + delay - start > limit) return last"
  ),
  mutant(
    "ratelimit-hold",
    "waits up to the whole hold limit",
    "middleware/RateLimit.ts",
    "message.delivery.origin.holdLimit / 2",
    "message.delivery.origin.holdLimit"
  ),
  mutant(
    "circuit-era",
    "what was called before a change has a say after it",
    "middleware/circuit.ts",
    "    if (era !== this.era) return\n",
    ""
  ),
  mutant(
    "circuit-room",
    "more probes than asked for",
    "middleware/circuit.ts",
    "return this.out + this.answered < this.policy.probes",
    "return this.out < this.policy.probes"
  ),
  mutant(
    "circuit-doubling",
    "the open time never doubles",
    "middleware/circuit.ts",
    "if (state === \"closed\") {\n      this.openings = 0",
    "if (state !== \"open\") {\n      this.openings = 0"
  ),
  mutant(
    "compartment-barging",
    "who comes passes those who wait",
    "middleware/compartment.ts",
    "if (this.running >= this.limit || this.waiters.size > 0) return false",
    "if (this.running >= this.limit) return false"
  ),
  mutant(
    "compartment-lost-wake",
    "who is interrupted on its way wakes nobody",
    "middleware/compartment.ts",
    "if (this.waiters.delete(waiter)) this.wake()",
    "this.waiters.delete(waiter)"
  ),
  mutant(
    "hedge-loser",
    "the loser runs on",
    "middleware/Hedge.ts",
    "            yield* Fiber.interrupt(other)\n            return yield* exit",
    "            return yield* exit"
  ),
  mutant(
    "deadletter-retryafter",
    "dead-letters what names its time",
    "middleware/DeadLetter.ts",
    "isClassified(error) && error.retryAfter !== undefined\n          ? Outcome.Retry({ after: error.retryAfter })\n          : Outcome.DeadLetter(error)",
    "Outcome.DeadLetter(error)"
  ),
  mutant(
    "killswitch-clear",
    "counts on from what engaged it",
    "broker/KillSwitch.ts",
    "this.current = { by, since, until: milliseconds === undefined ? undefined : since + milliseconds }\n    this.recent.clear()",
    "this.current = { by, since, until: milliseconds === undefined ? undefined : since + milliseconds }"
  )
]
