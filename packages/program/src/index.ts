/**
 * Programs of several parts: started, restarted and stopped by name.
 */
export * as Program from "./Program.ts"
