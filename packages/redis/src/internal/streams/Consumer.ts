/**
 * Consumes a stream: in order by one consumer of the group at a time, or by all consumers at once.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect, type Scope } from "effect"
import * as CompetingConsumer from "./CompetingConsumer.ts"
import * as OrderedConsumer from "./OrderedConsumer.ts"
import type { Streams } from "./Streams.ts"
import * as Topology from "./Topology.ts"

/** Consumes until interrupted; fails when a connection or the lock of the group is lost. */
export const consume = (
  streams: Streams,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, BrokerError.BrokerError, Scope.Scope> =>
  Effect.suspend(() => {
    const { channel, group, ordered, temporary } = options
    const consuming = (ordered ? OrderedConsumer : CompetingConsumer).consume(streams, options, sink)
    if (temporary !== true) return consuming
    // no cleanup after a failure: the engine consumes again
    const ending = Effect.addFinalizer((exit) =>
      exit._tag === "Success" ? Topology.end(streams, channel, group) : Effect.void
    )
    const keeping = streams.temporary.has(channel)
      ? Effect.forkScoped(Topology.keep(streams, channel))
      : Effect.void
    return Effect.andThen(Effect.andThen(ending, keeping), consuming)
  })
