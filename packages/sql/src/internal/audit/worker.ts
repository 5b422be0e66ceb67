/**
 * The thread of the SQLite audit store: owns the file, and commits one request at a time.
 */
import type { StatementSync } from "node:sqlite"
import { columns } from "./columns.ts"
import { unpack } from "./batch.ts"
import { inTransaction, serve } from "../sqlite/file.ts"
import type { Record, Request } from "../sqlite/protocol.ts"

/** `id` is the row id, in the order of appending; every index ends with it, so pages need no sort. */
const steps: ReadonlyArray<string> = [
  `CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    channel TEXT NOT NULL,
    partition INTEGER,
    position INTEGER,
    key TEXT,
    body TEXT,
    handler TEXT,
    attempt INTEGER,
    started_at INTEGER NOT NULL,
    completed_at INTEGER NOT NULL,
    duration REAL NOT NULL,
    status TEXT NOT NULL,
    error_tag TEXT,
    error_message TEXT
  ) STRICT;
  CREATE INDEX audit_time ON audit (completed_at);
  CREATE INDEX audit_channel ON audit (channel, completed_at);
  CREATE INDEX audit_handler ON audit (handler, completed_at);
  CREATE INDEX audit_trouble ON audit (status, completed_at) WHERE status <> 'done';`
]

// rows of one statement: more gain nothing, and each width needs its own statement
const width = 50

serve<Request>({ name: "audit", steps }, (database) => {
  const row = `(${columns.map(() => "?").join(",")})`
  const insert = (rows: number) =>
    database.prepare(
      `INSERT INTO audit (${columns.join(",")}) VALUES ${Array.from({ length: rows }, () => row).join(",")}`
    )
  const one = insert(1)
  const many = insert(width)
  const queries = new Map<string, StatementSync>()
  const prune = database.prepare(
    "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE completed_at < ? ORDER BY completed_at LIMIT ?)"
  )

  return (request) => {
    switch (request.operation) {
      case "append":
        return inTransaction(database, () => {
          const values = unpack(request.batch)
          let at = 0
          for (; at + width * columns.length <= values.length; at += width * columns.length) {
            many.run(...values.slice(at, at + width * columns.length))
          }
          for (; at < values.length; at += columns.length) one.run(...values.slice(at, at + columns.length))
          return {}
        })
      case "query":
      case "count": {
        let statement = queries.get(request.sql)
        if (statement === undefined) queries.set(request.sql, statement = database.prepare(request.sql))
        // the columns are those of the schema above
        return { rows: statement.all(...request.values) as Array<Record> }
      }
      case "prune":
        return { changed: Number(prune.run(request.before, request.most).changes) }
    }
  }
})
