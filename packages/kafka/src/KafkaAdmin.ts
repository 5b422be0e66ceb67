/**
 * The service that manages topics and consumer groups. `Kafka.layerAdmin` and `KafkaJs.layerAdmin` provide it; this module
 * loads neither client.
 */
export { KafkaAdmin } from "./internal/Admin.ts"
export type { Group, Progress } from "./internal/Admin.ts"
