/**
 * Turns a `Driver` into a `Broker`: one engine for every broker.
 */
import { Cause, Clock, Context, Effect, Exit, Layer, Option, Random, type Scope } from "effect"
import { Broker, type Consumer, Draining, type Running } from "../../broker/Broker.ts"
import { type BrokerError, BrokerError as Failed, make as failure } from "../../driver/BrokerError.ts"
import type { Driver } from "../../driver/Driver.ts"
import { Intake } from "../../broker/Intake.ts"
import * as Detached from "../../message/Detached.ts"
import { called, logged } from "./guard.ts"
import { PauseControl } from "./PauseControl.ts"
import { RetryChannels, type RetryTier } from "./RetryChannels.ts"
import { brokerDelays } from "./RetryPolicy.ts"
import { Source } from "./Source.ts"

/** Refuses features that the broker lacks, with an error that names the broker, the feature and the alternative. */
const refuse = (driver: Driver, consumer: Consumer<never>): BrokerError | undefined => {
  const unsupported = (message: string) =>
    failure({ system: driver.system, operation: "consume", reason: "Unsupported", message })
  const { capabilities } = driver
  if (consumer.lanes._tag === "partition" && capabilities.ordering === "none") {
    return unsupported(
      `${driver.system} keeps no order, so subscription ${consumer.name} cannot run by Lanes.partition: use Lanes.unordered.`
    )
  }
  if (consumer.pattern !== undefined && !capabilities.patterns) {
    return unsupported(
      `${driver.system} reads no patterns, so subscription ${consumer.name} cannot read ${consumer.channel}: subscribe to each channel by its name.`
    )
  }
  if (consumer.retries._tag === "delayed" && capabilities.settlement === "none") {
    return unsupported(
      `${driver.system} acknowledges nothing, so subscription ${consumer.name} cannot delay its retries: use Retries.held.`
    )
  }
  return undefined
}

/** The broker's time to answer the declaration of a channel of retries or dead letters, in milliseconds. */
const declaring = 5000

/**
 * Declares the dead letter channel of a consumer, or logs one Warn line with the reason why it cannot: the first dead letter
 * would be too late to learn that its channel is missing.
 */
const declareDeadLetters = (driver: Driver, { deadLetterChannel, name }: Consumer<never>): Effect.Effect<void> => {
  const { deadLetter, settlement } = driver.capabilities
  if (deadLetterChannel === undefined || deadLetter || settlement === "none") return Effect.void
  const missing = (why: unknown) =>
    logged(Effect.logWarning(
      `The dead letter channel ${deadLetterChannel} of ${name} could not be declared: create it, or a message that becomes a dead letter waits until it exists`,
      why
    ))
  return Effect.timeoutOption(called(() => driver.declare({ channel: deadLetterChannel })), declaring).pipe(
    Effect.flatMap((answer) => Option.isSome(answer) ? Effect.void : missing("The broker did not answer in time.")),
    Effect.catchCause((cause) => isDeclared(cause) ? Effect.void : missing(cause))
  )
}

/** Accepts a channel that exists with other settings, or that this broker need not declare: both can be published to. */
const isDeclared = (cause: Cause.Cause<BrokerError>): boolean => {
  const error = Cause.squash(cause)
  return error instanceof Failed && (error.reason === "Conflict" || error.reason === "Unsupported")
}

/** Declares a retry channel; without it the subscription does not start, because failed messages would have no place. */
const declareRetryChannel = (driver: Driver, name: string, channel: string): Effect.Effect<void, BrokerError> =>
  Effect.timeoutOrElse(called(() => driver.declare({ channel })), {
    duration: declaring,
    orElse: () => {
      const message =
        `The broker did not answer within ${declaring} ms when ${name} declared its retry channel ${channel}.`
      return Effect.fail(failure({ system: driver.system, operation: "declare", reason: "Lost", message }))
    }
  })

