/**
 * Keeps the newest audit rows in memory, up to a capacity.
 */
import { Effect, Exit, Layer } from "effect"
import * as OptionCheck from "../../message/OptionCheck.ts"
import { AuditStore, cursorOf, type Filter, readQuery, type Row } from "./store.ts"

const matches = (filter: Filter) => (row: Row): boolean =>
  (filter.from === undefined || row.completedAt >= filter.from)
  && (filter.to === undefined || row.completedAt < filter.to)
  && (filter.channel === undefined || row.channel === filter.channel)
  && (filter.status === undefined || row.status === filter.status)
  && (filter.handler === undefined || row.handler === filter.handler)

// ids have one length, so their order as text is the order of appending
const compare = (a: { completedAt: number; id: string }, b: { completedAt: number; id: string }): number =>
  a.completedAt - b.completedAt || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0)

const make = (capacity: number): AuditStore["Service"] => {
  let rows: Array<Row> = []
  let appended = 0
  const kept = (filter: Filter = {}): Array<Row> => rows.slice(-capacity).filter(matches(filter))
  return {
    append: (entry) => {
      rows.push({ ...entry, id: (appended++).toString(36).padStart(10, "0") })
      // evicts the oldest rows in bulk: moving the rest costs more than keeping them for a while
      if (rows.length >= capacity * 2) rows = rows.slice(-capacity)
      return Exit.void
    },
    query: (query) =>
      Effect.map(readQuery(query), ({ after, limit, order }) => {
        const sign = order === "newest" ? -1 : 1
        const found = kept(query)
          .filter((row) => after === undefined || sign * compare(row, after) > 0)
          .sort((a, b) => sign * compare(a, b))
        const page = found.slice(0, limit)
        return { rows: page, next: found.length > limit ? cursorOf(page.at(-1)!) : undefined }
      }),
    count: (filter) => Effect.sync(() => kept(filter).length),
    prune: ({ before }) =>
      Effect.sync(() => {
        const all = kept()
        rows = all.filter((row) => row.completedAt >= before)
        return all.length - rows.length
      })
  }
}

/** Options of `layerMemory`. */
export interface MemoryOptions {
  /** The most rows; beyond it the oldest is evicted. An integer from 1. Default: 10,000. */
  readonly capacity?: number | undefined
}

/**
 * Keeps audit rows in memory, for tests and trials: bounded, and lost with the process.
 *
 * @throws RangeError when `capacity` is not an integer from 1
 * @category layers
 */
export const layerMemory = (options: MemoryOptions = {}): Layer.Layer<AuditStore> => {
  const capacity = OptionCheck.make("Audit.layerMemory").count("capacity", options.capacity ?? 10_000)
  return Layer.sync(AuditStore, () => make(capacity))
}
