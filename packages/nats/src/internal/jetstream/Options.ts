/**
 * What JetStream can be told beside how to connect.
 */
import { DriverOptions, type Outgoing } from "@millrace/core"
import type { Duration } from "effect"
import type * as NatsOptions from "../Options.ts"

/** Options of JetStream. */
export interface Options extends NatsOptions.Options {
  /** The domain of a JetStream behind a leaf node. Default: none. */
  readonly domain?: string | undefined
  /** What becomes of a channel that no stream holds: refused with `NotFound`, or a stream made with the server's defaults. Default: `refuse`. */
  readonly missingStreams?: "refuse" | "create" | undefined
  /** Consuming. */
  readonly consumer?: {
    /**
     * How long a message may be with a consumer that gives no sign of life before it goes to another (`ack_wait`). The
     * engine gives signs in time while a handler runs. Default: that of the group's consumer at the server, 30 seconds where
     * there is none yet. Another than the consumer has is refused with `Conflict`.
     */
    readonly claim?: Duration.Input | undefined
    /**
     * The most messages of a group that are delivered and not settled, those that wait for a retry among them
     * (`max_ack_pending`); beyond it the group gets no more. An integer from 1. Default: that of the group's consumer at the
     * server, 20,000 where there is none yet. Another than the consumer has is refused with `Conflict`.
     */
    readonly pending?: number | undefined
    /**
     * Where order matters one consumer of a group reads and the others stand by: how long it may give no sign of life before
     * one of them takes over. Default: 10 seconds.
     */
    readonly takeover?: Duration.Input | undefined
    /** The bucket in which consumers that stand by find out who reads; made where it is missing. Default: `millrace`. */
    readonly bucket?: string | undefined
    /**
     * The time between two signs of life that the server gives while no messages come: how long a pull waits. When they stay
     * away, as after the end of a cluster's leader, the reader asks anew. Default: 2 seconds.
     */
    readonly heartbeat?: Duration.Input | undefined
    /** How often a pattern looks for new streams, beside hearing of them. Default: 5 seconds. */
    readonly discovery?: Duration.Input | undefined
  } | undefined
  /** Publishing. */
  readonly producer?: {
    /** The most messages that wait for their confirmation at once; an integer from 1. Default: 1,024. */
    readonly window?: number | undefined
    /**
     * The id by which a stream takes a message once only, if it comes again within the stream's `duplicate_window` (2 minutes
     * by default). Default: none, and every message is taken.
     */
    readonly messageId?: ((message: Outgoing<Uint8Array>) => string | undefined) | undefined
  } | undefined
}

/** Options checked, times in milliseconds. */
export interface ResolvedOptions {
  readonly domain: string | undefined
  readonly missing: "refuse" | "create"
  /** Undefined where the group's consumer decides. */
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
