/**
 * A subscription is a value: a channel, a pipeline that ends in a handler, and options for running and settling its messages.
 */
import { type Duration, Effect, type Exit, Layer, type Scope } from "effect"
import * as Address from "../message/Address.ts"
import type { Channel, Content } from "../message/Channel.ts"
import type { Delivery, Raw } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import type { Outcome } from "../message/Outcome.ts"
import * as Redaction from "../telemetry/Redaction.ts"
import * as Description from "../pipeline/Description.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Handler } from "../pipeline/Handler.ts"
import type { NoHandler, Said } from "../pipeline/Misplaced.ts"
import * as Order from "../pipeline/Order.ts"
import { type Broker, type Consumer, type Key, keyOf, type Of, type Running } from "./Broker.ts"
import type { BrokerError } from "../driver/BrokerError.ts"
import * as DeadLetters from "./DeadLetters.ts"
import * as Lanes from "../driver/Lanes.ts"
import * as Retries from "./Retries.ts"
import * as Settlement from "./Settlement.ts"

/** Options of a subscription; all but the group have a default. */
export interface Options {
  /** The consumer group: subscriptions of one group share the channel. */
  readonly group: string
  /** The name in audit rows, logs and dead letters. Default: the name of the handler's function. */
  readonly name?: string | undefined
  /** The start position of a group that has none yet. Default: `earliest`. */
  readonly from?: "earliest" | "latest" | undefined
  /** The lanes, which decide which messages run concurrently. Default: `Lanes.partition`. */
  readonly lanes?: Lanes.Lanes | undefined
  /** Changes to the settlement table: the outcome for each failure class. */
  readonly table?: Partial<Settlement.Table> | undefined
  /** The most unsettled messages and bytes in flight; beyond, the source waits. Default: 4,096 and 64 MiB. */
  readonly inFlight?: { readonly messages?: number | undefined; readonly bytes?: number | undefined } | undefined
  /** Where a failed message waits for its next attempt. Default: `Retries.held`, in its place. */
  readonly retries?: Retries.Retries | undefined
  /**
   * The backoff before a retry that names no time: `base * factor ** (attempt - 1)`, at most `cap`, ± `jitter` (0 to 1) of
   * it. Default: from 1 second by 2 up to 1 minute, ± 0.1.
   */
  readonly backoff?: {
    readonly base?: Duration.Input | undefined
    readonly factor?: number | undefined
    readonly cap?: Duration.Input | undefined
    readonly jitter?: number | undefined
  } | undefined
  /**
   * The limits of a message that keeps failing, before it becomes a dead letter: attempts (default 10), the time since its
   * first attempt (default 10 minutes; Infinity sets no limit), and messages settled ahead of it whose commit it blocks
   * (default 100,000). If the broker itself delays, the engine holds no message: the broker's count of deliveries is the
   * number of attempts.
   *
   * Retries that name a time (`retryAfter`) count toward none of these. Such a wait is never shorter than `backoff.base`, so
   * `Retry-After: 0` is no hot loop. The named waits of one message add up to at most `retryAfter` (default 1 day; Infinity
   * sets no limit); a message with longer named waits becomes a dead letter. A broker that delays keeps only the number of
   * deliveries, so the engine estimates the sum as that number times the present wait, or the age of the message plus the
   * present wait if that is less.
   *
   * `span` also bounds redelivery after a crash: while `span` messages of a partition are settled beyond an unsettled one,
   * failing or slow, the engine takes in no more messages of that partition.
   */
  readonly hold?: {
    readonly attempts?: number | undefined
    readonly age?: Duration.Input | undefined
    readonly span?: number | undefined
    readonly retryAfter?: Duration.Input | undefined
  } | undefined
  /**
   * How long a revoked lease (default 10 seconds) and a drain (default 30 seconds) wait for running handlers; Infinity sets
   * no limit.
   */
  readonly grace?: {
    readonly revoke?: Duration.Input | undefined
    readonly drain?: Duration.Input | undefined
  } | undefined
  /** The backoff before a failed source is restarted: doubling from `base` (100 ms) to `cap` (30 seconds). */
  readonly restart?: {
    readonly base?: Duration.Input | undefined
    readonly cap?: Duration.Input | undefined
  } | undefined
  /**
   * The dead letter channel, or a function that names it by the channel of the message. Default: `NAME.dead-letters`. The
   * pattern of a subscription must not match it.
   */
  readonly deadLetters?: string | ((channel: string) => string) | undefined
  /**
   * The treatment of a message whose dead letter the broker permanently refuses in every form, the smallest included: `wait`
   * keeps the message unsettled, its lane waits, `health` shows it as `parked`, and the engine tries again every
   * `backoff.cap`; `drop` acknowledges the message with an Error line and the counter `millrace.dead_letters.dropped`.
   * Default: `wait`.
   */
  readonly refusedDeadLetter?: "wait" | "drop" | undefined
  /**
   * When a message counts as stuck: after it has waited (for its next attempt, a dead letter, a durable effect, the broker's
   * reply) for `waiting` (default 10 seconds), or its handler has run for `running` (default 5 minutes); Infinity: never.
   * Stuck messages are counted in `health`, degrade the health check, and cause one Warn line, repeated at doubling
   * intervals.
   */
  readonly stalled?: {
    readonly waiting?: Duration.Input | undefined
    readonly running?: Duration.Input | undefined
  } | undefined
}

