/**
 * How a group by the classic protocol divides its partitions, whichever client its leader runs on.
 */

/** A partition by the name of its topic. */
export interface Assigned {
  readonly topic: string
  readonly partition: number
}

/** The name under which members of either client agree on how partitions are dealt: kafkajs's own for taking turns. */
export const assigner = "RoundRobinAssigner"

/** Deals partitions in turn, each to a member that asked for its topic. */
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
