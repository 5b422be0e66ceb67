/**
 * Converts errors of PostgreSQL and its driver to reasons and error texts that advise a remedy.
 */
import { Audit } from "@millrace/core"
import { Migrator, type SqlError } from "effect/sql"
import { NoAnswer } from "../database/statements.ts"

// https://www.postgresql.org/docs/current/errcodes-appendix.html
const byState: { readonly [state: string]: Audit.Reason } = {
  "28000": "Credentials",
  "28P01": "Credentials",
  "3D000": "NotFound",
  "3F000": "NotFound",
  "42501": "Permission",
  "42P01": "NotFound",
  "25006": "ReadOnly",
  "53100": "Full",
  "53300": "Busy",
  "55P03": "Busy",
  "57014": "Busy",
  "40001": "Busy",
  "40P01": "Busy",
  "57P01": "Lost",
  "57P02": "Lost",
  "57P03": "Unreachable"
}

const byTag: { readonly [Tag in SqlError.SqlErrorReason["_tag"]]?: Audit.Reason } = {
  ConnectionError: "Lost",
  AuthenticationError: "Credentials",
  AuthorizationError: "Permission",
  DeadlockError: "Busy",
  SerializationError: "Busy",
  LockTimeoutError: "Busy",
  StatementTimeoutError: "Busy"
}

const advice: { readonly [Reason in Audit.Reason]?: string } = {
  Unreachable: "is it running there, and does a firewall let this program through?",
  Credentials: "check the user, its password, and what pg_hba.conf allows it",
  Permission: "grant the user what it needs on the schema and the table",
  NotFound: "make the database and the schema first; the table is made here",
  ReadOnly: "name the primary server, not a replica",
  Full: "free some space on the server's disk",
  Busy: "the server is at a limit or a lock: the same will go through later",
  Lost: "a new connection is made when it is next needed"
}

const property = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null && name in value
    ? (value as { readonly [name: string]: unknown })[name]
    : undefined

/** The server, for the texts of errors. */
export interface Server {
  /** Its address without user and password. */
  readonly name: string
  /** Whether each connection obtains a new password, so that a refused password is worth a retry. */
  readonly isRenewed: boolean
  /** Why the last request for a password failed; undefined if it succeeded. */
  readonly lastError: () => string | undefined
}

/** The server of a client that the program has made. */
export const theirs: Server = { name: "PostgreSQL", isRenewed: false, lastError: () => undefined }

/** Converts a failed statement to a reason and a message. */
export const read = (
  server: Server,
  error: SqlError.SqlError | Migrator.MigrationError
): { readonly reason: Audit.Reason; readonly message: string } => {
  const found = readStatement(server.name, error)
  const why = found.reason === "Unreachable" || found.reason === "Credentials" ? server.lastError() : undefined
  return why === undefined ? found : { ...found, message: `${found.message}. ${why}` }
}

/** The driver reports this error in the form of a refused option. */
const connectTimeout = "PgConnection: Connection timed out"

const readStatement = (
  where: string,
  error: SqlError.SqlError | Migrator.MigrationError
): { readonly reason: Audit.Reason; readonly message: string } => {
  if (error instanceof Migrator.MigrationError) {
    const inner = error.cause
    return property(inner, "_tag") === "SqlError"
      ? readStatement(where, inner as SqlError.SqlError)
      : { reason: error.kind === "BadState" ? "Invalid" : "Unknown", message: `${where}: ${error.message}` }
  }
  const { cause, message, operation: step } = error.reason
  if (cause instanceof NoAnswer) return { reason: "Unreachable", message: `${where}: ${cause.message}` }
  const state = property(cause, "code")
  const known = typeof state === "string" ? byState[state] : undefined
  // the driver reports invalid options like this: the cause repeats the message, and no server gave it a state
  const isOption = step === "connect" && state === undefined && message !== connectTimeout &&
    message === `PgConnection: ${String(property(cause, "message"))}`
  const tagged = isOption
    ? "Invalid"
    : error.reason._tag === "ConnectionError" && step === "connect"
    ? "Unreachable"
    : byTag[error.reason._tag]
  const reason = known ?? tagged ?? "Unknown"
  const said = cause instanceof Error && cause.message !== "" ? cause.message : message
  return {
    reason,
    message: `${where}: ${said ?? error.reason._tag}${advice[reason] === undefined ? "" : `; ${advice[reason]}`}`
  }
}

/** Makes an audit error of a failed statement. */
export const told =
  (operation: Audit.AuditError["operation"], server: Server) =>
  (error: SqlError.SqlError | Migrator.MigrationError): Audit.AuditError =>
    new Audit.AuditError({
      operation,
      ...read(server, error),
      cause: error instanceof Migrator.MigrationError && property(error.cause, "_tag") === "SqlError"
        ? error.cause
        : error
    })
