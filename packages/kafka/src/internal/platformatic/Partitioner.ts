/**
 * Chooses partitions as Kafka's Java clients and kafkajs do, so messages with one key share a partition, whichever client
 * publishes them.
 */
import { murmur2 } from "@platformatic/kafka"

/**
 * Makes a partitioner: murmur2 of the key, round robin without a key. The client takes the result modulo the number of
 * partitions.
 */
export const partitioner = () => {
  const turns = new Map<string, number>()
  return ({ topic }: { readonly topic: string }, key: Buffer | undefined): number => {
    if (key !== undefined) return murmur2(key) & 0x7fff_ffff
    const turn = turns.get(topic) ?? 0
    turns.set(topic, (turn + 1) & 0x7fff_ffff)
    return turn
  }
}
