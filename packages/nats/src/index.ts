/**
 * Millrace on NATS: core and JetStream.
 */
export * as JetStream from "./JetStream.ts"
export * as Nats from "./Nats.ts"
