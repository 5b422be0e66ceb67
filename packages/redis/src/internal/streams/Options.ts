/**
 * Checks the options of Redis Streams.
 */
import { type BrokerError, DriverOptions } from "@millrace/core"
import type { Duration, Effect } from "effect"
import * as Client from "../client/Options.ts"
import * as Publisher from "../client/Publisher.ts"
import type { Retention, Times } from "./Streams.ts"

/** Options of Redis Streams. */
export interface Options extends Client.Options {
  /** Options of consumers. */
  readonly consumer?: {
    /**
     * Unordered consumers: one without a heartbeat for this long loses its messages to the others; from 100
     * ms. Default: 30 seconds.
     */
    readonly claim?: Duration.Input | undefined
    /** Ordered consumers: a reader without a heartbeat for this long loses the lock; from 100 ms. Default: 10 seconds. */
    readonly lock?: Duration.Input | undefined
    /** How long Redis may block a read of an empty stream before it replies. Default: 1 second. */
    readonly maximumWait?: Duration.Input | undefined
  } | undefined
  /**
   * Makes a publish wait until replicas have its messages, on a separate connection (`WAIT`). Default: the primary's reply is
   * enough, and a failover may lose the last messages.
   */
  readonly wait?: Publisher.Wait | undefined
  /**
   * Limits the length or age of a stream. Default: everything is kept for ever. The next publish deletes entries beyond the
   * limit, even if a group has not read them: a group that lags loses messages.
   */
  readonly retention?: {
    /** Keeps about this many messages, never fewer; an integer from 1. */
    readonly maximumLength?: number | undefined
    /** Keeps messages up to about this age, by the publisher's clock. */
    readonly maximumAge?: Duration.Input | undefined
  } | undefined
}

/** Options checked. */
export interface Checked {
  readonly resolved: Client.ResolvedOptions
  readonly times: Times
  readonly retention: Retention
  readonly wait: Publisher.Replicas | undefined
}

/** Checks options; fails with a `BrokerError` of reason `Invalid` that names the option. */
export const check = (options: Options): Effect.Effect<Checked, BrokerError.BrokerError> =>
  DriverOptions.checked("redis", "RedisStreams", () => {
    const { consumer, retention } = options
    const claim = DriverOptions.millis("consumer.claim", consumer?.claim, 30_000, 100)
    const lock = DriverOptions.millis("consumer.lock", consumer?.lock, 10_000, 100)
    const resolved = Client.resolve(options)
    const maximumWait = DriverOptions.millis("consumer.maximumWait", consumer?.maximumWait, 1000)
    if (maximumWait >= resolved.requestTimeout) {
      DriverOptions.bad(
        `consumer.maximumWait must be less than requestTimeout (${resolved.requestTimeout} ms), got ${maximumWait} ms`
      )
    }
    if (retention?.maximumLength !== undefined && retention.maximumAge !== undefined) {
      DriverOptions.bad("retention takes maximumLength or maximumAge, since Redis trims by one of them")
    }
    return {
      resolved,
      wait: Publisher.replicas(options.wait, resolved.requestTimeout),
      times: {
        claim,
        lock,
        standBy: Math.min(500, Math.max(20, lock / 20)),
        maximumWait,
        sweep: Math.min(1000, claim / 4)
      },
      retention: {
        maximumLength: DriverOptions.integer("retention.maximumLength", retention?.maximumLength, undefined),
        maximumAge: DriverOptions.millis("retention.maximumAge", retention?.maximumAge, undefined)
      }
    }
  })
