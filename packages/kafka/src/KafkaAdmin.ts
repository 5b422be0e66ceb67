/**
 * The service that looks after topics and groups, as the broker's own tools do. `Kafka.layerAdmin` and `KafkaJs.layerAdmin`
 * provide it; this module loads neither client.
 */
export { KafkaAdmin } from "./internal/Admin.ts"
export type { Group, Progress } from "./internal/Admin.ts"
