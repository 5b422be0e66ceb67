/**
 * The requests to Kafka besides publishing and consuming: topics, groups and their positions. Each client library implements
 * them.
 */

/** The position of the next message for a group in one partition. */
export interface Position {
  readonly partition: number
  readonly position: number
  /** The metadata committed with the position. */
  readonly metadata?: string | null | undefined
}

/** The first and the next position of a partition. */
export interface Bounds {
  readonly partition: number
  readonly low: number
  readonly high: number
}

/** Kafka's description of a group. */
export interface Description {
  readonly state: string
  readonly members: ReadonlyArray<{ readonly clientId: string; readonly host: string }>
}

/** A connection for requests; every call may reject with an error of the client library. */
export interface Cluster {
  /** Describes the cluster; Kafka answers only after authentication. */
  readonly describe: () => Promise<unknown>
  /** Lists the names of all topics, including Kafka's internal ones. */
  readonly topics: () => Promise<ReadonlyArray<string>>
  /** Lists the leader of each partition, -1 if it has none; rejects if the topic does not exist. */
  readonly leaders: (topic: string) => Promise<ReadonlyArray<number>>
  /** Creates a topic; false if it exists. */
  readonly create: (
    topic: string,
    partitions: number | undefined,
    settings: Readonly<Record<string, string>>
  ) => Promise<boolean>
  readonly deleteTopic: (topic: string) => Promise<unknown>
  /** Reads the topic's values of the named settings; settings unknown to Kafka are left out. */
  readonly settings: (topic: string, names: ReadonlyArray<string>) => Promise<ReadonlyMap<string, string | null>>
  readonly bounds: (topic: string) => Promise<ReadonlyArray<Bounds>>
  /** Reads the position of the first message at or after a time in Unix milliseconds; the next position if there is none. */
  readonly at: (topic: string, time: number) => Promise<ReadonlyArray<Position>>
  /** Forgets the known leaders, so the next call fetches them again. */
  readonly refresh: () => Promise<unknown>
  /** Reads the group's committed positions; partitions without one are left out. */
  readonly committed: (group: string, topic: string) => Promise<ReadonlyArray<Position>>
  /** Commits positions for a group without members. */
  readonly commit: (group: string, topic: string, positions: ReadonlyArray<Position>) => Promise<unknown>
  readonly groups: () => Promise<ReadonlyArray<string>>
  readonly describeGroup: (group: string) => Promise<Description>
  /** Lists the topics that a group's members subscribe to; empty if it has no members. */
  readonly readBy: (group: string) => Promise<ReadonlyArray<string>>
  readonly deleteGroup: (group: string) => Promise<unknown>
}
