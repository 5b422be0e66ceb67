/**
 * The tools of a scenario: one monitored broker, a channel of its own, consumers that record their messages, and waiting for
 * a condition.
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

/** A broker that breaks the contract: the expected and the actual result. */
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

/** A message that a consumer received. */
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
  /** Drains the consumer and leaves the group. */
  readonly stop: Effect.Effect<void>
}

/** The handler of a scenario. */
export type Handle = (message: Delivery) => Effect.Effect<unknown, Failure.Classified>

/** Options that differ from those of a scenario's plain consumer. */
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

/** Fails unless `holds`. */
export const ensure = (holds: boolean, otherwise: () => string): Effect.Effect<void, Broken> =>
  holds ? Effect.void : Effect.fail(new Broken({ message: otherwise() }))

/** Fails unless both values print the same. */
export const same = (what: string, actual: unknown, expected: unknown): Effect.Effect<void, Broken> =>
  ensure(shown(actual) === shown(expected), () => `${what}: expected ${shown(expected)}, got ${shown(actual)}`)

/** The error that an effect must fail with, with one of the reasons. */
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

/** `n` numbered texts: `p-0`, `p-1` … */
export const numbered = (n: number, prefix = "m"): ReadonlyArray<string> =>
  Array.from({ length: n }, (_, i) => `${prefix}-${i}`)

/** How long a scenario waits, in milliseconds. */
export interface Patience {
  /** For an event that must happen. */
  readonly patience: number
  /** For an event that must not happen. */
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

  /** Polls until `holds` returns true; fails after `patience` with the state that `saw` returns. */
  until(what: string, holds: () => boolean, saw: () => unknown = () => undefined): Effect.Effect<void, Broken> {
    return this.untilSome(what, Effect.sync(() => holds() || undefined), saw).pipe(Effect.asVoid)
  }

  /** Polls until `ask` returns a value. */
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

  /** Waits some time for events that must not happen. */
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
   * Publishes as a persistent program does: retries while the broker's error is retriable. A refused message may have been
   * written all the same.
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

  /** Starts a consumer; completes when it is ready. The consumer stops with the scenario at the latest. */
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
        // a broker without order gets the next best: one message at a time
        lanes: this.capabilities.ordering === "none" ? Lanes.unordered(1) : Lanes.partition,
        // a scenario that leaves a handler suspended does not wait for it
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

  /** Waits until a consumer has received each of the texts at least once. */
  has(consumer: Consumer, texts: ReadonlyArray<string>): Effect.Effect<void, Broken> {
    return this.until(
      `${consumer.name} has ${texts.length} messages`,
      () => consumer.texts.length >= texts.length && missing(consumer.texts, texts).length === 0,
      () => ({ missing: missing(consumer.texts, texts), got: consumer.texts })
    )
  }

  /** Waits until each partition belongs to one consumer, or all run if there are none; returns the counts by consumer. */
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

  /** Fails unless both are the same, in order if the broker keeps one. */
  sequence(what: string, actual: ReadonlyArray<string>, expected: ReadonlyArray<string>): Effect.Effect<void, Broken> {
    return this.capabilities.ordering === "none"
      ? same(what, actual.toSorted(), expected.toSorted())
      : same(what, actual, expected)
  }

  /** Checks, at the end of every scenario, that engine and driver kept to the protocol of leases. */
  get verify(): Effect.Effect<void, Broken> {
    return Effect.suspend(() => same("violations of the protocol of leases", this.monitor.violations, []))
  }
}

/** The texts of `wanted` that are not in `got`. */
export const missing = (got: ReadonlyArray<string>, wanted: ReadonlyArray<string>): ReadonlyArray<string> => {
  const set = new Set(got)
  return wanted.filter((text) => !set.has(text))
}

/** A name unique to one scenario and run. */
export const unique = (id: string): Effect.Effect<string> =>
  Effect.map(Random.nextIntBetween(0, 0xffffffff), (n) => `contract.${id}.${n.toString(16).padStart(8, "0")}`)

/** Suspends for a random time, often not at all. */
export const dawdle: Effect.Effect<void> = Effect.flatMap(
  Random.nextIntBetween(0, 9),
  (n) => n < 4 ? Effect.void : n < 8 ? Effect.yieldNow : Effect.sleep(1 + n % 3)
)
