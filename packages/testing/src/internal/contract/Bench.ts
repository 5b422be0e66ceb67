/**
 * What a scenario works with: one broker under watch, a channel of its own, consumers that write down what they get, and
 * waiting until something is so.
 */
import {
  Broker,
  type BrokerError,
  Channel,
  DeadLetters,
  type Delivery,
  type Driver,
  Engine,
  type Failure,
  type Headers,
  Lanes,
  Outgoing,
  Subscription
} from "@millrace/core"
import { Clock, Data, type Duration, Effect, Exit, Random, Scope } from "effect"
import { inspect } from "node:util"
import { Monitor } from "./Monitor.ts"

type Failed = BrokerError.BrokerError

/** A broker that does not keep the contract: what was expected, and what happened instead. */
export class Broken extends Data.TaggedError("ContractBroken")<{ readonly message: string }> {}

/** An error of a handler, of any class. */
export class Trouble extends Data.TaggedError("Trouble")<{
  readonly failure: Failure.FailureClass
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
}> {}

/** A handler's error of a class. */
export const trouble = (failure: Failure.FailureClass, retryAfter?: Duration.Duration): Trouble =>
  new Trouble({ failure, retryAfter, message: `a ${failure} trouble` })

/** What a consumer got. */
export interface Got {
  readonly text: string
  readonly key: string | undefined
  readonly attempt: number
  readonly delivery: Delivery
}

/** A consumer of a scenario. */
export interface Consumer {
  readonly name: string
  /** Every message that its handler was called with, in order. */
  readonly got: ReadonlyArray<Got>
  /** The texts of `got`. */
  readonly texts: ReadonlyArray<string>
  /** The texts of the messages whose handler has succeeded. */
  readonly done: ReadonlyArray<string>
  readonly running: Broker.Running
  readonly health: Effect.Effect<Broker.Health>
  /** Drains it and leaves the group. */
  readonly stop: Effect.Effect<void>
}

/** What a handler of a scenario does with a message. */
export type Handle = (message: Delivery) => Effect.Effect<unknown, Failure.Classified>

/** How a consumer of a scenario differs from the plain one. */
export type Consuming = Partial<Subscription.Options> & { readonly channel?: string | undefined }

/** A message of a scenario. */
export interface Sending {
  readonly channel?: string | undefined
  readonly key?: string | undefined
  readonly headers?: { readonly [name: string]: string } | undefined
  readonly keyBytes?: Uint8Array | undefined
  readonly fields?: ReadonlyArray<Headers.Field> | undefined
  readonly tombstone?: boolean | undefined
  readonly partition?: number | undefined
  readonly timestamp?: number | undefined
}

const encoder = new TextEncoder()
const decoder = new TextDecoder()

/** The bytes of a text. */
export const bytesOf = (text: string): Uint8Array => encoder.encode(text)

/** The text of bytes. */
export const textOf = (bytes: Uint8Array): string => decoder.decode(bytes)

/** Bytes as text that can be compared and read. */
export const hex = (bytes: Uint8Array | null | undefined): string =>
  bytes === undefined ? "none" : bytes === null ? "null" : Buffer.from(bytes).toString("hex")

const shown = (value: unknown): string =>
  inspect(value, { depth: 8, breakLength: 120, maxArrayLength: 60, maxStringLength: 400 })

/** Fails unless it holds. */
export const ensure = (holds: boolean, otherwise: () => string): Effect.Effect<void, Broken> =>
  holds ? Effect.void : Effect.fail(new Broken({ message: otherwise() }))

/** Fails unless both print the same. */
export const same = (what: string, actual: unknown, expected: unknown): Effect.Effect<void, Broken> =>
  ensure(shown(actual) === shown(expected), () => `${what}: expected ${shown(expected)}, got ${shown(actual)}`)

/** The error that an effect must fail with, of one of the reasons. */
export const refusedWith = <A, R>(
  what: string,
  effect: Effect.Effect<A, Failed, R>,
  ...reasons: ReadonlyArray<BrokerError.Reason>
): Effect.Effect<Failed, Broken, R> =>
  Effect.flatMap(Effect.exit(effect), (exit) => {
    const reason = exit._tag === "Failure" ? exit.cause.reasons.find((each) => each._tag === "Fail") : undefined
    if (reason === undefined) {
      return Effect.fail(
        new Broken({ message: `${what}: expected a BrokerError ${reasons.join(" or ")}, got ${shown(exit)}` })
      )
    }
    const { error } = reason
    return Effect.as(
      ensure(
        error._tag === "BrokerError" && reasons.includes(error.reason) && error.message !== "",
        () => `${what}: expected a BrokerError ${reasons.join(" or ")} with a message, got ${shown(error)}`
      ),
      error
    )
  })

