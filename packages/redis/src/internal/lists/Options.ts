/**
 * Checks the options of Redis lists.
 */
import { type BrokerError, DriverOptions } from "@millrace/core"
import type { Duration, Effect } from "effect"
import * as Client from "../client/Options.ts"
import * as Publisher from "../client/Publisher.ts"

/** Options of Redis lists. */
export interface Options extends Client.Options {
  /** Options of consumers. */
  readonly consumer?: {
    /** A consumer without a heartbeat for this long loses its messages to the others; from 100 ms. Default: 30 seconds. */
    readonly claim?: Duration.Input | undefined
    /** How long Redis may block a read of an empty list before it replies. Default: 1 second. */
    readonly maximumWait?: Duration.Input | undefined
  } | undefined
  /**
   * Makes a publish wait until replicas have its messages, on a separate connection (`WAIT`). Default: the primary's reply is
   * enough, and a failover may lose the last messages.
   */
  readonly wait?: Publisher.Wait | undefined
}

/** Options checked. */
export interface Checked {
  readonly resolved: Client.ResolvedOptions
  readonly wait: Publisher.Replicas | undefined
  /** In milliseconds. */
  readonly maximumWait: number
  /** In milliseconds. */
  readonly claim: number
}

/** Checks options; fails with a `BrokerError` of reason `Invalid` that names the option. */
export const check = (options: Options): Effect.Effect<Checked, BrokerError.BrokerError> =>
  DriverOptions.checked("redis", "RedisLists", () => {
    const resolved = Client.resolve(options)
    const maximumWait = DriverOptions.millis("consumer.maximumWait", options.consumer?.maximumWait, 1000)
    if (maximumWait >= resolved.requestTimeout) {
      DriverOptions.bad(
        `consumer.maximumWait must be less than requestTimeout (${resolved.requestTimeout} ms), got ${maximumWait} ms`
      )
    }
    return {
      resolved,
      wait: Publisher.replicas(options.wait, resolved.requestTimeout),
      maximumWait,
      claim: DriverOptions.millis("consumer.claim", options.consumer?.claim, 30_000, 100)
    }
  })
