/** Own copies of real servers for tests and examples: started on free ports, killed and restarted at will, gone with the process. */
export * as Kafka from "./Kafka.ts"
export * as Postgres from "./Postgres.ts"
export { type Server, ServerFailed, ServerNotOwned, ServerUnavailable } from "./Server.ts"
