/**
 * Transactions: several messages, and how far a group has come, become visible together or not at all.
 *
 * What reads them must read what is committed, as consumers here do by default. A handler that publishes by a transaction
 * and is then acknowledged by the engine has its position committed twice, which is harmless.
 */
import type { BrokerError } from "@millrace/core"
import type { Layer } from "effect"
import * as Transaction from "./client/Transaction.ts"
import { transactional } from "./kafkajs/Transactional.ts"

export { KafkaTransaction } from "./client/Transaction.ts"
export type { TransactionOptions } from "./client/Transaction.ts"

/**
 * Transactional publishing by kafkajs as a layer, connected at once.
 *
 * With `after` it promises **at least once**: kafkajs cannot name the member whose positions it moves, so the group is asked for
 * the member just before the commit. `KafkaPlatformatic.layerTransaction` promises exactly once, also for consumers by kafkajs.
 *
 * Fails with a `BrokerError` when an option is bad or Kafka cannot be reached.
 *
 * @category layers
 */
export const layer = (
  options: Transaction.TransactionOptions
): Layer.Layer<Transaction.KafkaTransaction, BrokerError.BrokerError> => Transaction.layer(options, transactional)
