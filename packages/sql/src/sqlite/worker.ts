/**
 * The thread of the SQLite audit store: it owns the file, and commits one request at a time. It knows no Effect, so that it
 * is there in milliseconds and its file can be run as it is.
 */
import { accessSync, constants, existsSync } from "node:fs"
import { dirname } from "node:path"
import { DatabaseSync, type StatementSync } from "node:sqlite"
import { parentPort, workerData } from "node:worker_threads"
import { columns } from "../columns.ts"
import { unpack } from "./batch.ts"
import type { Failed, Open, Record, Reply, Request } from "./protocol.ts"

/**
 * The steps of the schema, oldest first: one that was released is never changed, the next is added. They are applied here and
 * not by Effect's Migrator, which would bring a runtime into the thread.
 *
 * `id` is the row id, in the order of appending; every index ends with it, so pages need no sort.
 */
const migrations: ReadonlyArray<string> = [
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

const versions = "audit_versions"

// https://www.sqlite.org/rescode.html
const reasons: { readonly [code: number]: Failed["reason"] } = {
  3: "Permission",
  5: "Busy",
  6: "Busy",
  8: "ReadOnly",
  11: "Corrupt",
  13: "Full",
  14: "NotFound",
  23: "Permission",
  26: "Corrupt"
}

const failed = (error: unknown): Failed => {
  const message = error instanceof Error ? error.message : String(error)
  const code = error instanceof Error && "errcode" in error ? Number(error.errcode) & 0xff : undefined
  return {
    reason: error instanceof Newer ? "Invalid" : code === undefined ? "Unknown" : reasons[code] ?? "Unknown",
    message
  }
}

class Newer extends Error {}

const port = parentPort!
// the store that starts this thread passes it
const open = workerData as Open

const reply = (answer: Reply): void => port.postMessage(answer)

/** Until another process lets go of the file: turning WAL on does not wait by itself. */
const patiently = (run: () => void): void => {
  const pause = new Int32Array(new SharedArrayBuffer(4))
  for (let waited = 0;; waited += 10) {
    try {
      return run()
    } catch (error) {
      if (failed(error).reason !== "Busy" || waited >= open.busy) throw error
      Atomics.wait(pause, 0, 0, 10)
    }
  }
}

const inTransaction = <A>(database: DatabaseSync, run: () => A): A => {
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

const migrate = (database: DatabaseSync): void =>
  inTransaction(database, () => {
    database.exec(`CREATE TABLE IF NOT EXISTS ${versions} (version INTEGER PRIMARY KEY) STRICT`)
    const found = database.prepare(`SELECT coalesce(max(version), 0) AS version FROM ${versions}`).get()
    const version = Number(found?.["version"])
    if (version > migrations.length) {
      throw new Newer(
        `its audit schema is version ${version}, and this program knows ${migrations.length}: update the program`
      )
    }
    migrations.slice(version).forEach((step, i) => {
      database.exec(step)
      database.prepare(`INSERT INTO ${versions} VALUES (?)`).run(version + i + 1)
    })
  })

// rows of one statement: more gain nothing, and each width is a statement of its own
const width = 50

const start = (): void => {
  const database = new DatabaseSync(open.filename, { timeout: open.busy })
  patiently(() => database.exec("PRAGMA journal_mode = WAL"))
  // FULL: a commit is on the disk when it returns; NORMAL: it survives a crash of the process, not one of the machine
  database.exec(
    `PRAGMA synchronous = ${open.synchronous.toUpperCase()}; PRAGMA wal_autocheckpoint = 4000;`
      // KiB, as it is negative: the pages of four indexes do not fit the 2 MiB of the default
      + "PRAGMA cache_size = -16384"
  )
  migrate(database)

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

  const answer = (request: Request): Omit<Reply, "id"> => {
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
      case "close":
        database.close()
        return {}
    }
  }

  port.on("message", (request: Request) => {
    let result: Reply
    try {
      result = { id: request.id, ...answer(request) }
    } catch (error) {
      result = { id: request.id, failed: failed(error) }
    }
    reply(result)
    if (request.operation === "close") port.close()
  })
}

/** SQLite says of a file only that it cannot be opened; the system says why. */
const whyNot = (): Failed["reason"] => {
  const folder = dirname(open.filename)
  try {
    for (const each of [folder, ...existsSync(open.filename) ? [open.filename] : []]) accessSync(each, constants.W_OK)
    return "Unknown"
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined
    return code === "EROFS" ? "ReadOnly" : code === "EACCES" || code === "EPERM" ? "Permission" : "NotFound"
  }
}

try {
  start()
  reply({ id: 0 })
} catch (error) {
  const why = failed(error)
  reply({ id: 0, failed: why.reason === "NotFound" ? { ...why, reason: whyNot() } : why })
}
