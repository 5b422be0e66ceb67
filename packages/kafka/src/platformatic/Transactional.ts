/**
 * Transactions by the client's producer.
 */
import type { BrokerError } from "@millrace/core"
import { Consumer, Producer } from "@platformatic/kafka"
import { Effect, type Scope } from "effect"
import type { Settings } from "../client/Options.ts"
import type { Offsets, Transactional } from "../client/Transaction.ts"
import { producerOptions, toMessage } from "./Producing.ts"
import { close, open, optionsOf, type Wire } from "./Wire.ts"

/** Takes a consumer for the group that it names; it joins nothing, and is closed after. */
const withConsumer = async (
  settings: Settings,
  groupId: string,
  use: (consumer: Consumer) => Promise<unknown>
): Promise<void> => {
  const consumer = new Consumer({ ...optionsOf(settings), groupId })
  try {
    await use(consumer)
  } finally {
    await consumer.close()
  }
}

const sendOffsets = async (
  settings: Settings,
  wire: Wire,
  transaction: Awaited<ReturnType<Producer["beginTransaction"]>>,
  { consumerGroupId, topics }: Offsets
): Promise<void> => {
  await withConsumer(settings, consumerGroupId, (consumer) => transaction.addConsumer(consumer))
  const { coordinators: [found] } = await wire.ask("FindCoordinator", undefined, 0, [consumerGroupId])
  // the group's own members are not asked: which of them has read a message does not matter to its position
  const metadata = {
    consumer: { groupId: consumerGroupId, generationId: -1, memberId: "", coordinatorId: found!.nodeId }
  }
  for (const { partitions, topic } of topics) {
    for (const { offset, partition } of partitions) {
      // of a message the client reads these and no more, and commits the position behind it
      const message = { topic, partition, offset: BigInt(offset) - 1n, metadata }
      await transaction.addOffset(message as unknown as Parameters<typeof transaction.addOffset>[0])
    }
  }
}

/** The client's transactional producers. */
export const transactional = (
  settings: Settings,
  transactionalId: string
): Effect.Effect<() => Transactional, BrokerError.BrokerError, Scope.Scope> =>
  Effect.map(open(settings), (wire) => () => {
    const producer = new Producer<Buffer, Buffer, Buffer, Buffer>({ ...producerOptions(settings), transactionalId })
    return {
      // a name that is in use elsewhere is taken over at the first transaction
      connect: () => wire.ask("Metadata", undefined, [], false, false),
      begin: async () => {
        const transaction = await producer.beginTransaction( // none yet: the client would ask for the producer 0, and be told that it is fenced
          { producerId: -1n, producerEpoch: -1 }
        )
        return {
          send: (batch) => transaction.send({ messages: batch.map(toMessage), acks: -1 }),
          sendOffsets: (offsets) => sendOffsets(settings, wire, transaction, offsets),
          commit: () => transaction.commit(),
          abort: () => transaction.abort()
        }
      },
      close: close(producer)
    }
  })
