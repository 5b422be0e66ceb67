/**
 * The audit trail: one durable row for each message that was handled or published, written before it is acknowledged.
 */
import { Clock, Context, Data, Duration, Effect, Exit, Layer, Schedule } from "effect"
import { tagOf } from "../model/Failure.ts"
import { type Envelope, Message } from "../model/Message.ts"
import type { Outcome } from "../model/Outcome.ts"
import * as Redaction from "../model/Redaction.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Around, Make } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import * as Memory from "./auditMemory.ts"
import * as Text from "./auditText.ts"

/**
 * What became of a message: a consumer's by its outcome, anything else `done` or `failed`.
 */
export type Status = "done" | "retried" | "deadLettered" | "rejected" | "released" | "failed"

/** What is known of one message, before the store gives it an id. */
export interface Entry {
  readonly kind: Envelope["kind"]
  readonly channel: string
  /** Undefined where the message came from no partition. */
  readonly partition: number | undefined
  readonly position: number | undefined
  readonly key: string | undefined
  /** The beginning of the body with its secrets replaced; undefined for a null body, or where none is kept. */
  readonly body: string | undefined
  /** The subscription's name. */
  readonly handler: string | undefined
  /** 1 at the first delivery. */
  readonly attempt: number | undefined
  /** Unix time in milliseconds. */
  readonly startedAt: number
  /** Unix time in milliseconds: `startedAt` and the duration, whatever the wall clock did meanwhile. */
  readonly completedAt: number
  /** Milliseconds of the monotonic clock, from 0, with fractions. */
  readonly duration: number
  readonly status: Status
  readonly errorTag: string | undefined
  readonly errorMessage: string | undefined
}

/** A stored entry. */
export interface Row extends Entry {
  /** Unique in its store. */
  readonly id: string
}

/** Which rows; all conditions hold together. */
export interface Filter {
  /** Completed at this Unix time in milliseconds or later. */
  readonly from?: number | undefined
  /** Completed before this Unix time in milliseconds. */
  readonly to?: number | undefined
  readonly channel?: string | undefined
  readonly status?: Status | undefined
  readonly handler?: string | undefined
}

/** Which rows, in which order, and how many. */
export interface Query extends Filter {
  /** By time of completion, then by the order in which they were appended. Default: `newest` first. */
  readonly order?: "newest" | "oldest" | undefined
  /** An integer from 1 to 10,000. Default: 100. */
  readonly limit?: number | undefined
  /** Goes on where a page ended: its `next`. */
  readonly after?: string | undefined
}

/** Some rows. */
export interface Page {
  readonly rows: ReadonlyArray<Row>
  /** What `after` needs to go on; undefined where there are no more. */
  readonly next: string | undefined
}

/**
 * Why a store failed.
 *
 * - `Unreachable`: no answer at the address
 * - `Credentials`: user, password or certificate refused
 * - `Permission`: the user, or the process, may not do this
 * - `NotFound`: the database or the folder does not exist
 * - `Full`: no space is left
 * - `ReadOnly`: the file or the database takes no writes
 * - `Busy`: locked by somebody else
 * - `Corrupt`: the file is no database, or a damaged one
 * - `Lost`: the connection, or the thread that writes, ended in the middle
 * - `Invalid`: an option or a query that no store can take, or a schema newer than this program
 * - `Unknown`: anything else
 */
export type Reason =
  | "Unreachable"
  | "Credentials"
  | "Permission"
  | "NotFound"
  | "Full"
  | "ReadOnly"
  | "Busy"
  | "Corrupt"
  | "Lost"
  | "Invalid"
  | "Unknown"

/** The audit store failed; class `dependency`, so the message whose row it is comes back. */
export class AuditError extends Data.TaggedError("AuditError")<{
  readonly operation: "open" | "append" | "query" | "count" | "prune"
  readonly reason: Reason
  /** What happened and what to do, with secrets redacted. */
  readonly message: string
  readonly cause?: unknown
}> {
  readonly failure = "dependency" as const
}

/** Keeps audit rows. */
export class Store extends Context.Service<Store, {
  /**
   * Completes when the row is as durable as the store makes it. Rows that are written together get the same effect object.
   * The row is on its way from the call on, whether the effect is run or not.
   */
  readonly append: (entry: Entry) => Effect.Effect<void, AuditError>
  readonly query: (query?: Query) => Effect.Effect<Page, AuditError>
  readonly count: (filter?: Filter) => Effect.Effect<number, AuditError>
  /** Removes the rows completed before a Unix time in milliseconds, and answers how many there were. */
  readonly prune: (options: { readonly before: number }) => Effect.Effect<number, AuditError>
}>()("@millrace/core/Audit/Store") {}

