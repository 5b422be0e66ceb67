/** Options of JetStream beside those of the connection. */
import { DriverOptions, type Outgoing } from "@millrace/core"
import type { Duration } from "effect"
import type * as NatsOptions from "../Options.ts"

/** Options of JetStream. */
export interface Options extends NatsOptions.Options {
  /** The domain of a JetStream behind a leaf node. Default: none. */
  readonly domain?: string | undefined
  /**
   * Decides about a channel that no stream holds: refuse it with `NotFound`, or create a stream with the server's defaults.
   * Default: `refuse`.
   */
  readonly missingStreams?: "refuse" | "create" | undefined
  /** Consuming. */
  readonly consumer?: {
    /**
     * How long a consumer may keep a message without extending it before the server redelivers it (`ack_wait`). The engine
     * extends messages in time while a handler runs. Default: that of the group's consumer at the server, 30 seconds if the
     * consumer does not exist yet. A value that differs from an existing consumer's is refused with `Conflict`.
     */
    readonly claim?: Duration.Input | undefined
    /**
     * The most delivered, unsettled messages of a group, including those that wait for a retry (`max_ack_pending`); beyond
     * it the group gets no more. An integer from 1. Default: that of the group's consumer at the server, 20,000 if the
     * consumer does not exist yet. A value that differs from an existing consumer's is refused with `Conflict`.
     */
    readonly pending?: number | undefined
    /**
     * Where order matters, one consumer of a group reads and the others stand by. A standby consumer takes over after the
     * reader has not renewed its lock for this time. Default: 10 seconds.
     */
    readonly takeover?: Duration.Input | undefined
    /** The bucket of the locks that decide which consumer reads; created if missing. Default: `millrace`. */
    readonly bucket?: string | undefined
    /**
     * How long a pull request waits for messages; its end is the server's heartbeat. If heartbeats stop, as after the loss
     * of a cluster's leader, the reader pulls again. Default: 2 seconds.
     */
    readonly heartbeat?: Duration.Input | undefined
    /** How often a pattern polls for new streams, in addition to the server's advisories. Default: 5 seconds. */
    readonly discovery?: Duration.Input | undefined
  } | undefined
  /** Publishing. */
  readonly producer?: {
    /** The most unconfirmed messages in flight; an integer from 1. Default: 1,024. */
    readonly window?: number | undefined
    /**
     * The id by which a stream drops duplicates of a message within its `duplicate_window` (2 minutes by default). Default:
     * none, and every message is stored.
     */
    readonly messageId?: ((message: Outgoing<Uint8Array>) => string | undefined) | undefined
  } | undefined
}

/** Checked options, times in milliseconds. */
export interface ResolvedOptions {
  readonly domain: string | undefined
  readonly missing: "refuse" | "create"
  /** Undefined to use the value of the group's consumer. */
  readonly claim: number | undefined
  readonly pending: number | undefined
  readonly takeover: number
  readonly bucket: string
  readonly heartbeat: number
  readonly discovery: number
  readonly window: number
  readonly messageId: ((message: Outgoing<Uint8Array>) => string | undefined) | undefined
}

/** Checks options; throws a `Bad` that names the option. */
export const resolve = ({ consumer = {}, domain, missingStreams, producer = {} }: Options): ResolvedOptions => {
  if (domain !== undefined && !/^[^\s.*>]+$/.test(domain)) {
    DriverOptions.bad(`domain must be one word of a subject, got ${JSON.stringify(domain)}`)
  }
  const bucket = consumer.bucket ?? "millrace"
  if (!/^[A-Za-z0-9_-]+$/.test(bucket)) {
    DriverOptions.bad(`consumer.bucket must be letters, digits, _ or -, got ${JSON.stringify(bucket)}`)
  }
  if (producer.messageId !== undefined && typeof producer.messageId !== "function") {
    DriverOptions.bad("producer.messageId must be a function of a message")
  }
  return {
    domain,
    missing: DriverOptions.oneOf("missingStreams", missingStreams, ["refuse", "create"], "refuse"),
    claim: DriverOptions.millis("consumer.claim", consumer.claim, undefined),
    pending: DriverOptions.integer("consumer.pending", consumer.pending, undefined),
    takeover: DriverOptions.millis("consumer.takeover", consumer.takeover, 10_000),
    bucket,
    heartbeat: DriverOptions.millis("consumer.heartbeat", consumer.heartbeat, 2000),
    discovery: DriverOptions.millis("consumer.discovery", consumer.discovery, 5000),
    window: DriverOptions.integer("producer.window", producer.window, 1024),
    messageId: producer.messageId
  }
}
