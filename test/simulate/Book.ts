import type { Audit, Delivery, Driver, MemoryBroker, Outcome, Outgoing } from "@millrace/core"
import type { Simulation } from "@millrace/testing"
import { Duration, Effect, type Exit } from "effect"
import { statuses } from "./Observers.ts"
import { cameTo, type Consumer, type Entry, idOf, isGone, type LeaseBook, type Run, type Waits } from "./records.ts"
import { formOf, Letters, pickedForms } from "./Letters.ts"
import type { Settings, Subject } from "./settings.ts"
import { Tally } from "./Tally.ts"

/** Sums of fractions of milliseconds are not exact. */
const epsilon = 0.01

/** Milliseconds until an engine knows what it was asked: some handlers, each for the longest time that one spends at once. */
const lag = 30

/** What was seen of a history, and what was wrong with it. */
export class Book extends Tally {
  readonly entries: Array<Array<Entry>> = []
  readonly leases = new Map<Driver.Lease, LeaseBook>()
  private readonly of = new WeakMap<Delivery, LeaseBook>()
  private readonly settings: Settings
  /** Whether the broker is there, and how often that has changed. */
  isUp = true
  private turns = 0
  readonly letters: Letters
  /** What the broker does wrong from the beginning. */
  readonly faults: Simulation.Faults
  /** The run whose hooks are called. */
  private ending: Run | undefined

  constructor(world: Simulation.World, settings: Settings, subject: Subject) {
    super(world)
    this.settings = settings
    this.letters = new Letters(this, settings, subject)
    this.faults = settings.has.letters
      ? { refuses: (outgoing) => this.letters.refuses(this.entryOf(outgoing), outgoing) }
      : {}
  }

  // ---- the source

  up(isUp: boolean): void {
    if (this.isUp === isUp) return
    this.world.log(`the broker ${isUp ? "is up again" : "stops"}`)
    this.isUp = isUp
    this.turns++
    // each connection is cut; engines hear of it one after the other
    if (isUp) return
    this.note("outage")
    for (const book of this.leases.values()) book.severed = true
  }

  publish(memory: MemoryBroker.MemoryBroker, outgoing: Outgoing<Uint8Array>): void {
    const before = memory.ends(outgoing.channel)
    Effect.runSync(memory.driver.publish([outgoing]))
    memory.ends(outgoing.channel).forEach((end, partition) => {
      this.entries[partition] ??= []
      if (end === (before[partition] ?? 0)) return
      this.entries[partition].push({
        partition,
        position: end - 1,
        outgoing,
        isStubborn: this.world.chance(0.1),
        refused: this.settings.has.letters ? pickedForms(this.world) : 0,
        tried: new Set(),
        runs: [],
        offers: 0,
        letters: 0,
        asked: undefined,
        until: 0
      })
    })
  }

  get all(): ReadonlyArray<Entry> {
    return this.entries.flat()
  }

  isDone(entry: Entry): boolean {
    return this.isEnded(entry) || (this.letters.isDropped(entry) && this.wasDecided(entry))
  }

  /** Whether a message is done otherwise than by being dropped. */
  isEnded(entry: Entry): boolean {
    return entry.runs.some((run) => {
      const what = cameTo(run)
      return what === "Ack" || what === "Reject"
    }) || (entry.letters > 0 && this.wasDecided(entry))
  }

  // ---- the network

  consuming(consumer: Consumer): void {
    const early = consumer.restarts.begin()
    if (early === undefined || !this.settings.has.refusals) return
    this.check("restart", early === 0, () => `${consumer.name} consumes again ${early} ms too early`)
  }

  astray(operation: Simulation.Operation | "consume", how: "silent" | "broken", lease?: Driver.Lease): void {
    this.note(operation === "extend" ? "lost extend" : how === "silent" ? "call without an answer" : "broken driver")
    this.world.log(`${operation} is ${how}`)
    const book = operation === "settle" && lease !== undefined ? this.leases.get(lease) : undefined
    if (book !== undefined) book.unheard = true
  }

