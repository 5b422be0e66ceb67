/**
 * Deliveries without a broker, contract suites for brokers and stores, laws for middlewares, a deterministic simulation kit.
 */
export * as AuditStoreContract from "./AuditStoreContract.ts"
export * as BrokerContract from "./BrokerContract.ts"
export * as Deliveries from "./Deliveries.ts"
export * as HttpConformance from "./HttpConformance.ts"
export * as IdempotencyStoreContract from "./IdempotencyStoreContract.ts"
export * as MiddlewareLaws from "./MiddlewareLaws.ts"
export * as RateLimitStoreContract from "./RateLimitStoreContract.ts"
export * as Simulation from "./Simulation.ts"
export * as TaskStoreContract from "./TaskStoreContract.ts"
