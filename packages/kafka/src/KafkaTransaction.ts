/**
 * Transactions: several messages, and the offsets of a group, become visible together or not at all. `Kafka.layerTransaction` and
 * `KafkaJs.layerTransaction` provide the service; this module loads neither client.
 *
 * Consumers must read committed messages, as they do by default. The engine commits the offset of a handler's message once more
 * after a transaction has moved it, which is harmless.
 */
export { KafkaTransaction } from "./internal/Transaction.ts"
export type { Guarantee, TransactionOptions } from "./internal/Transaction.ts"
