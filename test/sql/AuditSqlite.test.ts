import { assert, describe, it } from "@effect/vitest"
import { After, Audit, type Delivery, Outcome, Settlement } from "@millrace/core"
import { AuditSqlite } from "@millrace/sql"
import { AuditStoreContract } from "@millrace/testing"
import { Cause, ConfigProvider, Effect, Exit, Fiber, type Layer } from "effect"
import { execFileSync } from "node:child_process"
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  rmSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { fileURLToPath } from "node:url"
import { afterAll } from "vitest"
import { deliver } from "../core/support.ts"

const folder = mkdtempSync(join(tmpdir(), "millrace-audit-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

let files = 0
const file = (): string => join(folder, `audit-${++files}.db`)

AuditStoreContract.suite("SQLite", AuditSqlite.layer({ filename: file() }), { reopened: "keeps" })
AuditStoreContract.suite(
  "SQLite, small groups that outlive the process only",
  AuditSqlite.layer({ filename: file(), synchronous: "normal", maximumGroup: 7 }),
  { reopened: "keeps" }
)

const entry = AuditStoreContract.entry

/** Files below a folder that this process has open, where the system tells. */
const heldBelow = (place: string): ReadonlyArray<string> => {
  const table = "/proc/self/fd"
  if (!existsSync(table)) return []
  return readdirSync(table).flatMap((descriptor) => {
    try {
      return [readlinkSync(join(table, descriptor))]
    } catch {
      // the one that read the table
      return []
    }
  }).filter((target) => target.startsWith(place))
}

const openError = (layer: Layer.Layer<Audit.Store, Audit.AuditError>) =>
  Effect.flip(Effect.scoped(Effect.provide(Effect.asVoid(Audit.Store), layer)))

/** Appends as an engine does: what becomes of the message, when its row could not be stored. */
const settle = Effect.gen(function*() {
  const message = deliver()
  const exit = Audit.middleware()((_: Delivery) => Effect.void)(message)
  const hooks = yield* Effect.exit(After.run(message.hooks ?? [], yield* Effect.exit(exit), Outcome.Ack))
  return Settlement.ofExit({ entries: {}, table: Settlement.table }, hooks)._tag
})

const fixture = (name: string) => fileURLToPath(new URL(`./fixtures/${name}`, import.meta.url))

describe("AuditSqlite", () => {
  it.live("F6 a file that does not open says why and what to do", () =>
    Effect.gen(function*() {
      const missing = join(folder, "no", "such", "audit.db")
      const noFolder = yield* openError(AuditSqlite.layer({ filename: missing }))
      assert.deepStrictEqual([noFolder.reason, noFolder.operation, noFolder.failure], [
        "NotFound",
        "open",
        "dependency"
      ])
      assert.include(noFolder.message, missing)
      assert.include(noFolder.message, "make its folder")

      const other = file()
      writeFileSync(other, "this is a text, and no database, whatever its name says".repeat(100))
      const noDatabase = yield* openError(AuditSqlite.layer({ filename: other }))
      assert.strictEqual(noDatabase.reason, "Corrupt")
      assert.include(noDatabase.message, "no SQLite file")

      const newer = file()
      const database = new DatabaseSync(newer)
      database.exec(
        "CREATE TABLE audit_versions (version INTEGER PRIMARY KEY) STRICT; INSERT INTO audit_versions VALUES (99)"
      )
      database.close()
      const tooNew = yield* openError(AuditSqlite.layer({ filename: newer }))
      assert.strictEqual(tooNew.reason, "Invalid")
      assert.include(tooNew.message, "update the program")
    }))

  it.live("F6 a file that another program locks is waited for, and then named as busy", () =>
    Effect.gen(function*() {
      const filename = file()
      const database = new DatabaseSync(filename)
      database.exec("BEGIN EXCLUSIVE")
      const busy = yield* openError(AuditSqlite.layer({ filename, busyTimeout: "50 millis" }))
      assert.strictEqual(busy.reason, "Busy")
      assert.include(busy.message, "another process holds it")
      const waiting = yield* Effect.forkChild(
        Effect.scoped(Effect.provide(Effect.asVoid(Audit.Store), AuditSqlite.layer({ filename })))
      )
      yield* Effect.sleep("50 millis")
      assert.isUndefined(waiting.pollUnsafe())
      database.exec("ROLLBACK")
      database.close()
      yield* Fiber.join(waiting)
    }))

  it.live("F6 options out of range are refused, from the environment with a typed error", () =>
    Effect.gen(function*() {
      assert.throws(() => AuditSqlite.layer({ filename: "" }), RangeError, "AuditSqlite.layer: filename")
      assert.throws(() => AuditSqlite.layer({ filename: "a", maximumGroup: 0 }), RangeError, "maximumGroup")
      assert.throws(() => AuditSqlite.layer({ filename: "a", busyTimeout: -1 }), RangeError, "busyTimeout")
      const open = (env: Record<string, string>) =>
        Effect.exit(Effect.scoped(Effect.provide(Effect.asVoid(Audit.Store), AuditSqlite.layerConfig()))).pipe(
          Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env })))
        )
      const said = (exit: Exit.Exit<unknown, unknown>) =>
        Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "opened"
      assert.include(said(yield* open({})), "AUDIT_SQLITE_FILENAME")
      const filename = file()
      assert.include(
        said(yield* open({ AUDIT_SQLITE_FILENAME: filename, AUDIT_SQLITE_SYNCHRONOUS: "off" })),
        "AUDIT_SQLITE_SYNCHRONOUS"
      )
      assert.include(
        said(yield* open({ AUDIT_SQLITE_FILENAME: filename, AUDIT_SQLITE_MAXIMUM_GROUP: "0" })),
        "maximumGroup must be an integer from 1"
      )
      assert.strictEqual(said(yield* open({ AUDIT_SQLITE_FILENAME: filename })), "opened")
    }))

  it.live("X9 a file that takes no more writes fails the row, and its message is not acknowledged", () =>
    Effect.gen(function*() {
      const filename = file()
      yield* Effect.gen(function*() {
        const store = yield* Audit.Store
        yield* store.append(entry())
        assert.strictEqual(yield* settle, "Ack")
        // another program takes the lock, as a backup might
        const database = new DatabaseSync(filename)
        database.exec("BEGIN IMMEDIATE")
        const error = yield* Effect.flip(store.append(entry()))
        assert.deepStrictEqual([error.reason, error.operation], ["Busy", "append"])
        assert.strictEqual(yield* settle, "Retry")
        database.exec("ROLLBACK")
        assert.strictEqual(yield* settle, "Ack")
        database.exec("ALTER TABLE audit RENAME TO gone")
        assert.strictEqual(yield* settle, "Retry")
        database.exec("ALTER TABLE gone RENAME TO audit")
        database.close()
        assert.strictEqual(yield* settle, "Ack")
        assert.strictEqual(yield* store.count(), 4)
      }).pipe(Effect.provide(AuditSqlite.layer({ filename, busyTimeout: "20 millis" })))
    }))

  it.live("X9 a write that the system refuses is a typed error; what was acknowledged is in the file", () =>
    Effect.gen(function*() {
      const filename = file()
      // no file of the child may grow beyond 512 KiB
      const output = execFileSync("/bin/sh", [
        "-c",
        "trap '' XFSZ; ulimit -f 512 && exec \"$@\"",
        "sh",
        process.execPath,
        fixture("fill.ts"),
        filename
      ], { encoding: "utf8" })
      const { stored, error, outcome } = JSON.parse(output) as {
        stored: number
        error: Record<string, string>
        outcome: string
      }
      assert.strictEqual(error["_tag"], "AuditError")
      assert.include(error["message"], filename)
      assert.strictEqual(outcome, "Retry")
      assert.isAbove(stored, 0)
      const database = new DatabaseSync(filename)
      assert.strictEqual(Number(database.prepare("SELECT count(*) AS n FROM audit").get()!["n"]), stored)
      database.close()
    }))

  it.live.skipIf(process.getuid?.() !== 0)(
    "X9 a full disk is named as such, and the row is stored once there is room",
    () =>
      Effect.gen(function*() {
        const disk = join(folder, "disk")
        mkdirSync(disk)
        execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m", "none", disk])
        yield* Effect.addFinalizer(() => Effect.sync(() => execFileSync("umount", ["-l", disk])))
        yield* Effect.gen(function*() {
          const store = yield* Audit.Store
          yield* store.append(entry())
          writeFileSync(join(disk, "other"), "x".repeat(600_000))
          const error = yield* Effect.flip(
            Effect.forever(Effect.suspend(() => store.append(entry({ body: "x".repeat(10_000) }))), {
              disableYield: true
            })
          )
          assert.strictEqual(error.reason, "Full")
          assert.include(error.message, "free some space")
          const before = yield* store.count()
          assert.strictEqual(yield* settle.pipe(Effect.repeat({ until: (outcome) => outcome === "Retry" })), "Retry")
          rmSync(join(disk, "other"))
          assert.strictEqual(yield* settle, "Ack")
          assert.isAtLeast(yield* store.count(), before + 1)
        }).pipe(Effect.provide(AuditSqlite.layer({ filename: join(disk, "audit.db") })))
      }).pipe(Effect.scoped)
  )

  it.live("X9 a thread that ends fails its rows with Lost and is started again", () =>
    Effect.gen(function*() {
      const filename = file()
      yield* Effect.gen(function*() {
        const store = yield* Audit.Store
        yield* store.append(entry())
        // the thread ends at the moment it is asked to commit
        const { Worker } = yield* Effect.promise(() => import("node:worker_threads"))
        const post = Worker.prototype.postMessage
        Worker.prototype.postMessage = function(this: InstanceType<typeof Worker>) {
          void this.terminate()
        }
        const error = yield* Effect.flip(store.append(entry()))
        Worker.prototype.postMessage = post
        assert.strictEqual(error.reason, "Lost")
        assert.include(error.message, "opened again")
        yield* store.append(entry())
        assert.strictEqual(yield* store.count(), 2)
      }).pipe(Effect.provide(AuditSqlite.layer({ filename })))
    }))

  it.live("X9 several stores may write to one file", () =>
    Effect.gen(function*() {
      const layer = AuditSqlite.layer({ filename: file() })
      const write = (channel: string) =>
        Effect.gen(function*() {
          const store = yield* Audit.Store
          for (let i = 0; i < 50; i++) {
            yield* Effect.all([1, 2, 3].map((position) => store.append(entry({ channel, position }))), {
              concurrency: "unbounded"
            })
          }
        }).pipe(Effect.provide(layer, { local: true }))
      yield* Effect.all(["a", "b", "c"].map(write), { concurrency: "unbounded" })
      const count = Effect.flatMap(Audit.Store, (store) => store.count())
      assert.strictEqual(yield* Effect.provide(count, layer), 450)
    }))

  it.live("F6 a file without leave to write is named as such", () =>
    Effect.gen(function*() {
      const place = join(folder, "read-only")
      mkdirSync(place)
      const filename = join(place, "audit.db")
      const isRoot = process.getuid?.() === 0
      if (isRoot) {
        // root may write any file, but not on a disk that takes no writes
        execFileSync("mount", ["-t", "tmpfs", "none", place])
        yield* Effect.addFinalizer(() => Effect.sync(() => execFileSync("umount", ["-l", place])))
      }
      yield* Effect.scoped(Effect.provide(Effect.asVoid(Audit.Store), AuditSqlite.layer({ filename })))
      if (isRoot) execFileSync("mount", ["-o", "remount,ro", place])
      else chmodSync(filename, 0o444)
      const error = yield* openError(AuditSqlite.layer({ filename }))
      // a build that failed has let go of the file
      assert.deepStrictEqual(heldBelow(place), [])
      assert.strictEqual(error.reason, "ReadOnly")
      assert.include(error.message, "let this process write")
    }).pipe(Effect.scoped))
})
