/**
 * Transactions: several messages, and the offsets of a group, become visible together or not at all. `Kafka.layerTransaction` and
 * `KafkaJs.layerTransaction` provide the service; this module loads neither client.
 *
 * Consumers must read committed messages, which is the default. After a transaction has committed the offset of a handler's
 * message, the engine commits that offset once more, which is harmless.
 */
export { KafkaTransaction } from "./internal/Transaction.ts"
export type { Guarantee, TransactionOptions } from "./internal/Transaction.ts"
