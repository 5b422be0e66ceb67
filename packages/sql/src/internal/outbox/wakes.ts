/**
 * Wakes the relays of the same program after a commit, without asking the database.
 */
import type { SqlClient } from "effect/sql"

// a client and its copies without transforms have one transaction service
const relays = new WeakMap<object, Set<() => void>>()

/** Registers a relay; the returned function removes it. */
export const add = (sql: SqlClient.SqlClient, wake: () => void): () => void => {
  const found = relays.get(sql.transactionService) ?? new Set()
  relays.set(sql.transactionService, found)
  found.add(wake)
  return () => void found.delete(wake)
}

/** Wakes the relays that share the client. */
export const wake = (sql: SqlClient.SqlClient): void => relays.get(sql.transactionService)?.forEach((each) => each())
