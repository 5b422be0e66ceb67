/**
 * Makes the origin of a delivery.
 */
import type { Origin } from "@millrace/core"

/** The origin of deliveries of a group, or of browsed messages. Drivers keep claims alive, so messages may be held for ever. */
export const originOf = (channel: string, group = "", handler = ""): Origin => ({
  system: "redis",
  channel,
  group,
  partition: 0,
  handler,
  holdLimit: Number.POSITIVE_INFINITY
})
