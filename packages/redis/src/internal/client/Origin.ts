/**
 * Where a delivery comes from.
 */
import type { Origin } from "@millrace/core"

/** The origin of what a group is delivered, or of what is browsed. Drivers keep claims alive, so messages may be held for ever. */
export const originOf = (channel: string, group = "", handler = ""): Origin => ({
  system: "redis",
  channel,
  group,
  partition: 0,
  handler,
  holdLimit: Number.POSITIVE_INFINITY
})
