/**
 * The series of one channel in Effect's `Metric` registry, named by OpenTelemetry's semantic conventions for messaging
 * metrics (1.44). Their values are computed when an exporter reads them.
 */
import type { Metric } from "effect"
import type { Histogram } from "./Histogram.ts"
import * as Exchange from "../message/Exchange.ts"
import type { Envelope } from "../message/Message.ts"
import type { Attributes } from "./Conventions.ts"

/** One series. */
export type Series = Metric.Metric.Metadata<unknown, unknown>

/** The labels that distinguish the series of one channel from those of another. */
export type Labels = Readonly<Record<string, string>>

/** Makes the labels of a channel, or of all channels counted as one: its attributes as text, or its route. */
export const labelsOf = (message: Envelope, channel: string, attributes: Attributes): Labels => {
  if (message.kind === "server" && message.exchange !== undefined) return routeOf(message.exchange, channel)
  if (message.kind === "client") return targetOf(message.exchange, channel)
  if (message.kind === "server") return { "http.route": channel }
  const { "messaging.destination.name": _, "messaging.destination.template": template, ...labels } = attributes
  const name = template === channel ? "messaging.destination.template" : "messaging.destination.name"
  return Object.fromEntries(
    Object.entries({ ...labels, [name]: channel }).map(([label, value]) => [label, String(value)])
  )
}

/** Makes the labels of a route: with the method, unless one route serves all methods or many channels are counted as one. */
const routeOf = (exchange: Exchange.Exchange, channel: string): Labels => {
  const method = Exchange.methodOf(exchange)
  if (exchange.route !== undefined && channel === `${method} ${exchange.route}`) {
    return { "http.request.method": method, "http.route": exchange.route }
  }
  return { "http.route": channel }
}

/** Makes the labels of the server that a client's request goes to. */
const serverOf = ({ host, port }: Exchange.Exchange): Labels => ({
  ...(host === undefined ? {} : { "server.address": host }),
  ...(port === undefined ? {} : { "server.port": String(port) })
})

/** Makes a client's labels: by default method and server; for a named request the name, since it may have several servers. */
const targetOf = (exchange: Exchange.Exchange | undefined, channel: string): Labels =>
  exchange === undefined || exchange.route === channel || exchange.host === undefined ||
    !channel.includes(exchange.host)
    ? { "url.template": channel }
    : { "http.request.method": Exchange.methodOf(exchange), ...serverOf(exchange) }

/** Makes the labels by which the durations of one channel's requests differ. */
export const answerOf = (
  kind: Envelope["kind"],
  exchange: Exchange.Exchange,
  statusCode: number | undefined,
  errorType: string | undefined
): Labels => ({
  "http.request.method": Exchange.methodOf(exchange),
  ...(kind === "client" ? serverOf(exchange) : {}),
  ...(exchange.scheme === undefined ? {} : { "url.scheme": exchange.scheme }),
  ...(statusCode === undefined ? {} : { "http.response.status_code": String(statusCode) }),
  ...(errorType === undefined ? {} : { "error.type": errorType })
})

const nothing = () => {}

const series = (
  type: Metric.Metric.Type,
  id: string,
  description: string,
  attributes: Labels,
  get: () => unknown
): Series => ({ id, type, description, attributes, hooks: { get, update: nothing, modify: nothing } })

/** Makes a series whose value goes up and down. */
export const gauge = (id: string, description: string, attributes: Labels, get: () => number): Series =>
  series("Gauge", id, description, attributes, () => ({ value: get() }))

const durations = {
  consumer: "messaging.process.duration",
  producer: "messaging.client.operation.duration",
  server: "http.server.request.duration",
  client: "http.client.request.duration"
} as const

/** Bucket bounds advised by the conventions, in seconds. */
const bounds = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
const nanosInSecond = 1e9
const boundsInNanos = bounds.map((bound) => bound * nanosInSecond)

/** Makes the series of durations in seconds, for messages whose end has the labels `end`. */
export const duration = (kind: Envelope["kind"], labels: Labels, end: Labels, nanos: Histogram): Series =>
  series(
    "Histogram",
    durations[kind],
    "Duration of handling, publishing or requesting one message.",
    { ...labels, ...end, unit: "s" },
    (): Metric.HistogramState => ({
      buckets: nanos.cumulative(boundsInNanos).map(([, count], i) => [bounds[i]!, count]),
      count: nanos.count,
      sum: nanos.sum / nanosInSecond,
      min: nanos.count === 0 ? 0 : nanos.min / nanosInSecond,
      max: nanos.max / nanosInSecond
    })
  )

const totals = {
  consumer: ["messaging.client.consumed.messages", "Messages that were delivered to the application."],
  producer: ["messaging.client.sent.messages", "Messages that were attempted to be sent to the broker."]
} as const

/** The counts of a channel. */
export interface Counted {
  readonly counts: Readonly<Record<string, number>>
  readonly received: number
  readonly started: number
  readonly inFlight: number
  readonly bytes: number
}

/** Makes the series of totals, bytes and messages in flight. */
export const counters = (kind: Envelope["kind"], labels: Labels, of: Counted): ReadonlyArray<Series> => {
  const counter = (id: string, description: string, more: Labels, count: () => number) =>
    series("Counter", id, description, { ...labels, ...more }, () => ({ count: count(), incremental: true }))
  const messages = { unit: "{message}" }
  const total = kind === "consumer" || kind === "producer" ? totals[kind] : undefined
  return [
    // without a count at the receive stage, a delivery counts when its handling begins
    ...total === undefined ? [] : [counter(total[0], total[1], messages, () => of.received || of.started)],
    ...Object.keys(of.counts).map((status) =>
      counter(
        "millrace.messages",
        "Messages by how they ended.",
        { ...messages, "millrace.status": status },
        () => of.counts[status]!
      )
    ),
    counter("millrace.bytes", "Bytes of the bodies of messages.", { unit: "By" }, () => of.bytes),
    gauge("millrace.in_flight", "Messages that are being handled.", { ...labels, ...messages }, () => of.inFlight)
  ]
}
