/**
 * Finds records in the broker's answer, and decodes a field only when it is read.
 *
 * Format: https://kafka.apache.org/documentation/#recordbatch
 */
import { type Delivery, delivery, Headers, type Origin, type Reader } from "@millrace/core"
import { compressionsAlgorithmsByBitmask } from "@platformatic/kafka"
import { positionOf } from "../Topology.ts"

/** A record within a buffer: the offsets of its key and headers. The value is the delivery's body. */
export class RawRecord {
  declare readonly bytes: Buffer
  declare readonly keyAt: number
  /** -1 if there is no key. */
  declare readonly keyLength: number
  declare readonly headersAt: number
  declare readonly time: number

  constructor(bytes: Buffer, keyAt: number, keyLength: number, headersAt: number, time: number) {
    this.bytes = bytes
    this.keyAt = keyAt
    this.keyLength = keyLength
    this.headersAt = headersAt
    this.time = time
  }
}

// The read position. Reading is synchronous, so one shared variable suffices and no reader is allocated for each record.
let at = 0

/** Reads a variable-length zigzag number of at most 64 bits; beyond 2^53 its last digits are lost. */
const readNumber = (bytes: Buffer): number => {
  let byte = bytes[at++]!
  if (byte < 0x80) return (byte >>> 1) ^ -(byte & 1)
  let value = byte & 0x7f
  let scale = 0x80
  do {
    byte = bytes[at++]!
    value += (byte & 0x7f) * scale
    scale *= 0x80
  } while (byte >= 0x80)
  return value % 2 === 0 ? value / 2 : -(value + 1) / 2
}

const readBytes = (bytes: Buffer): Buffer | null => {
  const length = readNumber(bytes)
  if (length < 0) return null
  at += length
  return bytes.subarray(at - length, at)
}

const fieldsOf = (record: RawRecord): ReadonlyArray<Headers.Field> => {
  const { bytes } = record
  at = record.headersAt
  const count = readNumber(bytes)
  const fields: Array<Headers.Field> = []
  for (let i = 0; i < count; i++) {
    const name = readBytes(bytes)?.toString() ?? ""
    fields.push([name, readBytes(bytes)])
  }
  return fields
}

/** Reads records: fields are decoded lazily, and headers keep everything, including their order. */
export const reader: Reader<RawRecord> = {
  // equal bytes give equal text, even if they are not UTF-8; order by key needs no more
  key: ({ bytes, keyAt, keyLength }) => keyLength < 0 ? undefined : bytes.toString("utf8", keyAt, keyAt + keyLength),
  keyBytes: ({ bytes, keyAt, keyLength }) => keyLength < 0 ? undefined : bytes.subarray(keyAt, keyAt + keyLength),
  // a record without headers has the count 0, one byte
  headers: (record) => record.bytes[record.headersAt] === 0 ? Headers.empty : Headers.fromFields(fieldsOf(record)),
  fields: fieldsOf,
  // -1 marks a record written without a timestamp
  timestamp: ({ time }) => time >= 0 ? time : undefined
}

/** An aborted transaction: its producer's messages from that offset on, up to its marker. */
export interface Aborted {
  readonly producerId: bigint
  readonly firstOffset: bigint
}

const headerLength = 61
const compressed = 0b111
const appendTime = 1 << 3
const transactional = 1 << 4
const control = 1 << 5

const numberAt = (bytes: Buffer, from: number): number =>
  bytes.readInt32BE(from) * 0x1_0000_0000 + bytes.readUInt32BE(from + 4)

/**
 * Finds the records from position `from` on, as deliveries in order, and returns the next position. The next position lies
 * beyond the last delivery if transaction markers, aborted messages or gaps of compaction follow.
 */
export const read = (
  bytes: Buffer,
  origin: Origin,
  from: number,
  aborted: ReadonlyArray<Aborted>,
  into: Array<Delivery>
): number => {
  const starts = aborted.length < 2 ? aborted : aborted.toSorted((a, b) => a.firstOffset < b.firstOffset ? -1 : 1)
  const dead = new Set<bigint>()
  let started = 0
  let next = from
  // the last batch may be cut off
  for (let start = 0; start + headerLength <= bytes.length;) {
    const end = start + 12 + bytes.readInt32BE(start + 8)
    if (end > bytes.length) break
    if (bytes[start + 16] !== 2) throw unsupported("messages of the format before Kafka 0.11")
    const first = numberAt(bytes, start)
    const last = first + bytes.readInt32BE(start + 23)
    positionOf(BigInt(Math.trunc(last)))
    const attributes = bytes.readInt16BE(start + 21)
    const producer = (attributes & transactional) === 0 || aborted.length === 0
      ? undefined
      : bytes.readBigInt64BE(start + 43)
    while (started < starts.length && starts[started]!.firstOffset <= last) dead.add(starts[started++]!.producerId)
    if ((attributes & control) !== 0) {
      // a marker, commit or abort, ends the producer's open transaction
      if (producer !== undefined) dead.delete(producer)
    } else if (last >= from && (producer === undefined || !dead.has(producer))) {
      readBatch(bytes, start, end, attributes, first, origin, from, into)
    }
    next = Math.max(next, last + 1)
    start = end
  }
  return next
}

const unsupported = (what: string) =>
  Object.assign(new Error(`The topic has ${what}, which this engine cannot read`), { apiId: "UNSUPPORTED_VERSION" })

const readBatch = (
  bytes: Buffer,
  start: number,
  end: number,
  attributes: number,
  first: number,
  origin: Origin,
  from: number,
  into: Array<Delivery>
): void => {
  const count = bytes.readInt32BE(start + 57)
  const byBroker = (attributes & appendTime) !== 0
  const time = numberAt(bytes, start + (byBroker ? 35 : 27))
  const method = attributes & compressed
  let records = bytes
  at = start + headerLength
  if (method !== 0) {
    const algorithm = compressionsAlgorithmsByBitmask[method]
    if (algorithm === undefined) throw unsupported(`messages compressed by method ${method}`)
    records = algorithm.decompressSync(bytes.subarray(at, end))
    at = 0
  }
  for (let i = 0; i < count; i++) {
    const length = readNumber(records)
    const following = at + length
    // skip the record's attributes, which are unused
    at++
    const later = readNumber(records)
    const position = first + readNumber(records)
    const keyLength = readNumber(records)
    const keyAt = at
    if (keyLength > 0) at += keyLength
    const valueLength = readNumber(records)
    const valueAt = at
    if (valueLength > 0) at += valueLength
    if (position >= from) {
      const body = valueLength < 0 ? null : records.subarray(valueAt, at)
      const record = new RawRecord(records, keyAt, keyLength, at, byBroker ? time : time + later)
      into.push(delivery(origin, reader, record, position, body, 1))
    }
    at = following
  }
}
