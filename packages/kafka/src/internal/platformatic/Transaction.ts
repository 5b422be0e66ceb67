/**
 * Transactions by the client's producer.
 */
import type { BrokerError } from "@millrace/core"
import { Consumer, Producer } from "@platformatic/kafka"
import { Effect, type Scope } from "effect"
import { setTimeout as sleep } from "node:timers/promises"
import * as Errors from "../Errors.ts"
import type { ResolvedOptions } from "../Options.ts"
import type { Offsets, TransactionalProducer, TransactionalProducers } from "../Transaction.ts"
import { producerOptions, toMessage } from "./Publisher.ts"
import { close, type Connection, open, optionsOf } from "./Connection.ts"

/** Runs `use` with a consumer that only carries the group's name: the consumer does not join, and is closed afterwards. */
const withConsumer = async (
  settings: ResolvedOptions,
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

// how long to wait for a heartbeat in flight to bring the next epoch, in milliseconds
const patience = 1000
const pause = 20

/**
 * Whether the epoch or generation is stale: with the protocol "consumer" the epoch may advance while the member keeps the
 * partition.
 */
const isStale = (error: unknown): boolean => {
  const type = Errors.typeOf(error)
  return type === "ILLEGAL_GENERATION" || type === "STALE_MEMBER_EPOCH"
}

const sendOffsets = async (
  settings: ResolvedOptions,
  connection: Connection,
  transaction: Awaited<ReturnType<Producer["beginTransaction"]>>,
  { group, membership, partition, position, topic }: Offsets
): Promise<void> => {
  await withConsumer(settings, group, (consumer) => transaction.addConsumer(consumer))
  const { coordinators: [found] } = await connection.ask("FindCoordinator", undefined, 0, [group])
  for (let waited = 0;; waited += pause) {
    const { generation, memberId } = membership.member()
    const metadata = {
      consumer: { groupId: group, generationId: generation, memberId, coordinatorId: found!.nodeId }
    }
    // the client reads only these fields of a message, and commits the offset after it
    const message = { topic, partition, offset: BigInt(position) - 1n, metadata }
    try {
      await transaction.addOffset(message as unknown as Parameters<typeof transaction.addOffset>[0])
      return
    } catch (error) {
      if (!isStale(error) || !membership.moves || !membership.held() || waited >= patience) throw error
      await sleep(pause)
    }
  }
}

/** The client's transactional producers. */
export const transactional = (
  settings: ResolvedOptions,
  transactionalId: string
): Effect.Effect<TransactionalProducers, BrokerError.BrokerError, Scope.Scope> =>
  Effect.map(open(settings), (connection) => {
    const openOne = (): TransactionalProducer => {
      const producer = new Producer<Buffer, Buffer, Buffer, Buffer>({ ...producerOptions(settings), transactionalId })
      return {
        // a transactional id in use elsewhere is taken over at the first transaction
        connect: () => connection.ask("Metadata", undefined, [], false, false),
        begin: async () => {
          const transaction = await producer.beginTransaction( // no id yet: the client would send producer id 0, and be fenced
            { producerId: -1n, producerEpoch: -1 }
          )
          return {
            send: (batch) => transaction.send({ messages: batch.map(toMessage), acks: -1 }),
            sendOffsets: (offsets) => sendOffsets(settings, connection, transaction, offsets),
            commit: () => transaction.commit(),
            abort: () => transaction.abort()
          }
        },
        close: close(producer)
      }
    }
    return { guarantee: "exactly once", open: openOne }
  })
