/**
 * Counters of failures in Effect's `Metric` registry. They cost nothing until the first failure.
 */
import { Context, Metric } from "effect"

/** The most series of one counter in one registry; later pairs of channel and error tag share the series `other`. */
const maximumSeries = 500

/** The longest label, in UTF-16 code units; longer labels are cut. */
const maximumLabel = 255

const other = "other"

type Count = (context: Context.Context<never>, channel: string, errorTag: string) => void

/** One counter for each pair of channel and error tag of one registry. */
class BoundCounters {
  readonly #channels = new Map<string, Map<string, Metric.Counter<number>>>()
  readonly #make: (channel: string, errorTag: string) => Metric.Counter<number>
  #size = 0

  constructor(make: (channel: string, errorTag: string) => Metric.Counter<number>) {
    this.#make = make
  }

  find(channel: string, errorTag: string): Metric.Counter<number> {
    return this.#channels.get(channel)?.get(errorTag) ??
      (this.#size < maximumSeries ? this.#add(channel, errorTag) : this.#other())
  }

  #other(): Metric.Counter<number> {
    return this.#channels.get(other)?.get(other) ?? this.#add(other, other)
  }

  #add(channel: string, errorTag: string): Metric.Counter<number> {
    const counter = this.#make(channel, errorTag)
    let tags = this.#channels.get(channel)
    if (tags === undefined) {
      tags = new Map()
      this.#channels.set(channel, tags)
    }
    tags.set(errorTag, counter)
    this.#size += 1
    return counter
  }
}

const destination = "messaging.destination.name"

const counter = (id: string, description: string, unit: string, label = destination): Count => {
  const make = (channel: string, errorTag: string) =>
    Metric.counter(id, {
      description,
      incremental: true,
      attributes: { [label]: channel, "error.type": errorTag, unit }
    })
  const registries = new WeakMap<object, BoundCounters>()
  return (context, channel, errorTag) => {
    try {
      const registry = Context.get(context, Metric.MetricRegistry)
      let bound = registries.get(registry)
      if (bound === undefined) {
        bound = new BoundCounters(make)
        registries.set(registry, bound)
      }
      bound.find(channel.slice(0, maximumLabel), errorTag.slice(0, maximumLabel)).updateUnsafe(1, context)
    } catch {
      // a lost count must not change the outcome of the message
    }
  }
}

const retries = {
  id: "millrace.retries",
  description: "Retries, by channel and type of the error.",
  unit: "{retry}"
}

/**
 * Counts a retry: adds one to `millrace.retries`, by channel (`messaging.destination.name`) and error tag
 * (`error.type`), in the context's `MetricRegistry`. Never throws.
 */
export const countRetry: Count = counter(retries.id, retries.description, retries.unit)

/** Counts a retry of a request on a server, as `countRetry`, with the route as channel (`http.route`). */
export const countServedRetry: Count = counter(retries.id, retries.description, retries.unit, "http.route")

/** Counts a retry of a client's request, as `countRetry`, by the target server (`server.address`). */
export const countSentRetry: Count = counter(retries.id, retries.description, retries.unit, "server.address")

/**
 * Counts a dead letter: adds one to `millrace.dead_letters`, by channel (`messaging.destination.name`) and error tag
 * (`error.type`), in the context's `MetricRegistry`. Never throws.
 */
export const countDeadLetter: Count = counter(
  "millrace.dead_letters",
  "Messages that became dead letters, by channel and type of the error.",
  "{message}"
)

/**
 * Counts a dead letter that the broker refused and the subscription dropped: adds one to `millrace.dead_letters.dropped`, by
 * channel (`messaging.destination.name`) and error tag (`error.type`), in the context's `MetricRegistry`. Never throws.
 */
export const countDropped: Count = counter(
  "millrace.dead_letters.dropped",
  "Dead letters that no broker took and that were given up, by channel and type of the error.",
  "{message}"
)