/** A subscription that needs the services `R`, to the broker `On`. */
export interface Subscription<out R, out On = Broker> extends Description.Described {
  readonly name: string
  readonly channel: string
  /** The schema of the channel's payloads, for documents of the program. */
  readonly content: Content<never>
  readonly consumer: Consumer<R>
  /** The service of the broker that the subscription reads. */
  readonly broker: Key<On>
}

const check = OptionCheck.make("Subscription")

/** Refuses retry channels that the subscription's own pattern matches: the subscription would read their messages at once. */
const retriesOf = (retries: Retries.Retries, pattern: Address.Pattern | undefined): Retries.Retries => {
  if (retries._tag === "held" || pattern === undefined) return retries
  const { prefix } = retries
  if (prefix !== undefined && pattern.match(Retries.channelOf(prefix, 1)) === undefined) return retries
  throw new RangeError(
    `Subscription: retries of ${pattern.address} must have a prefix that the pattern does not match, got ${prefix}`
  )
}

type ErrorsOf<H> = H extends Handler<never, unknown, infer E, unknown> ? E : never

/** Names the channel of a dead letter. The subscription's pattern must not match it, or the message would never end. */
const lettersOf = (
  rule: string | ((channel: string) => string),
  pattern: Address.Pattern | undefined
): (channel: string) => string => {
  const name = typeof rule === "string" ? () => rule : rule
  if (pattern === undefined) return name
  const values = pattern.parts.flatMap((part) => typeof part === "string" ? [] : [[part.name, "x"]])
  const sample = name(Address.fill(pattern, Object.fromEntries(values)))
  if (pattern.match(sample) === undefined) return name
  throw new RangeError(
    `Subscription: deadLetters of ${pattern.address} must be a channel that the pattern does not match, got ${sample}`
  )
}

/** Sets the subscription's address on each origin; drivers make one origin for all messages of a channel. */
const named = <A, E, R>(
  pattern: Address.Pattern | undefined,
  handle: Handler<Delivery, A, E, R>
): Handler<Delivery, A, E, R> => {
  if (pattern === undefined) return handle
  const { address } = pattern
  return (delivery) => {
    const origin: { template?: string | undefined } = delivery.origin
    if (origin.template === undefined) origin.template = address
    return handle(delivery)
  }
}

/**
 * Returns the dead letter channel of a channel; undefined if the rule, which is the user's code, throws or returns no name.
 */
