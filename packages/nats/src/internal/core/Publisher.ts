/**
 * Publishing by core NATS: messages are written one after another, and confirmed when the server has read them. The
 * confirmation says that the server passed the messages on to current subscribers, not that there were any, nor that the
 * messages arrived.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import { errors } from "@nats-io/transport-node"
import { Effect, Exit } from "effect"
import type { Client, Connection } from "../Connection.ts"
import * as Codec from "../Codec.ts"
import * as Names from "../Names.ts"

type Failed = BrokerError.BrokerError
type Batch = ReadonlyArray<Outgoing<Uint8Array>>

const write = (connection: Connection, outgoing: Outgoing<Uint8Array>): Failed | undefined => {
  const most = connection.nc.info?.max_payload
  const refused = Codec.refuse(outgoing, most)
  if (refused !== undefined) return refused
  const headers = Codec.toHeaders(outgoing)
  if (headers !== undefined && "_tag" in headers) return headers
  const to = outgoing.headers[Codec.replyName]
  const failed = connection.write("publish", outgoing.channel, outgoing.payload, {
    ...(headers === undefined ? {} : { headers }),
    // plain NATS responders look here for the reply subject
    ...(to === undefined || Names.refuse(to) !== undefined ? {} : { reply: to })
  })
  return failed?.cause instanceof errors.InvalidArgumentError && most !== undefined
    ? Codec.tooLarge(outgoing, headers, most)
    : failed
}

/** Completes when the server has read every message of the batch. */
export const publish = (client: Client, batch: Batch): Effect.Effect<void, Failed> => {
  if (batch.length === 0) return Exit.void
  return Effect.flatMap(client.connection("publish"), (connection) => {
    let violation: Failed | undefined
    const off = connection.onViolation((error) => {
      if (error.operation === "publish" && batch.some(({ channel }) => channel === error.subject)) {
        violation = connection.failure(error, "publish", { channel: error.subject })
      }
    })
    for (const outgoing of batch) {
      const failed = write(connection, outgoing)
      if (failed === undefined) continue
      off()
      return Exit.fail(failed)
    }
    return connection.flush("publish").pipe(
      client.inTime("publish"),
      // the server reports a violation before it answers the flush, and the client passes the report on slightly later
      Effect.andThen(Effect.yieldNow),
      Effect.flatMap(() => violation === undefined ? Exit.void : Exit.fail(violation)),
      Effect.ensuring(Effect.sync(off))
    )
  })
}
