/**
 * The interface that the author of a driver implements. A driver is small and pushes: it reads from its source and offers
 * batches to the engine, which does all the rest (order, retries, positions, backpressure, dead letters, drain).
 */
import type { Effect, Scope, Stream } from "effect"
import type { Pattern } from "../message/Address.ts"
import type { Delivery, Outgoing } from "../message/Message.ts"
import type { Outcome } from "../message/Outcome.ts"
import type { BrokerError } from "./BrokerError.ts"
import type { Lanes } from "./Lanes.ts"

/**
 * The capabilities of a broker. A subscription that needs a missing one is refused at its start, or the engine emulates it
 * openly.
 */
export interface Capabilities {
  /**
   * How messages are acknowledged: `position`, everything below a position at once (Kafka, files); `message`, each alone
   * (Redis Streams, RabbitMQ, JetStream); `none`, never: at most once (Pub/Sub, core NATS, MQTT QoS 0).
   */
  readonly settlement: "position" | "message" | "none"
  /** The scope within which order is kept; `channel` means that a channel has one partition. */
  readonly ordering: "partition" | "channel" | "none"
  /** Whether the broker redelivers unacknowledged messages. */
  readonly redelivery: boolean
  /** Whether the broker itself delays a message and counts `attempts`; otherwise the engine holds the message. */
  readonly delay: boolean
  /** Whether the broker itself writes dead letters; otherwise the engine publishes them. */
  readonly deadLetter: boolean
  /** Whether the broker counts deliveries, so that the attempt survives a restart. */
  readonly attempts: boolean
  /** Whether consumers of one group share a channel, at least as one active reader with the others on standby. */
  readonly groups: boolean
  /** Whether several groups each get all messages of a channel; otherwise a second group is refused. */
  readonly fanOut: boolean
  /** Whether messages stay in the channel after they are settled. */
  readonly retention: boolean
  /** Whether a group that begins `earliest` gets messages published before; otherwise it begins with new messages. */
  readonly replay: boolean
  /** Whether messages outlive the broker's process. */
  readonly persistence: boolean
  /** Whether a channel can be read without consuming its messages. */
  readonly browse: boolean
  /** Whether a message can have a null body. */
  readonly tombstones: boolean
  /** Whether a publisher can choose the partition of a message. */
  readonly partitions: boolean
  /** The precision of a publisher's timestamp at the broker; `none` if the broker keeps its own or none. */
  readonly timestamps: "milliseconds" | "seconds" | "none"
  readonly transactions: boolean
  /** Whether one subscription can read all channels whose names match a pattern, including channels created later. */
  readonly patterns: boolean
  /** Whether the broker counts the lag of a group. */
  readonly lag: boolean
  /** The longest body in bytes, or undefined if the broker's settings decide. The driver's `publish` refuses longer ones. */
  readonly maximumBytes?: number | undefined
  /**
   * Headers that the broker obeys when a message is published (expiry, retain, priority, further recipients, deduplication
   * ids): lower-case names, where a `*` at the end matches any ending. Dead letters, delayed retries and replays carry them
   * as information under another name, `transport-instruction-NAME`. Default: none.
   */
  readonly instructions?: ReadonlyArray<string> | undefined
}

/** Positions from `from` up to, and without, `to`. */
export interface Range {
  readonly from: number
  readonly to: number
}

/** One message with its outcome. */
export interface Settled {
  readonly delivery: Delivery
  readonly outcome: Outcome
}

/**
 * The period in which positions and tokens are valid: an assignment, a channel, a session. After `close(lease, "lost")` the
 * engine settles no message of the lease.
 *
 * A driver with settlement `position` implements `commit`, one with `message` implements `settle`. The engine makes one such
 * call at a time for each lease, and collects further settlements for the next call.
 */
export interface Lease {
  /** The channel of the deliveries, if the subscription reads a pattern and each channel has its own leases. */
  readonly channel?: string | undefined
  /** The partition in the deliveries' origin; 0 where a channel has only one. */
  readonly partition: number
  /**
   * Commits that every message below `position` is settled: one more than the position of the last such message, so positions
   * may have gaps. Positions never decrease from call to call. If `commit` fails, the engine ends this `consume` and starts
   * another.
   *
   * `beyond` returns the settled ranges at and above `position`, in order, as of its call; the engine always passes it. A
   * driver that can store these ranges with the position skips their messages after a crash.
   */
  readonly commit?:
    | ((position: number, beyond?: () => ReadonlyArray<Range>) => Effect.Effect<void, BrokerError>)
    | undefined
  /**
   * Whether the driver stores the settled ranges beyond a position: the engine then calls `commit` again at the same position
   * when more messages settle. Default: no.
   */
  readonly keepsBeyond?: boolean | undefined
  /** Settles messages, each by its outcome. */
  readonly settle?: ((batch: ReadonlyArray<Settled>) => Effect.Effect<void, BrokerError>) | undefined
  /** Extends the claims of messages that are still being handled. */
  readonly extend?: ((batch: ReadonlyArray<Delivery>) => Effect.Effect<void, BrokerError>) | undefined
  /** Milliseconds after which the broker redelivers an unsettled message without `extend` to another consumer. */
  readonly claim?: number | undefined
  /** Stops and starts the source without leaving the group; absent if an `offer` that does not return is enough. */
  readonly pause?: Effect.Effect<void> | undefined
  readonly resume?: Effect.Effect<void> | undefined
}

