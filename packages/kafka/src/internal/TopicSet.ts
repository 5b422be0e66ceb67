/**
 * The topics of a subscription: one topic, or all topics that match its pattern, looked up again at intervals.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect, Exit, Scope } from "effect"
import type { Begun } from "./Beginning.ts"
import type { Cluster } from "./Cluster.ts"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"
import * as Topology from "./Topology.ts"

type Failed = BrokerError.BrokerError

/** A membership that is reading. */
export interface Reading {
  /** Runs until interrupted. */
  readonly read: Effect.Effect<never, Failed>
  /** Ends all leases gracefully. */
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

/** Refuses group names that Kafka or its tools cannot handle. */
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
 * Reads with one membership after another. When the set of matching topics changes, the old membership finishes and commits
 * its running messages, and a new one joins. The last membership ends with `scope`, so an engine that drains can still
 * commit.
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
    /** Polls until the set of matching topics changes, and completes with the new set. */
    const changed = (before: TopicNames): Effect.Effect<TopicNames, Failed> =>
      Effect.andThen(Effect.sleep(settings.consumer.metadataMaxAge), again).pipe(
        Effect.repeat({ until: (topics) => topics.join() !== before.join() })
      )
    while (true) {
      if (subscribed.length === 0) {
        // the group begins now, so the first matching topic is read from its first message
        begun.add(options)
        sink.ready()
        subscribed = yield* changed(subscribed)
        continue
      }
      const inner = yield* Scope.fork(outer)
      const { read, release } = yield* Scope.provide(open(subscribed), inner)
      subscribed = yield* Effect.raceFirst(
        // when a topic is deleted, the remaining topics are still read
        Effect.catch(read, (error) => error.reason === "NotFound" ? again : Effect.fail(error)),
        changed(subscribed)
      )
      yield* release
      yield* Scope.close(inner, Exit.void)
    }
  })
