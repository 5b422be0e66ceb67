/**
 * Contract suites for brokers and stores, laws for middlewares, and a deterministic simulation kit.
 */
export * as AuditStoreContract from "./AuditStoreContract.ts"
export * as MiddlewareLaws from "./MiddlewareLaws.ts"
export * as BrokerContract from "./BrokerContract.ts"
export * as Simulation from "./Simulation.ts"
