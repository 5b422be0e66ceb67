/**
 * Reports stuck messages and broker calls: one Warn line, repeated at doubling intervals while any is left.
 */
import type { Clock, Context, Fiber } from "effect"
import { Effect } from "effect"
import type { Consumer, LaneHealth, LaneState } from "../../broker/Broker.ts"
import { tagOf } from "../../message/Failure.ts"
import type { Delivery } from "../../message/Message.ts"
import { readable } from "../../message/readable.ts"
import { log } from "./guard.ts"
import type { LeaseState } from "./LeaseState.ts"

/** A message that has started and is not settled. */
export interface InFlight {
  readonly delivery: Delivery
  readonly state: LaneState
  /** Unix time in milliseconds. */
  readonly since: number
  readonly error: unknown
  /** Number of messages waiting behind it. */
  readonly behind: number
}

/** Makes the public view of a message in flight, for health. */
export const laneHealth = ({ behind, delivery, error, since, state }: InFlight): LaneHealth => ({
  channel: delivery.channel,
  partition: delivery.partition,
  position: delivery.position,
  key: keyOf(delivery),
  attempt: delivery.attempt,
  state,
  since,
  behind,
  error
})

/** Returns the key of a delivery; undefined if it has none, or if its driver cannot read it. */
export const keyOf = (delivery: Delivery): string | undefined => readable(() => delivery.key, undefined)

/** The subjects of a monitor. */
export interface Watched {
  readonly inFlight: () => Iterable<InFlight>
  readonly leases: () => Iterable<LeaseState>
}

/** Watches a worker. Its timer runs only while a message or a call to the broker is in progress. */
export class StallMonitor {
  private readonly consumer: Pick<Consumer<never>, "name" | "stalled">
  private readonly context: Context.Context<never>
  private readonly clock: Clock.Clock
  private readonly watched: Watched
  /** Milliseconds between two checks, and between the first two lines. */
  private readonly pace: number
  private timer: Fiber.Fiber<void> | undefined
  private nextLine = 0
  private interval = 0
  private isEnded = false

  constructor(
    consumer: Pick<Consumer<never>, "name" | "stalled">,
    context: Context.Context<never>,
    clock: Clock.Clock,
    watched: Watched
  ) {
    this.consumer = consumer
    this.context = context
    this.clock = clock
    this.watched = watched
    this.pace = Math.max(1, Math.min(consumer.stalled.running, consumer.stalled.waiting))
  }

  /** Starts the timer, because a message or a call to the broker is in progress. */
  watch(): void {
    if (this.timer !== undefined || this.isEnded) return
    this.timer = Effect.runForkWith(this.context)(Effect.sleep(this.pace))
    this.timer.addObserver((exit) => {
      this.timer = undefined
      if (exit._tag === "Success") this.look()
    })
  }

  /** Stops the timer for good, because the worker has drained. */
  end(): void {
    this.isEnded = true
    this.timer?.interruptUnsafe()
  }

  /** Lists the messages and broker calls that are stuck, the oldest first. */
  stuck(): ReadonlyArray<{ readonly since: number; readonly text: string }> {
    const { running, waiting } = this.consumer.stalled
    const now = this.clock.currentTimeMillisUnsafe()
    const found: Array<{ since: number; text: string }> = []
    for (const each of this.watched.inFlight()) {
      if (now - each.since >= (each.state === "running" ? running : waiting)) {
        found.push({ since: each.since, text: describe(each) })
      }
    }
    for (const { lease, settlingSince: since } of this.watched.leases()) {
      if (since !== undefined && now - since >= waiting) {
        found.push({ since, text: `the broker has not answered a commit of partition ${lease.partition}` })
      }
    }
    return found.sort((a, b) => a.since - b.since)
  }

  private look(): void {
    const now = this.clock.currentTimeMillisUnsafe()
    const stuck = this.stuck()
    const oldest = stuck[0]
    if (oldest === undefined) this.interval = this.nextLine = 0
    else if (now >= this.nextLine) {
      this.interval = Math.max(this.interval * 2, this.pace)
      this.nextLine = now + this.interval
      const others = stuck.length === 1 ? "" : `, and ${stuck.length - 1} more`
      log(
        this.context,
        Effect.logWarning(`${this.consumer.name} is stuck for ${now - oldest.since} ms: ${oldest.text}${others}`)
      )
    }
    for (const _ of this.watched.inFlight()) return this.watch()
    for (const { settlingSince } of this.watched.leases()) if (settlingSince !== undefined) return this.watch()
  }
}

const waits: Record<LaneState, string> = {
  running: "runs its handler",
  retry: "waits for its next attempt",
  "delayed retry": "waits until the broker confirms its delayed retry",
  "dead letter": "waits until the broker confirms its dead letter",
  parked: "is parked, since the broker refuses its dead letter in every form",
  "durable effect": "waits until an effect of a hook is durable"
}

const describe = ({ delivery, error, state }: InFlight): string => {
  const cause = error === undefined ? "" : ` (${tagOf(error)})`
  return `the message of ${delivery.channel}, partition ${delivery.partition}, position ${delivery.position}, attempt ${delivery.attempt}, ${
    waits[state]
  }${cause}`
}