  opened(consumer: Consumer, lease: Driver.Lease): void {
    this.world.log(() => `${consumer.name} is given partition ${lease.partition}`)
    this.leases.set(lease, {
      consumer,
      partition: lease.partition,
      closing: undefined,
      closed: false,
      severed: false,
      unheard: false,
      offersInPause: 0,
      calls: 0,
      lanes: new Map(),
      concluded: new Set(),
      buried: new Set(),
      running: new Set(),
      ran: new Set()
    })
  }

  offered(consumer: Consumer, lease: Driver.Lease, batch: ReadonlyArray<Delivery>): void {
    const book = this.leases.get(lease)!
    this.world.log(() =>
      `${consumer.name} is offered ${batch.length} of partition ${lease.partition} from ${batch[0]!.position}`
    )
    for (const delivery of batch) {
      this.of.set(delivery, book)
      this.claimed(book, delivery)
      const entry = this.entries[delivery.partition]![delivery.position]!
      entry.offers++
      entry.asked = undefined
      const lane = this.laneOf(delivery)
      if (lane === undefined) continue
      const positions = book.lanes.get(lane)
      if (positions === undefined) book.lanes.set(lane, [delivery.position])
      else positions.push(delivery.position)
    }
    this.check("lost", this.isUp, () => `${consumer.name} is given messages by a broker that is down`)
    // the driver may be on its way with one batch for each lease
    if (consumer.paused) book.offersInPause++
    this.check("pause", book.offersInPause <= 1, () => `${consumer.name} is paused and asks for more`)
    const health = consumer.health()
    if (health === undefined) return
    const { bytes, messages } = this.settings.inFlight
    const { leases, pending, pendingBytes } = health
    const own = leases.find(({ partition }) => partition === lease.partition)?.pending ?? 0
    // each of several leases is given room by itself, and may use it when others have used theirs
    const isWithin = leases.length === 1 ? pending < messages && pendingBytes < bytes : own < messages
    this.check(
      "pressure",
      isWithin,
      () =>
        `${consumer.name} asks for more with ${own} of its own and ${pending} of ${messages} messages and ${pendingBytes} of ${bytes} bytes`
    )
    if (this.settings.settlement === "message") return
    const { span } = this.settings.hold
    const ahead = this.ahead(book)
    // what was taken in when it was asked for may be settled since
    this.check(
      "pressure",
      ahead < span + 2 * messages,
      () => `${consumer.name} asks for more with ${ahead} of ${span} messages settled beyond one that is not`
    )
  }

  /** A message whose handler runs is not offered again: its claim is kept. */
  private claimed(book: LeaseBook, { partition, position }: Delivery): void {
    if (this.settings.claim === undefined || book.unheard) return
    const entry = this.entries[partition]![position]!
    const runs = entry.runs.some((run) => book.running.has(run))
    this.check("claim", !runs, () => `${idOf(entry)} is offered again while its handler runs`)
  }

  /** How many are settled under a lease beyond its first that is not. */
  private ahead(lease: LeaseBook): number {
    const isSettled = ({ position, runs }: Entry) =>
      lease.buried.has(position) ||
      runs.some((run) => run.lease === lease && /^(?:Ack|Reject)$/.test(cameTo(run) ?? ""))
    const taken = [...lease.ran].toSorted((a, b) => a.position - b.position)
    const first = taken.findIndex((entry) => !isSettled(entry))
    return first < 0 ? 0 : taken.slice(first).filter(isSettled).length
  }

