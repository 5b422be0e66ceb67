/**
 * A consumer group of the memory broker: its members, the owner of each partition, and the group's progress.
 */
import { Duration, Effect, Latch, type Scheduler, Semaphore } from "effect"
import { type BrokerError, make as failure } from "../driver/BrokerError.ts"
import type { ConsumeOptions, Lag, Lease, Settled, Sink } from "../driver/Driver.ts"
import type { Delivery, Origin } from "../message/Message.ts"
import type { Log } from "./MemoryLog.ts"

/** One consumer of a group. */
export class Member {
  readonly options: ConsumeOptions
  readonly sink: Sink
  readonly leases = new Map<number, Owned>()
  /** Open while there may be messages to read. */
  readonly news = Latch.makeUnsafe(false)
  turn = 0
  /** The connection was cut: the member's leases are lost, and its commits and settlements fail. */
  cut = false
  private readonly dispatcher: Scheduler.SchedulerDispatcher
  private waking = false

  constructor(options: ConsumeOptions, sink: Sink, dispatcher: Scheduler.SchedulerDispatcher) {
    this.options = options
    this.sink = sink
    this.dispatcher = dispatcher
  }

  /** Wakes the member once for all messages published in one turn: opening a latch resumes its waiter at once. */
  wake(): void {
    if (this.waking) return
    this.waking = true
    this.dispatcher.scheduleTask(() => {
      this.waking = false
      this.news.openUnsafe()
    }, 0)
  }
}

/** A partition that a member owns. */
export interface Owned {
  readonly lease: Lease
  readonly origin: Origin
  /** The next position to read. */
  next: number
  /** The engine has no room for more of this partition. */
  isFull: boolean
}

/** A message to redeliver, at once or when it is due. */
interface Back {
  readonly position: number
  readonly attempt: number
  /** Unix time in milliseconds; 0 for at once. */
  readonly due: number
}

/** The progress of a group in one partition. */
interface Progress {
  /** Settlement `position`: every message below is settled. Settlement `message`: every message below was delivered. */
  position: number
  /** Settlement `message` only: unsettled deliveries, with their number of deliveries and the end of the claim. */
  readonly out: Map<number, { readonly attempt: number; until: number }>
  /** Settlement `message` only: messages to redeliver, the earliest first. */
  readonly back: Array<Back>
  owner: Lease | undefined
}

/** How a group acknowledges. */
export interface Rules {
  readonly settlement: "position" | "message"
  /** Settlement `message` only: milliseconds after which an unsettled message is redelivered. */
  readonly claim: number
  /** Unix time in milliseconds. */
  readonly now: () => number
}

/** The next messages of a lease; a class for the same reason as the engine's `Batch`. */
class Found {
  readonly owned: Owned
  readonly batch: ReadonlyArray<Delivery>

  constructor(owned: Owned, batch: ReadonlyArray<Delivery>) {
    this.owned = owned
    this.batch = batch
  }
}

const byTime = (a: Back, b: Back): number => a.due - b.due || a.position - b.position

/** A consumer group. */
export class Group {
  readonly name: string
  readonly channel: string
  private readonly log: Log
  private readonly rules: Rules
  private readonly onProgress: (partition: number) => void
  private readonly progress: ReadonlyArray<Progress>
  private readonly members: Array<Member> = []
  private readonly turns = Semaphore.makeUnsafe(1)

  constructor(
    name: string,
    channel: string,
    log: Log,
    rules: Rules,
    from: "earliest" | "latest",
    onProgress: (partition: number) => void
  ) {
    this.name = name
    this.channel = channel
    this.log = log
    this.rules = rules
    this.onProgress = onProgress
    this.progress = log.partitions.map((partition): Progress => ({
      position: from === "earliest" ? partition.base : partition.end,
      out: new Map(),
      back: [],
      owner: undefined
    }))
  }

  /** For each partition, the position below which every message is settled. */
  get done(): ReadonlyArray<number> {
    return this.progress.map((_, partition) => this.doneOf(partition))
  }

