/**
 * What the memory broker keeps: partitions of records, and, for each group, what it has done of them.
 */
import * as Headers from "../model/Headers.ts"
import type { Outgoing, Reader } from "../model/Message.ts"

/** The time of a publish, shared by its messages. */
export interface Time {
  /** Unix time in milliseconds. */
  readonly millis: number
}

/** A published message and its time. */
export interface Record {
  readonly outgoing: Outgoing<Uint8Array>
  readonly time: Time
}

const decoder = new TextDecoder()

// equal bytes give equal text, also where they are not UTF-8: order by key needs no more
const keyOf = ({ key, native }: Outgoing<Uint8Array>): string | undefined =>
  native?.keyBytes === undefined ? key : decoder.decode(native.keyBytes)

/** Reads a record as any broker's would be read. */
export const reader: Reader<Record> = {
  key: ({ outgoing }) => keyOf(outgoing),
  keyBytes: ({ outgoing }) => outgoing.keyBytes,
  headers: ({ outgoing }) =>
    outgoing.native?.fields === undefined ? outgoing.headers : Headers.fromFields(outgoing.fields),
  fields: ({ outgoing }) => outgoing.fields,
  timestamp: ({ time }) => time.millis
}

/** One partition: an append-only list of which a prefix may be dropped. */
export class Partition {
  /** The position of `records[0]`. */
  base = 0
  records: Array<Record> = []

  get end(): number {
    return this.base + this.records.length
  }
  at(position: number): Record {
    return this.records[position - this.base]!
  }
  /** Drops records below `position`. */
  trim(position: number): void {
    if (position <= this.base) return
    this.records = this.records.slice(position - this.base)
    this.base = position
  }
}

/** 32-bit FNV-1a over UTF-16 units. */
const hash = (key: string): number => {
  let h = 0x811c9dc5
  for (let i = 0; i < key.length; i++) h = Math.imul(h ^ key.charCodeAt(i), 0x01000193)
  return h >>> 0
}

/** A channel: its partitions, and the turn of messages without a key. */
export class Log {
  readonly partitions: ReadonlyArray<Partition>
  /** 1 for each partition that was appended to since its readers were told. */
  readonly fresh: Uint8Array
  private turn = 0

  constructor(partitions: number) {
    this.partitions = Array.from({ length: partitions }, () => new Partition())
    this.fresh = new Uint8Array(partitions)
  }
  append(outgoing: Outgoing<Uint8Array>, time: Time): void {
    const count = this.partitions.length
    const key = keyOf(outgoing)
    const p = key === undefined ? this.turn++ % count : hash(key) % count
    this.partitions[p]!.records.push({ outgoing, time })
    this.fresh[p] = 1
  }
}
