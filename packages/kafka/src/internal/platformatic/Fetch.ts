/**
 * Fetches messages: the client writes the request, and the answer is split into one buffer for each partition.
 */
import {
  type Broker,
  fetchV13,
  fetchV14,
  fetchV15,
  fetchV16,
  type fetchV17,
  fetchV17 as latest,
  type Reader,
  ResponseError
} from "@platformatic/kafka"
import type { Aborted } from "./Codec.ts"
import type { Connection } from "./Connection.ts"

/** The request for one partition. */
export interface Wanted {
  readonly topicId: string
  readonly partition: number
  readonly position: number
}

/** A broker's answer for one partition. */
export interface Fetched {
  readonly topicId: string
  readonly partition: number
  /** Kafka's error code; 0 for success. */
  readonly error: number
  readonly highWatermark: number
  readonly aborted: ReadonlyArray<Aborted>
  /** The nearer replica that the leader redirects the consumer to; -1 if there is none. */
  readonly replica: number
  readonly bytes: Buffer | undefined
}

type CreateRequest = typeof fetchV17.createRequest

// from version 13 on, requests name topics by id, so a recreated topic is a different one
const requests = new Map<number, CreateRequest>([
  [13, fetchV13.createRequest],
  [14, fetchV14.createRequest],
  [15, fetchV15.createRequest],
  [16, fetchV16.createRequest],
  [17, latest.createRequest]
])

const fetchKey = 1

/** Parses an answer; its format is the same in all these versions. */
const parse = (_id: number, key: number, version: number, reader: Reader): ReadonlyArray<Fetched> => {
  reader.readInt32()
  const error = reader.readInt16()
  if (error !== 0) throw new ResponseError(key, version, { "/": [error, null] }, undefined)
  reader.readInt32()
  const found: Array<Fetched> = []
  reader.readArray((r) => {
    const topicId = r.readUUID()
    r.readArray((r) => {
      const partition = r.readInt32()
      const error = r.readInt16()
      const highWatermark = Number(r.readInt64())
      r.skip(16)
      const aborted = r.readNullableArray((r) => ({ producerId: r.readInt64(), firstOffset: r.readInt64() })) ?? []
      const replica = r.readInt32()
      const length = r.readUnsignedVarInt() - 1
      const bytes = length > 0 ? r.buffer.slice(r.position, r.position + length) : undefined
      if (length > 0) r.skip(length)
      found.push({ topicId, partition, error, highWatermark, aborted, replica, bytes })
    })
  })
  return found
}

/** The limits of a fetch. */
export interface Limits {
  readonly maximumWait: number
  readonly partitionBytes: number
  readonly read: "committed" | "uncommitted"
  /** Empty to fetch from the leader regardless of racks. */
  readonly rack: string
}

// the client buffers an answer as a whole
const answerBytes = 32 * 1024 * 1024

/** Fetches the next messages of some of a broker's partitions; the broker waits up to `maximumWait` for messages. */
export const fetch = async (
  connection: Connection,
  broker: Broker,
  wanted: ReadonlyArray<Wanted>,
  { maximumWait, partitionBytes, rack, read }: Limits
): Promise<ReadonlyArray<Fetched>> => {
  const version = await connection.version("Fetch")
  const createRequest = requests.get(version)
  if (createRequest === undefined) {
    throw Object.assign(new Error("it needs Kafka 3.1 or newer"), { apiId: "UNSUPPORTED_VERSION" })
  }
  const topics = Array.from(
    Map.groupBy(wanted, ({ topicId }) => topicId),
    ([topicId, partitions]): fetchV17.FetchRequestTopic => ({
      topicId,
      partitions: partitions.map(({ partition, position }) => ({
        partition,
        currentLeaderEpoch: -1,
        fetchOffset: BigInt(position),
        lastFetchedEpoch: -1,
        partitionMaxBytes: partitionBytes
      }))
    })
  )
  const socket = await connection.to(broker)
  return await new Promise((resolve, reject) =>
    socket.send<ReadonlyArray<Fetched>>(
      fetchKey,
      version,
      () => createRequest(maximumWait, 1, answerBytes, read === "committed" ? 1 : 0, 0, -1, topics, [], rack),
      parse,
      true,
      true,
      (error, found) => found === undefined ? reject(error) : resolve(found)
    )
  )
}
