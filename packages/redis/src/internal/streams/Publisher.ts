/**
 * Publishes to streams: one `XADD` for each message, which trims the stream as `retention` says.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import { Effect } from "effect"
import type * as Client from "../client/Client.ts"
import * as Publisher from "../client/Publisher.ts"
import { toFields } from "./Codec.ts"
import type { Retention } from "./Streams.ts"

/** Publishes a batch; completes when Redis has replied to all of it, and `wait.count` replicas have it. */
export const publish = (
  connection: Client.Client,
  batch: ReadonlyArray<Outgoing<Uint8Array>>,
  { maximumAge, maximumLength }: Retention,
  wait: Publisher.Replicas | undefined
): Effect.Effect<void, BrokerError.BrokerError> => {
  const send = (trim: ReadonlyArray<Client.Argument>) =>
    Publisher.publish(
      connection,
      batch,
      (outgoing) => ["XADD", outgoing.channel, ...trim, "*", ...toFields(outgoing)],
      wait
    )
  if (maximumAge === undefined) return send(maximumLength === undefined ? [] : ["MAXLEN", "~", maximumLength])
  return Effect.clockWith((clock) => send(["MINID", "~", clock.currentTimeMillisUnsafe() - maximumAge]))
}
