/**
 * What every part of this package asks of a Kafka beside publishing and consuming: topics, groups and their positions. One for
 * each client library.
 */

/** Where a group is, in one partition: the position of the next message. */
export interface Position {
  readonly partition: number
  readonly position: number
  /** What was committed beside it. */
  readonly metadata?: string | null | undefined
}

/** The first and the next position of a partition. */
export interface Bounds {
  readonly partition: number
  readonly low: number
  readonly high: number
}

/** A group as Kafka describes it. */
export interface Description {
  readonly state: string
  readonly members: ReadonlyArray<{ readonly clientId: string; readonly host: string }>
}

/** A connection for asking; every call may reject with an error of the client library. */
export interface Cluster {
  /** Who leads: an answer that needs the user to have logged in. */
  readonly describe: () => Promise<unknown>
  /** Names of all topics, Kafka's own too. */
  readonly topics: () => Promise<ReadonlyArray<string>>
  /** The leader of each partition, -1 where it has none; rejects where there is no such topic. */
  readonly leaders: (topic: string) => Promise<ReadonlyArray<number>>
  /** Makes a topic; false where it exists. */
  readonly create: (
    topic: string,
    partitions: number | undefined,
    settings: Readonly<Record<string, string>>
  ) => Promise<boolean>
  readonly deleteTopic: (topic: string) => Promise<unknown>
  /** The topic's values of the named settings, without those that Kafka does not know. */
  readonly settings: (topic: string, names: ReadonlyArray<string>) => Promise<ReadonlyMap<string, string | null>>
  readonly bounds: (topic: string) => Promise<ReadonlyArray<Bounds>>
  /** The position of the first message of that time or later, in Unix milliseconds; the next position where there is none. */
  readonly at: (topic: string, time: number) => Promise<ReadonlyArray<Position>>
  /** Forgets who leads, so that the next call asks again. */
  readonly refresh: () => Promise<unknown>
  /** Where the group is, in those partitions that it has committed. */
  readonly committed: (group: string, topic: string) => Promise<ReadonlyArray<Position>>
  /** Moves a group that nobody is a member of. */
  readonly commit: (group: string, topic: string, positions: ReadonlyArray<Position>) => Promise<unknown>
  readonly groups: () => Promise<ReadonlyArray<string>>
  readonly describeGroup: (group: string) => Promise<Description>
  /** The topics that the members of a group read; none where it has no members. */
  readonly readBy: (group: string) => Promise<ReadonlyArray<string>>
  readonly deleteGroup: (group: string) => Promise<unknown>
}
