/**
 * Headers that RabbitMQ and the members of a group have written beside a message's own.
 *
 * A publisher may write any header. So the headers of this driver and of RabbitMQ count only where RabbitMQ must have written
 * them, or where the message stands in a place that only the driver writes to.
 */
import type { Message } from "amqplib"
import { rawOf } from "./Frames.ts"
import { isTable, type Table, tableOf } from "./Values.ts"

/** Headers of the driver: no subscription sees them. */
export const names = {
  /** The message's key, as text or as bytes. */
  key: "millrace-key",
  /** The number of the next attempt of a message that waits for it. */
  attempt: "millrace-attempt",
  /** The channel of a message that returns from its wait. */
  channel: "millrace-channel",
  /** A table of the properties before the wait that a copy cannot have. */
  original: "millrace-original",
  /** Values that a stream drops, as JSON: lists, which are repeated headers, tables and decimals. */
  values: "millrace-values",
  /** Marks the end of a log at one moment, or where a group began. */
  mark: "millrace-mark"
} as const

/** Headers by which a quorum queue counts: each delivery of a message (RabbitMQ 4.3), and failed deliveries. */
const counts = { acquired: "x-acquired-count", delivered: "x-delivery-count" } as const

/** Headers that RabbitMQ writes into a delivery, and that are not the message's. */
export const written: ReadonlySet<string> = new Set([counts.acquired, counts.delivered, "x-stream-offset"])

/** Headers that no subscription sees. */
export const own: ReadonlySet<string> = new Set<string>([...Object.values(names), ...written])

/** RabbitMQ's book of a message's deaths. */
export const isOfDeaths = (name: string): boolean => /^x-(?:death|(?:first|last)-death-)/.test(name)

/** The queue that serves a wait of so many milliseconds. */
export const waitQueueOf = (queue: string, wait: number): string => `${queue}@wait.${wait}`

/**
 * Whether a message returned to the queue from one of its wait queues: RabbitMQ writes where it died, and routes it to the
 * queue by its name, which no publisher to an exchange can do.
 */
export const hasWaited = ({ fields, properties }: Message, queue: string): boolean => {
  // most messages come by an exchange, and a look into a table costs more
  if (fields.exchange !== "" || fields.routingKey !== queue) return false
  const headers: Table | undefined = properties.headers
  if (headers?.[names.attempt] === undefined) return false
  const deaths: unknown = headers["x-death"]
  const last: unknown = Array.isArray(deaths) ? deaths[0] : undefined
  if (!isTable(last)) return false
  const { queue: from, reason } = last
  return reason === "expired" && typeof from === "string" && from.startsWith(waitQueueOf(queue, 0).slice(0, -1))
}

/** The channel of a message that has waited in RabbitMQ; else undefined. */
export const channelBeforeWait = (record: Message, queue: string): string | undefined => {
  const channel: unknown = record.properties.headers?.[names.channel]
  return typeof channel === "string" && hasWaited(record, queue) ? channel : undefined
}

/** The id of a mark; undefined for a message. Only the driver publishes to a log by its name. */
export const markOf = ({ content, fields, properties }: Message, log: string): string | undefined => {
  const mark: unknown = properties.headers?.[names.mark]
  return typeof mark === "string" && fields.exchange === "" && fields.routingKey === log && content.length === 0
    ? mark
    : undefined
}

/** The counts of a queue that can be believed, the best one first: a classic queue counts nothing, and keeps a publisher's header. */
export const countersOf = (queueType: string, version: string | undefined): ReadonlyArray<string> => {
  if (queueType === "classic") return []
  const [major = Number.NaN, minor = 0] = (version ?? "unknown").split(".").map(Number)
  if (Number.isNaN(major)) return [counts.acquired, counts.delivered]
  // each writes only one of them into every message that it delivers again; the other may be a publisher's
  return major > 4 || (major === 4 && minor >= 3) ? [counts.acquired] : [counts.delivered]
}

const count = (value: unknown): number | undefined =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : undefined

/** Whether RabbitMQ says of a delivery how often it was delivered before, by one of the counters. */
export const isCounted = ({ fields, properties }: Message, counters: ReadonlyArray<string>): boolean =>
  fields.redelivered && counters.some((name) => properties.headers?.[name] !== undefined)

/**
 * How often a message was delivered, this time included: the number that its last wait has written, and the deliveries that the
 * queue has counted since. The queue counts in messages that it delivers again; in others such a header is the publisher's.
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

/** The properties that a wait has kept, as RabbitMQ delivered them. */
export const originalOf = (record: Message, queue: string): Table | undefined => {
  const original: unknown = record.properties.headers?.[names.original]
  return isTable(original) && hasWaited(record, queue) ? original : undefined
}

/** The header table with the types of its values, where the frame is there; else as amqplib has read it. */
export const exactHeaders = (record: Message): Table => {
  const frame = rawOf(record)
  return (frame === undefined ? undefined : tableOf(frame)) ?? record.properties.headers ?? {}
}
