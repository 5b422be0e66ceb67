/**
 * The audit trail: one durable row for each handled or published message, written before the message is acknowledged.
 */
import { Clock, Effect, Exit } from "effect"
import { messageOf, tagOf } from "../message/Failure.ts"
import { type Envelope, Message } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import type { Outcome } from "../message/Outcome.ts"
import * as Redaction from "../telemetry/Redaction.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Around, FullConfig } from "../pipeline/Handler.ts"
import * as Lost from "../telemetry/Lost.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import { type AuditError, AuditStore, type Entry, type Status } from "./audit/store.ts"
import * as Text from "./audit/text.ts"

export { layerMemory, type MemoryOptions } from "./audit/memory.ts"
export { layerRetention, type RetentionOptions } from "./audit/retention.ts"
export {
  AuditError,
  AuditStore as Store,
  cursorOf,
  type Entry,
  type Filter,
  type Page,
  type Query,
  readQuery,
  type Reason,
  type Row,
  type Status
} from "./audit/store.ts"

/** Options of `middleware`. */
export interface Options {
  /**
   * How much of the body is kept: the first `characters` (UTF-16 units, an integer from 1), or none. Default: 500
   * characters. Of binary bodies the row keeps the number of bytes, of a null body nothing.
   */
  readonly body?: "none" | { readonly characters: number } | undefined
  /** Values to redact in the body and in error messages, beside the usual names of secrets. */
  readonly redact?: Redaction.Options | undefined
  /**
   * The handling of a message whose row cannot be stored; either is logged, once for each group. `retry`: the message
   * returns to its source and its handler runs again 5 seconds later, until the row is stored. `run`: the message settles
   * as if the row were stored. Default: `retry`.
   */
  readonly onStoreError?: "retry" | "run" | undefined
}

/** The defaults of `middleware`. */
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

/** Logs a failed group of rows once, by one effect for the group; with `run` the effect does not fail. */
const telling = (onStoreError: "retry" | "run") => {
  let strict: Effect.Effect<void, AuditError> | undefined
  let answer: Effect.Effect<void, AuditError> = Effect.void
  return (append: Effect.Effect<void, AuditError>): Effect.Effect<void, AuditError> => {
    if (append === strict) return answer
    if (Eager.isDone(append) && append._tag === "Success") return Exit.void
    let told = false
    const tell = (error: AuditError) =>
      Effect.suspend(() => {
        if (told) return Effect.void
        told = true
        return onStoreError === "run"
          ? said(Effect.logWarning(`Audit: rows were not stored, and their messages go on: ${messageOf(error)}`))
          : said(Effect.logError(`Audit: rows were not stored, and their messages wait for it: ${messageOf(error)}`))
      })
    strict = append
    return answer = onStoreError === "run" ? Effect.catch(append, tell) : Effect.tapError(append, tell)
  }
}

/** A text of a row; if the program's own patterns or values throw, the row is written without it. */
const textOf = (make: () => string | undefined): string | undefined => {
  try {
    return make()
  } catch (defect) {
    Lost.tell("Audit", defect)
    return undefined
  }
}

const said = (line: Effect.Effect<void>): Effect.Effect<void> => Lost.quietly("A logger", line)

/**
 * Writes one row for each message, with its final outcome, and holds the message until the row is durable.
 *
 * Types: any message in, the same message on; the `Store` enters R, nothing enters E. A consumer's row holds the outcome
 * of the message, a publisher's `done` or `failed`; times are the wall clock's, durations the monotonic clock's. An
 * `Outgoing` that is not encoded yet is shown as JSON.
 *
 * Secrets are replaced before a row is made: fields of the body by name at any depth, and the values of secret headers
 * and fields that an error message repeats. Use `redact.values` or `body: "none"` for secrets that no name identifies (in
 * binary or compressed bodies, free text).
 *
 * The row holds the outcome of the chain. If a hook of another middleware fails after it, the message is redelivered
 * anyway, and its next delivery adds a row with the next attempt.
 *
 * Errors: an `AuditError` of the store returns the message to its source, and its handler runs again 5 seconds later;
 * this is logged, once for each group, and repeats until the row is stored, unless `onStoreError` is `run`.
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
export const middleware = (options: Options = {}): Around<Envelope, FullConfig<{ requires: AuditStore }>> => {
  const body = options.body ?? defaults.body
  const check = OptionCheck.make("Audit")
  const characters = body === "none" ? 0 : check.count("body.characters", body.characters)
  const onStoreError = check.oneOf("onStoreError", options.onStoreError ?? defaults.onStoreError, ["retry", "run"])
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
      body: characters === 0 ? undefined : textOf(() => Text.bodyText(redaction, message, characters)),
      handler: delivery?.origin.handler,
      attempt: delivery?.attempt,
      startedAt,
      completedAt: Math.round(startedAt + duration),
      duration,
      status: outcome !== undefined ? statuses[outcome._tag] : exit._tag === "Success" ? "done" : "failed",
      errorTag: error === undefined ? undefined : tagOf(error),
      errorMessage: error === undefined ? undefined : textOf(() => Text.errorText(redaction, error, message))
    }
  }

  return Middleware.make()({
    name: "Audit",
    stage: "consume",
    inBatch: "each",
    shows: { body: body === "none" ? "none" : `${characters} characters`, onStoreError },
    order: [{ outside: "Retry", because: "inside it, every attempt would add a row with the final outcome" }]
  }, (next) => {
    const tell = telling(onStoreError)
    return (message): Middleware.Returns<never, AuditStore> =>
      Effect.flatMapEager(
        Eager.service(AuditStore),
        (store) =>
          Effect.flatMapEager(Eager.service(Clock.Clock), (clock) => {
            const startedAt = clock.currentTimeMillisUnsafe()
            const started = clock.monotonicTimeNanosUnsafe()
            message.after((exit, outcome) => {
              const duration = Math.max(0, Number(clock.monotonicTimeNanosUnsafe() - started) / 1e6)
              return tell(store.append(entry(message, exit, outcome, startedAt, duration)))
            })
            return next(message)
          })
      )
  })
}