const letterChannel = (rule: (channel: string) => string, channel: string): string | undefined => {
  try {
    const name: unknown = rule(channel)
    return typeof name === "string" && name !== "" ? name : undefined
  } catch {
    return undefined
  }
}

/** Checks that lanes, `inFlight` and `grace` let the batch of a batch handler fill in time. */
const checkBatch = (steps: ReadonlyArray<Description.Description>, consumer: Consumer<never>): void => {
  for (const { batch } of Description.ways(steps).flat()) {
    if (batch === undefined) continue
    const { grace, inFlight, lanes } = consumer
    const refuse = (text: string) => {
      throw new RangeError(`Subscription: ${text}`)
    }
    if (lanes._tag === "partition") {
      refuse(
        `lanes must run messages side by side where a handler takes ${batch.size} together: Lanes.partition runs one of a partition at a time, so use Lanes.unordered or Lanes.key`
      )
    } else if (lanes.limit < batch.size) {
      refuse(`the limit of lanes must be from ${batch.size}, the size of its handler's batch, got ${lanes.limit}`)
    }
    if (inFlight.messages < batch.size) {
      refuse(
        `inFlight.messages must be from ${batch.size}, the size of its handler's batch, got ${inFlight.messages}`
      )
    }
    const shortest = Math.min(grace.revoke, grace.drain)
    if (batch.wait >= shortest) {
      refuse(`grace must be longer than its handler's batch waits, ${batch.wait} ms, got ${shortest} ms`)
    }
  }
}

/** The overloads of `make`. The second accepts no value: its error explains why the first refuses a handler. */
export interface Build {
  <P, On, A, E = never, R = never>(
    channel: Channel<P, string, On, unknown>,
    options: Options & Settlement.Settle<E> & Settlement.Named<E>,
    handler: Handler<Delivery<Raw<P>>, A, E, R>
  ): Subscription<R, Of<On>>
  <P, H>(
    channel: Channel<P, string, unknown, unknown>,
    options: Options & Settlement.Settle<ErrorsOf<H>> & Settlement.Named<ErrorsOf<H>>,
    handler: Said<H, NoHandler<H, Delivery<Raw<P>>>>
  ): Subscription<never>
}

/**
 * Binds a pipeline to a channel.
 *
 * The pipeline takes the channel's bytes (or, from receive on, its deliveries); decoding them as another channel does not
 * compile. The compiler requires an entry in `settle` for each error without a class, refuses errors without a tag, and names
 * them. The answer of the handler is dropped, unless it is an `Outcome`.
 *
 * @throws RangeError when an option is out of range, OrderError when the middlewares stand in a wrong order
 * @category constructors
 */
