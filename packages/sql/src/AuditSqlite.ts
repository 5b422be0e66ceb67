/**
 * Stores audit rows in a SQLite file, for one machine: durable, in a separate thread, and committed in groups.
 */
import { Audit, Gather, OptionCheck } from "@millrace/core"
import { Config, Duration, Effect, Layer } from "effect"
import * as Rows from "./internal/audit/rows.ts"
import * as Batch from "./internal/audit/batch.ts"
import type { Failed, Reply, Request } from "./internal/sqlite/protocol.ts"
import * as Thread from "./internal/sqlite/Thread.ts"

/** Options of `layer`. */
export interface Options {
  /** The file, created if missing; its folder must exist. */
  readonly filename: string
  /**
   * `full`: acknowledged rows survive a loss of power. `normal`: they survive a crash of the process, but a crash of the
   * machine loses up to a second of them. Default: `full`.
   */
  readonly synchronous?: "full" | "normal" | undefined
  /** The most rows of one commit; an integer from 1. Default: 1024. */
  readonly maximumGroup?: number | undefined
  /** How long to wait for a lock that another process holds; from 0. Default: 5 seconds. */
  readonly busyTimeout?: Duration.Input | undefined
}

/** The defaults of `layer`'s options. */
export const defaults: {
  readonly synchronous: "full"
  readonly maximumGroup: number
  readonly busyTimeout: Duration.Duration
} = { synchronous: "full", maximumGroup: 1024, busyTimeout: Duration.seconds(5) }

const dialect: Rows.Dialect = {
  table: "audit",
  placeholder: () => "?",
  id: (id) => /^\d{1,15}$/.test(id) ? Number(id) : undefined
}

const advice: { readonly [Reason in Audit.Reason]?: string } = {
  Permission: "give this process access to it and its folder",
  NotFound: "make its folder, or give this process access to it",
  ReadOnly: "let this process write to it and its folder",
  Full: "free some space on its disk",
  Busy: "another process holds it: let it end, or wait longer with busyTimeout",
  Corrupt: "it is damaged or no SQLite file: name another, or restore it",
  Lost: "it is opened again when the next row comes"
}

const told = (operation: Audit.AuditError["operation"], filename: string) => ({ message, reason }: Failed) =>
  new Audit.AuditError({
    operation,
    reason,
    message: `SQLite file ${filename}: ${message}${advice[reason] === undefined ? "" : `; ${advice[reason]}`}`
  })

/**
 * Provides a store in a SQLite file.
 *
 * Provides `Audit.Store`; fails with an `AuditError` whose reason tells why the file does not open. Rows of one turn, or rows
 * that arrive during a commit, share one commit in a thread, so the event loop neither waits for the disk nor runs SQL.
 * WAL lets other processes read the file meanwhile, and several processes may write to one file, on one machine.
 *
 * A commit that fails (`Full`, `ReadOnly`, `Busy` …) fails only the rows of its group; a thread that ends fails them with
 * `Lost` and is restarted. Closing the layer commits the gathered rows.
 *
 * Source: https://www.sqlite.org/wal.html and https://www.sqlite.org/pragma.html#pragma_synchronous
 *
 * **Example** (a trail of a month)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { Audit } from "@millrace/core"
 * import { AuditSqlite } from "@millrace/sql"
 *
 * const store = Audit.layerRetention({ keep: "30 days" }).pipe(
 *   Layer.provideMerge(AuditSqlite.layer({ filename: "audit.db" }))
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Audit.Store, Audit.AuditError> => {
  const { filename, synchronous = defaults.synchronous } = options
  if (filename === "") throw new RangeError("AuditSqlite.layer: filename is needed, and it is empty")
  const check = OptionCheck.make("AuditSqlite.layer")
  check.oneOf("synchronous", synchronous, ["full", "normal"])
  const maximumGroup = check.count("maximumGroup", options.maximumGroup ?? defaults.maximumGroup)
  const busy = check.millis("busyTimeout", options.busyTimeout ?? defaults.busyTimeout, {
    least: 0,
    most: OptionCheck.longestTimer
  })
  return Layer.effect(
    Audit.Store,
    Effect.gen(function*() {
      const thread = yield* Effect.acquireRelease(
        Effect.sync(() =>
          Thread.make<Request, Reply>(
            import.meta.url,
            "./internal/audit/worker",
            { filename, synchronous, busy },
            (asked) => asked.operation === "append" ? [asked.batch.numbers.buffer] : []
          )
        ),
        (thread) => thread.close
      )
      yield* Effect.mapError(thread.open, told("open", filename))
      const ask = (operation: Audit.AuditError["operation"], asked: Thread.Asked<Request>) =>
        Effect.mapError(thread.ask(asked), told(operation, filename))
      const gather = yield* Gather.make<Audit.Entry, Audit.AuditError>({
        maximum: maximumGroup,
        write: (entries) =>
          Effect.suspend(() => Effect.asVoid(ask("append", { operation: "append", batch: Batch.pack(entries) })))
      })
      return {
        append: gather.add,
        query: (query) =>
          Rows.query(
            dialect,
            query,
            (statement) => Effect.map(ask("query", { operation: "query", ...statement }), (reply) => reply.rows ?? [])
          ),
        count: (filter) =>
          Effect.map(
            ask("count", { operation: "count", ...Rows.count(dialect, filter) }),
            (reply) => Number(reply.rows?.[0]?.["n"])
          ),
        prune: ({ before }) =>
          Rows.prune(
            Rows.pruned,
            Effect.map(ask("prune", { operation: "prune", before, most: Rows.pruned }), (reply) => reply.changed ?? 0)
          )
      }
    })
  )
}

const environment = (options: Partial<Options>): Config.Config<Options> =>
  Config.all({
    filename: options.filename === undefined
      ? Config.NonEmptyString("AUDIT_SQLITE_FILENAME")
      : Config.succeed(options.filename),
    synchronous: Config.withDefault(
      Config.Literals(["full", "normal"], "AUDIT_SQLITE_SYNCHRONOUS"),
      defaults.synchronous
    ),
    maximumGroup: Config.withDefault(Config.Int("AUDIT_SQLITE_MAXIMUM_GROUP"), defaults.maximumGroup),
    busyTimeout: Config.withDefault(Config.Duration("AUDIT_SQLITE_BUSY_TIMEOUT"), defaults.busyTimeout)
  })

/**
 * Builds `layer` with options from the environment: `AUDIT_SQLITE_FILENAME` (needed), `AUDIT_SQLITE_SYNCHRONOUS` (`full`,
 * `normal`), `AUDIT_SQLITE_MAXIMUM_GROUP`, `AUDIT_SQLITE_BUSY_TIMEOUT` (as `5 seconds`). `options` override the
 * environment.
 *
 * Fails with a `ConfigError` that names the variable, with an `AuditError` of reason `Invalid` if a value is out of range,
 * or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options: Partial<Options> = {}
): Layer.Layer<Audit.Store, Audit.AuditError | Config.ConfigError> =>
  Layer.unwrap(Effect.flatMap(environment(options), (found) => Rows.built(() => layer({ ...found, ...options }))))
