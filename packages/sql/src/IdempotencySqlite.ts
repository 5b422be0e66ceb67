/**
 * Stores idempotency keys in a SQLite file, for one machine: durable, in a separate thread, and committed in groups.
 */
import { Idempotency, OptionCheck } from "@millrace/core"
import { Config, Duration, Effect, Layer } from "effect"
import { kinds, type Reply, type Request, tags } from "./internal/idempotency/protocol.ts"
import * as Pruning from "./internal/database/pruning.ts"
import * as Shared from "./internal/idempotency/shared.ts"
import type { Failed } from "./internal/sqlite/protocol.ts"
import * as Thread from "./internal/sqlite/Thread.ts"

/** Options of `layer`. */
export interface Options {
  /** The file, created if missing; its folder must exist. It may be the audit store's file. */
  readonly filename: string
  /**
   * `full`: completions survive a loss of power. `normal`: they survive a crash of the process, but a crash of the machine
   * loses up to a second of them. Default: `full`.
   */
  readonly synchronous?: "full" | "normal" | undefined
  /** The most operations of one commit; an integer from 1. Default: 1024. */
  readonly maximumGroup?: number | undefined
  /** How long to wait for a lock that another process holds; from 0. Default: 5 seconds. */
  readonly busyTimeout?: Duration.Input | undefined
  /** How often expired rows are removed; from 10 ms. Default: 10 seconds. */
  readonly pruneEvery?: Duration.Input | undefined
}

/** The defaults of `layer`'s options. */
export const defaults: {
  readonly synchronous: "full"
  readonly maximumGroup: number
  readonly busyTimeout: Duration.Duration
  readonly pruneEvery: Duration.Duration
} = {
  synchronous: "full",
  maximumGroup: 1024,
  busyTimeout: Duration.seconds(5),
  pruneEvery: Duration.seconds(10)
}

const advice: { readonly [Reason in Failed["reason"]]?: string } = {
  Permission: "give this process access to it and its folder",
  NotFound: "make its folder, or give this process access to it",
  ReadOnly: "let this process write to it and its folder",
  Full: "free some space on its disk",
  Busy: "another process holds it: let it end, or wait longer with busyTimeout",
  Corrupt: "it is damaged or no SQLite file: name another, or restore it",
  Lost: "it is opened again when it is next asked"
}

const told = (filename: string) => ({ message, reason }: Failed) =>
  new Idempotency.IdempotencyUnavailable({
    message: `SQLite file ${filename}: ${message}${advice[reason] === undefined ? "" : `; ${advice[reason]}`}`
  })

/** Copies a view's bytes into a buffer of their own: otherwise the whole buffer behind the view would cross to the thread. */
const alone = (bytes: Uint8Array): Uint8Array =>
  bytes.byteLength === bytes.buffer.byteLength ? bytes : new Uint8Array(bytes)

const pack = (operations: ReadonlyArray<Idempotency.Operation>): Thread.Asked<Request> => {
  const numbers = new Float64Array(operations.length * 3)
  const texts: Array<string> = []
  const results: Array<Uint8Array> = []
  let at = 0
  for (const { fingerprint, key, kind, millis, result, token } of operations) {
    numbers[at++] = kinds[kind]
    numbers[at++] = token
    numbers[at++] = millis
    texts.push(Shared.storable(key), Shared.storable(fingerprint))
    if (kind === "complete") results.push(alone(result))
  }
  return { operation: "ask", numbers, texts, results }
}

const unpack = (operations: ReadonlyArray<Idempotency.Operation>, { numbers, results }: Reply): void => {
  let given = 0
  operations.forEach((operation, i) => {
    const [first, second] = [numbers![i * 2]!, numbers![i * 2 + 1]!]
    if (operation.kind !== "claim") return operation.held(first === 1)
    switch (first) {
      case tags.Claimed:
        return operation.claimed({ _tag: "Claimed", token: second })
      case tags.Completed:
        return operation.claimed({ _tag: "Completed", result: results![given++]! })
      case tags.Running:
        return operation.claimed({ _tag: "Running", left: second })
      default:
        return operation.claimed({ _tag: "Reused" })
    }
  })
}

