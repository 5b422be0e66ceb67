/**
 * What a rate limit is made of, as data: policies, what a message is charged, and what a store decides.
 */
import { type Duration } from "effect"
import * as OptionCheck from "../../message/OptionCheck.ts"

/**
 * How a limit counts; docs/rate-limit.md compares them.
 *
 * - `gcra`: the generic cell rate algorithm: one number a key
 * - `tokenBucket`: `burst` is its capacity, and `limit` tokens come back in each `window`. It answers as `gcra` does and is
 *   kept as such: of one bucket they are two descriptions
 * - `fixedWindow`: `limit` in each window of the clock; twice that may pass around its edge
 * - `slidingCounter`: `limit` by an estimate over the window that ends now: the count of this window and a share of the last
 * - `slidingLog`: `limit` in whatever window; a number for each message that passed
 * - `concurrency`: `limit` at once; `window` is how long a place is kept for a process that gives no sign of life
 */
export type Algorithm = "concurrency" | "fixedWindow" | "gcra" | "slidingCounter" | "slidingLog" | "tokenBucket"

/** A limit as a store sees it. */
export interface Policy {
  /** The name and the numbers: what differs here is counted apart. */
  readonly id: string
  /** What errors and header fields call it. */
  readonly name: string
  readonly algorithm: Algorithm
  readonly limit: number
  /** Milliseconds. */
  readonly window: number
  /** What may come at once; of algorithms without bursts as much as `limit`. */
  readonly burst: number
}

/** What a message takes of the count that a key has in a policy. */
export interface Charge {
  readonly policy: Policy
  readonly key: string
  /** An integer from 0, which asks and takes nothing. More than `burst` never passes. */
  readonly cost: number
}

/** What one policy says of a call. Times are whole milliseconds. */
export interface Verdict {
  /** The time until this policy admits the call, if nothing else is spent or given back; Infinity where it never does. */
  readonly wait: number
  /** What is left after the call: a message of that cost passes at once. */
  readonly remaining: number
  /** The time until all is there again. */
  readonly reset: number
}

/** What a store answers. Times are whole milliseconds. */
export interface Decision {
  /** Whether all charges were made; otherwise none was. */
  readonly isAdmitted: boolean
  /** Admitted: how long its turn is away. Refused: how long until the same call is admitted, and not a millisecond earlier. */
  readonly wait: number
  /** One for each charge, in their order. */
  readonly verdicts: ReadonlyArray<Verdict>
  /** The time of the store's clock that was decided by, in milliseconds since 1970. */
  readonly at: number
  /** What places were taken under, where a policy is one of concurrency; 0 where none is. */
  readonly lease: number
}

/** The numbers of a policy, as they are written. */
export interface PolicyNumbers {
  /** Default: `gcra`. */
  readonly algorithm?: Algorithm | undefined
  /** What may pass in each `window`, or be inside at once; an integer from 1. Default: 100. */
  readonly limit?: number | undefined
  /** From 1 ms; rounded to whole milliseconds. Default: 1 second, and 30 seconds of `concurrency`. */
  readonly window?: Duration.Input | undefined
  /** How many may come at the same instant after a pause, by `gcra` and `tokenBucket`; an integer from 1. Default: `limit`. */
  readonly burst?: number | undefined
}

/** A number for each message that passed is kept in a log, or for each place. */
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

/** Whether a policy counts what has passed by one number, as buckets do. */
export const isBucket = (algorithm: Algorithm): boolean => algorithm === "gcra" || algorithm === "tokenBucket"

/**
 * Makes a policy, as the middleware does of its options.
 *
 * **Example** (a hundred a minute in whatever minute)
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
    // ticks of a full burst, and of a window, added to others like them
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
