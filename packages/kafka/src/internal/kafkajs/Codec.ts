/**
 * Messages in both directions: kafkajs's records as the core reads them, and the core's messages as kafkajs writes them.
 */
import { Headers, type Outgoing, type Reader } from "@millrace/core"
import type { IHeaders, KafkaMessage, Message, PartitionerArgs } from "kafkajs"
import { Partitioners } from "kafkajs"

/** Bytes or null where kafkajs has something else: it takes what an object inherits for an earlier header of that name. */
const isValue = (value: unknown): value is Buffer | null => value === null || Buffer.isBuffer(value)

const fieldsOf = (headers: IHeaders | undefined): Array<Headers.Field> => {
  const fields: Array<Headers.Field> = []
  for (const name in headers) {
    // kafkajs's types do not know that it reads null values
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
 * How kafkajs's records are read: nothing is decoded before it is asked for.
 *
 * Fields keep repeated names, upper case, null and binary values, and the order within a name; kafkajs does not tell the
 * order between different names.
 */
export const reader: Reader<KafkaMessage> = {
  // equal bytes give equal text, also where they are not UTF-8: order by key needs no more
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
    // -1 is a record that was written without a time
    return at >= 0 ? at : undefined
  }
}

/** A view of the same memory: kafkajs writes Buffers as bytes, and any other array as its text. */
const buffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/**
 * A header without a value. kafkajs 2.2.4 measures `value` before it looks whether it is null, which throws; it reads the
 * property once to measure it, and again for all the rest.
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
 * Fields in the order given. kafkajs keeps headers in an object, where names come once and numbers first; of a list it asks
 * `map` for the headers to write, and so gets all of them.
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

/** A message as kafkajs writes it. */
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
 * Chooses partitions as Kafka's Java clients do (murmur2 of the key, in turn without one), once for each message.
 *
 * kafkajs asks again at each retry. A message that then went elsewhere would take the sequence number of one that the
 * broker may have written already, and be dropped as its duplicate.
 */
export const partitioner = (): (args: PartitionerArgs) => number => {
  const choose = Partitioners.DefaultPartitioner()
  return (args) => {
    const partition = choose(args)
    // one that is newer than what the producer knows of the topic: kafkajs would confirm the message and send nothing
    if (partition >= args.partitionMetadata.length) {
      throw Object.assign(new Error(`The producer does not know partition ${partition} of ${args.topic} yet`), {
        // kafkajs asks for the topic and tries again
        type: "UNKNOWN_TOPIC_OR_PARTITION",
        retriable: true
      })
    }
    return args.message.partition = partition
  }
}
