/**
 * Consuming a stream: in order by one consumer of the group at a time, or by all of them at once.
 */
import type { BrokerError, Driver } from "@millrace/core"
import type { Effect, Scope } from "effect"
import * as CompetingConsumer from "./CompetingConsumer.ts"
import * as OrderedConsumer from "./OrderedConsumer.ts"
import type { Streams } from "./Streams.ts"

/** Consumes until interrupted; fails when a connection or the lock of the group is lost. */
export const consume = (
  streams: Streams,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, BrokerError.BrokerError, Scope.Scope> =>
  (options.ordered ? OrderedConsumer : CompetingConsumer).consume(streams, options, sink)
