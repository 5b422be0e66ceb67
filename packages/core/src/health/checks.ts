/**
 * Checks of the library's own parts: brokers, stores, circuits and switches.
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

/** A subscription that does not take messages. */
export class SubscriptionDown extends Data.TaggedError("SubscriptionDown")<{
  /** The subscription's name and its problem. */
  readonly message: string
}> {
  readonly failure = "dependency" as const
}

/** Options of `broker`. */
export interface BrokerOptions<On = Broker> extends Common<BrokerError> {
  /** The broker to check. Default: `Broker`. */
  readonly on?: Key<On> | undefined
}

const renewal = "the broker answers, and the next connection may fail"

// the reason is a fixed word; the message may contain addresses
const reasonOf = (error: BrokerError): string => error.reason

// without the option, On is the default's type
const keyOf = <On>(options: { readonly on?: Key<On> | undefined }): Key<On> =>
  options.on ?? (Broker as unknown as Key<On>)

/**
 * Checks that a broker answers. Of an error only the reason is shown (`Unreachable`), unless `explain` overrides it. The check
 * is degraded while the broker answers but its driver cannot renew its credentials, and while the broker is switched off.
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
      (pending) =>
        pending === undefined
          ? undefined
          : degraded(pending.reason === "Disabled" ? pending.message : `${pending.reason}: ${renewal}`)
    )
  })

/** Options of `lag`. */
export interface LagOptions<On = Broker> extends BrokerOptions<On> {
  readonly channel: string
  readonly group: string
  /** The most unsettled messages, over all partitions; above it the check is degraded. An integer from 1. */
  readonly most: number
}

/**
 * Checks the lag of a consumer group; degraded above `most`. `whenDown` is `degraded` by default, because a lagging consumer
 * must not be taken out of service. A broker that does not count fails with `Unsupported`.
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

/** Compares a lag with its limit. */
export const behind = (
  parts: ReadonlyArray<{ readonly messages: number }>,
  most: number
): Degraded | { readonly messages: number } => {
  const messages = parts.reduce((sum, part) => sum + part.messages, 0)
  return messages > most ? degraded(`${messages} messages behind, above ${most}`, { messages }) : { messages }
}

/**
 * Checks that the audit store can read one row.
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
 * Checks the store of idempotency keys by extending a claim that does not exist, with the store's own statement or script:
 * nothing changes, and a store that cannot write fails.
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
 * Checks the store of rate limits by renewing a place that does not exist, with its own statement or script: nothing is counted.
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
  /** The circuits to check. Default: all. */
  readonly circuits?: ReadonlyArray<string> | undefined
}

/**
 * Checks circuits: degraded while a circuit is open or half-open; the details list these circuits.
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
 * Checks the kill switch: degraded while it is engaged.
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
