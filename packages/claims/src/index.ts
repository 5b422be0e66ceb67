/**
 * The claim check: large bodies in a store, references in messages.
 */
export * as ClaimFile from "./ClaimFile.ts"
export * as Claims from "./Claims.ts"
export * as ClaimS3 from "./ClaimS3.ts"
export * as ClaimSql from "./ClaimSql.ts"
export * as ClaimStore from "./ClaimStore.ts"