  /** For each partition, the number of unsettled messages. */
  get lag(): ReadonlyArray<Lag> {
    return this.progress.map(({ back, out, position }, partition) => ({
      partition,
      messages: this.log.partitions[partition]!.end - position + out.size + back.length
    }))
  }

  /** Returns the position below which every message of a partition is settled. */
  doneOf(partition: number): number {
    const own = this.progress[partition]!
    let low = own.position
    for (const position of own.out.keys()) low = Math.min(low, position)
    for (const { position } of own.back) low = Math.min(low, position)
    return low
  }

  /** Wakes the owners of partitions with new messages. */
  announce(log: Log): void {
    for (let i = 0; i < this.members.length; i++) {
      const member = this.members[i]!
      for (const partition of member.leases.keys()) {
        if (log.fresh[partition] === 1) {
          member.wake()
          break
        }
      }
    }
  }

  /** Adds a member and rebalances the partitions. */
  join(member: Member): Effect.Effect<void> {
    return this.turns.withPermits(1)(Effect.suspend(() => {
      this.members.push(member)
      return this.share()
    }))
  }

  /** Removes a member. Its partitions are revoked first, or lost if its connection was cut. */
  leave(member: Member): Effect.Effect<void> {
    return this.turns.withPermits(1)(Effect.suspend(() => {
      const at = this.members.indexOf(member)
      if (at < 0) return Effect.void
      this.members.splice(at, 1)
      return Effect.andThen(
        Effect.forEach(Array.from(member.leases.keys()), (partition) => this.take(member, partition), {
          discard: true
        }),
        Effect.suspend(() => this.share())
      )
    }))
  }

  /**
   * Assigns partitions to members round-robin, in order of joining. A partition that moves is revoked from its owner first.
   */
  private share(): Effect.Effect<void> {
    const { length } = this.members
    const ownerOf = (partition: number) => length === 0 ? undefined : this.members[partition % length]
    return Effect.andThen(
      Effect.forEach(this.members, (member) =>
        Effect.forEach(
          Array.from(member.leases.keys()).filter((partition) => ownerOf(partition) !== member),
          (partition) => this.take(member, partition),
          { discard: true }
        ), { discard: true }),
      Effect.sync(() => {
        this.progress.forEach((own, partition) => {
          const member = ownerOf(partition)
          if (member !== undefined && !member.cut && own.owner === undefined) this.give(member, partition)
        })
      })
    )
  }