  settling(consumer: Consumer, lease: Driver.Lease, what: number | ReadonlyArray<Driver.Settled>) {
    const book = this.leases.get(lease)!
    this.world.log(() =>
      `${consumer.name} ${
        typeof what === "number"
          ? `commits partition ${lease.partition} up to ${what}`
          : `settles ${
            what.map((each) => `${lease.partition}/${each.delivery.position} ${each.outcome._tag}`).join(", ")
          }`
      }`
    )
    this.check(
      "lost",
      !book.closed,
      () => `${consumer.name} tells of partition ${lease.partition} after it has lost it`
    )
    this.check("lost", book.calls === 0, () => `two calls at once for partition ${lease.partition}`)
    this.check("drain", !consumer.drained, () => `${consumer.name} tells the broker something after its drain`)
    book.calls++
    const own = this.entries[lease.partition]!
    if (typeof what === "number") {
      for (let position = 0; position < what; position++) {
        const entry = own[position]!
        this.check("4 durable", this.isDone(entry), () => `commit ${what} passes ${idOf(entry)}, which is not done`)
        this.check("7 duplicates", entry.runs.length > 0, () => `commit ${what} passes ${idOf(entry)}, which never ran`)
      }
    } else for (const { delivery, outcome } of what) this.settledOne(book, own[delivery.position]!, outcome)
    const { isUp, turns } = this
    return (exit: Exit.Exit<void, unknown>): void => {
      book.calls--
      this.check(
        "lost",
        exit._tag === "Failure" || isUp || turns !== this.turns,
        () => `${consumer.name} settles with a broker that is down`
      )
      // an engine that is refused lets its connection go
      if (exit._tag === "Success") {
        consumer.restarts.settled()
        if (typeof what !== "number") {
          for (const each of what) this.delayed(own[each.delivery.position]!, each.outcome)
        }
        return
      }
      this.note("refused settlement")
      this.sever(consumer)
    }
  }

  private delayed(entry: Entry, outcome: Outcome.Outcome): void {
    if (outcome._tag !== "Retry" || outcome.after === undefined) return
    this.note("delay of the broker")
    entry.until = (entry.asked ?? 0) + Duration.toMillis(outcome.after)
  }

  private settledOne(book: LeaseBook, entry: Entry, outcome: Outcome.Outcome): void {
    // an outcome that was refused is told again, maybe after another run of its message
    const isDropped = outcome._tag === "Reject" && this.letters.isDropped(entry)
    this.told(entry, entry.runs.filter((run) => run.lease === book), isDropped ? "DeadLetter" : outcome._tag)
    const ran = (which: (what: Waits["failed"]) => boolean) => entry.runs.some((run) => which(cameTo(run)))
    switch (outcome._tag) {
      case "Ack":
      case "Reject":
        return this.check(
          "4 durable",
          ran((what) => what === outcome._tag) || (isDropped && this.wasDecided(entry)),
          () => `${idOf(entry)} is settled as ${outcome._tag}, and no run came to that`
        )
      case "DeadLetter":
        if (this.settings.native) {
          this.note("native dead letter")
          entry.letters++
        }
        return this.check(
          "4 durable",
          entry.letters > 0 && this.wasDecided(entry),
          () => `${idOf(entry)} is settled as a dead letter that was not written, or not decided`
        )
      case "Retry":
        entry.asked ??= this.world.now()
        return this.check(
          "1 outcome",
          this.settings.delay && ran((what) => what !== "Ack"),
          () => `${idOf(entry)} is settled as a retry`
        )
      case "Release":
        return this.check(
          "3 release",
          book.closing !== undefined || book.consumer.draining !== undefined,
          () => `${idOf(entry)} is given back while its lease goes on`
        )
    }
  }

  closing(consumer: Consumer, lease: Driver.Lease, how: "revoke" | "lost"): () => void {
    const book = this.leases.get(lease)!
    const at = this.world.now()
    this.world.log(() => `${consumer.name}: partition ${lease.partition} ends, ${how}`)
    // a drain comes first and gives everything back
    book.closing ??= { at, how }
    this.note(how)
    if (book.running.size > 0) this.note(`${how} while a handler runs`)
    return () => {
      book.closed = true
      this.world.log(() => `${consumer.name}: partition ${lease.partition} is given back`)
      if (how === "lost" || book.closing!.how === "lost") return
      const { revoke } = this.settings.grace
      if (book.severed) return
      this.check(
        "revoke",
        book.running.size === 0,
        () => `${Array.from(book.running, (run) => idOf(run.entry)).join(", ")} still runs when its lease is given back`
      )
      this.check(
        "revoke",
        this.world.now() - at <= revoke + this.settings.farewell,
        () => `giving back partition ${lease.partition} took ${this.world.now() - at} ms, with ${revoke} ms of grace`
      )
      this.check(
        "lost",
        book.calls === 0 || book.unheard,
        () => `partition ${lease.partition} is given back while it is being told of`
      )
    }
  }