/**
 * Provides a store in a SQLite file.
 *
 * Provides `Idempotency.Store`; fails with an `IdempotencyUnavailable` that tells why the file does not open. Operations of
 * one turn, or those that arrive during a commit, share one commit in a thread, so the event loop neither waits for the
 * disk nor runs SQL. Several processes may share one file, on one machine.
 *
 * The machine's wall clock counts. If the clock is set forward, claims and results end that much earlier, and an owner whose
 * claim has ended changes nothing; if set back, they end that much later, and the claim of a dead owner holds for as long.
 *
 * A failed commit fails only the operations of its group, with an error that advises a remedy; a thread that ends
 * is restarted. The store retries nothing: the messages are retried. Closing the layer finishes pending operations first.
 *
 * Source: https://www.sqlite.org/wal.html and https://www.sqlite.org/autoinc.html
 *
 * **Example** (answers that survive restarts)
 *
 * ```ts
 * import { IdempotencySqlite } from "@millrace/sql"
 *
 * const store = IdempotencySqlite.layer({ filename: "idempotency.db" })
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Idempotency.Store, Idempotency.IdempotencyUnavailable> => {
  const module = "IdempotencySqlite"
  const check = OptionCheck.make(module)
  const { filename, synchronous = defaults.synchronous } = options
  if (filename === "") throw new RangeError(`${module}: filename is needed, and it is empty`)
  check.oneOf("synchronous", synchronous, ["full", "normal"])
  const maximum = check.count("maximumGroup", options.maximumGroup ?? defaults.maximumGroup)
  const busy = check.millis("busyTimeout", options.busyTimeout ?? defaults.busyTimeout, {
    least: 0,
    most: OptionCheck.longestTimer
  })
  const every = check.millis("pruneEvery", options.pruneEvery ?? defaults.pruneEvery, { least: 10 })
  return Layer.effect(
    Idempotency.Store,
    Effect.gen(function*() {
      const thread = yield* Effect.acquireRelease(
        Effect.sync(() =>
          Thread.make<Request, Reply>(
            import.meta.url,
            "./internal/idempotency/worker",
            { filename, synchronous, busy },
            (asked) => asked.operation === "ask" ? [asked.numbers.buffer] : []
          )
        ),
        (thread) => thread.close
      )
      const failed = told(filename)
      yield* Effect.mapError(thread.open, failed)
      yield* Pruning.pruning(
        "Idempotency",
        every,
        Effect.map(thread.ask({ operation: "prune", most: Pruning.most }), ({ removed }) => removed ?? 0)
      )
      return yield* Idempotency.grouped({
        maximum,
        write: (operations) =>
          Effect.suspend(() =>
            Effect.mapBoth(thread.ask(pack(operations)), {
              onSuccess: (reply) => unpack(operations, reply),
              onFailure: failed
            })
          )
      })
    })
  )
}

const environment = (options: Partial<Options>): Config.Config<Options> =>
  Config.all({
    filename: options.filename === undefined
      ? Config.NonEmptyString("IDEMPOTENCY_SQLITE_FILENAME")
      : Config.succeed(options.filename),
    synchronous: Config.withDefault(
      Config.Literals(["full", "normal"], "IDEMPOTENCY_SQLITE_SYNCHRONOUS"),
      defaults.synchronous
    ),
    maximumGroup: Config.withDefault(Config.Int("IDEMPOTENCY_SQLITE_MAXIMUM_GROUP"), defaults.maximumGroup),
    busyTimeout: Config.withDefault(Config.Duration("IDEMPOTENCY_SQLITE_BUSY_TIMEOUT"), defaults.busyTimeout),
    pruneEvery: Config.withDefault(Config.Duration("IDEMPOTENCY_SQLITE_PRUNE_EVERY"), defaults.pruneEvery)
  })

/**
 * Builds `layer` with options from the environment: `IDEMPOTENCY_SQLITE_FILENAME` (needed), `IDEMPOTENCY_SQLITE_SYNCHRONOUS`
 * (`full`, `normal`), `IDEMPOTENCY_SQLITE_MAXIMUM_GROUP`, `IDEMPOTENCY_SQLITE_BUSY_TIMEOUT` and
 * `IDEMPOTENCY_SQLITE_PRUNE_EVERY` (as `5 seconds`). `options` override the environment.
 *
 * Fails with a `ConfigError` that names the variable, with an `IdempotencyUnavailable` if a value is out of range, or as
 * `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options: Partial<Options> = {}
): Layer.Layer<Idempotency.Store, Idempotency.IdempotencyUnavailable | Config.ConfigError> =>
  Layer.unwrap(Effect.flatMap(environment(options), (found) => Shared.built(() => layer({ ...found, ...options }))))
