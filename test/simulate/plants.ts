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

const worker = "internal/engine/Worker.ts"
const lease = "internal/engine/LeaseState.ts"
const writer = "internal/engine/DeadLetterWriter.ts"
const dispatcher = "internal/engine/Dispatcher.ts"
const leases = "internal/engine/Leases.ts"

export const plants: ReadonlyArray<Plant> = [
  plant(
    "commit-past-gap",
    "commits a whole batch when one message of it is settled",
    lease,
    "if (batch.done < deliveries.length) {",
    "if (batch.done === 0) {"
  ),
  plant(
    "two-calls-at-once",
    "tells the broker the next thing while it still hears the last",
    lease,
    "    this.telling = true\n",
    ""
  ),
  plant(
    "tell-when-lost",
    "goes on to settle under a lease that was lost",
    lease,
    "if (this.telling || this.lost) return Exit.void",
    "if (this.telling) return Exit.void"
  ),
  plant(
    "call-outlives-lease",
    "waits for ever for the answer to a settlement of a lease that has ended",
    leases,
    "    this.tells.get(lease)?.interruptUnsafe()\n",
    ""
  ),
  plant(
    "forget-on-revoke",
    "acknowledges on a revoke what it should give back",
    "internal/engine/endLeases.ts",
    "lease.release(delivery, Outcome.Release)",
    "lease.release(delivery, Outcome.Ack)"
  ),
  plant(
    "start-after-revoke",
    "starts messages of a lease that is being revoked",
    leases,
    "      lease.stopped = true\n      this.options.cancel(lease)",
    "      this.options.cancel(lease)"
  ),
  plant(
    "grace-ignored",
    "interrupts what runs at once when a lease ends or the consumer drains",
    "internal/engine/endLeases.ts",
    "Effect.timeoutOption(quiet, limit)",
    "Effect.timeoutOption(quiet, 0)"
  ),
  plant(
    "drain-does-not-wait",
    "says that it has drained before what it interrupted has ended",
    "internal/engine/endLeases.ts",
    "Effect.timeoutOption(quiet, farewell)",
    "Effect.timeoutOption(quiet, 0)"
  ),
  plant(
    "last-call-for-ever",
    "waits in a drain for a broker that never answers",
    "internal/engine/endLeases.ts",
    "Effect.timeoutOption(Effect.exit(calls), farewell)",
    "Effect.exit(calls)"
  ),
  plant(
    "effects-outlive-lease",
    "waits for durable effects and dead letters of a lease that has ended",
    "internal/engine/endLeases.ts",
    "for (const lease of leases) inProgress.giveUp(lease)",
    "void inProgress.giveUp"
  ),
  {
    name: "start-while-draining",
    about: "goes on to start messages when its drain began",
    edits: [
      {
        file: worker,
        find: "    if (lease.stopped || this.draining) return false\n",
        replace: ""
      },
      {
        file: worker,
        find: "mayStart: () => !this.paused && !this.draining,",
        replace: "mayStart: () => !this.paused,"
      },
      { file: dispatcher, find: "while (!lease.stopped && batch.taken", replace: "while (batch.taken" },
      { file: dispatcher, find: "const isTaken = lease.stopped || batch", replace: "const isTaken = batch" }
    ]
  },
  plant(
    "acknowledge-before-hooks",
    "acknowledges before what must last has lasted",
    worker,
    "    this.effects.add(after, delivery, verdict, isLate ? \"late\" : this.lanes.hold(delivery, lane))\n",
    "    if (isLate) return this.apply(delivery, batch, verdict, lane)\n    this.effects.add(after, delivery, verdict, this.lanes.hold(delivery, lane))\n"
  ),
  plant(
    "hooks-twice",
    "keeps the hooks of a run for the next one",
    worker,
    "    delivery.hooks = undefined\n",
    ""
  ),
  plant(
    "hooks-told-otherwise",
    "tells hooks of a retry that will not be made",
    worker,
    "      ? After.run(hooks, exit, verdict.outcome)",
    "      ? After.run(hooks, exit, this.consumer.settle(exit))"
  ),
  plant(
    "two-of-one-lane",
    "runs a message beside one of its lane that is suspended",
    dispatcher,
    "if (lane === undefined) this.options.start(delivery, batch, undefined)",
    "if (lane === undefined || lane.queue.length === 0) this.options.start(delivery, batch, undefined)"
  ),
  plant(
    "overtake-on-retry",
    "goes on with the lane of a message that waits for its next attempt",
    worker,
    "return this.hold(delivery, verdict.after, lane)",
    "return this.hold(delivery, verdict.after, lane) || true"
  ),
  plant(
    "limit-ignored",
    "runs as many messages at once as it was given",
    dispatcher,
    "batch.taken < deliveries.length && !this.isFull) {",
    "batch.taken < deliveries.length) {"
  ),
  plant(
    "room-stays-shut",
    "takes nothing more in once it had no room",
    worker,
    "        this.leases.tellAll()\n        this.leases.room.update()\n",
    "        this.leases.tellAll()\n"
  ),
  plant(
    "room-while-paused",
    "takes more in while it is paused",
    "internal/engine/Room.ts",
    "    if (this.isShut) return\n",
    ""
  ),
  plant(
    "start-while-paused",
    "starts messages while it is paused",
    worker,
    "mayStart: () => !this.paused && !this.draining,",
    "mayStart: () => !this.draining,"
  ),
  plant(
    "pause-outlives-drain",
    "keeps the timer of a pause after its subscription has ended",
    "internal/engine/PauseControl.ts",
    "    for (const { timer } of this.owners.values()) timer?.interruptUnsafe()\n",
    ""
  ),
  plant(
    "bytes-leak",
    "counts the bytes of a message that is settled as pending",
    lease,
    "    this.bytes -= delivery.payload.length\n",
    ""
  ),
  plant(
    "bytes-unlimited",
    "takes in more bytes than it may have in flight",
    "internal/engine/Room.ts",
    "&& this.isBelow(lease, \"bytes\", bytes, part)",
    "&& (bytes > 0 || part > 0)"
  ),
  plant(
    "eager-lane",
    "starts nothing new while lanes that go on use up each slice of time",
    dispatcher,
    "      this.first = (i + 1) % kinds\n",
    ""
  ),
  plant(
    "span-unlimited",
    "takes in ever more while one message is not settled",
    lease,
    "if (this.ahead >= this.span) this.slack.closeUnsafe()",
    ""
  ),
  plant(
    "partition-stops-others",
    "the broker reads no partition while one has no room",
    "memory/MemoryBroker.ts",
    "          owned.isFull = true\n",
    "          if (owned !== undefined) return room\n          owned.isFull = true\n"
  ),
  plant(
    "letter-dropped",
    "takes a dead letter that the broker refused for written",
    writer,
    "return isDone(written) && written._tag === \"Success\" ? true : written",
    "return isDone(written) ? true : written"
  ),
  plant(
    "letter-outlives-lease",
    "goes on to write dead letters of a lease that has ended",
    writer,
    "if (leaseOf(delivery) === lease) fiber.interruptUnsafe()",
    "if (leaseOf(delivery) === lease) void fiber"
  ),
  plant(
    "logger-stops-letter",
    "stops writing a dead letter when a logger throws",
    writer,
    "return logged(Effect.logError(text, cause)).pipe(",
    "return Effect.logError(text, cause).pipe("
  ),
  plant(
    "tracer-stops-message",
    "gives a message up when a tracer throws as its span begins",
    "middleware/Trace.ts",
    "        const opened = Lost.attempt(\n          \"Trace\",\n          () => Spans.open(fiber, tracer, { ...describe(fiber, message), kind: message.kind, parent, links })\n        )\n",
    "        const opened = Spans.open(fiber, tracer, { ...describe(fiber, message), kind: message.kind, parent, links })\n"
  ),
  {
    name: "tracer-changes-end",
    about: "takes the throw of a span that ends for the end of its message",
    edits: [
      {
        file: "middleware/Trace.ts",
        find:
          "            Lost.attempt(\"Trace\", () =>\n              Spans.closeWithOutcome(opened, message, Spans.withoutSecrets(redaction, [message], exit)))\n",
        replace:
          "            Spans.closeWithOutcome(opened, message, Spans.withoutSecrets(redaction, [message], exit))\n"
      },
      {
        file: "pipeline/Eager.ts",
        find: "  tell(after, result)\n",
        replace: "  after(result)\n"
      }
    ]
  },
  plant(
    "declaration-for-ever",
    "waits for ever for the answer to the declaration of its dead letter channel",
    "internal/engine/Engine.ts",
    "Effect.timeoutOption(called(() => driver.declare({ channel: deadLetterChannel })), declaring).pipe(",
    "Effect.map(called(() => driver.declare({ channel: deadLetterChannel })), Option.some).pipe("
  ),
  plant(
    "declaration-fails-start",
    "does not start when its dead letter channel cannot be declared",
    "internal/engine/Engine.ts",
    "isDeclared(cause) ? Effect.void : missing(cause)",
    "isDeclared(cause) ? Effect.void : Effect.failCause(cause) as never"
  ),
  plant(
    "declaration-throws",
    "does not start when the driver throws at the declaration of its dead letter channel",
    "internal/engine/Engine.ts",
    "called(() => driver.declare({ channel: deadLetterChannel })), declaring)",
    "driver.declare({ channel: deadLetterChannel }), declaring)"
  ),
  plant(
    "declaration-untold",
    "does not tell that its dead letter channel could not be declared",
    "internal/engine/Engine.ts",
    "isDeclared(cause) ? Effect.void : missing(cause)",
    "isDeclared(cause) ? Effect.void : Effect.void"
  ),
  plant(
    "declaration-silence-untold",
    "does not tell that the declaration of its dead letter channel was not answered",
    "internal/engine/Engine.ts",
    "Option.isSome(answer) ? Effect.void : missing(\"The broker did not answer in time.\")",
    "Option.isSome(answer) ? Effect.void : Effect.void"
  ),
  plant(
    "letter-parked-done",
    "takes a message for done whose dead letter is refused in every form",
    writer,
    "    const isParked = refused === \"message\"\n",
    "    const isParked = refused === \"message\"\n    if (isParked) return Effect.succeed<Written>(\"written\")\n"
  ),
  plant(
    "letter-parked-unseen",
    "does not show in health that a message is parked",
    writer,
    "writing.state = isParked ? \"parked\" : writing.kind",
    "writing.state = writing.kind"
  ),
  plant(
    "letter-parked-lane",
    "goes on with the lane of a parked message",
    writer,
    "    writing.state = isParked ? \"parked\" : writing.kind\n",
    "    writing.state = isParked ? \"parked\" : writing.kind\n    if (isParked && writing.lane !== undefined) writing.lane.lease.lanes.delete(writing.lane.id)\n"
  ),
  plant(
    "letter-form-skipped",
    "leaves the body out at once when the broker refuses a dead letter",
    writer,
    "if (form < last) return this.again(writing, form + 1, failures)",
    "if (form < last) return this.again(writing, last, failures)"
  ),
  plant(
    "letter-never-dropped",
    "parks what its subscription wants dropped",
    writer,
    "if (refused === \"message\" && consumer.refusedDeadLetter === \"drop\")",
    "if (refused === undefined && consumer.refusedDeadLetter === \"drop\")"
  ),
  plant(
    "letter-dropped-uncounted",
    "does not count a message that it drops",
    worker,
    "      this.dropped++\n",
    ""
  ),
  plant(
    "letter-dropped-lane",
    "does not go on with the lane of a message that it dropped",
    worker,
    "    this.lanes.proceed(lane)\n  }\n\n  private left(",
    "    if (written === \"written\") this.lanes.proceed(lane)\n  }\n\n  private left("
  ),
  plant(
    "claims-end",
    "keeps no claim for longer than its first time",
    "internal/engine/Claims.ts",
    "onSuccess: () => from(now, wait)",
    "onSuccess: () => Effect.void"
  ),
  plant(
    "claims-outlive-lease",
    "goes on to extend claims of a lease that has ended",
    "internal/engine/Claims.ts",
    "    this.fibers.get(state)?.interruptUnsafe()\n",
    ""
  ),
  plant(
    "restart-at-once",
    "starts a source that fails again and again without waiting longer",
    "internal/engine/Source.ts",
    "const next = this.hasProven() ? base : wait",
    "const next = base"
  ),
  plant(
    "start-outlives-drain",
    "lets a start wait for ever when its scope closes (once found by seed 41)",
    "internal/engine/Source.ts",
    "      Deferred.doneUnsafe(this.started, Exit.fail(this.neverReady()))\n",
    "      void this.neverReady\n"
  ),
  plant(
    "throttled-counts",
    "counts a retry that names its own time as a failure",
    "internal/engine/RetryPolicy.ts",
    "    if (named !== undefined) {\n      const waited = cost.waited + named\n",
    "    if (named !== undefined && cost.failures === 0) {\n      const waited = cost.waited + named\n"
  ),
  plant(
    "throttled-at-once",
    "does not wait the time that a retry names",
    "internal/engine/RetryPolicy.ts",
    "return { _tag: \"Hold\", outcome, after: named, cost: excused }",
    "return { _tag: \"Hold\", outcome, after: 0, cost: excused }"
  ),
  plant(
    "age-ignored",
    "holds a message that keeps failing however long that lasts",
    "internal/engine/RetryPolicy.ts",
    "    if (now - cost.since >= age) return `it failed for ${now - cost.since} ms`\n",
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
    "broker/deadLetters/letter.ts",
    "isKeyLeftOut ? undefined : readable(() => delivery.key, undefined)",
    "undefined"
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
    "internal/engine/DelayQueue.ts",
    "due - now < epsilon",
    "due - now < 5"
  ),
  plant(
    "retry-not-written",
    "settles a message whose retry the broker refused",
    writer,
    "return isDone(written) && written._tag === \"Success\" ? true : written",
    "return isDone(written) ? true : written"
  ),
  plant(
    "round-for-ever",
    "counts no failure of a message that leaves its place",
    "internal/engine/RetryChannels.ts",
    "      failures: failures + 1,\n",
    "      failures,\n"
  ),
  plant(
    "passing-on-counts",
    "counts a message that was only passed on as tried",
    "internal/engine/RetryChannels.ts",
    "isDue(found.due, progress.at) ? delivery.attempts : delivery.attempts - 1",
    "isDue(found.due, progress.at) ? delivery.attempts : delivery.attempts"
  ),
  plant(
    "letter-of-the-retry-channel",
    "writes dead letters that name the retry channel",
    "internal/engine/RetryChannels.ts",
    "consumer.deadLetter(this.found(waiting)?.original ?? waiting, error, at, form)",
    "consumer.deadLetter(waiting, error, at, form)"
  ),
  plant(
    "retry-without-key",
    "loses the key on the way to a retry channel",
    "broker/Retries.ts",
    "original.raw, original.key, added, {\n    keyBytes: original.keyBytes,",
    "original.raw, undefined, added, {"
  ),
  plant(
    "hooks-forgotten",
    "runs no hook of a message that comes back",
    "internal/engine/RetryChannels.ts",
    "original.hooks = waiting.hooks = []",
    "original.hooks = []"
  )
]

/** Bugs that keep messages after the end of their consumer. */
export const keepers: ReadonlyArray<Plant> = [
  plant(
    "timers-kept",
    "keeps the messages that have waited for their next attempt",
    "internal/engine/Handlers.ts",
    "      this.timers.delete(timer)\n",
    ""
  ),
  plant(
    "lease-kept",
    "keeps the leases that have ended",
    leases,
    "if (!this.all.delete(lease.lease)) return",
    "if (!this.all.has(lease.lease)) return"
  ),
  plant(
    "costs-kept",
    "keeps what the messages of a lost lease have cost",
    worker,
    "    this.policy.forget(lease)\n",
    ""
  ),
  plant(
    "changed-lease-kept",
    "keeps the leases that the broker was to be told of when they ended",
    leases,
    "    this.dirty = this.dirty.filter((other) => other !== lease)\n",
    ""
  )
]