  /** The message of a dead letter. */
  private entryOf({ headers }: Outgoing<Uint8Array>): Entry | undefined {
    return this.entries[Number(headers["dead-letter-partition"])]?.[Number(headers["dead-letter-position"])]
  }

  /** A dead letter that the broker refused for good. */
  refusedLetter(consumer: Consumer, outgoing: Outgoing<Uint8Array>): void {
    const entry = this.entryOf(outgoing)!
    this.world.log(() => `the dead letter of ${idOf(entry)} is refused in form ${formOf(outgoing)}`)
    this.letters.refused(consumer, entry, outgoing)
  }

  /** A dead letter that the broker took. */
  letter(consumer: Consumer, outgoing: Outgoing<Uint8Array>): void {
    const header = (name: string) => outgoing.headers[`dead-letter-${name}`]
    const entry = this.entryOf(outgoing)
    if (entry === undefined) return this.check("5 letter", false, () => "a dead letter of a message that never was")
    this.world.log(() =>
      `the dead letter of ${idOf(entry)} is written: ${header("error-type")}: ${header("error-message")}`
    )
    if (entry.letters++ > 0) this.note("letter without an answer")
    this.check("5 letter", this.wasDecided(entry), () => `${idOf(entry)} has a dead letter that nobody decided`)
    this.told(entry, entry.runs.filter((run) => run.consumer === consumer), "DeadLetter")
    const failures = entry.runs.map(cameTo)
    if (!failures.includes("DeadLetter")) this.note("given up")
    this.check(
      "9 throttled",
      !failures.every((what) => what === "Throttled"),
      () => `${idOf(entry)} was only throttled, and has a dead letter`
    )
    this.letters.written(entry, outgoing)
    for (const run of entry.runs) {
      if (run.consumer !== consumer) continue
      run.lease.concluded.add(entry.position)
      run.lease.buried.add(entry.position)
    }
  }

  /**
   * Whether hooks were told what the broker is told, by the last run of a message under a lease. A hook that fails changes the
   * outcome after others were told of it; and what waits is given back when its lease ends.
   */
  private told(entry: Entry, runs: ReadonlyArray<Run>, tag: Outcome.Outcome["_tag"]): void {
    const ended = runs.filter(({ outcome }) => outcome !== undefined)
    if (ended.length === 0 || runs.some(({ lease }) => lease.unheard) || tag === "Release" || !this.settings.has.told) {
      return
    }
    const isSame = ({ hooks, outcome }: Run) =>
      outcome!._tag === tag || (tag === "Retry" && outcome!._tag === "Release") ||
      hooks.some(({ failed }) => failed !== undefined)
    this.check(
      "told",
      ended.some(isSame),
      () =>
        `the hooks of ${idOf(entry)} were told ${
          ended.map(({ outcome }) => outcome!._tag).join(", ")
        }, and the broker ${tag}`
    )
  }

  /** A row of the audit, written in the hooks of the run that ends. */
  row({ partition, position, status }: Audit.Entry): void {
    const run = this.ending
    const id = `${partition}/${position}`
    if (run === undefined || idOf(run.entry) !== id) {
      return this.check("told", false, () => `an audit row of ${id} belongs to no run that ends`)
    }
    run.rows++
    this.check(
      "told",
      run.outcome === undefined || statuses[run.outcome._tag] === status,
      () => `the hooks of ${id} were told ${run.outcome?._tag}, and the audit wrote ${status}`
    )
  }

  /** Whether a run decided for the dead letters, or the message was held as long as it may be. */
  private wasDecided(entry: Entry): boolean {
    return entry.runs.some((run) => cameTo(run) === "DeadLetter") ||
      entry.runs.some((run) => this.hasCost(entry, run.lease, 0))
  }

