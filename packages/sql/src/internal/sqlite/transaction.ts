/**
 * Transactions of SQLite. Threads load this file without Effect.
 */
import type { DatabaseSync } from "node:sqlite"

/** Runs `run` in one transaction: commits, or rolls back on an error. */
export const inTransaction = <A>(database: DatabaseSync, run: () => A): A => {
  database.exec("BEGIN IMMEDIATE")
  try {
    const answer = run()
    database.exec("COMMIT")
    return answer
  } catch (error) {
    // a full disk has rolled back already
    if (database.isTransaction) database.exec("ROLLBACK")
    throw error
  }
}
