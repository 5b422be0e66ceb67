/**
 * What the author of a broker implements. A driver is small and pushes: it reads from its source and offers batches to the
 * engine, which does all the rest (order, retries, positions, back-pressure, dead letters, drain).
 */
import type { Effect, Scope, Stream } from "effect"
import type { Pattern } from "../message/Address.ts"
import type { Delivery, Outgoing } from "../message/Message.ts"
import type { Outcome } from "../message/Outcome.ts"
import type { BrokerError } from "./BrokerError.ts"
import type { Lanes } from "./Lanes.ts"

/** What a broker can do. What it cannot is refused when a subscription is built, or emulated openly. */
export interface Capabilities {
  /**
   * How messages are acknowledged: `position`, everything below a position at once (Kafka, files); `message`, each alone
   * (Redis Streams, RabbitMQ, JetStream); `none`, never: at most once (Pub/Sub, core NATS, MQTT QoS 0).
   */
  readonly settlement: "position" | "message" | "none"
  /** Within what order is kept; `channel` means that a channel has one partition. */
  readonly ordering: "partition" | "channel" | "none"
  /** Whether what was not acknowledged is delivered again. */
  readonly redelivery: boolean
  /** Whether the broker delays a message by itself, and counts `attempts`; else the engine holds it. */
  readonly delay: boolean
  /** Whether the broker writes dead letters by itself; else the engine publishes them. */
  readonly deadLetter: boolean
  /** Whether the broker counts deliveries, so that the attempt survives a restart. */
  readonly attempts: boolean
  /** Whether consumers of one group share a channel, if only by one that reads while the others stand by. */
  readonly groups: boolean
  /** Whether several groups each get all messages of a channel; else a second group is refused. */
  readonly fanOut: boolean
  /** Whether messages stay in the channel when they are done. */
  readonly retention: boolean
  /** Whether a group that begins `earliest` gets what was published before it began; else it begins with what comes. */
  readonly replay: boolean
  /** Whether messages outlive the broker's process. */
  readonly persistence: boolean
  /** Whether what is in a channel can be read without consuming it. */
  readonly browse: boolean
  /** Whether a message can have a null body. */
  readonly tombstones: boolean
  /** Whether a publisher can choose the partition of a message. */
  readonly partitions: boolean
  /** How exactly the broker keeps the timestamp that a publisher gives a message; `none` where it keeps its own or none. */
  readonly timestamps: "milliseconds" | "seconds" | "none"
  readonly transactions: boolean
  /** Whether one subscription can read all channels whose names fit a pattern, those made later too. */
  readonly patterns: boolean
  /** Whether the broker counts how far a group is behind. */
  readonly lag: boolean
  /** The longest body in bytes, or undefined where the broker sets it. The driver's `publish` refuses longer ones. */
  readonly maximumBytes?: number | undefined
  /**
   * Headers that the broker obeys when a message is published (expiry, retain, priority, further recipients, ids against
   * duplicates): lower-case names, where a `*` at the end stands for any ending. A dead letter, a delayed retry and a replay
   * hold them as information under another name, `transport-instruction-NAME`. Default: none.
   */
  readonly instructions?: ReadonlyArray<string> | undefined
}

/** Positions from `from` up to `to`, without `to`. */
export interface Range {
  readonly from: number
  readonly to: number
}

/** One message and what became of it. */
export interface Settled {
  readonly delivery: Delivery
  readonly outcome: Outcome
}

/**
 * The time in which positions and tokens are valid: an assignment, a channel, a session. After `close(lease, "lost")` the
 * engine settles nothing of it.
 *
 * A driver with settlement `position` implements `commit`, one with `message` implements `settle`. The engine makes one such
 * call at a time for each lease; what gathers meanwhile goes with the next.
 */
export interface Lease {
  /** The channel of its deliveries, where the subscription reads a pattern and each channel has leases of its own. */
  readonly channel?: string | undefined
  /** The partition of its deliveries' origin; 0 where a channel has only one. */
  readonly partition: number
  /**
   * Everything below `position` is done: one more than the position of the last such message, so positions may have gaps.
   * It grows from call to call. When it fails, the engine ends this `consume` and starts another.
   *
   * `beyond` answers what is settled at `position` and above it, in order, when it is called; the engine always gives it. A driver that can keep
   * these ranges with the position skips their messages after a crash.
   */
  readonly commit?:
    | ((position: number, beyond?: () => ReadonlyArray<Range>) => Effect.Effect<void, BrokerError>)
    | undefined
  /**
   * Whether the driver keeps what is settled beyond a position: `commit` is then called again at the same position when more
   * is settled. Default: no.
   */
  readonly keepsBeyond?: boolean | undefined
  /** These messages are done, each as its outcome says. */
  readonly settle?: ((batch: ReadonlyArray<Settled>) => Effect.Effect<void, BrokerError>) | undefined
  /** Keeps the claims of messages alive that are still being handled. */
  readonly extend?: ((batch: ReadonlyArray<Delivery>) => Effect.Effect<void, BrokerError>) | undefined
  /** Milliseconds after which an unsettled message without `extend` goes to somebody else. */
  readonly claim?: number | undefined
  /** Stops and starts the source without leaving the group; absent where an `offer` that does not return is enough. */
  readonly pause?: Effect.Effect<void> | undefined
  readonly resume?: Effect.Effect<void> | undefined
}

