/**
 * Publishing: what goes to Redis goes in pipelines, one after another, none of them too long for its buffers.
 */
import { BrokerError, Features, type Outgoing } from "@millrace/core"
import { type Effect, Exit } from "effect"
import type { Command, Connection } from "./Client.ts"
import * as Failure from "./Failure.ts"

type Failed = BrokerError.BrokerError

// Redis closes a connection whose requests fill 1 GiB (client-query-buffer-limit), and reads no value beyond
// proto-max-bulk-len, 512 MiB by default
const mostMessages = 1000
const mostBytes = 4 * 1024 * 1024
const longest = 512 * 1024 * 1024

/** What Redis can do of what a publisher may ask beside body, key and headers. */
export const features: Features.Deciding = { tombstones: true, partitions: false, timestamps: "none" }

const refuse = (connection: Connection, batch: ReadonlyArray<Outgoing<Uint8Array>>): Failed | undefined => {
  for (const outgoing of batch) {
    const { channel, payload } = outgoing
    const refused = Features.refuse("redis", features, outgoing)
    if (refused !== undefined) return refused
    if (channel === "") return Failure.invalid("publish", "A message names no channel.")
    if (payload.length > longest) {
      return BrokerError.make({
        system: "redis",
        operation: "publish",
        reason: "TooLarge",
        message:
          `A message for ${channel} has ${payload.length} bytes, and Redis at ${connection.place.address} takes 512 MiB at the most: store the body elsewhere and publish its name.`
      })
    }
  }
  return undefined
}

/** Publishes a batch, each message by the command that `of` makes of it; completes when Redis has answered all of them. */
export const publish = (
  connection: Connection,
  batch: ReadonlyArray<Outgoing<Uint8Array>>,
  of: (outgoing: Outgoing<Uint8Array>) => Command
): Effect.Effect<void, Failed> => {
  if (batch.length === 0) return Exit.void
  const refused = refuse(connection, batch)
  if (refused !== undefined) return Exit.fail(refused)
  const send = async () => {
    let commands: Array<Command> = []
    let bytes = 0
    for (const outgoing of batch) {
      commands.push(of(outgoing))
      bytes += outgoing.payload.length
      if (commands.length < mostMessages && bytes < mostBytes) continue
      await connection.pipeline(commands)
      commands = []
      bytes = 0
    }
    if (commands.length > 0) await connection.pipeline(commands)
  }
  return connection.attempt("publish", send, { channel: batch[0]!.channel })
}
