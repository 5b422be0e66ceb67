/**
 * Shared by the threads of the SQLite stores: opening, migrating and locking a file, answering requests, and mapping SQLite's
 * errors. Free of Effect, so that a thread starts in milliseconds and can run its file unbuilt.
 */
import { accessSync, constants, existsSync } from "node:fs"
import { dirname } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { parentPort, workerData } from "node:worker_threads"
import type { Failed, Open } from "./protocol.ts"
import { inTransaction } from "./transaction.ts"

export { inTransaction }

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

class Newer extends Error {}

const failed = (error: unknown): Failed => {
  const message = error instanceof Error ? error.message : String(error)
  const code = error instanceof Error && "errcode" in error ? Number(error.errcode) & 0xff : undefined
  return {
    reason: error instanceof Newer ? "Invalid" : code === undefined ? "Unknown" : reasons[code] ?? "Unknown",
    message
  }
}

/** Repeats until another process unlocks the file: turning WAL on ignores SQLite's timeout. */
const patiently = (open: Open, run: () => void): void => {
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

const migrate = (database: DatabaseSync, schema: Schema): void =>
  inTransaction(database, () => {
    database.exec(`CREATE TABLE IF NOT EXISTS ${schema.name}_versions (version INTEGER PRIMARY KEY) STRICT`)
    const found = database.prepare(`SELECT coalesce(max(version), 0) AS version FROM ${schema.name}_versions`).get()
    const version = Number(found?.["version"])
    if (version > schema.steps.length) {
      throw new Newer(
        `its ${schema.name} schema is version ${version}, and this program knows ${schema.steps.length}: update the program`
      )
    }
    schema.steps.slice(version).forEach((step, i) => {
      database.exec(step)
      database.prepare(`INSERT INTO ${schema.name}_versions VALUES (?)`).run(version + i + 1)
    })
  })

/** Finds out why a file does not open: SQLite reports only that it cannot, the system tells why. */
const whyNot = (open: Open): Failed["reason"] => {
  const folder = dirname(open.filename)
  try {
    for (const each of [folder, ...existsSync(open.filename) ? [open.filename] : []]) accessSync(each, constants.W_OK)
    return "Unknown"
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined
    return code === "EROFS" ? "ReadOnly" : code === "EACCES" || code === "EPERM" ? "Permission" : "NotFound"
  }
}

/** The tables of one store. */
export interface Schema {
  /** The prefix of its tables' names. */
  readonly name: string
  /**
   * The steps of the schema, oldest first: never change a released step, add the next. The thread applies them
   * itself, because Effect's Migrator would bring a runtime into the thread.
   */
  readonly steps: ReadonlyArray<string>
}

/** Opens the file that the thread was started for, and answers requests one after the other until `close`. */
export const serve = <Q extends { readonly id: number; readonly operation: string }>(
  schema: Schema,
  start: (database: DatabaseSync) => (request: Q) => object
): void => {
  const port = parentPort!
  // passed by the store that starts this thread
  const open = workerData as Open

  const run = (): void => {
    const database = new DatabaseSync(open.filename, { timeout: open.busy })
    patiently(open, () => database.exec("PRAGMA journal_mode = WAL"))
    // FULL: a commit is on the disk when it returns; NORMAL: it survives a crash of the process, not one of the machine
    database.exec(
      `PRAGMA synchronous = ${open.synchronous.toUpperCase()}; PRAGMA wal_autocheckpoint = 4000;`
        // negative means KiB: the pages of several indexes do not fit the 2 MiB of the default
        + "PRAGMA cache_size = -16384"
    )
    migrate(database, schema)
    const answer = start(database)
    port.on("message", (request: Q) => {
      let result: object
      const isLast = request.operation === "close"
      try {
        if (isLast) database.close()
        result = { id: request.id, ...isLast ? {} : answer(request) }
      } catch (error) {
        result = { id: request.id, failed: failed(error) }
      }
      port.postMessage(result)
      if (isLast) port.close()
    })
  }

  try {
    run()
    port.postMessage({ id: 0 })
  } catch (error) {
    const why = failed(error)
    port.postMessage({ id: 0, failed: why.reason === "NotFound" ? { ...why, reason: whyNot(open) } : why })
  }
}