  /** Whether a message has been held as long as it may be, with so many failures more than are written down. */
  private hasCost(entry: Entry, lease: LeaseBook, more: number): boolean {
    const held = this.heldBy(entry, lease)
    const { age, attempts, span } = this.settings.hold
    // a broker that delays counts what it delivers
    const failures = this.settings.delay && held.failures + more > 0 ? entry.offers : held.failures + more
    return failures >= attempts || held.age >= age || held.span >= span
  }

  /** What a message that keeps failing has cost under a lease: at most what is answered, and an age that is `sure`. */
  private heldBy(entry: Entry, lease: LeaseBook) {
    let failures = 0
    let since: number | undefined
    // the latest time at which its engine can have seen the first failure
    let seen = Number.POSITIVE_INFINITY
    let sure = 0
    let excused = 0
    for (const run of entry.runs) {
      if (run.lease !== lease) continue
      const what = cameTo(run)
      if (what === "Retry" || what === "Release") {
        failures++
        if (since === undefined) seen = Math.max(run.ended!, ...run.hooks.map(({ done }) => done!)) + lag
        since ??= run.ended!
        sure = run.ended! - seen
      } else if (what === "Throttled" && since !== undefined) {
        excused += run.after ?? 0
        seen = Number.POSITIVE_INFINITY
      }
    }
    return {
      failures,
      age: since === undefined ? 0 : this.world.now() - since - excused,
      sure,
      span: failures === 0 ? 0 : lease.ran.size
    }
  }

  /** The connection of a consumer has ended. */
  severed(consumer: Consumer): void {
    consumer.restarts.end()
    if (consumer.draining === undefined) this.sever(consumer)
  }

  private sever(consumer: Consumer): void {
    for (const book of this.leases.values()) if (book.consumer === consumer) book.severed = true
  }

  // ---- the handler

  laneOf(delivery: Pick<Delivery, "key">): unknown {
    const { lanes } = this.settings
    if (lanes._tag === "partition") return "partition"
    if (lanes._tag === "unordered") return undefined
    return delivery.key ?? (lanes.keyless === "partition" ? "partition" : undefined)
  }

  start(consumer: Consumer, delivery: Delivery): Run {
    const lease = this.of.get(delivery)!
    const entry = this.entries[delivery.partition]![delivery.position]!
    const id = idOf(entry)
    const now = this.world.now()
    const { closing } = lease
    this.check(
      "lost",
      closing === undefined || (!lease.closed && now - closing.at <= lag),
      () => `${id} starts after its lease began to end`
    )
    const { draining } = consumer
    this.check(
      "drain",
      draining === undefined || (!consumer.drained && now - draining <= lag),
      () => `${id} starts after ${consumer.name} began to drain`
    )
    this.check("pause", !consumer.paused, () => `${id} starts while ${consumer.name} is paused`)
    const { lanes } = this.settings
    if (lanes._tag !== "partition") {
      this.check(
        "exclusive",
        consumer.suspended.size < lanes.limit,
        () => `${id} starts beside ${consumer.suspended.size} others, and the limit is ${lanes.limit}`
      )
    }
    const lane = this.laneOf(delivery)
    for (const book of this.leases.values()) {
      if (book.partition !== lease.partition || (book !== lease && isGone(book))) continue
      for (const other of book.running) {
        this.check("exclusive", other.entry !== entry, () => `${id} starts while it runs`)
        this.check(
          "exclusive",
          lane === undefined || this.laneOf(other.delivery) !== lane,
          () => `${id} starts while ${idOf(other.entry)} of its lane runs`
        )
      }
    }
    for (const position of lane === undefined ? [] : lease.lanes.get(lane)!) {
      if (position >= delivery.position) break
      const done = lease.concluded.has(position) ||
        (this.settings.native && this.wasDecided(this.entries[lease.partition]![position]!))
      this.check("order", done, () => `${id} starts before ${lease.partition}/${position} is done`)
    }
    if (entry.runs.some((run) => run.lease !== lease)) this.note("redelivery")
    const held = this.heldBy(entry, lease)
    this.check(
      "8 hold",
      held.failures < this.settings.hold.attempts,
      () => `${id} starts after ${held.failures} failures`
    )
    if (!this.settings.delay) {
      this.check("8 hold", held.sure < this.settings.hold.age, () => `${id} starts after ${held.sure} ms of failures`)
    }
    this.check(
      "8 hold",
      now >= entry.until - epsilon,
      () => `${id} starts ${entry.until - now} ms before its broker's delay is over`
    )
    entry.until = 0
    const last = entry.runs.findLast((run) => run.lease === lease)
    if (last !== undefined && !this.settings.delay && !lease.unheard) {
      const what = cameTo(last)
      if (what === "Throttled") this.note("throttled")
      if (last.hooks.some(({ failed }) => failed !== undefined)) {
        this.note("failing hook")
        if (last.outcome?._tag === "Ack" || last.outcome?._tag === "Reject") this.note("late failure")
      }
      this.check(
        "5 letter",
        what !== "DeadLetter" && !lease.buried.has(entry.position),
        () => `${id} starts again after it was given up`
      )
      this.check(
        "1 outcome",
        what === "Retry" || what === "Release" || what === "Throttled",
        () => `${id} starts again after it came to ${what}`
      )
      const wait = last.outcome?._tag === "Retry" && last.outcome.after !== undefined ? last.after ?? 0 : 0
      this.check(
        "8 hold",
        now - last.ended! >= wait - epsilon,
        () => `${id} starts ${now - last.ended!} ms after a retry in ${wait} ms`
      )
    }
    const run: Run = {
      entry,
      delivery,
      lease,
      consumer,
      hooks: [],
      expected: "Ack",
      after: undefined,
      selfInterrupt: false,
      hooksRun: 0,
      began: now,
      ended: undefined,
      outcome: undefined,
      rows: 0
    }
    entry.runs.push(run)
    lease.running.add(run)
    lease.ran.add(entry)
    return run
  }

