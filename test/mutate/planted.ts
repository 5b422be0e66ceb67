/**
 * Mutants written by hand: mistakes that an engineer could make, each an exact edit. Tests must kill every one of them.
 */
import type { Plant } from "../simulate/plants.ts"
import { faultsAround } from "./plantedAround.ts"
import { engineFaults } from "./plantedEngine.ts"

const mutant = (name: string, about: string, file: string, find: string, replace: string): Plant => ({
  name,
  about,
  edits: [{ file, find, replace }]
})

export const planted: ReadonlyArray<Plant> = [
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
    "middleware/circuitBreaker/circuit.ts",
    "    if (era !== this.era) return\n",
    ""
  ),
  mutant(
    "circuit-room",
    "more probes than asked for",
    "middleware/circuitBreaker/circuit.ts",
    "return this.out + this.answered < this.policy.probes",
    "return this.out < this.policy.probes"
  ),
  mutant(
    "circuit-doubling",
    "the open time never doubles",
    "middleware/circuitBreaker/circuit.ts",
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
    "killswitch-clear",
    "counts on from what engaged it",
    "broker/KillSwitch.ts",
    "this.current = { by, since, until: milliseconds === undefined ? undefined : since + milliseconds }\n    this.recent.clear()",
    "this.current = { by, since, until: milliseconds === undefined ? undefined : since + milliseconds }"
  ),
  mutant(
    "policy-forget",
    "keeps what the messages of a lost lease have cost",
    "internal/engine/Worker.ts",
    "    this.policy.forget(lease)\n",
    ""
  ),
  mutant(
    "claims-late",
    "extends claims once, just before they end",
    "internal/engine/Claims.ts",
    "const wait = claim / 3",
    "const wait = claim * 0.99"
  ),
  mutant(
    "claims-one-lost-call",
    "ends a lease when the broker does not answer one extension",
    "internal/engine/Claims.ts",
    "return rest > 1\n",
    "return rest > Number.MAX_VALUE\n"
  ),
  mutant(
    "lanes-again-order",
    "puts a message that failed late behind its lane",
    "internal/engine/Lanes.ts",
    "return other.queue.unshift(delivery)",
    "return other.queue.push(delivery)"
  ),
  mutant(
    "room-while-paused",
    "takes more in while it is paused",
    "internal/engine/Room.ts",
    "    if (this.isShut) return\n",
    ""
  ),
  mutant(
    "room-share",
    "lets one lease take the room of all others",
    "internal/engine/Room.ts",
    "Math.max(other[field], reserve)",
    "other[field]"
  ),
  mutant(
    "worker-hook-revises",
    "ignores the failure of a hook that ended at once",
    "internal/engine/Worker.ts",
    "return this.apply(delivery, batch, this.revised(delivery, verdict, after), lane)",
    "return this.apply(delivery, batch, verdict, lane)"
  ),
  mutant(
    "worker-reject-waits",
    "keeps the lane of a rejected message shut until its hooks have ended",
    "internal/engine/Worker.ts",
    "verdict.outcome._tag === \"Ack\" || verdict.outcome._tag === \"Reject\"",
    "verdict.outcome._tag === \"Ack\""
  ),
  mutant(
    "worker-letter-of-retry-channel",
    "lets the broker write the dead letter of a retry channel",
    "internal/engine/Worker.ts",
    "const told = this.tier === undefined || this.tier.tier === 0 ? outcome : Outcome.Ack",
    "const told = outcome"
  ),
  mutant(
    "worker-native-letter-of-retry-channel",
    "leaves the dead letter of a retry channel to the broker",
    "internal/engine/Worker.ts",
    "capabilities.deadLetter && (tier === undefined || tier.tier === 0)",
    "capabilities.deadLetter"
  ),
  mutant(
    "worker-handle-throws",
    "acknowledges a message whose handler throws",
    "internal/engine/Worker.ts",
    "    } catch (defect) {\n      return Exit.die(defect)",
    "    } catch {\n      return Exit.void"
  ),
  mutant(
    "worker-settle-throws",
    "acknowledges a message whose settle entry throws",
    "internal/engine/Worker.ts",
    "return { _tag: \"GiveUp\", outcome: Outcome.DeadLetter(defect) }",
    "return defect === undefined ? Retrying.acknowledged : Retrying.acknowledged"
  ),
  mutant(
    "worker-interrupted-hold",
    "holds a message in a lease that has stopped",
    "internal/engine/Worker.ts",
    "if (leaseOf(delivery).stopped || this.draining) return false\n    const timer",
    "const timer"
  ),
  mutant(
    "lease-release-gap",
    "counts a released message as settled for the commit",
    "internal/engine/LeaseState.ts",
    "if (this.lease.settle === undefined || batch.flags[delivery.index] === 1) return",
    "if (batch.flags[delivery.index] === 1) return"
  ),
  mutant(
    "lease-slack-off-by-one",
    "takes one message more ahead than `span` allows",
    "internal/engine/LeaseState.ts",
    "if (this.ahead >= this.span)",
    "if (this.ahead > this.span)"
  ),
  mutant(
    "lease-slack-reopen",
    "resumes the driver only when nothing is settled ahead",
    "internal/engine/LeaseState.ts",
    "if (this.ahead <= this.span / 2)",
    "if (this.ahead === 0)"
  ),
  mutant(
    "lease-refused-outcomes-lost",
    "does not repeat outcomes that the broker refused",
    "internal/engine/LeaseState.ts",
    "        this.outcomes = batch.concat(this.outcomes)\n",
    ""
  ),
  mutant(
    "lease-passed",
    "counts the messages of a batch twice as passed",
    "internal/engine/LeaseState.ts",
    "this.passed += deliveries.length - prefix",
    "this.passed += deliveries.length"
  ),
  mutant(
    "policy-named-age",
    "counts the time that an error named in the age",
    "internal/engine/RetryPolicy.ts",
    "since: since + now - named.at,",
    "since,"
  ),
  mutant(
    "policy-named-span",
    "counts what was settled during a named wait in the span",
    "internal/engine/RetryPolicy.ts",
    "settledBefore: settledBefore + lease.settled - named.settled,",
    "settledBefore,"
  ),
  mutant(
    "policy-span-off",
    "lets one message more go past",
    "internal/engine/RetryPolicy.ts",
    "return settled >= span",
    "return settled > span"
  ),
  mutant(
    "policy-attempts-off",
    "tries a held message once more",
    "internal/engine/RetryPolicy.ts",
    "if (cost.failures >= attempts)",
    "if (cost.failures > attempts)"
  ),
  mutant(
    "policy-broker-attempts-off",
    "tries a message that the broker delays once more",
    "internal/engine/RetryPolicy.ts",
    "if (failures >= hold.attempts)",
    "if (failures > hold.attempts)"
  ),
  mutant(
    "policy-backoff-power",
    "waits the second delay first",
    "internal/engine/RetryPolicy.ts",
    "base * factor ** (failures - 1)",
    "base * factor ** failures"
  ),
  mutant(
    "policy-jitter",
    "only adds jitter",
    "internal/engine/RetryPolicy.ts",
    "(2 * random() - 1)",
    "random()"
  ),
  mutant(
    "policy-named-zero",
    "repeats at once when an error names no time",
    "internal/engine/RetryPolicy.ts",
    "return Math.max(Duration.toMillis(after), this.limits.backoff.base)",
    "return Duration.toMillis(after)"
  ),
  mutant(
    "policy-named-sum",
    "bounds each named wait, not their sum",
    "internal/engine/RetryPolicy.ts",
    "const waited = cost.waited + named",
    "const waited = named"
  ),
  mutant(
    "writer-backoff",
    "does not back off between attempts to write a dead letter",
    "internal/engine/DeadLetterWriter.ts",
    "Effect.andThen(this.again(writing, 0, failures + 1))",
    "Effect.andThen(this.again(writing, 0, failures))"
  ),
  mutant(
    "writer-give-up",
    "writes the dead letters of a lease that has ended",
    "internal/engine/DeadLetterWriter.ts",
    "if (leaseOf(delivery) === lease) fiber.interruptUnsafe()",
    "if (leaseOf(delivery) === lease) void fiber"
  ),
  mutant(
    "end-give-up",
    "waits for durable effects after the end",
    "internal/engine/endLeases.ts",
    "for (const lease of leases) inProgress.giveUp(lease)",
    "void inProgress.giveUp"
  ),
  mutant(
    "end-still",
    "tells the broker the last outcomes beside the running call",
    "internal/engine/endLeases.ts",
    "      lease.whenStill,\n      Effect.suspend",
    "      Effect.void,\n      Effect.suspend"
  ),
  mutant(
    "end-last-timeout",
    "waits for a broker that never answers",
    "internal/engine/endLeases.ts",
    "Effect.timeoutOption(Effect.exit(calls), farewell)",
    "Effect.exit(calls)"
  ),
  mutant(
    "effects-late-leak",
    "keeps entries of effects that have ended",
    "internal/engine/PendingEffects.ts",
    "    if (this.late.get(waiting.effect) === waiting) this.late.delete(waiting.effect)\n",
    ""
  ),
  mutant(
    "effects-shared-give-up",
    "takes an effect from the other leases that wait for it",
    "internal/engine/PendingEffects.ts",
    "      if (left.length > 0) continue\n",
    ""
  ),
  mutant(
    "delays-stable",
    "reverses messages of equal times",
    "internal/engine/DelayQueue.ts",
    "(other) => other.due > due",
    "(other) => other.due >= due"
  ),
  mutant(
    "pause-owner-timer",
    "leaves the timer of an owner's earlier pause running",
    "internal/engine/PauseControl.ts",
    "    this.owners.get(owner)?.timer?.interruptUnsafe()\n    const end",
    "    const end"
  ),
  mutant(
    "pause-end",
    "leaves the timers of pauses running after the end",
    "internal/engine/PauseControl.ts",
    "    for (const { timer } of this.owners.values()) timer?.interruptUnsafe()\n",
    ""
  ),
  mutant(
    "retry-after-longer",
    "replaces a longer backoff by retryAfter",
    "middleware/Retry.ts",
    "const delay = Math.max(after, Duration.toMillis(own))",
    "const delay = after > 0 ? after : Duration.toMillis(own)"
  ),
  mutant(
    "idempotency-net",
    "keeps the claim of a message that was interrupted before its first step",
    "middleware/idempotency/claimed.ts",
    "    message.after(() => pending ? release : undefined)\n",
    ""
  ),
  mutant(
    "idempotency-unheard",
    "gives a claim up when the store does not answer one heartbeat",
    "middleware/idempotency/lease.ts",
    "if (heard._tag === \"None\") return beat(last, at + unit, unheard + 1)",
    "if (heard._tag === \"None\") return Effect.succeed(\"unheard\" as const)"
  ),
  mutant(
    "idempotency-late-look",
    "looks for the answer of the first request only when the wait is over",
    "middleware/Idempotency.ts",
    "Math.min(step, wait - waited, Math.max(1, claim.left))",
    "Math.min(wait - waited, Math.max(1, claim.left))"
  ),
  mutant(
    "publisher-batch-closed",
    "takes a message into a batch that is published already",
    "pipeline/sideBySide.ts",
    "      if (this.state === \"published\") return undefined\n",
    ""
  ),
  mutant(
    "publisher-turn-closed",
    "takes a message into a batch after the turn of its middleware",
    "pipeline/inBatch.ts",
    "      current = alone\n",
    ""
  ),
  mutant(
    "worker-pause-slice",
    "starts more messages after a handler has paused its subscription",
    "internal/engine/Dispatcher.ts",
    "    this.slice.end()\n",
    ""
  ),
  mutant(
    "dispatcher-wake-paused",
    "wakes the loop at once while it is paused",
    "internal/engine/Dispatcher.ts",
    "if (!this.isIdle || !this.options.mayStart() || !this.slice.isOpen())",
    "if (!this.isIdle || !this.slice.isOpen())"
  ),
  mutant(
    "deadletter-retryafter",
    "dead-letters an error that names its time",
    "middleware/DeadLetter.ts",
    "after === undefined ? Outcome.DeadLetter(error) : Outcome.Retry({ after })",
    "Outcome.DeadLetter(error)"
  ),
  mutant(
    "claims-end",
    "extends the claims of a lease that has ended",
    "internal/engine/Leases.ts",
    "    this.claims.end(lease)\n",
    ""
  ),
  mutant(
    "leases-quiet-calling",
    "does not wait for the handler that drains inside its own call",
    "internal/engine/Leases.ts",
    "if (calling !== undefined && !this.isAwaited && leases.includes(calling)) {",
    "if (calling !== undefined && this.isAwaited && leases.includes(calling)) {"
  ),
  mutant(
    "dispatcher-delays-drop",
    "keeps the delayed messages of a lost lease",
    "internal/engine/Dispatcher.ts",
    "    this.delays.drop((delivery) => leaseOf(delivery) === lease)\n",
    ""
  ),
  mutant(
    "worker-drain-lost",
    "ends a drain before the handlers of a lost lease have ended",
    "internal/engine/Worker.ts",
    "const lost = [...this.handlers.leases(), ...this.effects.leases()]",
    "const lost = this.effects.leases()"
  ),
  mutant(
    "leases-lose-all-no-wait",
    "starts the source again before interrupted handlers have ended",
    "internal/engine/Leases.ts",
    "return Effect.asVoid(Effect.timeoutOption(this.quiet(leases), farewell))",
    "return Effect.void"
  ),
  mutant(
    "handlers-lost-in-call",
    "lets a handler run on whose lease ended during its call",
    "internal/engine/Handlers.ts",
    "    if (leaseOf(delivery).lost) fiber.interruptUnsafe()\n",
    ""
  ),
  ...engineFaults,
  ...faultsAround
]
