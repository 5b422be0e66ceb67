/**
 * Mutants that no test can kill, since they change nothing that can be seen, each with the reason. They count neither as
 * killed nor as survived.
 */

export interface Equivalent {
  /** A path inside `packages/core/src`. */
  readonly file: string
  /** The line of the source that holds the mutant, without its indentation. */
  readonly line: string
  readonly operator: string
  /** As the report prints them. */
  readonly original: string
  readonly mutated: string
  readonly reason: string
}

export const equivalents: ReadonlyArray<Equivalent> = [
  {
    file: "internal/engine/Dispatcher.ts",
    line: "private first = 0",
    operator: "number",
    original: "0",
    mutated: "1",
    reason: "In the first turn no message can run again, and the other kinds keep their order."
  },
  {
    file: "internal/engine/Source.ts",
    line: "if (isOpen && this.state === \"paused\") this.state = \"running\"",
    operator: "operand",
    original: "isOpen",
    mutated: "true",
    reason: "Where it pauses, the next line takes it back."
  },
  {
    file: "internal/engine/Engine.ts",
    line: "Context.add(Draining, { isDraining: () => sources.some(({ worker }) => worker.draining) })",
    operator: "method",
    original: "sources.some(({ worker }) => worker.draining)",
    mutated: "sources.every(({ worker }) => worker.draining)",
    reason: "A drain tells all sources in one step."
  },
  {
    file: "internal/engine/Engine.ts",
    line: "return Effect.forEach(drains, (each) => each, { concurrency: \"unbounded\", discard: true })",
    operator: "boolean",
    original: "true",
    mutated: "false",
    reason: "The results are not used."
  },
  {
    file: "internal/engine/Engine.ts",
    line: "discard: true",
    operator: "boolean",
    original: "true",
    mutated: "false",
    reason: "The results are not used."
  },
  {
    file: "internal/engine/endLeases.ts",
    line: "Effect.andThen(Effect.forEach(leases, lastCall, { concurrency: \"unbounded\", discard: true }))",
    operator: "boolean",
    original: "true",
    mutated: "false",
    reason: "The results are not used."
  },
  {
    file: "internal/engine/Leases.ts",
    line: "return Effect.forEach(leases, (lease) => lease.whenQuiet, { concurrency: \"unbounded\", discard: true })",
    operator: "boolean",
    original: "true",
    mutated: "false",
    reason: "The results are not used."
  },
  {
    file: "internal/engine/Leases.ts",
    line: "if (isDone(told) && told._tag === \"Success\") continue",
    operator: "operand",
    original: "isDone(told)",
    mutated: "true",
    reason: "Of all effects only an Exit has the tag; the operand tells the compiler so."
  },
  {
    file: "internal/engine/Leases.ts",
    line: "if (lease.settlingSince === undefined || fiber === undefined) continue",
    operator: "operand",
    original: "fiber === undefined",
    mutated: "false",
    reason: "What has no fiber was answered at once, and waits for nothing; the operand tells the compiler so."
  },
  {
    file: "internal/engine/Leases.ts",
    line: "if (calling !== undefined && !this.isAwaited && leases.includes(calling)) {",
    operator: "operand",
    original: "calling !== undefined",
    mutated: "true",
    reason: "No list of leases holds undefined; the operand tells the compiler so."
  },
  {
    file: "internal/engine/Dispatcher.ts",
    line: "private readonly work = Latch.makeUnsafe(false)",
    operator: "boolean",
    original: "false",
    mutated: "true",
    reason: "The first turn closes the latch before anything waits for it."
  },
  {
    file: "internal/engine/Dispatcher.ts",
    line: "private isIdle = false",
    operator: "boolean",
    original: "false",
    mutated: "true",
    reason:
      "The first turn sets it. A batch that comes before opens a latch that no fiber waits for, and that turn closes it."
  },
  {
    file: "internal/engine/Dispatcher.ts",
    line: "if (this.delays.length === 0) return false",
    operator: "condition",
    original: "this.delays.length === 0",
    mutated: "false",
    reason: "An empty queue has no message, and no time for the timer; the branch saves the reading of the clock."
  },
  {
    file: "internal/engine/LeaseState.ts",
    line: "for (let k = 0; k < deliveries.length; k++) if (flags[k] === 0) yield deliveries[k]!",
    operator: "boundary",
    original: "k < deliveries.length",
    mutated: "k <= deliveries.length",
    reason: "There are as many flags as deliveries: behind the last, none is 0."
  },
  {
    file: "internal/engine/LeaseState.ts",
    line: "return this.confirmed < 0 ? undefined : this.confirmed",
    operator: "boundary",
    original: "this.confirmed < 0",
    mutated: "this.confirmed <= 0",
    reason: "A confirmed position is one more than that of a message, so it is at least 1."
  },
  {
    file: "internal/engine/LeaseState.ts",
    line: "return this.confirmed < 0 ? undefined : this.confirmed",
    operator: "number",
    original: "0",
    mutated: "1",
    reason: "A confirmed position is one more than that of a message, so it is at least 1."
  },
  {
    file: "internal/engine/LeaseState.ts",
    line: "if (settle !== undefined && this.outcomes.length > 0) {",
    operator: "operand",
    original: "settle !== undefined",
    mutated: "true",
    reason: "Outcomes are kept only for leases that have settle; the operand tells the compiler so."
  },
  {
    file: "memory/MemoryLog.ts",
    line: "return outgoing.native?.fields === undefined ? outgoing.headers : Headers.fromFields(outgoing.fields)",
    operator: "condition",
    original: "outgoing.native?.fields === undefined",
    mutated: "false",
    reason: "Text headers come back equal from their fields; the branch saves the conversion."
  },
  {
    file: "memory/MemoryLog.ts",
    line: "if (mask >= smallest && this.end - this.base < mask / 8) this.resize((mask + 1) / 4)",
    operator: "operand",
    original: "mask >= smallest",
    mutated: "true",
    reason:
      "A list of the smallest length shrinks too and grows again: the same messages at the same positions, and less memory."
  },
  {
    file: "memory/MemoryLog.ts",
    line: "if (mask >= smallest && this.end - this.base < mask / 8) this.resize((mask + 1) / 4)",
    operator: "boundary",
    original: "mask >= smallest",
    mutated: "mask > smallest",
    reason: "The mask is a power of two less one, and `smallest` is a power of two: they are never equal."
  },
  {
    file: "memory/MemoryLog.ts",
    line: "if (mask >= smallest && this.end - this.base < mask / 8) this.resize((mask + 1) / 4)",
    operator: "boundary",
    original: "this.end - this.base < mask / 8",
    mutated: "this.end - this.base <= mask / 8",
    reason: "A power of two less one, divided by 8, is no integer: the two sides are never equal."
  },
  {
    file: "memory/MemoryLog.ts",
    line: "for (let position = this.base; position < this.end; position++) {",
    operator: "boundary",
    original: "position < this.end",
    mutated: "position <= this.end",
    reason: "The place after the last message is copied too; the next append writes over it before anything reads it."
  },
  {
    file: "memory/MemoryBroker.ts",
    line: "if (channel === undefined || log === undefined) return",
    operator: "logical",
    original: "channel === undefined || log === undefined",
    mutated: "channel === undefined && log === undefined",
    reason: "Both are undefined before the first message of a batch, and neither after it."
  },
  {
    file: "memory/MemoryBroker.ts",
    line: "if (channel === undefined || log === undefined) return",
    operator: "operand",
    original: "channel === undefined",
    mutated: "false",
    reason: "Both are undefined before the first message of a batch, and neither after it."
  },
  {
    file: "memory/MemoryBroker.ts",
    line: "log.fresh.fill(0)",
    operator: "removal",
    original: "log.fresh.fill(0)",
    mutated: "nothing",
    reason: "A member that is woken for nothing reads nothing and waits again; the flags save that turn."
  },
  {
    file: "memory/MemoryBroker.ts",
    line: "if (maximumBytes !== undefined) {",
    operator: "condition",
    original: "maximumBytes !== undefined",
    mutated: "true",
    reason: "No length is greater than undefined."
  },
  {
    file: "memory/MemoryBroker.ts",
    line: "if (outgoing.channel !== channel || log === undefined) {",
    operator: "condition",
    original: "outgoing.channel !== channel || log === undefined",
    mutated: "true",
    reason: "The same log is asked for again, and its readers are woken once more; they are woken once a turn."
  },
  {
    file: "memory/MemoryBroker.ts",
    line: "return wait === Number.POSITIVE_INFINITY",
    operator: "condition",
    original: "wait === Number.POSITIVE_INFINITY",
    mutated: "false",
    reason: "A timeout of Infinity never ends; the branch saves its timer."
  },
  {
    file: "memory/MemoryBroker.ts",
    line: "waiting.push(channel)",
    operator: "method",
    original: "waiting.push(channel)",
    mutated: "waiting.unshift(channel)",
    reason: "Each channel has a reader of its own; the order in which they start cannot be seen."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "if (this.waking) return",
    operator: "condition",
    original: "this.waking",
    mutated: "false",
    reason: "A latch that is opened twice is open; the flag saves the second task."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "this.waking = true",
    operator: "removal",
    original: "this.waking = true",
    mutated: "nothing",
    reason: "A latch that is opened twice is open; the flag saves the second task."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "if (log.fresh[partition] === 1) {",
    operator: "condition",
    original: "log.fresh[partition] === 1",
    mutated: "true",
    reason: "A member that is woken for nothing reads nothing and waits again."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "break",
    operator: "removal",
    original: "break",
    mutated: "nothing",
    reason: "A member that is woken twice in a turn is woken once."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "if (at < 0) return Effect.void",
    operator: "condition",
    original: "at < 0",
    mutated: "false",
    reason: "A member leaves once, after it has joined: it is always found."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "const ownerOf = (partition: number) => length === 0 ? undefined : this.members[partition % length]",
    operator: "condition",
    original: "length === 0",
    mutated: "false",
    reason: "A remainder by 0 is NaN, and there is no member at that index either."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "if (position > own.position) own.position = position",
    operator: "boundary",
    original: "position > own.position",
    mutated: "position >= own.position",
    reason: "An equal position is written over by itself."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "if (own.back.length > before) own.back.sort(byTime)",
    operator: "condition",
    original: "own.back.length > before",
    mutated: "true",
    reason: "A list to which nothing was added is sorted already."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "if (own.back.length > before) own.back.sort(byTime)",
    operator: "boundary",
    original: "own.back.length > before",
    mutated: "own.back.length >= before",
    reason: "A list to which nothing was added is sorted already."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "for (let i = 0; i < owned.length; i++) {",
    operator: "boundary",
    original: "i < owned.length",
    mutated: "i <= owned.length",
    reason: "The first partition is read a second time, and has as little as before."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "if (back.length === 0) return 0",
    operator: "condition",
    original: "back.length === 0",
    mutated: "false",
    reason: "An empty list has no later entry, and its length, 0, is what may be delivered."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "if (back.length === 0) return 0",
    operator: "return",
    original: "0",
    mutated: "undefined",
    reason: "Undefined is not greater than 0 either, and nothing else reads the answer."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "if (this.rules.claim !== Number.POSITIVE_INFINITY) this.giveBack(own, this.rules.now())",
    operator: "condition",
    original: "this.rules.claim !== Number.POSITIVE_INFINITY",
    mutated: "true",
    reason: "Without claims every message is out until Infinity, which never comes; the branch saves the search."
  },
  {
    file: "memory/MemoryBroker.ts",
    line: "const news = Latch.makeUnsafe(false)",
    operator: "boolean",
    original: "false",
    mutated: "true",
    reason: "The latch is closed at the beginning of each round, before anything waits for it."
  },
  {
    file: "memory/MemoryGroup.ts",
    line: "readonly news = Latch.makeUnsafe(false)",
    operator: "boolean",
    original: "false",
    mutated: "true",
    reason: "The latch is closed before a member waits for it."
  },
  {
    file: "memory/MemoryBroker.ts",
    line: "if (channel === undefined || log === undefined) return",
    operator: "operand",
    original: "log === undefined",
    mutated: "false",
    reason: "Both names are undefined before the first message of a batch, and neither after it."
  },
  {
    file: "memory/MemoryBroker.ts",
    line: "if (outgoing.channel !== channel || log === undefined) {",
    operator: "operand",
    original: "log === undefined",
    mutated: "false",
    reason: "Both names are undefined before the first message of a batch, and neither after it."
  },
  {
    file: "internal/engine/TimeSlice.ts",
    line: "private stride = 1",
    operator: "number",
    original: "1",
    mutated: "0",
    reason: "A slice that begins sets its stride; before that, each look says that the slice is over."
  },
  {
    file: "internal/engine/TimeSlice.ts",
    line: "private left = 1",
    operator: "number",
    original: "1",
    mutated: "0",
    reason: "The clock is read as soon as no message is left: 0 and 1 are both used up by the next one."
  },
  {
    file: "internal/engine/TimeSlice.ts",
    line: "this.left = 1",
    operator: "number",
    original: "1",
    mutated: "0",
    reason: "The clock is read as soon as no message is left: 0 and 1 are both used up by the next one."
  },
  {
    file: "internal/engine/Fifo.ts",
    line: "if (this.head * 2 > items.length + slack) {",
    operator: "condition",
    original: "this.head * 2 > items.length + slack",
    mutated: "true",
    reason:
      "When the array is compacted cannot be seen: the same items in the same order, at another cost. That it is compacted at all is tested."
  },
  {
    file: "internal/engine/Fifo.ts",
    line: "if (this.head * 2 > items.length + slack) {",
    operator: "boundary",
    original: "this.head * 2 > items.length + slack",
    mutated: "this.head * 2 >= items.length + slack",
    reason:
      "When the array is compacted cannot be seen: the same items in the same order, at another cost. That it is compacted at all is tested."
  },
  {
    file: "internal/engine/Fifo.ts",
    line: "if (this.head * 2 > items.length + slack) {",
    operator: "arithmetic",
    original: "items.length + slack",
    mutated: "items.length - slack",
    reason:
      "When the array is compacted cannot be seen: the same items in the same order, at another cost. That it is compacted at all is tested."
  },
  {
    file: "internal/engine/Fifo.ts",
    line: "if (this.head === items.length) return undefined",
    operator: "condition",
    original: "this.head === items.length",
    mutated: "false",
    reason:
      "An empty queue answers undefined then too, and stays empty: its head and its length grow together until it is compacted."
  },
  {
    file: "internal/engine/RetryPolicy.ts",
    line: "if (this.costs.size > 0) this.costs.delete(delivery)",
    operator: "condition",
    original: "this.costs.size > 0",
    mutated: "true",
    reason: "Nothing is deleted from an empty map; the check saves each acknowledged message that call."
  },
  {
    file: "internal/engine/RetryPolicy.ts",
    line: "if (this.costs.size > 0) this.costs.delete(delivery)",
    operator: "boundary",
    original: "this.costs.size > 0",
    mutated: "this.costs.size >= 0",
    reason: "Nothing is deleted from an empty map; the check saves each acknowledged message that call."
  },
  {
    file: "internal/engine/DeadLetterWriter.ts",
    line: "return isDone(written) && written._tag === \"Success\" ? true : written",
    operator: "operand",
    original: "isDone(written)",
    mutated: "true",
    reason: "No effect but an Exit has the tag `Success`; the check is for its type."
  },
  {
    file: "internal/engine/stalls.ts",
    line: "private nextLine = 0",
    operator: "number",
    original: "0",
    mutated: "1",
    reason: "The first look is a millisecond or more after the start, and no clock of a program is at 0."
  },
  {
    file: "internal/engine/stalls.ts",
    line: "if (since !== undefined && now - since >= waiting) {",
    operator: "operand",
    original: "since !== undefined",
    mutated: "true",
    reason: "A difference to undefined is NaN, and no comparison with it holds; the check is for its type."
  },
  {
    file: "internal/engine/Worker.ts",
    line: "limit: consumer.lanes._tag === \"partition\" ? Number.POSITIVE_INFINITY : consumer.lanes.limit,",
    operator: "condition",
    original: "consumer.lanes._tag === \"partition\"",
    mutated: "false",
    reason: "Lanes.partition has no limit, and no count is at least undefined."
  },
  {
    file: "internal/engine/Worker.ts",
    line: "if (lease.stopped || this.draining) return false",
    operator: "boolean",
    original: "false",
    mutated: "true",
    reason:
      "The lane goes on with its next message, which is refused as well: a lease that has stopped starts nothing again."
  },
  {
    file: "internal/engine/Worker.ts",
    line: "if (isDone(effect)) return this.finish(delivery, batch, effect, lane, own.scope)",
    operator: "condition",
    original: "isDone(effect)",
    mutated: "false",
    reason: "A fiber that runs an Exit has that Exit at once; the branch saves the fiber."
  },
  {
    file: "internal/engine/Worker.ts",
    line: "if (verdict !== Retrying.acknowledged) return this.apply(delivery, batch, verdict, lane)",
    operator: "condition",
    original: "verdict !== Retrying.acknowledged",
    mutated: "true",
    reason:
      "An acknowledgement is applied in the same way, in more steps; nothing starts in the lane of a lost lease, whatever is answered."
  },
  {
    file: "internal/engine/Worker.ts",
    line: "if (outcome === Outcome.Ack) return Retrying.acknowledged",
    operator: "condition",
    original: "outcome === Outcome.Ack",
    mutated: "false",
    reason: "Each policy decides the same for an acknowledgement; the branch saves the call and a look at the clock."
  },
  {
    file: "internal/engine/Worker.ts",
    line: "if (batch.lease.lost) return false",
    operator: "boolean",
    original: "false",
    mutated: "true",
    reason: "Nothing starts in the lane of a lost lease."
  },
  {
    file: "internal/engine/Worker.ts",
    line: "if (leaseOf(delivery).stopped || this.draining) return false",
    operator: "boolean",
    original: "false",
    mutated: "true",
    reason: "The lane goes on with its next message, which is refused: a lease that has stopped starts nothing again."
  },
  {
    file: "internal/engine/MessageScopes.ts",
    line: "Fiber.getCurrent()?.setContext(this.next.context as Context.Context<never>)",
    operator: "optional",
    original: "Fiber.getCurrent()?.setContext(this.next.context as Context.Context...",
    mutated: "Fiber.getCurrent().setContext(this.next.context as Context.Context<...",
    reason: "The loop enters on its own fiber and starts messages on it: there is a fiber always."
  }
]
