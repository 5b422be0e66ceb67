/**
 * The partition assignment of a group with the classic protocol, the same on either client.
 */

/** A partition, with its topic's name. */
export interface Assigned {
  readonly topic: string
  readonly partition: number
}

/** The name of the assignment strategy that members of either client agree on: kafkajs's own name for round robin. */
export const assigner = "RoundRobinAssigner"

/** Assigns partitions round robin among the members that subscribe to the topic. */
export const deal = (
  members: ReadonlyArray<{ readonly memberId: string; readonly topics: ReadonlyArray<string> }>,
  counts: ReadonlyMap<string, number>
): ReadonlyMap<string, ReadonlyArray<Assigned>> => {
  const sorted = members.toSorted((a, b) => a.memberId < b.memberId ? -1 : 1)
  const dealt = new Map(sorted.map(({ memberId }) => [memberId, new Array<Assigned>()]))
  let turn = 0
  for (const topic of Array.from(counts.keys()).sort()) {
    const readers = sorted.filter(({ topics }) => topics.includes(topic))
    for (let partition = 0; readers.length > 0 && partition < counts.get(topic)!; partition++) {
      dealt.get(readers[turn++ % readers.length]!.memberId)!.push({ topic, partition })
    }
  }
  return dealt
}
