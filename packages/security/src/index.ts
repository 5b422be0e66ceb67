/**
 * Authentication for Millrace.
 */
export * as Jwt from "./Jwt.ts"
