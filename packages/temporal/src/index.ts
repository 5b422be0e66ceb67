/**
 * Temporal as the engine of Millrace's workflows.
 */
export * as Temporal from "./Temporal.ts"
export * as TemporalWorker from "./TemporalWorker.ts"
