/**
 * The store of idempotency keys in a SQLite file, for one machine: durable, in a thread of its own, and committed in groups.
 */
import { Idempotency, OptionCheck } from "@millrace/core"
import { Config, Duration, Effect, Layer } from "effect"
import { kinds, type Reply, type Request, tags } from "./internal/idempotency/protocol.ts"
import * as Shared from "./internal/idempotency/shared.ts"
import type { Failed } from "./internal/sqlite/protocol.ts"
import * as Thread from "./internal/sqlite/Thread.ts"

/** Options of `layer`. */
export interface Options {
  /** The file, made where it is missing; its folder has to be there. It may be the one of the audit store. */
  readonly filename: string
  /**
   * `full`: what was completed survives the loss of power. `normal`: it survives the end of the process, and up to a second of
   * it is lost with the machine. Default: `full`.
   */
  readonly synchronous?: "full" | "normal" | undefined
  /** The most operations of one commit; an integer from 1. Default: 1024. */
  readonly maximumGroup?: number | undefined
  /** How long to wait for a lock that another process holds; from 0. Default: 5 seconds. */
  readonly busyTimeout?: Duration.Input | undefined
  /** How often what has ended is removed; from 10 ms. Default: 10 seconds. */
  readonly pruneEvery?: Duration.Input | undefined
}

/** What `layer` does where an option is not given. */
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

/** Bytes in a buffer of their own: the whole buffer behind a view would cross to the thread. */
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
 * A store in a SQLite file.
 *
 * Provides `Idempotency.Store`; fails with an `IdempotencyUnavailable` that says why the file does not open. The operations of
 * one turn, or those that came during the last commit, are one commit, made in a thread, so the event loop neither waits for the
 * disk nor runs SQL. Several processes may share one file, on one machine.
 *
 * Time is the machine's wall clock. Where it is set forward, claims and results end so much earlier, and an owner whose claim
 * has ended changes nothing; where it is set back, they end so much later, and a claim whose owner died holds for so long.
 *
 * A commit that fails fails the operations of its group and no others, with a sentence that says what to do; a thread that ends
 * is started again. Nothing is tried again here: their messages are. Closing the layer does what was asked before.
 *
 * Source: https://www.sqlite.org/wal.html and https://www.sqlite.org/autoinc.html
 *
 * **Example** (answers that are kept across restarts)
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
      yield* Shared.pruning(
        every,
        Effect.map(thread.ask({ operation: "prune", most: Shared.most }), ({ removed }) => removed ?? 0)
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
 * As `layer`, with its options from the environment: `IDEMPOTENCY_SQLITE_FILENAME` (needed), `IDEMPOTENCY_SQLITE_SYNCHRONOUS`
 * (`full`, `normal`), `IDEMPOTENCY_SQLITE_MAXIMUM_GROUP`, `IDEMPOTENCY_SQLITE_BUSY_TIMEOUT` and
 * `IDEMPOTENCY_SQLITE_PRUNE_EVERY` (as `5 seconds`). What is given as `options` goes before the environment.
 *
 * Fails with a `ConfigError` that names the variable, with an `IdempotencyUnavailable` where a value is out of range, or as
 * `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options: Partial<Options> = {}
): Layer.Layer<Idempotency.Store, Idempotency.IdempotencyUnavailable | Config.ConfigError> =>
  Layer.unwrap(Effect.flatMap(environment(options), (found) => Shared.built(() => layer({ ...found, ...options }))))
