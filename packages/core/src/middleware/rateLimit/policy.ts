/**
 * The data of a rate limit: policies, the charges of a message, and the decisions of a store.
 */
import { type Duration } from "effect"
import * as OptionCheck from "../../message/OptionCheck.ts"

/**
 * Names the algorithm of a limit; docs/rate-limit.md compares them.
 *
 * - `gcra`: the generic cell rate algorithm: one number a key
 * - `tokenBucket`: `burst` is its capacity, and `limit` tokens come back in each `window`. The store keeps it as `gcra`
 *   and answers alike: both describe one bucket
 * - `fixedWindow`: `limit` in each window of the clock; twice that may pass around its edge
 * - `slidingCounter`: `limit` by an estimate over the window that ends now: the count of this window and a share of the
 *   last
 * - `slidingLog`: `limit` in any window; a number for each message that passed
 * - `concurrency`: `limit` at once; `window` is how long a place is kept for a process that no longer renews it
 */
export type Algorithm = "concurrency" | "fixedWindow" | "gcra" | "slidingCounter" | "slidingLog" | "tokenBucket"

/** A limit as a store sees it. */
export interface Policy {
  /** The name and the numbers; policies with different ids are counted separately. */
  readonly id: string
  /** The name in errors and header fields. */
  readonly name: string
  readonly algorithm: Algorithm
  readonly limit: number
  /** Milliseconds. */
  readonly window: number
  /** The most that may pass at once; equals `limit` for algorithms without bursts. */
  readonly burst: number
}

/** Takes `cost` from the count of a key in a policy. */
export interface Charge {
  readonly policy: Policy
  readonly key: string
  /** An integer from 0; a charge of 0 asks and takes nothing. A cost above `burst` never passes. */
  readonly cost: number
}

/** The answer of one policy to a call. Times are whole milliseconds. */
export interface Verdict {
  /** The time until this policy admits the call, if nothing else is spent or released; Infinity if it never does. */
  readonly wait: number
  /** The largest cost that passes at once after the call. */
  readonly remaining: number
  /** The time until the full limit is available again. */
  readonly reset: number
}

/** The answer of a store. Times are whole milliseconds. */
export interface Decision {
  /** Whether the store made all charges; otherwise it made none. */
  readonly isAdmitted: boolean
  /** Admitted: the time until its turn. Refused: the time until the same call is admitted, and not a millisecond less. */
  readonly wait: number
  /** One for each charge, in their order. */
  readonly verdicts: ReadonlyArray<Verdict>
  /** The store's clock time of the decision, in milliseconds since 1970. */
  readonly at: number
  /** The lease of the `concurrency` places taken by this call; 0 if none were taken. */
  readonly lease: number
}

/** The numbers of a policy, as the program writes them. */
export interface PolicyNumbers {
  /** Default: `gcra`. */
  readonly algorithm?: Algorithm | undefined
  /** The most messages in each `window`, or in flight at once; an integer from 1. Default: 100. */
  readonly limit?: number | undefined
  /** From 1 ms; rounded to whole milliseconds. Default: 1 second, and 30 seconds of `concurrency`. */
  readonly window?: Duration.Input | undefined
  /** The most messages at the same instant after a pause, by `gcra` and `tokenBucket`; an integer from 1. Default: `limit`. */
  readonly burst?: number | undefined
}

/** The most entries of a key: a log keeps a number for each message that passed, `concurrency` for each place. */
const longest = 100_000

const most = Number.MAX_SAFE_INTEGER

export const check = OptionCheck.make("RateLimit")

const algorithms: ReadonlyArray<Algorithm> = [
  "concurrency",
  "fixedWindow",
  "gcra",
  "slidingCounter",
  "slidingLog",
  "tokenBucket"
]

/** Whether a policy keeps one arrival time per key, as buckets do. */
export const isBucket = (algorithm: Algorithm): boolean => algorithm === "gcra" || algorithm === "tokenBucket"

/**
 * Makes a policy from the same numbers as the middleware's options.
 *
 * **Example** (a hundred in any minute)
 *
 * ```ts
 * import { RateLimit } from "@millrace/core"
 *
 * const policy = RateLimit.policy("search", { algorithm: "slidingLog", limit: 100, window: "1 minute" })
 * console.log(policy.id) // => search:slidingLog:100/60000
 * ```
 *
 * @throws RangeError when a number is out of range, or the numbers together are too large to be counted exactly
 * @category constructors
 */
export const policy = (name: string, options: PolicyNumbers = {}): Policy => {
  const algorithm = check.oneOf("algorithm", options.algorithm ?? "gcra", algorithms)
  const limit = check.count("limit", options.limit ?? 100)
  const burst = check.count("burst", options.burst ?? limit)
  const window = check.millis("window", options.window ?? (algorithm === "concurrency" ? 30_000 : 1000))
  if (isBucket(algorithm)) {
    // ticks of a full burst and of a window, and room to add others like them
    if (!(burst * window <= most / 4 && limit * window <= most / 4)) {
      throw new RangeError(
        `RateLimit: burst and limit times the milliseconds of window must be at most ${most / 4}, got ${
          Math.max(burst, limit)
        } times ${window}`
      )
    }
    const numbers = `${limit}/${window}/${burst}`
    return {
      id: `${name}:${algorithm}:${numbers}`,
      name,
      algorithm,
      limit,
      window,
      burst
    }
  }
  if (options.burst !== undefined) {
    throw new RangeError(`RateLimit: burst belongs to gcra and tokenBucket, and algorithm is ${algorithm}`)
  }
  if ((algorithm === "slidingLog" || algorithm === "concurrency") && limit > longest) {
    throw new RangeError(`RateLimit: limit must be at most ${longest} for ${algorithm}, got ${limit}`)
  }
  if (limit * window > most) {
    throw new RangeError(
      `RateLimit: limit times the milliseconds of window must be at most ${most}, got ${limit} times ${window}`
    )
  }
  return { id: `${name}:${algorithm}:${limit}/${window}`, name, algorithm, limit, window, burst: limit }
}
