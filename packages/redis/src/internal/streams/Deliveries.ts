/**
 * Makes deliveries from stream entries, and sizes batches by number and bytes.
 */
import { type Delivery, delivery, type Origin } from "@millrace/core"
import { bodyOf, type Entry, positionOf, reader } from "./Codec.ts"

/** The id of a delivery's entry. */
export const idOf = (found: Delivery): Buffer => {
  // this driver makes all its deliveries from entries
  const [id] = found.native as Entry
  return id
}

/** An entry that was delivered before: its id, fields and attempt. */
export type Again = readonly [id: Buffer, fields: ReadonlyArray<Buffer>, attempt: number]

/** Makes deliveries, and estimates from them how many entries to request. */
export class Maker {
  private readonly origin: Origin
  private readonly most: number
  private readonly bytes: number
  private size = 0

  constructor(origin: Origin, most: number, bytes: number) {
    this.origin = origin
    this.most = most
    this.bytes = bytes
  }

  /** The number of entries to request, as Redis counts no bytes: estimated from the last batch; at most 64 for the first. */
  get count(): number {
    if (this.size === 0) return Math.min(this.most, 64)
    return Math.max(1, Math.min(this.most, Math.floor(this.bytes / this.size)))
  }

  /** Makes deliveries of entries that were never delivered before. */
  fresh(entries: ReadonlyArray<Entry>): Array<Delivery> {
    const { origin } = this
    const deliveries = new Array<Delivery>(entries.length)
    let bytes = 0
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i]!
      const body = bodyOf(entry[1])
      if (body !== null) bytes += body.length
      deliveries[i] = delivery(origin, reader, entry, positionOf(entry[0]), body, 1)
    }
    this.size = 64 + bytes / entries.length
    return deliveries
  }

  /** Makes deliveries of entries that were delivered before. */
  again(entries: ReadonlyArray<Again>): Array<Delivery> {
    return entries.map(([id, fields, attempt]) => {
      const entry: Entry = [id, fields]
      return delivery(this.origin, reader, entry, positionOf(id), bodyOf(fields), attempt)
    })
  }
}
