/**
 * Fetching: the client writes the request, and the answer is cut into one piece of memory for each partition.
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

/** What is asked of one partition. */
export interface Wanted {
  readonly topicId: string
  readonly partition: number
  readonly position: number
}

/** What a broker answered for one partition. */
export interface Fetched {
  readonly topicId: string
  readonly partition: number
  /** Kafka's code; 0 where all is well. */
  readonly error: number
  readonly highWatermark: number
  readonly aborted: ReadonlyArray<Aborted>
  /** The replica that the leader sends the consumer to, as it is nearer; -1 where there is none. */
  readonly replica: number
  readonly bytes: Buffer | undefined
}

type CreateRequest = typeof fetchV17.createRequest

// from 13 on, topics are asked for by their ids, so a topic made anew under an old name is another one
const requests = new Map<number, CreateRequest>([
  [13, fetchV13.createRequest],
  [14, fetchV14.createRequest],
  [15, fetchV15.createRequest],
  [16, fetchV16.createRequest],
  [17, latest.createRequest]
])

const fetchKey = 1

/** Reads an answer; all those versions have the same. */
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

/** How a broker is asked. */
export interface Limits {
  readonly maximumWait: number
  readonly partitionBytes: number
  readonly read: "committed" | "uncommitted"
  /** Empty where the leader is asked whatever its rack. */
  readonly rack: string
}

// the client takes an answer in whole
const answerBytes = 32 * 1024 * 1024

/** Asks a broker for what is next in some of its partitions, and waits until there is something, or for `maximumWait`. */
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