/** `n` texts that tell their place: `p-0`, `p-1` … */
export const numbered = (n: number, prefix = "m"): ReadonlyArray<string> =>
  Array.from({ length: n }, (_, i) => `${prefix}-${i}`)

/** How long a scenario waits, in milliseconds. */
export interface Patience {
  /** Until something must have happened. */
  readonly patience: number
  /** Until what must not happen has not. */
  readonly quiet: number
}

/** One scenario's own broker, channel and group. */
export class Bench {
  readonly monitor: Monitor
  readonly broker: Broker.Broker["Service"]
  readonly capabilities: Driver.Capabilities
  readonly channel: string
  readonly group: string
  readonly deadLetters: string
  readonly scope: Scope.Scope
  readonly times: Patience
  private names = 0

  constructor(driver: Driver.Driver, channel: string, scope: Scope.Scope, times: Patience) {
    this.monitor = new Monitor(driver)
    this.broker = Engine.make(this.monitor.driver)
    this.capabilities = driver.capabilities
    this.channel = channel
    this.group = `${channel}-group`
    this.deadLetters = DeadLetters.channelOf(channel)
    this.scope = scope
    this.times = times
  }

  /** Polls until it holds, and fails with what it sees when that takes too long. */
  until(what: string, holds: () => boolean, saw: () => unknown = () => undefined): Effect.Effect<void, Broken> {
    return this.untilSome(what, Effect.sync(() => holds() || undefined), saw).pipe(Effect.asVoid)
  }

  /** Polls until there is an answer. */
  untilSome<A, E>(
    what: string,
    ask: Effect.Effect<A | undefined, E>,
    saw: () => unknown = () => undefined
  ): Effect.Effect<A, E | Broken> {
    const { patience } = this.times
    return Effect.gen(function*() {
      const from = yield* Clock.currentTimeMillis
      let wait = 1
      while (true) {
        const answer = yield* ask
        if (answer !== undefined) return answer
        if ((yield* Clock.currentTimeMillis) - from > patience) {
          return yield* new Broken({ message: `after ${patience} ms still not: ${what}; saw ${shown(saw())}` })
        }
        yield* Effect.sleep(wait)
        wait = Math.min(wait * 2, 20)
      }
    })
  }

  /** Gives what must not happen some time to happen. */
  get quiet(): Effect.Effect<void> {
    return Effect.sleep(this.times.quiet)
  }

  /** Declares a channel and its dead letters. */
  declare(partitions = 4, channel = this.channel): Effect.Effect<void, Failed> {
    const counted = this.capabilities.ordering === "partition"
    return Effect.andThen(
      this.broker.declare({ channel, partitions: counted ? partitions : undefined }),
      this.broker.declare({ channel: DeadLetters.channelOf(channel), partitions: counted ? 1 : undefined })
    )
  }

  message(body: string | Uint8Array, options: Sending = {}): Outgoing<Uint8Array> {
    const { channel, headers, key, ...rest } = options
    const native = Object.keys(rest).length === 0 ? undefined : rest
    return new Outgoing(
      channel ?? this.channel,
      typeof body === "string" ? bytesOf(body) : body,
      key,
      Object.assign(Object.create(null), headers),
      native
    )
  }

  /** Publishes one message; completes when it is confirmed. */
  send(body: string | Uint8Array, options?: Sending): Effect.Effect<void, Failed> {
    return Effect.suspend(() => this.broker.publish(this.message(body, options)))
  }

  /** Publishes texts in order, as one batch. */
  sendAll(texts: ReadonlyArray<string>, options?: Sending | ((text: string) => Sending)): Effect.Effect<void, Failed> {
    return Effect.suspend(() =>
      this.broker.publishAll(
        texts.map((text) => this.message(text, typeof options === "function" ? options(text) : options))
      )
    )
  }

  /**
   * Publishes as a program that insists: again where the broker says that it may succeed later. What was refused may have
   * been written all the same.
   */
  insist(body: string, options?: Sending): Effect.Effect<void, Failed | Broken> {
    return Effect.asVoid(this.untilSome(
      `${body} was published`,
      this.send(body, options).pipe(
        Effect.as(true),
        Effect.catch((error: Failed) => error.retriable ? Effect.undefined : Effect.fail(error))
      )
    ))
  }

  /** Starts a consumer; completes when it is ready. It stops with the scenario at the latest. */
  consumer(handle: Handle, options: Consuming = {}): Effect.Effect<Consumer, Failed> {
    return Effect.suspend(() => this.start(handle, options))
  }

