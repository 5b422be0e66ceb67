/**
 * Own copies of real servers for tests and examples: started on free ports, killed and restarted at will, ended with the
 * process.
 */
export * as Apicurio from "./Apicurio.ts"
export * as Certificates from "./Certificates.ts"
export * as Kafka from "./Kafka.ts"
export * as KafkaCluster from "./KafkaCluster.ts"
export * as Keycloak from "./Keycloak.ts"
export * as Mosquitto from "./Mosquitto.ts"
export * as Nats from "./Nats.ts"
export * as Postgres from "./Postgres.ts"
export * as RabbitMq from "./RabbitMq.ts"
export * as Redis from "./Redis.ts"
export * as RedisCluster from "./RedisCluster.ts"
export * as RedisSentinel from "./RedisSentinel.ts"
export * as S3Proxy from "./S3Proxy.ts"
export { type Server, ServerFailed, ServerNotOwned, ServerUnavailable } from "./Server.ts"
export * as Temporal from "./Temporal.ts"
