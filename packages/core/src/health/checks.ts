/**
 * Checks of what the library knows: brokers, stores, circuits and switches.
 */
import { Data, Effect } from "effect"
import { Broker, type Key } from "../broker/Broker.ts"
import type { BrokerError } from "../driver/BrokerError.ts"
import { KillSwitch } from "../broker/KillSwitch.ts"
import { type AuditError, AuditStore } from "../middleware/audit/store.ts"
import { CircuitBreakerCircuits } from "../middleware/circuitBreaker/circuits.ts"
import { IdempotencyStore, type IdempotencyUnavailable } from "../middleware/idempotency/store.ts"
import { policy } from "../middleware/rateLimit/policy.ts"
import { RateLimitStore, type RateLimitUnavailable } from "../middleware/rateLimit/store.ts"
import { type Check, check, checkOption, type Common, type Degraded, degraded } from "./Check.ts"

/** A subscription does not take messages. */
export class SubscriptionDown extends Data.TaggedError("SubscriptionDown")<{
  /** What it is instead, by its name. */
  readonly message: string
}> {
  readonly failure = "dependency" as const
}

/** Options of `broker`. */
export interface BrokerOptions<On = Broker> extends Common<BrokerError> {
  /** One of several brokers. Default: `Broker`. */
  readonly on?: Key<On> | undefined
}

const renewal = "the broker answers, and the next connection may fail"

// the reason is a word of ours; the message names addresses
const reasonOf = (error: BrokerError): string => error.reason

// without the option On is the default's type
const keyOf = <On>(options: { readonly on?: Key<On> | undefined }): Key<On> =>
  options.on ?? (Broker as unknown as Key<On>)

/**
 * Asks a broker for one answer. Of what it fails with the reason is shown (`Unreachable`), unless `explain` says otherwise. The check is
 * degraded while the broker answers and its driver cannot renew its credentials.
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const broker = <On = Broker>(options: BrokerOptions<On> = {}): Check<On> =>
  check({
    explain: reasonOf,
    ...options,
    name: options.name ?? "broker",
    check: Effect.map(
      Effect.flatMap(keyOf(options), (found) => found.check),
      (pending) => pending === undefined ? undefined : degraded(`${pending.reason}: ${renewal}`)
    )
  })

/** Options of `lag`. */
export interface LagOptions<On = Broker> extends BrokerOptions<On> {
  readonly channel: string
  readonly group: string
  /** Messages that may wait, over all partitions; beyond, it is degraded. An integer from 1. */
  readonly most: number
}

/**
 * Asks a broker how far a group is behind; degraded beyond `most`. `whenDown` is `degraded` by default: who is behind shall
 * not be ended for it. A broker that does not count fails with `Unsupported`.
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const lag = <On = Broker>(options: LagOptions<On>): Check<On> => {
  const { channel, group } = options
  const most = checkOption.count("most", options.most)
  return check({
    explain: reasonOf,
    whenDown: "degraded",
    ...options,
    name: options.name ?? `lag of ${group}`,
    check: Effect.map(
      Effect.flatMap(keyOf(options), (found) => found.lag(channel, group)),
      (parts) => behind(parts, most)
    )
  })
}

/** What a lag comes to. */
export const behind = (
  parts: ReadonlyArray<{ readonly messages: number }>,
  most: number
): Degraded | { readonly messages: number } => {
  const messages = parts.reduce((sum, part) => sum + part.messages, 0)
  return messages > most ? degraded(`${messages} messages behind, above ${most}`, { messages }) : { messages }
}

/**
 * Reads one row of the audit store.
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const audit = (options: Common<AuditError> = {}): Check<AuditStore> =>
  check({
    explain: (error: AuditError) => error.reason,
    ...options,
    name: options.name ?? "audit",
    check: Effect.flatMap(AuditStore, (store) => Effect.asVoid(store.query({ limit: 1 })))
  })

const nobody = "millrace/health"

/**
 * Asks the store of idempotency keys to extend a claim that nobody has, by its own statement or script: nothing changes, and a
 * store that could not be written to would say so.
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const idempotency = (options: Common<IdempotencyUnavailable> = {}): Check<IdempotencyStore> =>
  check({
    ...options,
    name: options.name ?? "idempotency",
    check: Effect.flatMap(IdempotencyStore, (store) => Effect.asVoid(store.extend(nobody, 0, 1000)))
  })

const place = [{ policy: policy(nobody, { algorithm: "concurrency", limit: 1 }), key: nobody, cost: 1 }]

/**
 * Asks the store of rate limits to renew a place that nobody has, by its own statement or script: nothing is counted.
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const rateLimit = (options: Common<RateLimitUnavailable> = {}): Check<RateLimitStore> =>
  check({
    ...options,
    name: options.name ?? "rate limit",
    check: Effect.flatMap(RateLimitStore, (store) => Effect.asVoid(store.renew(place, 0)))
  })

/** Options of `circuits`. */
export interface CircuitsOptions extends Common<never> {
  /** Which circuits. Default: all. */
  readonly circuits?: ReadonlyArray<string> | undefined
}

/**
 * Degraded while a circuit is open or half-open; its details say which.
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const circuits = (options: CircuitsOptions = {}): Check<CircuitBreakerCircuits> => {
  const chosen = options.circuits === undefined ? undefined : new Set(options.circuits)
  return check({
    ...options,
    name: options.name ?? "circuits",
    check: Effect.map(Effect.flatMap(CircuitBreakerCircuits, (found) => found.snapshot), (all) => {
      const open = all.filter(({ name, state }) => state !== "closed" && (chosen === undefined || chosen.has(name)))
      if (open.length === 0) return
      return degraded(
        `${open.length} of ${all.length} circuits are not closed`,
        Object.fromEntries(open.map(({ name, state }) => [name, state]))
      )
    })
  })
}

/**
 * Degraded while the kill switch is engaged.
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const killSwitch = (options: Common<never> = {}): Check<KillSwitch> =>
  check({
    ...options,
    name: options.name ?? "kill switch",
    check: Effect.map(
      Effect.flatMap(KillSwitch, (found) => found.status),
      ({ by, engaged }) => engaged ? degraded(`engaged: ${by}`) : undefined
    )
  })