  private take(member: Member, partition: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      const how = member.cut ? "lost" : "revoke"
      const owned = member.leases.get(partition)
      if (owned === undefined) return Effect.void
      member.leases.delete(partition)
      if (how === "lost") this.disown(partition)
      return Effect.andThen(member.sink.close(owned.lease, how), Effect.sync(() => this.disown(partition)))
    })
  }

  private disown(partition: number): void {
    const own = this.progress[partition]!
    own.owner = undefined
    // unsettled deliveries go to the next owner
    this.giveBack(own, Number.POSITIVE_INFINITY)
  }

  /** Schedules the redelivery, in order, of unsettled messages whose claim has ended by `now`. */
  private giveBack(own: Progress, now: number): void {
    const before = own.back.length
    for (const [position, { attempt, until }] of own.out) {
      if (until > now) continue
      own.out.delete(position)
      own.back.push({ position, attempt: attempt + 1, due: 0 })
    }
    if (own.back.length > before) own.back.sort(byTime)
  }

  private give(member: Member, partition: number): void {
    const own = this.progress[partition]!
    const lost = (lease: Lease): BrokerError | undefined =>
      own.owner === lease && !member.cut ? undefined : failure({
        system: "memory",
        operation: "settle",
        reason: "Lost",
        message: `Partition ${partition} of ${this.channel} belongs to another member of ${this.name} now`
      })
    const lease: Lease = this.rules.settlement === "position"
      ? {
        channel: this.channel,
        partition,
        commit: (position) => {
          const error = lost(lease)
          if (error !== undefined) return Effect.fail(error)
          if (position > own.position) own.position = position
          this.onProgress(partition)
          return Effect.void
        }
      }
      : {
        channel: this.channel,
        partition,
        claim: this.rules.claim === Number.POSITIVE_INFINITY ? undefined : this.rules.claim,
        extend: (batch) => {
          const error = lost(lease)
          if (error !== undefined) return Effect.fail(error)
          const until = this.rules.now() + this.rules.claim
          for (const { position } of batch) {
            const out = own.out.get(position)
            if (out !== undefined) out.until = until
          }
          return Effect.void
        },
        settle: (batch) => {
          const error = lost(lease)
          if (error !== undefined) return Effect.fail(error)
          for (const each of batch) this.settleOne(own, each)
          this.onProgress(partition)
          member.wake()
          return Effect.void
        }
      }
    own.owner = lease
    member.leases.set(partition, {
      lease,
      next: own.position,
      isFull: false,
      origin: {
        system: "memory",
        channel: this.channel,
        group: this.name,
        partition,
        handler: member.options.handler,
        holdLimit: Number.POSITIVE_INFINITY,
        lasting: true
      }
    })
    member.sink.open(lease)
    member.wake()
  }

  private settleOne(own: Progress, { delivery: settled, outcome }: Settled): void {
    const out = own.out.get(settled.position)
    if (out === undefined) return
    own.out.delete(settled.position)
    if (outcome._tag !== "Retry" && outcome._tag !== "Release") return
    const wait = outcome._tag === "Retry" && outcome.after !== undefined ? Duration.toMillis(outcome.after) : 0
    const due = wait === 0 ? 0 : this.rules.now() + wait
    own.back.push({ position: settled.position, attempt: out.attempt + 1, due })
    own.back.sort(byTime)
  }

  /** Returns when a member must read again without a publish: Unix time in milliseconds, or Infinity. */
  wakes(member: Member): number {
    let next = Number.POSITIVE_INFINITY
    for (const [partition, { isFull }] of member.leases) {
      if (isFull) continue
      const { back, out } = this.progress[partition]!
      next = Math.min(next, back[0]?.due ?? Number.POSITIVE_INFINITY)
      if (this.rules.claim === Number.POSITIVE_INFINITY) continue
      for (const { until } of out.values()) next = Math.min(next, until)
    }
    return next
  }

  /** Returns the next batch for a member, in turn over its partitions that are not full; undefined if there is none. */
  next(member: Member): Found | undefined {
    const owned = Array.from(member.leases.entries())
    for (let i = 0; i < owned.length; i++) {
      const [partition, own] = owned[(member.turn + i) % owned.length]!
      if (own.isFull) continue
      const batch = this.read(partition, own, member.options.batch)
      if (batch.length > 0) {
        member.turn = (member.turn + i + 1) % owned.length
        return new Found(own, batch)
      }
    }
    return undefined
  }

  /** Returns how many messages are due for redelivery now, at most `most`. */
  private dueOf({ back }: Progress, most: number): number {
    if (back.length === 0) return 0
    const now = this.rules.now()
    const later = back.findIndex(({ due }) => due > now)
    return Math.min(most, later < 0 ? back.length : later)
  }

  private read(partition: number, owned: Owned, most: number): ReadonlyArray<Delivery> {
    const { partitions } = this.log
    const records = partitions[partition]!
    const own = this.progress[partition]!
    const until = this.rules.now() + this.rules.claim
    if (this.rules.claim !== Number.POSITIVE_INFINITY) this.giveBack(own, this.rules.now())
    const due = this.dueOf(own, most)
    if (due > 0) {
      return own.back.splice(0, due).map(({ attempt, position }) => {
        own.out.set(position, { attempt, until })
        return records.deliver(owned.origin, position, attempt)
      })
    }
    const from = owned.next
    const to = Math.min(from + most, records.end)
    const batch: Array<Delivery> = []
    for (let position = from; position < to; position++) batch.push(records.deliver(owned.origin, position, 1))
    if (this.rules.settlement === "message") {
      for (let position = from; position < to; position++) own.out.set(position, { attempt: 1, until })
    }
    owned.next = to
    if (this.rules.settlement === "message") own.position = to
    return batch
  }
}
