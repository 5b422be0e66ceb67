/**
 * Checks of subscriptions: whether they take messages, the holders of their pauses, and stuck lanes.
 */
import { Clock, type Duration, Effect } from "effect"
import type { Health, Running } from "../broker/Broker.ts"
import type { BrokerError } from "../driver/BrokerError.ts"
import { Registry } from "../broker/Subscriptions.ts"
import {
  type Check,
  check,
  checkOption,
  type Common,
  type Degraded,
  degraded,
  type Details,
  isDegraded
} from "./Check.ts"
import { behind, SubscriptionDown } from "./checks.ts"

/** Options of `subscription` and `subscriptions`. */
export interface SubscriptionsOptions extends Common<BrokerError | SubscriptionDown> {
  /** The longest run of a handler before the check is degraded; from 1 ms. Default: 5 minutes. */
  readonly stuck?: Duration.Input | undefined
  /**
   * The longest wait of a message (for its next attempt, its dead letter, a durable effect), or of a commit without an answer of
   * the broker, before the check is degraded; from 1 ms. Default: 10 seconds.
   */
  readonly stalled?: Duration.Input | undefined
  /** The longest silence of a running source before the check is down; from 1 ms. Default: unlimited. */
  readonly silence?: Duration.Input | undefined
}

interface Numbers {
  readonly stuck: number
  readonly stalled: number
  readonly silence: number | undefined
}

const numbersOf = (options: SubscriptionsOptions): Numbers => ({
  stuck: checkOption.millis("stuck", options.stuck ?? "5 minutes"),
  stalled: checkOption.millis("stalled", options.stalled ?? "10 seconds"),
  silence: options.silence === undefined ? undefined : checkOption.millis("silence", options.silence)
})

const down = (message: string) => Effect.fail(new SubscriptionDown({ message }))

/** Finds the problem of one subscription, if there is one. */
const verdictOf = (
  { lanes, lastPoll, leases, name, pauses, state }: Health,
  { silence, stalled, stuck }: Numbers,
  now: number
): { readonly status: "degraded" | "down"; readonly why: string } | undefined => {
  if (state !== "running" && state !== "paused") return { status: "down", why: `${name} is ${state}` }
  const quiet = lastPoll === undefined ? undefined : now - lastPoll
  if (silence !== undefined && state === "running" && quiet !== undefined && quiet > silence) {
    return { status: "down", why: `${name} has given no sign of life for ${quiet} ms` }
  }
  if (state === "paused" || pauses.length > 0) {
    const by = pauses.map((pause) => pause.by).join(", ")
    return { status: "degraded", why: by === "" ? `${name} is paused` : `${name} is paused by ${by}` }
  }
  const late = lanes.filter(({ since, state }) => now - since > (state === "running" ? stuck : stalled))
  const oldest = late.toSorted((one, other) => one.since - other.since)[0]
  if (oldest !== undefined) {
    const { partition, position, since } = oldest
    const others = late.length === 1 ? "" : `, and ${late.length - 1} more`
    return {
      status: "degraded",
      why: `${name} is stuck for ${now - since} ms at position ${position} of partition ${partition}: ${
        oldest.state === "running" ? "its handler runs" : `it waits (${oldest.state})`
      }${others}`
    }
  }
  const silent = leases.find(({ settlingSince }) => settlingSince !== undefined && now - settlingSince > stalled)
  return silent === undefined ? undefined : {
    status: "degraded",
    why:
      `the broker of ${name} has not answered a commit of partition ${silent.partition} for longer than ${stalled} ms`
  }
}

/** Shows the position of the oldest running message; its key is customer data, and only in `Running.health`. */
const oldestOf = ({ oldest }: Health): Details =>
  oldest === undefined ? {} : {
    oldestPartition: oldest.partition,
    oldestPosition: oldest.position,
    oldestSince: oldest.since
  }

