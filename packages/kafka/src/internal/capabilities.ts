import type { Driver } from "@millrace/core"

/** The capabilities of Kafka, the same for both clients. */
export const capabilities: Driver.Capabilities = {
  settlement: "position",
  ordering: "partition",
  redelivery: true,
  delay: false,
  deadLetter: false,
  attempts: false,
  groups: true,
  fanOut: true,
  retention: true,
  replay: true,
  persistence: true,
  browse: true,
  tombstones: true,
  partitions: true,
  timestamps: "milliseconds",
  transactions: true,
  patterns: true,
  lag: true
}
