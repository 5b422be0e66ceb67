/**
 * Dead letters that the broker refuses for good, in some of their forms or in all, and what must become of their messages.
 */
import type * as Core from "@millrace/core"
import type { Simulation } from "@millrace/testing"
import { Context, Effect, Logger, Metric, References } from "effect"
import { type Consumer, type Entry, idOf, isGone, type LeaseBook } from "./records.ts"
import type { Settings, Subject } from "./settings.ts"
import type { Tally } from "./Tally.ts"

/** The forms of a dead letter, each smaller than the one before. */
const forms = ["whole", "encoded", "bare", "digest"] as const

const smallest = forms.length - 1

/** Which form a dead letter has, from 0. */
export const formOf = ({ headers }: Core.Outgoing<Uint8Array>): number =>
  headers["dead-letter-omitted"] === "headers,body"
    ? 3
    : headers["dead-letter-omitted"] === "headers"
    ? 2
    : headers["dead-letter-headers"] === undefined
    ? 0
    : 1

/** How many forms of the dead letter of a new message its broker refuses; 4 are all. */
export const pickedForms = ({ chance, integer }: Simulation.World): number =>
  chance(0.5) ? 0 : chance(0.5) ? forms.length : integer(1, smallest)

/** What a consumer has logged and counted. */
export interface Said {
  /** Each line, and the message that it names as `partition/position`. */
  readonly lines: Array<{ readonly text: string; readonly place: string }>
  /** Messages that it has dropped. */
  readonly dropped: () => number
}

