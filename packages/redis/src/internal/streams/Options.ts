/**
 * Options of Redis Streams, checked.
 */
import { type BrokerError, DriverOptions } from "@millrace/core"
import type { Duration, Effect } from "effect"
import * as Client from "../client/Options.ts"
import * as Publisher from "../client/Publisher.ts"
import type { Retention, Times } from "./Streams.ts"

/** Options of Redis Streams. */
export interface Options extends Client.Options {
  /** Consuming. */
  readonly consumer?: {
    /**
     * Where order does not matter: a consumer without a sign of life for so long loses its messages to the others; from 100
     * ms. Default: 30 seconds.
     */
    readonly claim?: Duration.Input | undefined
    /** Where it does: a reader without a sign of life for so long loses its place to the next; from 100 ms. Default: 10 seconds. */
    readonly lock?: Duration.Input | undefined
    /** How long Redis may wait for messages to come before it answers that there are none. Default: 1 second. */
    readonly maximumWait?: Duration.Input | undefined
  } | undefined
  /**
   * Makes a publish wait until replicas have its messages, by a connection of its own (`WAIT`). Default: the primary's answer is
   * enough, and a failover may lose the last messages.
   */
  readonly wait?: Publisher.Wait | undefined
  /**
   * What of a stream is kept. Default: everything, for ever. What goes beyond is deleted with the publish after it, whether
   * every group has it or not: a group that is behind loses messages.
   */
  readonly retention?: {
    /** About so many messages, never fewer; an integer from 1. */
    readonly maximumLength?: number | undefined
    /** Messages of about this age, by the clock of who publishes. */
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
