/**
 * Millrace stores on SQLite and PostgreSQL.
 */
export * as AuditPostgres from "./AuditPostgres.ts"
export * as AuditSqlite from "./AuditSqlite.ts"
