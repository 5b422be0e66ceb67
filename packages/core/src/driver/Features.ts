/**
 * Features of publishing beside body, key and headers: which broker has them, and the error of a broker that lacks one.
 */
import type { Outgoing } from "../message/Message.ts"
import { type BrokerError, make } from "./BrokerError.ts"
import type { Capabilities } from "./Driver.ts"

/** A feature of publishing that not every broker has. */
export type Feature = "partition" | "timestamp" | "tombstone"

/** The capabilities that decide about the features of publishing. */
export type Deciding = Pick<Capabilities, "partitions" | "timestamps" | "tombstones">

/** Whether a broker has a feature. */
export const has = (capabilities: Deciding, feature: Feature): boolean =>
  feature === "partition"
    ? capabilities.partitions
    : feature === "timestamp"
    ? capabilities.timestamps !== "none"
    : capabilities.tombstones

const sentences: Record<Feature, (system: string, channel: string) => string> = {
  partition: (system, channel) =>
    `${system} lets no publisher choose a partition of ${channel}: leave the option partition out, and use a key to keep messages together.`,
  timestamp: (system, channel) =>
    `${system} keeps no timestamp of a publisher for ${channel}: leave the option timestamp out, and write the time into a header or the body.`,
  tombstone: (system, channel) =>
    `${system} has no null body, so ${channel} takes no tombstone: publish a message that says by its body or a header that the key is deleted.`
}

/** The error of a feature that a broker lacks. */
export const unsupported = (system: string, channel: string, feature: Feature): BrokerError =>
  make({ system, operation: "publish", reason: "Unsupported", message: sentences[feature](system, channel) })

const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0

/**
 * Refuses a message that uses a feature that the broker lacks (`Unsupported`), or whose partition or timestamp is not an
 * integer from 0 (`Invalid`); undefined if the broker can accept the message. For drivers, before any write.
 */
export const refuse = (
  system: string,
  capabilities: Deciding,
  { channel, native }: Outgoing<Uint8Array>
): BrokerError | undefined => {
  if (native === undefined) return undefined
  const { partition, timestamp, tombstone } = native
  if (tombstone === true && !capabilities.tombstones) return unsupported(system, channel, "tombstone")
  if (partition !== undefined) {
    if (!has(capabilities, "partition")) return unsupported(system, channel, "partition")
    if (!isCount(partition)) return invalid(system, channel, "partition", partition)
  }
  if (timestamp !== undefined) {
    if (!has(capabilities, "timestamp")) return unsupported(system, channel, "timestamp")
    if (!isCount(timestamp)) return invalid(system, channel, "timestamp", timestamp)
  }
  return undefined
}

const invalid = (system: string, channel: string, option: string, value: number): BrokerError =>
  make({
    system,
    operation: "publish",
    reason: "Invalid",
    message: `The ${option} of a message for ${channel} must be an integer from 0, got ${value}.`
  })

/** The error of a partition that the channel does not have; `partitions` is the channel's count. */
export const noPartition = (system: string, channel: string, partition: number, partitions: number): BrokerError =>
  make({
    system,
    operation: "publish",
    reason: "Invalid",
    message:
      `${channel} has ${partitions} partitions, so a message cannot go to partition ${partition}: choose one from 0 to ${
        partitions - 1
      }.`
  })