/** Where a row stands in the order of `Query`, as `Page.next` says it. */
export const cursorOf = (row: Row): string => `${row.completedAt}_${row.id}`

/** A query with its defaults, for authors of stores; fails with reason `Invalid` where it is out of range. */
export const readQuery = (query: Query = {}): Effect.Effect<
  {
    readonly order: "newest" | "oldest"
    readonly limit: number
    readonly after: { readonly completedAt: number; readonly id: string } | undefined
  },
  AuditError
> => {
  const invalid = (message: string) => Exit.fail(new AuditError({ operation: "query", reason: "Invalid", message }))
  const { after, limit = 100, order = "newest" } = query
  if (!Number.isInteger(limit) || limit < 1 || limit > 10_000) {
    return invalid(`Audit: limit must be an integer from 1 to 10000, got ${limit}`)
  }
  if (after === undefined) return Exit.succeed({ order, limit, after: undefined })
  const [, completedAt, id] = /^(-?\d+)_(\w+)$/.exec(after) ?? []
  if (completedAt === undefined || id === undefined) {
    return invalid(`Audit: after must be the next of a page, got ${JSON.stringify(after)}`)
  }
  return Exit.succeed({ order, limit, after: { completedAt: Number(completedAt), id } })
}

/** Options of `middleware`. */
export interface Options {
  /**
   * How much of the body is kept: the first `characters` (UTF-16 units, an integer from 1), or none. Default: 500
   * characters. Bytes that are no text are kept as their number, and a null body as nothing.
   */
  readonly body?: "none" | { readonly characters: number } | undefined
  /** What is replaced in the body and in error messages, beside the usual names of secrets. */
  readonly redact?: Redaction.Options | undefined
  /**
   * What becomes of the message when its row cannot be stored. `retry`: it settles by the error's class, `dependency`, so it
   * comes back and its handler runs again. `run`: it settles as if the row were there, and a warning is logged once for each
   * group. Default: `retry`.
   */
  readonly onStoreError?: "retry" | "run" | undefined
}

/** What `middleware` does where an option is not given. */
export const defaults: { readonly body: { readonly characters: number }; readonly onStoreError: "retry" } = {
  body: { characters: 500 },
  onStoreError: "retry"
}

const statuses: { readonly [Tag in Outcome["_tag"]]: Status } = {
  Ack: "done",
  Retry: "retried",
  DeadLetter: "deadLettered",
  Reject: "rejected",
  Release: "released"
}

/** Answers, for each group, one effect that fails no more. */
const lenient = () => {
  let strict: Effect.Effect<void, AuditError> | undefined
  let answer: Effect.Effect<void> = Effect.void
  return (append: Effect.Effect<void, AuditError>): Effect.Effect<void> => {
    if (append === strict) return answer
    if (Eager.isDone(append) && append._tag === "Success") return Exit.void
    let told = false
    strict = append
    return answer = Effect.catch(append, (error) => {
      if (told) return Effect.void
      told = true
      return Effect.logWarning(`Audit: rows were not stored, and their messages go on: ${error.message}`)
    })
  }
}

/**
 * Writes one row for each message, with its final outcome, and holds the message until the row is durable.
 *
 * Types: any message in, the same message on; the `Store` enters R, nothing enters E. A consumer's row says what becomes of the
 * message, a publisher's `done` or `failed`; times are the wall clock's, durations the monotonic clock's. An `Outgoing` that is
 * not encoded yet is shown as JSON.
 *
 * Secrets are replaced before a row is made: fields of the body by name at any depth, the values of secret headers and fields
 * where an error message repeats them. What no name tells (binary or compressed bodies, free text) is for `redact.values` or
 * `body: "none"`.
 *
 * The row holds the outcome of the chain. A hook of another middleware that fails after it sends the message back all the same,
 * and its next delivery adds a row with the next attempt.
 *
 * Errors: an `AuditError` of the store settles the message by its class, `dependency`: it is tried again, unless
 * `onStoreError` is `run`.
 *
 * **Example** (an order's card is replaced, at most 200 characters are kept)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Audit, type Message } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<Uint8Array>) => Effect.succeed(message.payload.length),
 *   Audit.middleware({ body: { characters: 200 }, redact: { fields: ["customer.card"] } })
 * )
 * ```
 *
 * @throws RangeError when `body.characters` is not an integer from 1
 * @category constructors
 */