/** The engine, as a driver sees it. */
export interface Sink {
  /**
   * The source is ready: joined, subscribed or open, with or without a lease. What fails before keeps the subscription from
   * starting; what fails after starts the source again.
   */
  readonly ready: () => void
  /** The source answered a poll, with or without messages: its sign of life. A source that is not polled: messages came. */
  readonly polled: () => void
  /** Begins a lease; messages come under it from the first that its group has not done. */
  readonly open: (lease: Lease) => void
  /** Takes a batch, in order of position; completes when there is room for the next one (an Exit when there is room now). */
  readonly offer: (lease: Lease, batch: ReadonlyArray<Delivery>) => Effect.Effect<void>
  /** Completes when nothing that was offered under the lease is unsettled. */
  readonly settled: (lease: Lease) => Effect.Effect<void>
  /**
   * Ends a lease. `revoke` starts nothing new, waits for what runs (up to the subscription's limit) and for the last
   * commit. `lost` forgets at once: nothing of it is settled any more.
   */
  readonly close: (lease: Lease, how: "revoke" | "lost") => Effect.Effect<void>
}

/** What to consume. */
export interface ConsumeOptions {
  /** The name of a channel, or the address of `pattern`. */
  readonly channel: string
  /** The channels to read, where the address has parameters. The origin of each delivery names its own channel. */
  readonly pattern: Pattern | undefined
  readonly group: string
  /** The subscription's name. */
  readonly handler: string
  /** Where a group begins that has no position yet. The broker keeps that place, also while nothing is committed. */
  readonly from: "earliest" | "latest"
  /**
   * Whether order matters to the subscription (lanes by partition or key). Where consumers of a group would else share the
   * messages of a partition, one of them reads and the others stand by.
   */
  readonly ordered: boolean
  /** The lanes of the subscription; undefined where a driver is used without the engine. */
  readonly lanes?: Lanes["_tag"] | undefined
  /** The most messages that may be in flight: what a broker hands out before it is asked should be no more. */
  readonly messages: number
  /**
   * Whether the group is of this subscription alone and ends with it. The driver removes the group and its position when its
   * scope closes with a success (after a failure the engine consumes again), and has the broker remove them some time after a
   * process that died. With them goes a channel that this process has declared `temporary`. Left out: no.
   */
  readonly temporary?: boolean | undefined
  /** The most messages that one batch may have, and no more than `messages`. */
  readonly batch: number
  /** The most bytes that a batch of several messages should have: a batch is taken in whole. */
  readonly bytes: number
}

/** What a channel should be like. */
export interface Declaration {
  readonly channel: string
  /** Default: the broker's. */
  readonly partitions?: number | undefined
  /**
   * Whether only one process reads the channel, by one `temporary` subscription, and is not needed after it. A driver removes it with
   * that subscription; one that cannot keeps it. Default: no.
   */
  readonly temporary?: boolean | undefined
  /** Settings in the broker's own words. */
  readonly settings?: Readonly<Record<string, string>> | undefined
}

/** How far a group is behind, in one partition. */
export interface Lag {
  readonly partition: number
  /** Messages that the group has not settled, as the broker counts them. */
  readonly messages: number
}

/** A broker, as its author implements it. */
export interface Driver {
  /** OpenTelemetry's `messaging.system`, e.g. `kafka`. */
  readonly system: string
  readonly capabilities: Capabilities
  /**
   * Runs until interrupted; completes or fails when the connection is gone, and is then started again by the engine. Leases
   * that are still open when it ends are lost. When interrupted it takes nothing new, and leaves its group only when its
   * scope closes, after the engine's last commit.
   */
  readonly consume: (options: ConsumeOptions, sink: Sink) => Effect.Effect<void, BrokerError, Scope.Scope>
  /**
   * Completes when the broker has confirmed every message of the batch. Of a batch that fails any part may have been written.
   *
   * Nothing is checked before: a body that is too long fails with `TooLarge`, and with `Unsupported` what the capabilities
   * say that the broker cannot hold.
   *
   * It is called on a fiber, at the moment it is to happen, and may do its work at once and answer an Exit.
   */
  readonly publish: (batch: ReadonlyArray<Outgoing<Uint8Array>>) => Effect.Effect<void, BrokerError>
  /**
   * Creates the channel, or fails with `Conflict` where it exists and differs, and with `Unsupported` or `Invalid` where this
   * broker can have no such channel.
   */
  readonly declare: (declaration: Declaration) => Effect.Effect<void, BrokerError>
  /**
   * What is in the channel now, oldest first; nothing is consumed. Group and handler of its deliveries' origin are empty.
   * Fails with `Unsupported` where the broker cannot.
   */
  readonly browse: (channel: string) => Stream.Stream<Delivery, BrokerError>
  /**
   * Asks the broker for one answer, and fails as it would fail a publish: its health, now. Succeeds with an error where the broker
   * answers and the driver will fail later, as when new credentials cannot be obtained: health is degraded then.
   */
  readonly check: Effect.Effect<void | BrokerError, BrokerError>
  /**
   * How far a group is behind, for each partition, as the broker knows it. Empty where the channel has no such group; fails
   * with `Unsupported` where the broker does not count.
   */
  readonly lag: (channel: string, group: string) => Effect.Effect<ReadonlyArray<Lag>, BrokerError>
}