  private start(handle: Handle, options: Consuming): Effect.Effect<Consumer, Failed> {
    const { channel = this.channel, name = `c${++this.names}`, ...rest } = options
    const got: Array<Got> = []
    const texts: Array<string> = []
    const done: Array<string> = []
    const subscription = Subscription.make(
      Channel.bytes(channel),
      {
        group: this.group,
        name,
        backoff: { base: 10, cap: 100, jitter: 0 },
        restart: { base: 10, cap: 500 },
        // where the broker keeps no order, the next best: one at a time
        lanes: this.capabilities.ordering === "none" ? Lanes.unordered(1) : Lanes.partition,
        // a scenario that leaves a handler suspended behind does not wait for it
        grace: { revoke: "5 seconds", drain: 0 },
        ...rest
      },
      (delivery: Delivery) => {
        const text = textOf(delivery.raw)
        got.push({ text, key: delivery.key, attempt: delivery.attempt, delivery })
        texts.push(text)
        return Effect.map(handle(delivery), (answer) => {
          done.push(text)
          return answer
        })
      }
    )
    const { broker, scope } = this
    return Effect.gen(function*() {
      const own = yield* Scope.fork(scope)
      const running = yield* Subscription.run(subscription).pipe(
        Effect.provideService(Broker.Broker, broker),
        Scope.provide(own),
        Effect.onError(() => Scope.close(own, Exit.void))
      )
      return { name, got, texts, done, running, health: running.health, stop: Scope.close(own, Exit.void) }
    })
  }

  /** A consumer that acknowledges everything. */
  reader(options?: Consuming): Effect.Effect<Consumer, Failed> {
    return this.consumer(() => Effect.void, options)
  }

  /** A consumer of the dead letters of the scenario's channel. */
  letters(channel = this.deadLetters): Effect.Effect<Consumer, Failed> {
    return this.reader({ channel, group: `${this.group}-letters` })
  }

  /** Waits until a consumer has got each of the texts at least once. */
  has(consumer: Consumer, texts: ReadonlyArray<string>): Effect.Effect<void, Broken> {
    return this.until(
      `${consumer.name} has ${texts.length} messages`,
      () => consumer.texts.length >= texts.length && missing(consumer.texts, texts).length === 0,
      () => ({ missing: missing(consumer.texts, texts), got: consumer.texts })
    )
  }

  /** Waits until the partitions of a channel are shared, each with one consumer, and answers how. */
  shared(consumers: ReadonlyArray<Consumer>, partitions: number): Effect.Effect<ReadonlyArray<number>, Broken> {
    const { capabilities } = this
    let saw: ReadonlyArray<ReadonlyArray<number>> = []
    return this.untilSome(
      `${partitions} partitions are shared by ${consumers.length} consumers`,
      Effect.map(Effect.forEach(consumers, ({ health }) => health), (healths) => {
        saw = healths.map((each) => each.partitions)
        if (healths.some((each) => each.state !== "running")) return undefined
        if (capabilities.ordering !== "partition") return saw.map((each) => each.length)
        const all = saw.flat()
        return all.length === partitions && new Set(all).size === partitions
          ? saw.map((each) => each.length)
          : undefined
      }),
      () => saw
    )
  }

  /** Fails unless both are the same, in order where the broker keeps one. */
  sequence(what: string, actual: ReadonlyArray<string>, expected: ReadonlyArray<string>): Effect.Effect<void, Broken> {
    return this.capabilities.ordering === "none"
      ? same(what, actual.toSorted(), expected.toSorted())
      : same(what, actual, expected)
  }

  /** What must be so at the end of every scenario: both sides kept to the protocol of leases. */
  get verify(): Effect.Effect<void, Broken> {
    return Effect.suspend(() => same("violations of the protocol of leases", this.monitor.violations, []))
  }
}

/** What of `wanted` is not among `got`. */
export const missing = (got: ReadonlyArray<string>, wanted: ReadonlyArray<string>): ReadonlyArray<string> => {
  const set = new Set(got)
  return wanted.filter((text) => !set.has(text))
}

/** A name that no other scenario or run has. */
export const unique = (id: string): Effect.Effect<string> =>
  Effect.map(Random.nextIntBetween(0, 0xffffffff), (n) => `contract.${id}.${n.toString(16).padStart(8, "0")}`)

/** Suspends for a random while, often not at all. */
export const dawdle: Effect.Effect<void> = Effect.flatMap(
  Random.nextIntBetween(0, 9),
  (n) => n < 4 ? Effect.void : n < 8 ? Effect.yieldNow : Effect.sleep(1 + n % 3)
)
