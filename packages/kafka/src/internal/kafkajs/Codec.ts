/**
 * Converts messages in both directions: kafkajs's records for the core, and the core's messages for kafkajs.
 */
import { Headers, type Outgoing, type Reader } from "@millrace/core"
import type { IHeaders, KafkaMessage, Message, PartitionerArgs } from "kafkajs"
import { Partitioners } from "kafkajs"

/**
 * Whether a value is bytes or null: kafkajs takes a property inherited from `Object.prototype` for an earlier header of that
 * name.
 */
const isValue = (value: unknown): value is Buffer | null => value === null || Buffer.isBuffer(value)

const fieldsOf = (headers: IHeaders | undefined): Array<Headers.Field> => {
  const fields: Array<Headers.Field> = []
  for (const name in headers) {
    // kafkajs reads null values, although its types exclude them
    const value: unknown = headers[name]
    if (!Array.isArray(value)) {
      if (isValue(value)) fields.push([name, value])
      continue
    }
    for (const each of value) if (isValue(each)) fields.push([name, each])
  }
  return fields
}

/**
 * Reads kafkajs's records: fields are decoded lazily.
 *
 * Fields keep repeated names, upper case, null and binary values, and the order within a name; kafkajs does not preserve the
 * order between different names.
 */
export const reader: Reader<KafkaMessage> = {
  // equal bytes give equal text, even if they are not UTF-8; order by key needs no more
  key: (record) => record.key === null ? undefined : record.key.toString(),
  keyBytes: (record) => record.key ?? undefined,
  headers: (record) => {
    const { headers } = record
    for (const _ in headers) return Headers.fromFields(fieldsOf(headers))
    return Headers.empty
  },
  fields: (record) => fieldsOf(record.headers),
  timestamp: (record) => {
    const at = Number(record.timestamp)
    // -1 marks a record written without a timestamp
    return at >= 0 ? at : undefined
  }
}

/** Views the same memory as a Buffer: kafkajs writes Buffers as bytes, and any other array as its text. */
const buffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/**
 * A header with a null value. kafkajs 2.2.4 measures `value` before it checks for null, which throws; kafkajs reads the
 * property once to measure, then again for everything else.
 */
class NullHeader {
  readonly key: string
  private measured = false

  constructor(key: string) {
    this.key = key
  }

  get value(): string | null {
    if (this.measured) return null
    this.measured = true
    return ""
  }
}

/**
 * Keeps fields in the given order. kafkajs keeps headers in an object, where names are unique and numeric names come first;
 * for a list, kafkajs calls `map` to get the headers to write, and so gets all of them.
 */
const ordered = (fields: ReadonlyArray<Headers.Field>): IHeaders => {
  const values: Array<Buffer> = []
  Object.defineProperty(values, "map", {
    value: () => fields.map(([key, value]) => value === null ? new NullHeader(key) : { key, value: buffer(value) })
  })
  return { fields: values }
}

const headersOf = (outgoing: Outgoing<Uint8Array>): IHeaders | undefined => {
  const { headers, native } = outgoing
  if (native?.fields !== undefined && native.fields.length > 0) return ordered(outgoing.fields)
  for (const _ in headers) return headers
  return undefined
}

/** Converts a message to kafkajs's form. */
export const toRecord = (outgoing: Outgoing<Uint8Array>): Message => {
  const { key, native } = outgoing
  const headers = headersOf(outgoing)
  const record: Message = {
    key: native?.keyBytes === undefined ? key ?? null : buffer(native.keyBytes),
    value: native?.tombstone === true ? null : buffer(outgoing.payload)
  }
  if (headers !== undefined) record.headers = headers
  if (native?.partition !== undefined) record.partition = native.partition
  if (native?.timestamp !== undefined) record.timestamp = String(native.timestamp)
  return record
}

/**
 * Chooses partitions as Kafka's Java clients do (murmur2 of the key, round robin without one), once for each message.
 *
 * kafkajs calls the partitioner again at each retry. If a message then went to another partition, its sequence number could
 * be one that the broker has already seen, and Kafka would drop the message as a duplicate.
 */
export const partitioner = (): (args: PartitionerArgs) => number => {
  const choose = Partitioners.DefaultPartitioner()
  return (args) => {
    const partition = choose(args)
    // the producer does not know this partition of the topic yet: kafkajs would confirm the message and send nothing
    if (partition >= args.partitionMetadata.length) {
      throw Object.assign(new Error(`The producer does not know partition ${partition} of ${args.topic} yet`), {
        // kafkajs fetches the topic's metadata and retries
        type: "UNKNOWN_TOPIC_OR_PARTITION",
        retriable: true
      })
    }
    return args.message.partition = partition
  }
}
