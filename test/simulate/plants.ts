/**
 * Bugs to be planted in a copy of the core, each an exact edit: what the histories are worth is how fast they find them.
 */

/** One edit: `find` must stand exactly once in the file. */
export interface Edit {
  /** A path inside `packages/core/src`. */
  readonly file: string
  readonly find: string
  readonly replace: string
}

/** A bug. */
export interface Plant {
  readonly name: string
  /** What the engine then does. */
  readonly about: string
  readonly edits: ReadonlyArray<Edit>
}

const plant = (name: string, about: string, file: string, find: string, replace: string): Plant => ({
  name,
  about,
  edits: [{ file, find, replace }]
})

const worker = "engine/Worker.ts"
const tenure = "engine/Tenure.ts"

export const plants: ReadonlyArray<Plant> = [
  plant(
    "commit-past-gap",
    "commits a whole batch when one message of it is settled",
    tenure,
    "if (batch.done < deliveries.length) {",
    "if (batch.done === 0) {"
  ),
  plant(
    "two-calls-at-once",
    "tells the broker the next thing while it still hears the last",
    tenure,
    "    this.telling = true\n",
    ""
  ),
  plant(
    "tell-when-lost",
    "goes on to settle under a lease that was lost",
    tenure,
    "if (this.telling || this.lost) return Exit.void",
    "if (this.telling) return Exit.void"
  ),
  plant(
    "forget-on-revoke",
    "acknowledges on a revoke what it should give back",
    "engine/Farewell.ts",
    "tenure.release(delivery, Outcome.Release)",
    "tenure.release(delivery, Outcome.Ack)"
  ),
  plant(
    "start-after-revoke",
    "starts messages of a lease that is being revoked",
    worker,
    "      tenure.stopped = true\n      this.cancel(tenure)",
    "      this.cancel(tenure)"
  ),
  plant(
    "grace-ignored",
    "interrupts what runs at once when a lease ends or the consumer drains",
    "engine/Farewell.ts",
    "Effect.timeoutOption(quiet, limit)",
    "Effect.timeoutOption(quiet, 0)"
  ),
  plant(
    "drain-does-not-wait",
    "says that it has drained before what it interrupted has ended",
    "engine/Farewell.ts",
    "Effect.timeoutOption(quiet, farewell)",
    "Effect.timeoutOption(quiet, 0)"
  ),
  {
    name: "start-while-draining",
    about: "goes on to start messages when its drain began",
    edits: [
      {
        file: worker,
        find: "if (tenure.stopped || this.draining) return false\n    this.calling",
        replace: "this.calling"
      },
      { file: worker, find: "!this.paused && !this.draining &&", replace: "!this.paused &&" },
      { file: worker, find: "if (tenure.stopped) this.offset = deliveries.length", replace: "" }
    ]
  },
  plant(
    "acknowledge-before-hooks",
    "acknowledges before what must last has lasted",
    worker,
    "this.durables.add(after, delivery, outcome, \"late\")",
    "this.apply(delivery, batch, outcome, lane)"
  ),
  plant(
    "hooks-twice",
    "keeps the hooks of a run for the next one",
    worker,
    "    delivery.hooks = undefined\n",
    ""
  ),
  plant(
    "two-of-one-lane",
    "runs a message beside one of its lane that is suspended",
    worker,
    "if (lane === undefined) this.start(delivery, batch, undefined)",
    "if (lane === undefined || lane.queue.length === 0) this.start(delivery, batch, undefined)"
  ),
  plant(
    "overtake-on-release",
    "goes on with the lane of a message that was given back and waits",
    worker,
    "        return this.again(delivery, batch, Outcome.Retry(), lane)",
    "        this.again(delivery, batch, Outcome.Retry(), lane)\n        return true"
  ),
  plant(
    "limit-ignored",
    "runs as many messages at once as it was given",
    worker,
    "while (this.offset < deliveries.length && this.active < this.limit) {",
    "while (this.offset < deliveries.length) {"
  ),
  plant(
    "room-stays-shut",
    "takes nothing more in once it had no room",
    worker,
    "    this.pendingBytes -= delivery.payload.length\n    this.makeRoom()\n",
    "    this.pendingBytes -= delivery.payload.length\n"
  ),
  plant(
    "start-while-paused",
    "starts messages while it is paused",
    worker,
    "!this.paused && !this.draining &&",
    "!this.draining &&"
  ),
  plant(
    "bytes-leak",
    "counts the bytes of a message that is settled as pending",
    worker,
    "    this.pendingBytes -= delivery.payload.length\n",
    ""
  ),
  plant(
    "bytes-unlimited",
    "takes in more bytes than it may have in flight",
    worker,
    "this.pending < messages && this.pendingBytes < bytes) return slack",
    "this.pending < messages) return slack"
  ),
  plant(
    "span-unlimited",
    "takes in ever more while one message is not settled",
    "engine/Tenure.ts",
    "if (this.ahead >= this.span) this.slack.closeUnsafe()",
    ""
  ),
  plant(
    "letter-dropped",
    "takes a dead letter that the broker refused for written",
    "engine/Letters.ts",
    "return isDone(written) && written._tag === \"Success\" ? undefined",
    "return isDone(written) ? undefined"
  ),
  plant(
    "throttled-counts",
    "counts a retry that names its own time as a failure",
    "engine/Patience.ts",
    "    if (own !== undefined) {",
    "    if (own !== undefined && held === undefined) {"
  ),
  plant(
    "throttled-at-once",
    "does not wait the time that a retry names",
    "engine/Patience.ts",
    "      return own\n",
    "      return 0\n"
  ),
  plant(
    "age-ignored",
    "holds a message that keeps failing however long that lasts",
    "engine/Patience.ts",
    "    if (now - held.since >= age) return `it failed for ${now - held.since} ms`\n",
    ""
  ),
  plant(
    "interruption-acknowledged",
    "acknowledges a message whose handler was interrupted",
    "broker/Settlement.ts",
    "if (Cause.hasInterrupts(exit.cause)) return Outcome.Release",
    "if (Cause.hasInterrupts(exit.cause)) return Outcome.Ack"
  ),
  plant(
    "letter-without-key",
    "writes dead letters without the key of the message",
    "broker/DeadLetters.ts",
    "new Outgoing(options.channel, delivery.raw, delivery.key, added, {\n    keyBytes: delivery.keyBytes,",
    "new Outgoing(options.channel, delivery.raw, undefined, added, {"
  ),
  plant(
    "cut-one-by-one",
    "the broker gives a partition to a consumer that it is about to cut (once found by seed 86)",
    "memory/MemoryBroker.ts",
    "for (const member of this.connections.keys()) member.cut = true",
    "for (const [member, cut] of Array.from(this.connections)) { member.cut = true; Deferred.doneUnsafe(cut, Exit.fail(down(\"consume\"))) }"
  ),
  plant(
    "delay-ignored",
    "the broker delivers at once what it is to delay",
    "memory/MemoryGroup.ts",
    "Math.min(most, later < 0 ? back.length : later)",
    "Math.min(most, back.length)"
  ),
  plant(
    "never-redelivered",
    "the broker forgets what a consumer had when it went",
    "memory/MemoryGroup.ts",
    "    this.giveBack(own, Number.POSITIVE_INFINITY)\n",
    ""
  )
]

