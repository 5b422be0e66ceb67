/**
 * Publishes with the client's idempotent producer.
 */
import type { Outgoing } from "@millrace/core"
import { type MessageToProduce, NetworkError, Producer } from "@platformatic/kafka"
import { Effect } from "effect"
import { setTimeout as sleep } from "node:timers/promises"
import { acksOf, type ResolvedOptions } from "../Options.ts"
import type { Producers } from "../Publisher.ts"
import { partitioner } from "./Partitioner.ts"
import { close, optionsOf } from "./Connection.ts"

type Message = MessageToProduce<Buffer, Buffer, Buffer, Buffer>

/** Views the same memory as a Buffer. */
const buffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** Converts fields to headers in the given order: each name is an object of its own, so the map keeps repeated names. */
const headersOf = (outgoing: Outgoing<Uint8Array>): Map<Buffer, Buffer> | undefined => {
  const { fields } = outgoing
  if (fields.length === 0) return undefined
  // the client writes null values, although its types exclude them
  return new Map(fields.map(([name, value]) => [Buffer.from(name), value === null ? null : buffer(value)])) as Map<
    Buffer,
    Buffer
  >
}

/** Converts a message to the client's form. */
export const toMessage = (outgoing: Outgoing<Uint8Array>): Message => {
  const { channel, keyBytes, native, payload } = outgoing
  const headers = headersOf(outgoing)
  const message: Message = { topic: channel }
  if (keyBytes !== undefined) message.key = buffer(keyBytes)
  if (native?.tombstone !== true) message.value = buffer(payload)
  if (headers !== undefined) message.headers = headers
  if (native?.partition !== undefined) message.partition = native.partition
  if (native?.timestamp !== undefined) message.timestamp = BigInt(native.timestamp)
  return message
}

/** The options of a producer. */
export const producerOptions = (settings: ResolvedOptions) => ({
  ...optionsOf(settings),
  idempotent: true,
  partitioner: partitioner(),
  metadataMaxAge: settings.consumer.metadataMaxAge,
  compression: settings.producer.compression,
  // how long the broker may wait for its replicas
  timeout: settings.requestTimeout,
  retries: 4 + Math.ceil(settings.producer.retryFor / 1000),
  retryDelay: (_client: unknown, _operation: string, attempt: number) => Math.min(1000, 50 * 2 ** attempt)
})

/**
 * Updates the producer's metadata if a message names a partition beyond it: the client would take the number modulo its known
 * partitions, and send the message to another partition.
 */
const knowing = async (
  producer: Producer<Buffer, Buffer, Buffer, Buffer>,
  batch: ReadonlyArray<Outgoing<Uint8Array>>
) => {
  const chosen = batch.filter(({ native }) => native?.partition !== undefined)
  if (chosen.length === 0) return
  const topics = Array.from(new Set(chosen.map(({ channel }) => channel)))
  const known = await producer.metadata({ topics })
  const isNew = chosen.some(({ channel, native }) =>
    (native?.partition ?? 0) >= (known.topics.get(channel)?.partitionsCount ?? 0)
  )
  if (isNew) await producer.metadata({ topics, forceUpdate: true })
}

/** Fails if a request is not sent in time: the client forgets a request that waits for a closed connection. */
const limited = async <A>(sent: Promise<A>, milliseconds: number): Promise<A> => {
  const stop = new AbortController()
  try {
    return await Promise.race([
      sent,
      sleep(milliseconds, undefined, { signal: stop.signal }).then(() => {
        throw new NetworkError(`No request has left within ${milliseconds} ms`)
      })
    ])
  } finally {
    stop.abort()
  }
}

/** The client's idempotent producers. */
export const producers = (settings: ResolvedOptions): Producers => ({
  open: Effect.sync(() => {
    const producer = new Producer<Buffer, Buffer, Buffer, Buffer>({
      ...producerOptions(settings),
      // an idempotent producer waits for all replicas
      idempotent: settings.producer.acks === "all",
      // without acknowledgements, only the socket limits how much may be sent
      handleBackPressure: settings.producer.acks === "none"
    })
    return {
      send: async (batch) => {
        await knowing(producer, batch)
        const sent = producer.send({ messages: batch.map(toMessage), acks: acksOf(settings) })
        return await (settings.producer.acks === "none" ? limited(sent, settings.requestTimeout) : sent)
      },
      close: close(producer)
    }
  }),
  mostMessages: 10_000
})