/** The engine, as a driver sees it. */
export interface Sink {
  /**
   * Reports that the source is ready: joined, subscribed or open, with or without a lease. An earlier failure keeps the
   * subscription from starting; a later failure restarts the source.
   */
  readonly ready: () => void
  /**
   * Reports a sign of life: the source answered a poll, with or without messages. A source that does not poll reports each
   * arrival of messages.
   */
  readonly polled: () => void
  /** Begins a lease; its deliveries start at the first message that the group has not settled. */
  readonly open: (lease: Lease) => void
  /** Takes a batch, in order of position; completes when there is room for the next batch (an Exit if there is room now). */
  readonly offer: (lease: Lease, batch: ReadonlyArray<Delivery>) => Effect.Effect<void>
  /** Completes when every message offered under the lease is settled. */
  readonly settled: (lease: Lease) => Effect.Effect<void>
  /**
   * Ends a lease. `revoke` starts no handler, waits for running handlers (up to the subscription's limit) and for the last
   * commit. `lost` forgets the lease at once: the engine settles none of its messages any more.
   */
  readonly close: (lease: Lease, how: "revoke" | "lost") => Effect.Effect<void>
}

/** Options of `consume`. */
export interface ConsumeOptions {
  /** The name of a channel, or the address of `pattern`. */
  readonly channel: string
  /** The channels to read, if the address has parameters. The origin of each delivery names its own channel. */
  readonly pattern: Pattern | undefined
  readonly group: string
  /** The subscription's name. */
  readonly handler: string
  /** The start position of a group that has none. The broker stores it, even before the first commit. */
  readonly from: "earliest" | "latest"
  /**
   * Whether order matters to the subscription (lanes by partition or key). If consumers of a group would otherwise share the
   * messages of a partition, one consumer reads and the others stand by.
   */
  readonly ordered: boolean
  /** The lanes of the subscription; undefined where a driver is used without the engine. */
  readonly lanes?: Lanes["_tag"] | undefined
  /** The most messages in flight: the broker's prefetch should not exceed it. */
  readonly messages: number
  /**
   * Whether the group belongs to this subscription alone and ends with it. The driver removes the group and its position when
   * its scope closes with a success (after a failure the engine consumes again), and has the broker remove them some time
   * after the process dies. A channel that this process declared `temporary` is removed with them. Default: no.
   */
  readonly temporary?: boolean | undefined
  /** The most messages in one batch, and no more than `messages`. */
  readonly batch: number
  /** The most bytes that a batch of several messages should have: the engine takes a batch in whole. */
  readonly bytes: number
}

/** The desired properties of a channel. */
export interface Declaration {
  readonly channel: string
  /** Default: the broker's. */
  readonly partitions?: number | undefined
  /**
   * Whether only one process reads the channel, by one `temporary` subscription, and needs it no longer than that. The driver
   * removes the channel with that subscription; a driver that cannot keeps it. Default: no.
   */
  readonly temporary?: boolean | undefined
  /** Settings in the broker's own words. */
  readonly settings?: Readonly<Record<string, string>> | undefined
}

/** The lag of a group in one partition. */
export interface Lag {
  readonly partition: number
  /** Messages that the group has not settled, as the broker counts them. */
  readonly messages: number
}

/** A driver of a broker. */
export interface Driver {
  /** OpenTelemetry's `messaging.system`, e.g. `kafka`. */
  readonly system: string
  readonly capabilities: Capabilities
  /**
   * Reads until interrupted; completes or fails when the connection is gone, and the engine then starts it again. Leases that
   * are still open at its end are lost. Once interrupted, the driver takes no new messages, and leaves its group only when
   * its scope closes, after the engine's last commit.
   */
  readonly consume: (options: ConsumeOptions, sink: Sink) => Effect.Effect<void, BrokerError, Scope.Scope>
  /**
   * Publishes a batch; completes when the broker has confirmed every message. If the batch fails, any part may have been
   * written.
   *
   * The engine checks nothing beforehand: the driver fails with `TooLarge` for a body that is too long, and with
   * `Unsupported` for a feature that its capabilities lack.
   *
   * The call runs on a fiber at the moment of the publish; the driver may work synchronously and return an Exit.
   */
  readonly publish: (batch: ReadonlyArray<Outgoing<Uint8Array>>) => Effect.Effect<void, BrokerError>
  /**
   * Creates the channel. Fails with `Conflict` if the channel exists and differs, and with `Unsupported` or `Invalid` if this
   * broker can have no such channel.
   */
  readonly declare: (declaration: Declaration) => Effect.Effect<void, BrokerError>
  /**
   * Reads the messages that are in the channel now, oldest first, without consuming them. Group and handler of the
   * deliveries' origin are empty. Fails with `Unsupported` if the broker cannot browse.
   */
  readonly browse: (channel: string) => Stream.Stream<Delivery, BrokerError>
  /**
   * Checks the broker's health with one round trip, and fails as a publish would. Succeeds with an error if the broker
   * answers but the driver will fail later, e.g. when new credentials cannot be obtained: health is then degraded.
   */
  readonly check: Effect.Effect<void | BrokerError, BrokerError>
  /**
   * Returns the lag of a group for each partition, as the broker counts it. Empty if the channel has no such group; fails
   * with `Unsupported` if the broker does not count.
   */
  readonly lag: (channel: string, group: string) => Effect.Effect<ReadonlyArray<Lag>, BrokerError>
}