const consume = <R>(
  driver: Driver,
  consumer: Consumer<R>
): Effect.Effect<Running, BrokerError, R | Scope.Scope> =>
  Effect.gen(function*() {
    const refused = refuse(driver, consumer as Consumer<never>)
    if (refused !== undefined) return yield* Effect.fail(refused)
    const random = yield* Random.Random
    // a subscription started inside a request outlives that request
    const own = Detached.context(yield* Effect.context<R>())
    const sources: Array<Source<R>> = []
    const pauses = new PauseControl(own, (isOpen) => {
      for (const source of sources) source.turn(isOpen)
    })
    const context = Context.add(own, Intake, pauses).pipe(
      Context.add(Draining, { isDraining: () => sources.some(({ worker }) => worker.draining) })
    )
    const add = (read: Consumer<R>, tier?: RetryTier) => {
      const source = new Source(driver, read, context, () => random.nextDoubleUnsafe(), tier)
      sources.push(source)
      return source
    }
    const channels = consumer.retries._tag === "held" || brokerDelays(driver.capabilities, consumer)
      ? undefined
      : new RetryChannels(consumer, consumer.retries, Context.get(own, Clock.Clock))
    const source = add(consumer, channels && { channels, tier: 0 })
    const waits = channels === undefined ? [] : channels.channels.map((channel, i) => {
      const tier = i + 1
      const read = channels.consumer(consumer, tier)
      return { channel, delay: channels.delays[i]!, source: add(read, { channels, tier }) }
    })
    yield* Effect.forEach(waits, ({ channel }) => declareRetryChannel(driver, consumer.name, channel), {
      discard: true
    })
    // a start that fails or is interrupted stops all sources, and so does the end of the scope
    const drain = yield* Effect.acquireRelease(
      Effect.sync(() => {
        // readers of retry channels start before any message is published to one
        const drains = sources.toReversed().map((each) => each.start(context))
        return Effect.suspend(() => {
          pauses.end()
          for (const { worker } of sources) worker.draining = true
          return Effect.forEach(drains, (each) => each, { concurrency: "unbounded", discard: true })
        })
      }),
      (drain) => drain
    )
    const starting = Effect.forEach(sources, ({ whenStarted }) => whenStarted, {
      concurrency: "unbounded",
      discard: true
    })
    yield* Effect.andThen(starting, declareDeadLetters(driver, consumer as Consumer<never>)).pipe(
      Effect.onExit((exit) => exit._tag === "Failure" ? drain : Effect.void)
    )
    return {
      pause: Effect.sync(() => pauses.pause(pauses, "Running.pause")),
      resume: Effect.sync(() => pauses.resume(pauses)),
      intake: pauses,
      drain,
      health: Effect.sync(() => ({
        ...source.health(),
        pauses: pauses.pauses(),
        retries: waits.map(({ channel, delay, source: { lastError, state, worker: { leases: { room } } } }) => ({
          channel,
          delay,
          state,
          pending: room.pending,
          lastError
        }))
      })),
      lag: driver.lag(consumer.channel, consumer.group)
    }
  })

/**
 * Makes a broker from a driver.
 *
 * @category constructors
 */
export const make = (driver: Driver): Broker["Service"] =>
  Broker.of({
    system: driver.system,
    capabilities: driver.capabilities,
    publish: (message) => driver.publish([message]),
    publishAll: (messages) => messages.length === 0 ? Exit.void : driver.publish(messages),
    consume: (consumer) => consume(driver, consumer),
    declare: driver.declare,
    browse: driver.browse,
    check: driver.check,
    lag: driver.lag
  })

/**
 * Makes a broker as a layer, from a driver that may have to be opened first.
 *
 * @category layers
 */
export const layer = <E, R>(
  driver: Effect.Effect<Driver, E, R>
): Layer.Layer<Broker, E, Exclude<R, Scope.Scope>> => Layer.effect(Broker, Effect.map(driver, make))