/** Runs a subscription with a logger and a registry of its own. */
export const watching = <A, E, R>(consumer: Consumer, run: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => {
  const registry = new Map()
  const lines: Array<Said["lines"][number]> = []
  const logger = Logger.make<unknown, void>(({ fiber, message }) => {
    const { partition, position } = fiber.getRef(References.CurrentLogAnnotations)
    const text = String(Array.isArray(message) ? message[0] : message)
    lines.push({ text, place: `${String(partition)}/${String(position)}` })
  })
  const dropped = () =>
    Metric.snapshotUnsafe(Context.make(Metric.MetricRegistry, registry))
      .filter(({ id }) => id === "millrace.dead_letters.dropped")
      .reduce((sum, { state }) => sum + ("count" in state ? Number(state.count) : 0), 0)
  consumer.said = { lines, dropped }
  return run.pipe(
    Effect.provideService(Logger.CurrentLoggers, new Set([logger])),
    Effect.provideService(Metric.MetricRegistry, registry)
  )
}

/** The messages that lines name as dropped. */
const droppedBy = ({ said }: Consumer): ReadonlyArray<string> =>
  (said?.lines ?? []).filter(({ text }) => text.endsWith("is dropped")).map(({ place }) => place)

/** The dead letters that a broker refuses. */
export class Letters {
  /** Whether it refuses any now. */
  isPicky = true
  private readonly tally: Tally
  private readonly settings: Settings
  private readonly subject: Pick<Subject, "BrokerError">
  /** The messages whose smallest form was refused, and under which lease at last. */
  private readonly parked = new Map<Entry, LeaseBook>()
  /** How often the smallest form of a message was refused to a consumer. */
  private readonly given = new Map<Consumer, Map<Entry, number>>()

  constructor(tally: Tally, settings: Settings, subject: Pick<Subject, "BrokerError">) {
    this.tally = tally
    this.settings = settings
    this.subject = subject
  }

  /** What the broker answers to a dead letter; undefined where it takes it. */
  refuses(entry: Entry | undefined, outgoing: Core.Outgoing<Uint8Array>): Core.BrokerError.BrokerError | undefined {
    if (!this.isPicky || entry === undefined || formOf(outgoing) >= entry.refused) return undefined
    const reason = entry.position % 2 === 0 ? "TooLarge" : "Invalid"
    return this.subject.BrokerError.make({ system: "memory", operation: "publish", reason, message: "never" })
  }

  /** Whether the handler of a message fails for good, so that a dead letter is refused in every form. */
  dooms(entry: Entry): boolean {
    return this.isPicky && entry.refused === forms.length
  }

  /** The broker has refused a dead letter. */
  refused(consumer: Consumer, entry: Entry, outgoing: Core.Outgoing<Uint8Array>): void {
    const form = formOf(outgoing)
    this.inOrder(entry, form)
    entry.tried.add(form)
    if (form < smallest) return
    const lease = entry.runs.findLast((run) => run.consumer === consumer)!.lease
    if (this.settings.refusedDeadLetter === "wait") {
      this.parked.set(entry, lease)
      return
    }
    this.tally.note("dropped letter")
    const own = this.given.get(consumer) ?? new Map<Entry, number>()
    this.given.set(consumer, own.set(entry, (own.get(entry) ?? 0) + 1))
    // its lane goes on
    lease.concluded.add(entry.position)
    lease.buried.add(entry.position)
  }

  /** The broker has taken a dead letter. */
  written(entry: Entry, outgoing: Core.Outgoing<Uint8Array>): void {
    const form = formOf(outgoing)
    if (this.settings.has.letters) this.inOrder(entry, form)
    if (form > 0) this.tally.note("smaller letter")
    this.parked.delete(entry)
    const header = (name: string) => outgoing.headers[`dead-letter-${name}`]
    const { headers, key, payload } = entry.outgoing
    const isWhole = form === smallest
      ? outgoing.payload.length === 0 && header("body-length") === String(payload.length)
      : payload.every((byte, i) => byte === outgoing.payload[i])
    this.tally.check(
      "5 letter",
      outgoing.key === key && isWhole,
      () => `the dead letter of ${idOf(entry)} is not the message`
    )
    const passes = Number(headers["dead-letter-passes"] ?? 0) + 1
    this.tally.check(
      "10 headers",
      Object.keys(outgoing.headers).length <= (form === smallest ? 14 : 12) && header("passes") === String(passes) &&
        (header("error-message") ?? "").length <= 1024,
      () => `the dead letter of ${idOf(entry)} has headers ${Object.keys(outgoing.headers).join(", ")}`
    )
  }

  private inOrder(entry: Entry, form: number): void {
    this.tally.check(
      "refused",
      // a driver that throws may do so because of the message
      form === 0 || entry.tried.has(form - 1) || this.settings.has.broken,
      () => `the dead letter of ${idOf(entry)} is ${forms[form]}, and the broker did not refuse it ${forms[form - 1]}`
    )
  }

  /** Whether the broker has refused the dead letter of a message in every form, and its subscription gives such ones up. */
  isDropped(entry: Entry): boolean {
    return this.settings.refusedDeadLetter === "drop" && entry.tried.has(smallest)
  }

  /**
   * Everything else has worked for a while: what waits still is parked, in sight of health, or stands behind a parked one.
   */
  standing(all: ReadonlyArray<Entry>, isDone: (entry: Entry) => boolean, laneOf: (entry: Entry) => unknown): void {
    const { hold, inFlight } = this.settings
    const parked = Array.from(this.parked).filter(([, lease]) =>
      !lease.closed && !isGone(lease) && lease.closing === undefined && lease.consumer.draining === undefined
    )
    for (const [entry, { consumer }] of parked) {
      // a start that waits for an answer shows no health yet
      if (consumer.running === undefined) continue
      this.tally.note("parked letter")
      const lane = consumer.health()?.lanes.find(({ partition, position }) =>
        partition === entry.partition && position === entry.position
      )
      this.tally.check(
        "refused",
        lane?.state === "parked",
        () => `${idOf(entry)} is parked, and the health of ${consumer.name} shows it as ${lane?.state}`
      )
    }
    // a parked message keeps its place among those in flight
    if (parked.length === 0 || inFlight.messages < 1000 || inFlight.bytes < 100_000 || hold.span < 1_000_000) return
    for (const entry of all) {
      const isBehind = parked.some(([other]) =>
        other === entry ||
        (other.partition === entry.partition && other.position < entry.position && laneOf(entry) !== undefined &&
          laneOf(other) === laneOf(entry))
      )
      this.tally.check(
        "refused",
        isBehind || isDone(entry),
        () => `${idOf(entry)} waits, and is behind none of ${parked.map(([other]) => idOf(other)).join(", ")}`
      )
    }
  }

  /** The end of a consumer: what it dropped was said and counted once. */
  ended(consumer: Consumer): void {
    const { name, said } = consumer
    if (said === undefined) return
    const lines = droppedBy(consumer)
    const dropped = consumer.health()?.dropped ?? 0
    this.tally.check(
      "refused",
      lines.length === dropped && said.dropped() === dropped,
      () => `${name} dropped ${dropped} messages, counted ${said.dropped()} and told of ${lines.length}`
    )
    const own = this.given.get(consumer)
    const times = (entry: Entry) => lines.filter((line) => line === idOf(entry)).length
    for (const [entry, most] of own ?? []) {
      this.tally.check(
        "refused",
        times(entry) <= most,
        () => `${name} told ${times(entry)} times that it dropped ${idOf(entry)}, which was refused ${most} times`
      )
    }
  }

  /** The end of a history: each message that ended only by being dropped was told of. */
  concluded(all: ReadonlyArray<Entry>, hasEnded: (entry: Entry) => boolean): void {
    for (const entry of all) {
      if (!this.isDropped(entry) || hasEnded(entry)) continue
      const seen = Array.from(this.given).filter(([, own]) => own.has(entry)).map(([consumer]) => consumer)
      this.tally.check(
        "refused",
        seen.some((consumer) => consumer.killed || droppedBy(consumer).includes(idOf(entry))),
        () => `${idOf(entry)} was dropped, and no line says so`
      )
    }
  }
}
