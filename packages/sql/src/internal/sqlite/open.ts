/**
 * Opens files of SQLite on the thread of the program. Node's SQLite is loaded when the first file is opened: a program that uses
 * PostgreSQL alone never loads it.
 */
import type { DatabaseSync } from "node:sqlite"

/** Opens a file without waiting for locks: a wait inside SQLite would stop the event loop. */
export const openDatabase = (filename: string): DatabaseSync => {
  const { DatabaseSync } = process.getBuiltinModule("node:sqlite")
  return new DatabaseSync(filename, { timeout: 0 })
}
