/**
 * Partitions as Kafka's Java clients and kafkajs choose them, so that messages of one key meet whoever writes them.
 */
import { murmur2 } from "@platformatic/kafka"

/** Where a message goes: by murmur2 of its key, in turn without one. The client takes the remainder by the partitions. */
export const partitioner = () => {
  const turns = new Map<string, number>()
  return ({ topic }: { readonly topic: string }, key: Buffer | undefined): number => {
    if (key !== undefined) return murmur2(key) & 0x7fff_ffff
    const turn = turns.get(topic) ?? 0
    turns.set(topic, (turn + 1) & 0x7fff_ffff)
    return turn
  }
}
