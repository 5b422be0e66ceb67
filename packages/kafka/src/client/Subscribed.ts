/**
 * What a subscription reads: one topic, or those that fit its pattern now, asked again and again for such as are new.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect, Exit, Scope } from "effect"
import type { Cluster } from "./Cluster.ts"
import type { Settings } from "./Options.ts"
import * as Topics from "./Topics.ts"

type Failed = BrokerError.BrokerError

/** The topics of a membership, in order, and those of them that were made after the subscription began. */
export interface Subscribed {
  readonly topics: ReadonlyArray<string>
  readonly appeared: ReadonlySet<string>
}

/** A membership that reads. */
export interface Reading {
  /** Runs until interrupted. */
  readonly read: Effect.Effect<never, Failed>
  /** Ends all leases in good order. */
  readonly release: Effect.Effect<void>
}

/** Where a group begins that has no position: what was made later is read from its first message, or some would be passed over. */
export const begins = (
  { from }: Driver.ConsumeOptions,
  { appeared }: Subscribed,
  topic: string
): "earliest" | "latest" => appeared.has(topic) ? "earliest" : from

const none: Subscribed = { topics: [], appeared: new Set() }

/** What is to be read now; `before` undefined at the start. */
const find = (
  settings: Settings,
  cluster: Cluster,
  options: Driver.ConsumeOptions,
  before: Subscribed | undefined
): Effect.Effect<Subscribed, Failed> =>
  options.pattern === undefined
    ? Effect.succeed({ ...none, topics: [options.channel] })
    : Effect.map(Topics.fitting(settings, cluster, options.pattern), (topics) => ({
      topics,
      appeared: before === undefined
        ? none.appeared
        : new Set(topics.filter((topic) => before.appeared.has(topic) || !before.topics.includes(topic)))
    }))

/**
 * Reads by one membership after another: a new one whenever other topics fit, after the old one has finished and committed
 * what ran. The last one goes on with `scope`, so that an engine that drains can still commit.
 */
export const run = (
  settings: Settings,
  cluster: Cluster,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink,
  open: (subscribed: Subscribed) => Effect.Effect<Reading, Failed, Scope.Scope>
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    let subscribed = yield* find(settings, cluster, options, undefined)
    if (options.pattern === undefined) return yield* (yield* open(subscribed)).read
    const outer = yield* Effect.scope
    /** Completes with what fits when that is something else. */
    const changed = (before: Subscribed): Effect.Effect<Subscribed, Failed> =>
      Effect.andThen(Effect.sleep(settings.consumer.metadataMaxAge), find(settings, cluster, options, before)).pipe(
        Effect.repeat({ until: ({ topics }) => topics.join() !== before.topics.join() })
      )
    while (true) {
      if (subscribed.topics.length === 0) {
        sink.ready()
        subscribed = yield* changed(subscribed)
        continue
      }
      const inner = yield* Scope.fork(outer)
      const { read, release } = yield* Scope.provide(open(subscribed), inner)
      subscribed = yield* Effect.raceFirst(
        // a topic that was deleted is no longer read, and the others are
        Effect.catch(read, (error) =>
          error.reason === "NotFound" ? find(settings, cluster, options, subscribed) : Effect.fail(error)),
        changed(subscribed)
      )
      yield* release
      yield* Scope.close(inner, Exit.void)
    }
  })
