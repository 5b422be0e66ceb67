/**
 * What a subscription reads: one topic, or those that fit its pattern now, asked again and again for such as are new.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect, Exit, Scope } from "effect"
import type { Begun } from "./Beginning.ts"
import type { Cluster } from "./Cluster.ts"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"
import * as Topology from "./Topology.ts"

type Failed = BrokerError.BrokerError

/** A membership that reads. */
export interface Reading {
  /** Runs until interrupted. */
  readonly read: Effect.Effect<never, Failed>
  /** Ends all leases in good order. */
  readonly release: Effect.Effect<void>
}

/** The topics of a membership, in order. */
export type TopicNames = ReadonlyArray<string>

const find = (
  settings: ResolvedOptions,
  cluster: Cluster,
  { channel, pattern }: Driver.ConsumeOptions
): Effect.Effect<TopicNames, Failed> =>
  pattern === undefined ? Effect.succeed([channel]) : Topology.fitting(settings, cluster, pattern)

/** Refuses names of groups that Kafka, or its tools, cannot take. */
const refuse = ({ channel, group }: Driver.ConsumeOptions): Failed | undefined => {
  if (group === "") {
    return Errors.invalid("consume", `The subscription to ${channel} has an empty group: name its group.`)
  }
  // eslint-disable-next-line no-control-regex
  return /[\u0000-\u001f\u007f]/.test(group)
    ? Errors.invalid(
      "consume",
      `The group ${
        JSON.stringify(group)
      } of the subscription to ${channel} has a control character, such as a line break: leave it out of the name.`
    )
    : undefined
}

/**
 * Reads by one membership after another: a new one whenever other topics fit, after the old one has finished and committed
 * what ran. The last one goes on with `scope`, so that an engine that drains can still commit.
 */
export const run = (
  settings: ResolvedOptions,
  cluster: Cluster,
  begun: Begun,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink,
  open: (subscribed: TopicNames) => Effect.Effect<Reading, Failed, Scope.Scope>
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const refused = refuse(options)
    if (refused !== undefined) return yield* Effect.fail(refused)
    const again = find(settings, cluster, options)
    let subscribed = yield* again
    if (options.pattern === undefined) return yield* (yield* open(subscribed)).read
    const outer = yield* Effect.scope
    /** Completes with what fits when that is something else. */
    const changed = (before: TopicNames): Effect.Effect<TopicNames, Failed> =>
      Effect.andThen(Effect.sleep(settings.consumer.metadataMaxAge), again).pipe(
        Effect.repeat({ until: (topics) => topics.join() !== before.join() })
      )
    while (true) {
      if (subscribed.length === 0) {
        // it begins here, so the first topic to come is read from its first message
        begun.add(options)
        sink.ready()
        subscribed = yield* changed(subscribed)
        continue
      }
      const inner = yield* Scope.fork(outer)
      const { read, release } = yield* Scope.provide(open(subscribed), inner)
      subscribed = yield* Effect.raceFirst(
        // a topic that was deleted is no longer read, and the others are
        Effect.catch(read, (error) => error.reason === "NotFound" ? again : Effect.fail(error)),
        changed(subscribed)
      )
      yield* release
      yield* Scope.close(inner, Exit.void)
    }
  })
