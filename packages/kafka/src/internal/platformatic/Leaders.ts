/**
 * The leaders of partitions and the ids of topics, as last fetched.
 */
import type { BrokerError } from "@millrace/core"
import { Effect, Schedule } from "effect"
import type { Broker, metadataV12 } from "@platformatic/kafka"
import { ProtocolError } from "@platformatic/kafka"
import * as Errors from "../Errors.ts"
import type { ResolvedOptions } from "../Options.ts"
import { answerOf, type Connection } from "./Connection.ts"

/** A topic: its id, and the leader of each partition, -1 if there is none. */
export interface Topic {
  readonly id: string
  readonly leaders: ReadonlyArray<number>
}

/** The cluster's metadata of topics. */
export interface Found {
  readonly brokers: ReadonlyMap<number, Broker>
  readonly controller: number
  readonly topics: ReadonlyMap<string, Topic>
}

/**
 * Fetches the metadata of topics, or of all topics; rejects for the first requested topic with an error. Partitions may be
 * without a leader.
 */
export const find = async (
  connection: Connection,
  topics: ReadonlyArray<string> | null,
  create: boolean
): Promise<Found> => {
  let answer: metadataV12.MetadataResponse
  try {
    answer = await connection.ask("Metadata", undefined, topics === null ? null : Array.from(topics), create, false)
  } catch (error) {
    const partly = answerOf<metadataV12.MetadataResponse>(error)
    if (partly === undefined) throw error
    answer = partly
  }
  const found = new Map<string, Topic>()
  for (const { errorCode, name, partitions, topicId } of answer.topics) {
    // a topic without a name is being deleted
    if (typeof name !== "string") continue
    if (errorCode !== 0) {
      if (topics === null) continue
      throw new ProtocolError(errorCode)
    }
    const leaders = new Array<number>(partitions.length).fill(-1)
    for (const { errorCode, leaderId, partitionIndex } of partitions) {
      leaders[partitionIndex] = errorCode === 0 ? leaderId : -1
    }
    found.set(name, { id: topicId, leaders })
  }
  return {
    brokers: new Map(answer.brokers.map(({ host, nodeId, port }) => [nodeId, { host, port }])),
    controller: answer.controllerId,
    topics: found
  }
}

// a topic that is being created has no partitions for a moment
const coming = new Set(["LEADER_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PARTITION"])

const every = Schedule.spaced("50 millis")

/** The metadata of a membership's topics, fetched again when leaders have moved. */
export class Leaders {
  private readonly settings: ResolvedOptions
  private readonly connection: Connection
  private readonly topics: ReadonlyArray<string>
  private found: Found | undefined

  constructor(settings: ResolvedOptions, connection: Connection, topics: ReadonlyArray<string>) {
    this.settings = settings
    this.connection = connection
    this.topics = topics
  }

  private ask(create: boolean): Effect.Effect<Found, BrokerError.BrokerError> {
    const channel = this.topics.join(", ")
    return Effect.map(
      Errors.attempt(this.settings.place, "consume", () => find(this.connection, this.topics, create), { channel }),
      (found) => this.found = found
    )
  }

  /** Fetches the current metadata. */
  get refresh(): Effect.Effect<Found, BrokerError.BrokerError> {
    return this.ask(false)
  }

  /** Fetches the metadata for the first time; a missing topic is refused, or created and waited for. */
  get start(): Effect.Effect<Found, BrokerError.BrokerError> {
    if (this.settings.missingTopics === "refuse") return this.ask(false)
    return Effect.retry(this.ask(true), {
      while: (error) => coming.has(Errors.typeOf(error.cause) ?? ""),
      schedule: every,
      times: 100
    })
  }

  get known(): Effect.Effect<Found, BrokerError.BrokerError> {
    return Effect.suspend(() => this.found === undefined ? this.refresh : Effect.succeed(this.found))
  }

  /** Finds the leader of a partition, as last fetched; -1 if there is none. */
  leader(topic: string, partition: number): number {
    return this.found?.topics.get(topic)?.leaders[partition] ?? -1
  }

  broker(node: number): Broker | undefined {
    return this.found?.brokers.get(node)
  }
}