export const middleware = (options: Options = {}): Around<Envelope, Make<{ requires: Store }>> => {
  const body = options.body ?? defaults.body
  const characters = body === "none" ? 0 : body.characters
  if (body !== "none" && (!Number.isInteger(characters) || characters < 1)) {
    throw new RangeError(`Audit: body.characters must be an integer from 1, got ${characters}`)
  }
  const onStoreError = options.onStoreError ?? defaults.onStoreError
  const redaction = Redaction.make(options.redact)

  const entry = (
    message: Envelope,
    exit: Exit.Exit<unknown, unknown>,
    outcome: Outcome | undefined,
    startedAt: number,
    duration: number
  ): Entry => {
    const delivery = message instanceof Message ? message.delivery : undefined
    const error = Text.errorOf(exit, outcome)
    return {
      kind: message.kind,
      channel: message.channel,
      partition: delivery?.partition,
      position: delivery?.position,
      key: message.key,
      body: characters === 0 ? undefined : Text.bodyText(redaction, message, characters),
      handler: delivery?.origin.handler,
      attempt: delivery?.attempt,
      startedAt,
      completedAt: Math.round(startedAt + duration),
      duration,
      status: outcome !== undefined ? statuses[outcome._tag] : exit._tag === "Success" ? "done" : "failed",
      errorTag: error === undefined ? undefined : tagOf(error),
      errorMessage: error === undefined ? undefined : Text.errorText(redaction, error, message)
    }
  }

  return Middleware.make()({
    name: "Audit",
    stage: "consume",
    shows: { body: body === "none" ? "none" : `${characters} characters`, onStoreError },
    order: [{ outside: "Retry", because: "inside it, every attempt would add a row with the final outcome" }]
  }, (next) => {
    const forgive = onStoreError === "run" ? lenient() : undefined
    return (message): Middleware.Returns<never, Store> =>
      Effect.flatMapEager(Eager.service(Store), (store) =>
        Effect.flatMapEager(Eager.service(Clock.Clock), (clock) => {
          const startedAt = clock.currentTimeMillisUnsafe()
          const started = clock.monotonicTimeNanosUnsafe()
          message.after((exit, outcome) => {
            const duration = Math.max(0, Number(clock.monotonicTimeNanosUnsafe() - started) / 1e6)
            const stored = store.append(entry(message, exit, outcome, startedAt, duration))
            return forgive === undefined ? stored : forgive(stored)
          })
          return next(message)
        }))
  })
}

/** Options of `layerMemory`. */
export interface MemoryOptions {
  /** The most rows; beyond it the oldest goes. An integer from 1. Default: 10,000. */
  readonly capacity?: number | undefined
}

/**
 * A store in memory, for tests and trials: bounded, and gone with the process.
 *
 * @throws RangeError when `capacity` is not an integer from 1
 * @category layers
 */
export const layerMemory = (options: MemoryOptions = {}): Layer.Layer<Store> => {
  const capacity = options.capacity ?? 10_000
  if (!Number.isInteger(capacity) || capacity < 1) {
    throw new RangeError(`Audit.layerMemory: capacity must be an integer from 1, got ${capacity}`)
  }
  return Layer.sync(Store, () => Memory.make(capacity, readQuery, cursorOf))
}

/** Options of `layerRetention`. */
export interface RetentionOptions {
  /** How long rows stay; above 0. */
  readonly keep: Duration.Input
  /** How often the older ones are removed; above 0. Default: 1 hour. */
  readonly every?: Duration.Input | undefined
}

/**
 * Removes old rows for as long as the layer lives, at once and then `every` so often. A round that fails is logged, and the
 * next one makes up for it.
 *
 * **Example** (a month in a memory store)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { Audit } from "@millrace/core"
 *
 * const store = Audit.layerRetention({ keep: "30 days" }).pipe(Layer.provideMerge(Audit.layerMemory()))
 * ```
 *
 * @throws RangeError when a duration is not above 0
 * @category layers
 */
export const layerRetention = (options: RetentionOptions): Layer.Layer<never, never, Store> => {
  const millis = (option: string, input: Duration.Input): number => {
    const found = Duration.toMillis(Duration.fromInputUnsafe(input))
    if (!(found > 0)) {
      throw new RangeError(`Audit.layerRetention: ${option} must be a duration above 0, got ${String(input)}`)
    }
    return found
  }
  const keep = millis("keep", options.keep)
  const every = millis("every", options.every ?? "1 hour")
  return Layer.effectDiscard(Effect.gen(function*() {
    const store = yield* Store
    const round = Effect.flatMap(Clock.currentTimeMillis, (now) => store.prune({ before: now - keep })).pipe(
      Effect.catch((error) => Effect.logWarning(`Audit: old rows were not removed: ${error.message}`))
    )
    yield* Effect.forkScoped(Effect.repeat(round, Schedule.spaced(every)))
  }))
}
