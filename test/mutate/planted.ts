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
    "worker-patience-forget",
    "what a lost lease's messages had cost is never forgotten (leak)",
    "engine/Worker.ts",
    "    this.patience.forget(tenure)\n",
    ""
  ),
  mutant(
    "worker-keeper-leak",
    "the keeper of a lease goes on after its end",
    "engine/Worker.ts",
    "    this.keepers.get(tenure)?.interruptUnsafe()\n",
    ""
  ),
  mutant(
    "worker-claim-late",
    "claims are extended once, just before they end",
    "engine/Worker.ts",
    "Effect.sleep(claim / 3)",
    "Effect.sleep(claim * 0.99)"
  ),
  mutant(
    "worker-quiet-calling",
    "who drains inside its own call is not waited for",
    "engine/Worker.ts",
    "if (calling !== undefined && !this.isAwaited && tenures.includes(calling)) {",
    "if (false as boolean) { if (calling === undefined) return Effect.void"
  ),
  mutant(
    "worker-requeue-order",
    "a late failure goes behind its lane, not before it",
    "engine/Worker.ts",
    "} else other.queue.unshift(delivery)",
    "} else other.queue.push(delivery)"
  ),
  mutant(
    "worker-dues-drop",
    "what waits of a lost lease stays in memory",
    "engine/Worker.ts",
    "    if (this.dues.length > 0) this.dues.drop((delivery) => tenureOf(delivery) === tenure)\n",
    ""
  ),
  mutant(
    "worker-room-while-paused",
    "takes in more while paused",
    "engine/Worker.ts",
    "if (!this.paused && this.pending <= messages / 2",
    "if (this.pending <= messages / 2"
  ),
  mutant(
    "worker-drain-zombies",
    "a drain does not wait for what runs on under a lost lease",
    "engine/Worker.ts",
    "new Set([...this.tenures.values(), ...running])",
    "new Set([...this.tenures.values(), ...running.slice(running.length)])"
  ),
  mutant(
    "worker-loseAll-no-wait",
    "the next life begins before what was interrupted has ended",
    "engine/Worker.ts",
    "return Effect.andThen(lost, Effect.timeoutOption(this.quiet(tenures), Farewell.farewell)).pipe(Effect.asVoid)",
    "return lost"
  ),
  mutant(
    "worker-lost-in-call",
    "a handler whose lease ended during its call runs on",
    "engine/Worker.ts",
    "    if (tenure.lost) fiber.interruptUnsafe()\n",
    ""
  ),
  mutant(
    "worker-no-foresight",
    "hooks hear of a retry that will not be made",
    "engine/Worker.ts",
    "return given === undefined ? outcome : Outcome.DeadLetter(given.error)\n    }\n    const { detour, level } = this.way",
    "return outcome\n    }\n    const { detour, level } = this.way"
  ),
  mutant(
    "worker-foresight-detour",
    "the same, by retry channels",
    "engine/Worker.ts",
    "return detour.next(delivery, level, outcome, now) === undefined ? this.noneLeft(delivery, detour) : outcome",
    "return outcome"
  ),
  mutant(
    "worker-reject-waits",
    "a rejected message that waits for its hooks keeps its lane shut",
    "engine/Worker.ts",
    "if (outcome._tag === \"Ack\" || outcome._tag === \"Reject\") {",
    "if (outcome._tag === \"Ack\") {"
  ),
  mutant(
    "worker-native-letter-of-retry",
    "the broker writes the dead letter of a retry channel by itself",
    "engine/Worker.ts",
    "const isOwn = this.way === undefined || this.way.level === 0",
    "const isOwn = true"
  ),
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
    "worker-handle-throws",
    "a throw in handle is an acknowledgement",
    "engine/Worker.ts",
    "    } catch (defect) {\n      effect = Exit.die(defect)\n    }\n    if (isDone(effect)) return this.complete",
    "    } catch (defect) {\n      effect = Exit.void as never; void defect\n    }\n    if (isDone(effect)) return this.complete"
  ),
  mutant(
    "tenure-release-gap",
    "what is given back counts as settled for the commit",
    "engine/Tenure.ts",
    "if (this.lease.settle === undefined || this.lost || batch.flags[delivery.index] === 1) return",
    "if (this.lost || batch.flags[delivery.index] === 1) return"
  ),
  mutant(
    "tenure-slack-off-by-one",
    "one message more ahead",
    "engine/Tenure.ts",
    "if (this.ahead >= this.span)",
    "if (this.ahead > this.span)"
  ),
  mutant(
    "tenure-slack-reopen",
    "room for more only when all is committed",
    "engine/Tenure.ts",
    "if (this.ahead <= this.span / 2 && !this.slack.isOpen())",
    "if (this.ahead === 0 && !this.slack.isOpen())"
  ),
  mutant(
    "tenure-refused-outcomes-lost",
    "outcomes that the broker refused are not told again",
    "engine/Tenure.ts",
    "        this.outcomes = batch.concat(this.outcomes)\n",
    ""
  ),
  mutant(
    "tenure-passed",
    "counts what was passed twice",
    "engine/Tenure.ts",
    "this.passed += deliveries.length - prefix",
    "this.passed += deliveries.length"
  ),
  mutant(
    "patience-excused",
    "a time that the message named itself counts in its age",
    "engine/Patience.ts",
    "      held.since += now - held.excused.at\n",
    ""
  ),
  mutant(
    "patience-span-off",
    "one message more goes past",
    "engine/Patience.ts",
    "return settled >= span",
    "return settled > span"
  ),
  mutant(
    "patience-attempts-off",
    "one attempt more",
    "engine/Patience.ts",
    "if (held.failures >= attempts)",
    "if (held.failures > attempts)"
  ),
  mutant(
    "patience-backoff-power",
    "the first wait is the second",
    "engine/Patience.ts",
    "base * factor ** (failures - 1)",
    "base * factor ** failures"
  ),
  mutant(
    "patience-jitter",
    "jitter only adds",
    "engine/Patience.ts",
    "(2 * this.random() - 1)",
    "this.random()"
  ),
  mutant(
    "letters-backoff",
    "the wait between attempts to write a letter does not grow",
    "engine/Letters.ts",
    "this.publish(letter.outgoing), failures + 1)",
    "this.publish(letter.outgoing), failures)"
  ),
  mutant(
    "letters-give-up",
    "letters of a lease that ended are written on",
    "engine/Letters.ts",
    "if (own === tenure) fiber.interruptUnsafe()",
    "if (own === tenure) void fiber"
  ),
  mutant(
    "farewell-no-give-up",
    "what should become durable is waited for after the end",
    "engine/Farewell.ts",
    "for (const tenure of tenures) runs.giveUp(tenure)",
    "void runs.giveUp"
  ),
  mutant(
    "farewell-still",
    "the last words do not wait for the running call",
    "engine/Farewell.ts",
    "      tenure.whenStill,\n",
    "      Effect.void,\n"
  ),
  mutant(
    "farewell-last-timeout",
    "a broker that never answers holds the drain for ever",
    "engine/Farewell.ts",
    "Effect.timeoutOption(Effect.ignore(words), farewell)",
    "Effect.ignore(words)"
  ),
  mutant(
    "durables-late-leak",
    "the map of late ones is never cleaned",
    "engine/Durables.ts",
    "    if (this.late.get(waiting.effect) === waiting) this.late.delete(waiting.effect)\n",
    ""
  ),
  mutant(
    "durables-shared-giveup",
    "a lease that ends takes the effect from others that wait for it",
    "engine/Durables.ts",
    "      if (left.length > 0) continue\n",
    ""
  ),
  mutant(
    "dues-stable",
    "of equal times the later comes first",
    "engine/Dues.ts",
    "this.times[at - 1]! > due",
    "this.times[at - 1]! >= due"
  ),
  mutant(
    "gate-owner-timer",
    "the timer of an earlier pause of the same owner is left",
    "engine/Gate.ts",
    "    this.owners.get(owner)?.timer?.interruptUnsafe()\n    const timer",
    "    const timer"
  ),
  mutant(
    "gate-end",
    "timers of pauses outlive the subscription",
    "engine/Gate.ts",
    "    for (const { timer } of this.owners.values()) timer?.interruptUnsafe()\n",
    ""
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
    "retry-after-longer",
    "retryAfter replaces a longer wait",
    "middleware/Retry.ts",
    "const delay = Math.max(after, Duration.toMillis(wait))",
    "const delay = after > 0 ? after : Duration.toMillis(wait)"
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
    "idempotency-net",
    "who is interrupted before the first step keeps its claim",
    "middleware/Idempotency.ts",
    "      message.after(() => pending ? release : undefined)\n",
    ""
  ),
  mutant(
    "idempotency-unheard",
    "one unheard heartbeat loses the claim",
    "middleware/Idempotency.ts",
    "unheard === 2 ? lost()",
    "unheard === 0 ? lost()"
  ),
  mutant(
    "deadletter-retryafter",
    "dead-letters what names its time",
    "middleware/DeadLetter.ts",
    "isClassified(error) && error.retryAfter !== undefined\n          ? Outcome.Retry({ after: error.retryAfter })\n          : Outcome.DeadLetter(error)",
    "Outcome.DeadLetter(error)"
  ),
  mutant(
    "publisher-batch-closed",
    "a retry after the batch has failed joins the batch",
    "broker/Publisher.ts",
    "        if (!open) return undefined\n",
    ""
  ),
  mutant(
    "killswitch-clear",
    "counts on from what engaged it",
    "broker/KillSwitch.ts",
    "this.current = { by, since, until: milliseconds === undefined ? undefined : since + milliseconds }\n    this.recent.clear()",
    "this.current = { by, since, until: milliseconds === undefined ? undefined : since + milliseconds }"
  )
]
