/**
 * Authentication for Millrace.
 */
export * as ApiKey from "./ApiKey.ts"
export * as Hmac from "./Hmac.ts"
export * as Jwt from "./Jwt.ts"