const detailsOf = (health: Health): Details => ({
  state: health.state,
  partitions: health.partitions.length,
  pending: health.pending,
  running: health.running,
  stuck: health.stuck,
  deadLetters: health.deadLetters,
  restarts: health.restarts,
  lastPoll: health.lastPoll ?? null,
  ...oldestOf(health)
})

/**
 * Checks a subscription that the program has started: down unless it takes messages; degraded while it is paused (by a circuit
 * breaker, a kill switch, manually), while a message is stuck, and while its lag is above `lag`.
 *
 * A retry channel whose reader does not run makes the check degraded. A source is down while it reconnects; `downAfter`
 * tolerates that.
 *
 * **Example** (with a limit of the lag)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Channel, Health, type Message, Subscription } from "@millrace/core"
 *
 * const program = Effect.gen(function*() {
 *   const health = yield* Health.Registry
 *   const handler = (message: Message<Uint8Array>) => Effect.log(message.position)
 *   const running = yield* Subscription.run(Subscription.make(Channel.bytes("orders"), { group: "billing" }, handler))
 *   yield* health.add(Health.subscription(running, { name: "orders", lag: 10_000, downAfter: 3 }))
 * })
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const subscription = (
  running: Running,
  options: SubscriptionsOptions & {
    readonly name: string
    /** The most unsettled messages of the group; above it the check is degraded. An integer from 1. Default: lag is not read. */
    readonly lag?: number | undefined
  }
): Check<never> => {
  const numbers = numbersOf(options)
  const most = options.lag === undefined ? undefined : checkOption.count("lag", options.lag)
  const asked: Effect.Effect<Degraded | Details, BrokerError | SubscriptionDown> = Effect.gen(function*() {
    const [health, now] = yield* Effect.all([running.health, Clock.currentTimeMillis])
    const verdict = verdictOf(health, numbers, now)
    if (verdict?.status === "down") return yield* down(verdict.why)
    const details = detailsOf(health)
    if (verdict !== undefined) return degraded(verdict.why, details)
    const retries = health.retries.find(({ state }) => state !== "running" && state !== "paused")
    if (retries !== undefined) return degraded(`its retry channel of ${retries.delay} ms is ${retries.state}`, details)
    if (most === undefined) return details
    const lag = behind(yield* running.lag, most)
    return isDegraded(lag) ? degraded(lag.why, { ...details, ...lag.details }) : { ...details, ...lag }
  })
  return check({ explain: explained, ...options, check: asked })
}

const explained = (error: BrokerError | SubscriptionDown): string =>
  error._tag === "SubscriptionDown" ? error.message : error.reason

/**
 * Checks all subscriptions of `Subscriptions.layer` together: down if one does not take messages or is missing, degraded if one
 * is paused or stuck. The details are the states by name.
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const subscriptions = (
  options: SubscriptionsOptions & {
    /** The subscriptions that must exist. Default: none required; the check covers all existing ones. */
    readonly expected?: ReadonlyArray<string> | undefined
  } = {}
): Check<Registry> => {
  const numbers = numbersOf(options)
  const asked: Effect.Effect<Degraded | Details, BrokerError | SubscriptionDown, Registry> = Effect.gen(function*() {
    const [all, now] = yield* Effect.all([Effect.flatMap(Registry, ({ list }) => list), Clock.currentTimeMillis])
    const names = new Set(all.map(({ name }) => name))
    const missing = options.expected?.find((name) => !names.has(name))
    if (missing !== undefined) return yield* down(`${missing} is not there`)
    const verdicts = all.flatMap((health) => verdictOf(health, numbers, now) ?? [])
    const worst = verdicts.find(({ status }) => status === "down") ?? verdicts[0]
    if (worst?.status === "down") return yield* down(worst.why)
    const details = Object.fromEntries(all.map(({ name, state }) => [name, state]))
    return worst === undefined ? details : degraded(worst.why, details)
  })
  return check({ explain: explained, ...options, name: options.name ?? "subscriptions", check: asked })
}
