/**
 * Converts a failed statement to a failure class to settle by, and an error text that advises a remedy.
 */
import { Failure } from "@millrace/core"
import { Effect } from "effect"
import { Migrator, SqlError } from "effect/sql"

const classes: { readonly [Tag in SqlError.SqlErrorReason["_tag"]]: Failure.FailureClass } = {
  ConnectionError: "dependency",
  AuthenticationError: "dependency",
  AuthorizationError: "dependency",
  SqlSyntaxError: "dependency",
  UniqueViolation: "permanent",
  ConstraintError: "permanent",
  DeadlockError: "transient",
  SerializationError: "transient",
  LockTimeoutError: "transient",
  StatementTimeoutError: "transient",
  UnknownError: "dependency"
}

const advice: { readonly [Tag in SqlError.SqlErrorReason["_tag"]]?: string } = {
  ConnectionError: "is the database there?",
  AuthenticationError: "check the user and its password",
  AuthorizationError: "grant the user what it needs on the table",
  SqlSyntaxError: "is the table there, made by the layer of this version?",
  DeadlockError: "another transaction locked the same keys in another order: the same will go through again",
  LockTimeoutError: "another transaction holds a lock: the same will go through later"
}

/** A failure as text, class and cause. */
export interface Told {
  readonly message: string
  readonly failure: Failure.FailureClass
  readonly cause: unknown
}

const sqlError = (error: unknown): SqlError.SqlError | undefined =>
  error instanceof SqlError.SqlError
    ? error
    : error instanceof Migrator.MigrationError && error.cause instanceof SqlError.SqlError
    ? error.cause
    : undefined

/** Describes a database error; `where` names the table: `Outbox millrace_outbox`. */
export const told = (where: string, error: SqlError.SqlError | Migrator.MigrationError): Told => {
  const found = sqlError(error)
  if (found === undefined) return { message: `${where}: ${error.message}`, failure: "dependency", cause: error }
  const { _tag, cause, message } = found.reason
  const said = cause instanceof Error && cause.message !== "" ? cause.message : message
  return {
    message: `${where}: ${said ?? _tag}${advice[_tag] === undefined ? "" : `; ${advice[_tag]}`}`,
    failure: classes[_tag],
    cause: error
  }
}

/**
 * Turns a database defect into a failure: a transaction that lost its connection cannot roll back and dies, but for its caller
 * the database has failed, as it does between transactions.
 */
export const typed = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError.SqlError, R> =>
  Effect.catchCause(effect, (cause): Effect.Effect<never, E | SqlError.SqlError> => {
    for (const reason of cause.reasons) {
      if (reason._tag === "Die" && Failure.isInstance(reason.defect, SqlError.SqlError)) {
        return Effect.fail(reason.defect)
      }
    }
    return Effect.failCause(cause)
  })