export const make: Build = (<P, On, A, E, R>(
  channel: Channel<P, string, On, unknown>,
  options: Options & { readonly settle?: Settlement.Policy["entries"] | undefined },
  handler: Handler<Delivery<Raw<P>>, A, E, R>
): Subscription<R, Of<On>> => {
  Order.check(handler)
  const steps = Description.of(handler)
  const policy: Settlement.Policy = {
    // entries are typed by the errors of this handler, and found by an error's tag
    entries: options.settle ?? {},
    table: { ...Settlement.table, ...options.table }
  }
  const name = options.name ?? steps.at(-1)!.name
  const { pattern } = channel
  const redaction = Redaction.make(channel.content._tag === "schema" ? { schemas: [channel.content.schema] } : {})
  const letters = lettersOf(options.deadLetters ?? DeadLetters.channelOf, pattern)
  const run = Description.isDescribed(handler) ? handler : Eager.run(handler)
  const subscription: Subscription<R, Of<On>> = {
    // a handler of Effect.fn has no name of its own
    [Description.DescriptionId]: [...steps.slice(0, -1), { ...steps.at(-1)!, name }],
    name,
    channel: channel.name,
    // read for its schema only; no code decodes with it
    content: channel.content as Content<never>,
    consumer: {
      channel: channel.name,
      pattern: channel.pattern,
      group: options.group,
      name,
      from: check.oneOf("from", options.from ?? "earliest", ["earliest", "latest"]),
      lanes: options.lanes ?? Lanes.partition,
      retries: retriesOf(options.retries ?? Retries.held, pattern),
      // the driver's bytes are those of this channel
      handle: named(pattern, run as Handler<Delivery, A, E, R>),
      settle: (exit: Exit.Exit<unknown, unknown>): Outcome => Settlement.ofExit(policy, exit),
      deadLetter: (delivery, error, at, form) => {
        const channel = letterChannel(letters, delivery.channel) ?? DeadLetters.channelOf(delivery.channel)
        return DeadLetters.toOutgoing({ delivery, error, at, redaction, channel, form })
      },
      deadLetterChannel: pattern === undefined ? letterChannel(letters, channel.name) : undefined,
      refusedDeadLetter: check.oneOf("refusedDeadLetter", options.refusedDeadLetter ?? "wait", ["wait", "drop"]),
      inFlight: {
        messages: check.count("inFlight.messages", options.inFlight?.messages ?? 4096),
        bytes: check.count("inFlight.bytes", options.inFlight?.bytes ?? 64 * 1024 * 1024)
      },
      backoff: {
        base: check.millis("backoff.base", options.backoff?.base ?? 1000, { least: 0 }),
        factor: check.number("backoff.factor", options.backoff?.factor ?? 2, { least: 1, most: 100 }),
        cap: check.millis("backoff.cap", options.backoff?.cap ?? 60_000, { least: 0 }),
        jitter: check.fraction("backoff.jitter", options.backoff?.jitter ?? 0.1)
      },
      hold: {
        attempts: check.count("hold.attempts", options.hold?.attempts ?? 10),
        age: check.millis("hold.age", options.hold?.age ?? 600_000, { least: 0, infinite: true }),
        span: check.count("hold.span", options.hold?.span ?? 100_000),
        retryAfter: check.millis("hold.retryAfter", options.hold?.retryAfter ?? 86_400_000, {
          least: 0,
          infinite: true
        })
      },
      grace: {
        revoke: check.millis("grace.revoke", options.grace?.revoke ?? 10_000, { least: 0, infinite: true }),
        drain: check.millis("grace.drain", options.grace?.drain ?? 30_000, { least: 0, infinite: true })
      },
      restart: {
        base: check.millis("restart.base", options.restart?.base ?? 100, { least: 0 }),
        cap: check.millis("restart.cap", options.restart?.cap ?? 30_000, { least: 0 })
      },
      stalled: {
        waiting: check.millis("stalled.waiting", options.stalled?.waiting ?? 10_000, { least: 0, infinite: true }),
        running: check.millis("stalled.running", options.stalled?.running ?? 300_000, { least: 0, infinite: true })
      }
    },
    broker: keyOf(channel)
  }
  checkBatch(steps, subscription.consumer as Consumer<never>)
  return subscription
  // no value has the type of the second overload
}) as unknown as Build

/**
 * Starts a subscription; completes when its source is ready. Closing the scope drains the subscription.
 *
 * Needs the subscription's broker and the services of its handler; fails with the `BrokerError` that kept the source from
 * starting.
 */
export const run = <R, On>(
  subscription: Subscription<R, On>
): Effect.Effect<Running, BrokerError, On | R | Scope.Scope> =>
  Effect.flatMap(subscription.broker, (broker) => broker.consume(subscription.consumer))

/**
 * Runs a subscription for as long as the layer lives.
 *
 * @category layers
 */
export const layer = <R, On>(
  subscription: Subscription<R, On>
): Layer.Layer<never, BrokerError, On | Exclude<R, Scope.Scope>> => Layer.effectDiscard(run(subscription))
