/**
 * Millrace stores on SQLite and PostgreSQL.
 */
export * as AuditPostgres from "./AuditPostgres.ts"
export * as AuditSqlite from "./AuditSqlite.ts"
export * as IdempotencyPostgres from "./IdempotencyPostgres.ts"
export * as IdempotencySqlite from "./IdempotencySqlite.ts"
export * as Inbox from "./Inbox.ts"
export * as Outbox from "./Outbox.ts"
export * as OutboxRelay from "./OutboxRelay.ts"
export * as PostgresConnection from "./PostgresConnection.ts"
export * as RateLimitPostgres from "./RateLimitPostgres.ts"
export * as RateLimitSqlite from "./RateLimitSqlite.ts"
export * as SqlHealth from "./SqlHealth.ts"
export * as SqliteClient from "./SqliteClient.ts"
export * as TaskStorePostgres from "./TaskStorePostgres.ts"