/** Bugs of delayed retries, for the histories that have them. */
export const detours: ReadonlyArray<Plant> = [
  plant(
    "retry-too-early",
    "runs a message from a retry channel before its time",
    "engine/Dues.ts",
    "due - now < epsilon",
    "due - now < 5"
  ),
  plant(
    "retry-not-written",
    "settles a message whose retry the broker refused",
    "engine/Letters.ts",
    "return isDone(written) && written._tag === \"Success\" ? undefined",
    "return isDone(written) ? undefined"
  ),
  plant(
    "round-for-ever",
    "counts no failure of a message that leaves its place",
    "engine/Detour.ts",
    "this.send(delivery, found, failures + 1, failures + 1, now, now + delay)",
    "this.send(delivery, found, failures + 1, failures, now, now + delay)"
  ),
  plant(
    "passing-on-counts",
    "counts a message that was only passed on as tried",
    "engine/Detour.ts",
    "isDue(found.due, at) ? delivery.attempts : delivery.attempts - 1",
    "isDue(found.due, at) ? delivery.attempts : delivery.attempts"
  ),
  plant(
    "letter-of-the-retry-channel",
    "writes dead letters that name the retry channel",
    "engine/Detour.ts",
    "consumer.deadLetter(Retries.read(waiting, this.group)?.original ?? waiting, error, at)",
    "consumer.deadLetter(waiting, error, at)"
  ),
  plant(
    "retry-without-key",
    "loses the key on the way to a retry channel",
    "broker/Retries.ts",
    "original.raw, original.key, added, {\n    keyBytes: original.keyBytes,",
    "original.raw, undefined, added, {"
  ),
  plant(
    "headers-grow",
    "shows handlers the headers of the retry channel",
    "broker/Retries.ts",
    "return native.fields.filter(([name]) => !own.has(name.toLowerCase()))",
    "return native.fields"
  ),
  plant(
    "hooks-forgotten",
    "runs no hook of a message that comes back",
    "engine/Detour.ts",
    "original.hooks = waiting.hooks = []",
    "original.hooks = []"
  )
]
