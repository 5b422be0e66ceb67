/**
 * Encryption of message bodies for Millrace.
 */
export * as Encryption from "./Encryption.ts"
export * as Keys from "./Keys.ts"