  /** The end of a run, as its hooks are told of it. */
  end(run: Run, exit: Exit.Exit<unknown, unknown>, outcome: Outcome.Outcome | undefined): void {
    const id = idOf(run.entry)
    this.check("hooks", ++run.hooksRun === 1, () => `a hook of ${id} runs again`)
    if (outcome === undefined) return
    this.ending = run
    run.ended = this.world.now()
    run.outcome = outcome
    if (run.ended - run.began > (this.settings.claim ?? Number.POSITIVE_INFINITY)) this.note("long run")
    run.lease.running.delete(run)
    run.consumer.suspended.delete(run)
    this.world.log(() => `${run.consumer.name}: ${id} came to ${outcome._tag}`)
    const interrupted = exit._tag === "Failure" && exit.cause.reasons.some((reason) => reason._tag === "Interrupt") &&
      !run.selfInterrupt
    if (interrupted) this.interrupted(run)
    // hooks hear of a retry that will not be made as of the dead letter that it is, and of a release as of the retry that it is
    const isAgain = run.expected === "Retry" || run.expected === "Release"
    const isGivenUp = outcome._tag === "DeadLetter" && isAgain
    if (isGivenUp) this.note("given up")
    this.check(
      "2 once",
      outcome._tag === run.expected || (outcome._tag === "Retry" && isAgain) ||
        (interrupted && outcome._tag === "Release") ||
        (isGivenUp && this.hasCost(run.entry, run.lease, 1)),
      () => `${id} came to ${outcome._tag}, not ${run.expected}`
    )
    // what waits to become durable keeps no lane shut
    const what = cameTo(run) ?? outcome._tag
    if (what !== "Ack" && what !== "Reject") return
    run.lease.concluded.add(run.entry.position)
  }

  private interrupted(run: Run): void {
    this.note("interruption")
    const { closing } = run.lease
    const { draining } = run.consumer
    const { drain, revoke } = this.settings.grace
    const now = this.world.now()
    const allowed = isGone(run.lease) ||
      (closing !== undefined && now - closing.at >= revoke - epsilon) ||
      (draining !== undefined && now - draining >= drain - epsilon)
    this.check("3 release", allowed, () => `${idOf(run.entry)} is interrupted before its time was over`)
  }
}
