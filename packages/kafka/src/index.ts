/**
 * Millrace on Apache Kafka by @platformatic/kafka. `@millrace/kafka/KafkaJs` has the same API by kafkajs.
 */
export * as Kafka from "./Kafka.ts"
export * as KafkaAdmin from "./KafkaAdmin.ts"
export * as KafkaTransaction from "./KafkaTransaction.ts"
