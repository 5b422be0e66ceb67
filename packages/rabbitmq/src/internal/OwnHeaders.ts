/**
 * Reads the headers that RabbitMQ and the members of a group add to a message.
 *
 * A publisher may write any header. So headers of this driver and of RabbitMQ count only if RabbitMQ must have written them,
 * or if the message is in a place that only the driver writes to.
 */
import type { Message } from "amqplib"
import { rawOf } from "./Frames.ts"
import { isTable, type Table, tableOf } from "./Values.ts"

/** The driver's headers, which are hidden from subscriptions. */
export const names = {
  /** The message's key, as text or as bytes. */
  key: "millrace-key",
  /** The number of the next attempt of a waiting message. */
  attempt: "millrace-attempt",
  /** The channel of a message that returns from its wait. */
  channel: "millrace-channel",
  /** A table of the properties before the wait that a copy cannot have. */
  original: "millrace-original",
  /** Values that a stream drops, as JSON: lists (repeated headers), tables and decimals. */
  values: "millrace-values",
  /** Marks the end of a log at one moment, or the place where a group began. */
  mark: "millrace-mark"
} as const

/** Headers in which a quorum queue counts deliveries of a message (RabbitMQ 4.3) and failed deliveries. */
const counts = { acquired: "x-acquired-count", delivered: "x-delivery-count" } as const

/** Headers that RabbitMQ adds to a delivery, and that do not belong to the message. */
export const written: ReadonlySet<string> = new Set([counts.acquired, counts.delivered, "x-stream-offset"])

/** Headers that are hidden from subscriptions. */
export const own: ReadonlySet<string> = new Set<string>([...Object.values(names), ...written])

/** Whether a header is part of RabbitMQ's record of a message's dead-lettering. */
export const isOfDeaths = (name: string): boolean => /^x-(?:death|(?:first|last)-death-)/.test(name)

/** Names the queue for a wait of this many milliseconds. */
export const waitQueueOf = (queue: string, wait: number): string => `${queue}@wait.${wait}`

/**
 * Whether a message returned to the queue from one of its wait queues: RabbitMQ records where it expired, and routes it by
 * the queue's name, which a publisher to an exchange cannot do.
 */
export const hasWaited = ({ fields, properties }: Message, queue: string): boolean => {
  // most messages come through an exchange, and a table lookup costs more
  if (fields.exchange !== "" || fields.routingKey !== queue) return false
  const headers: Table | undefined = properties.headers
  if (headers?.[names.attempt] === undefined) return false
  const deaths: unknown = headers["x-death"]
  const last: unknown = Array.isArray(deaths) ? deaths[0] : undefined
  if (!isTable(last)) return false
  const { queue: from, reason } = last
  return reason === "expired" && typeof from === "string" && from.startsWith(waitQueueOf(queue, 0).slice(0, -1))
}

/** Finds the channel of a message that has waited in RabbitMQ; undefined for others. */
export const channelBeforeWait = (record: Message, queue: string): string | undefined => {
  const channel: unknown = record.properties.headers?.[names.channel]
  return typeof channel === "string" && hasWaited(record, queue) ? channel : undefined
}

/** Finds the id of a mark; undefined for a message. Only the driver publishes to a log by its name. */
export const markOf = ({ content, fields, properties }: Message, log: string): string | undefined => {
  const mark: unknown = properties.headers?.[names.mark]
  return typeof mark === "string" && fields.exchange === "" && fields.routingKey === log && content.length === 0
    ? mark
    : undefined
}

/** Lists the trustworthy counters of a queue, the best first: a classic queue counts nothing, and keeps a publisher's header. */
export const countersOf = (queueType: string, version: string | undefined): ReadonlyArray<string> => {
  if (queueType === "classic") return []
  const [major = Number.NaN, minor = 0] = (version ?? "unknown").split(".").map(Number)
  if (Number.isNaN(major)) return [counts.acquired, counts.delivered]
  // each version writes only one of them into every redelivered message; the other may be a publisher's
  return major > 4 || (major === 4 && minor >= 3) ? [counts.acquired] : [counts.delivered]
}

const count = (value: unknown): number | undefined =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : undefined

/** Whether a redelivered message has one of RabbitMQ's delivery counters. */
export const isCounted = ({ fields, properties }: Message, counters: ReadonlyArray<string>): boolean =>
  fields.redelivered && counters.some((name) => properties.headers?.[name] !== undefined)

/**
 * Counts the deliveries of a message, including this one: the number that its last wait wrote, plus the deliveries that the
 * queue has counted since. The queue counts in redelivered messages; in others such a header is the publisher's.
 */
export const attemptOf = (record: Message, queue: string, counters: ReadonlyArray<string>): number => {
  const headers: Table | undefined = record.properties.headers
  if (headers === undefined) return 1
  const waited = hasWaited(record, queue) ? count(headers[names.attempt]) ?? 1 : 1
  if (!record.fields.redelivered) return Math.max(1, waited)
  for (const name of counters) {
    const counted = count(headers[name])
    if (counted !== undefined) return Math.max(1, waited) + counted
  }
  return Math.max(1, waited)
}

/** Finds the properties kept through a wait, as RabbitMQ delivered them. */
export const originalOf = (record: Message, queue: string): Table | undefined => {
  const original: unknown = record.properties.headers?.[names.original]
  return isTable(original) && hasWaited(record, queue) ? original : undefined
}

/** Reads the header table with the types of its values if the frame was kept; otherwise amqplib's table. */
export const exactHeaders = (record: Message): Table => {
  const frame = rawOf(record)
  return (frame === undefined ? undefined : tableOf(frame)) ?? record.properties.headers ?? {}
}
