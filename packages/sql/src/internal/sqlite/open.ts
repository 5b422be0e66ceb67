/**
 * Opens files of SQLite on the thread of the program. Loads Node's SQLite with the first file: a program that uses only
 * PostgreSQL never loads it.
 */
import type { DatabaseSync } from "node:sqlite"

/** Opens a file without waiting for locks: a wait inside SQLite would block the event loop. */
export const openDatabase = (filename: string): DatabaseSync => {
  const { DatabaseSync } = process.getBuiltinModule("node:sqlite")
  return new DatabaseSync(filename, { timeout: 0 })
}
