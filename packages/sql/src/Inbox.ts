/**
 * Handles a message once for each group, because the inbox writes the message's id in the handler's transaction.
 */
import { Detached, Identity, type Message, Middleware, OptionCheck, Outcome } from "@millrace/core"
import type { Failure } from "@millrace/core"
import { Context, Data, Duration, Effect, Exit, Layer } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { limited, limitedEnds } from "./internal/database/limited.ts"
import { lateEnds, noAnswer } from "./internal/database/statements.ts"
import { storable } from "./internal/database/storable.ts"
import { told, typed } from "./internal/outbox/failure.ts"
import * as Tables from "./internal/outbox/tables.ts"

/**
 * The inbox's database failed; the class sends the message back to its source. The handler's writes are rolled back, unless the
 * commit got no answer in time: then they may be committed, together with the id.
 */
export class InboxError extends Data.TaggedError("InboxError")<{
  /** The cause and the remedy. */
  readonly message: string
  readonly failure: Failure.FailureClass
  readonly cause?: unknown
}> {}

/** The message has no id, or an id that is not 1 to 255 characters. Class `validation`: the message becomes a dead letter. */
export class InboxRefused extends Data.TaggedError("InboxRefused")<{
  readonly channel: string
  readonly reason: "missing" | "invalid"
}> {
  readonly failure = "validation" as const
  override get message(): string {
    return this.reason === "missing"
      ? `A message of ${this.channel} needs an id to be handled once, and has none: publish it with message-id, or give Inbox.middleware an id`
      : `The id of a message has 1 to 255 characters and no NUL, this one of ${this.channel} has not`
  }
}

/** Options of `layer`. */
export interface Options {
  /**
   * The table, created if missing: small letters, digits and `_`, optionally with a schema before a dot; the schema
   * must exist. Default: `millrace_inbox`.
   */
  readonly table?: string | undefined
  /**
   * How long ids are kept: a message that is redelivered later is handled again. Choose it longer than the broker may redeliver;
   * from 1 second. Default: 7 days.
   */
  readonly keep?: Duration.Input | undefined
  /** How often older ids are deleted; from 1 second. Default: 1 minute. */
  readonly pruneEvery?: Duration.Input | undefined
  /**
   * The time limit of each of these steps, after which the message fails with `InboxError` and goes back to its source: the
   * wait for a connection, the wait for another transaction that handles the same message, and the commit. The inbox does not
   * limit the handler. From 1 ms. Default: 10 seconds.
   */
  readonly timeout?: Duration.Input | undefined
}

/** Options of `middleware`. */
export interface MiddlewareOptions<in M extends Message<unknown> = Message<unknown>> {
  /**
   * The id of a message, the same for each delivery. Default: `Identity.of`: source and id of a CloudEvent, else the
   * header `message-id`, which every message from an outbox has, else its place on Kafka and JetStream.
   */
  readonly id?: ((message: M) => string | undefined) | undefined
  /** How to treat a message without an id: refuse it, or handle it as if it could not be redelivered. Default: `refuse`. */
  readonly missing?: "refuse" | "run" | undefined
}

/** The defaults of the options. */
export const defaults: {
  readonly table: string
  readonly keep: Duration.Duration
  readonly pruneEvery: Duration.Duration
  readonly timeout: Duration.Duration
} = {
  table: "millrace_inbox",
  keep: Duration.days(7),
  pruneEvery: Duration.minutes(1),
  timeout: Duration.seconds(10)
}

/** The inbox of a program. */
class InboxStore extends Context.Service<InboxStore, {
  readonly table: string
  /** Milliseconds that the wait for a connection, or for the end of a transaction, may take. */
  readonly timeout: number
  /** Writes an id in the current transaction; false if it exists. Waits for another transaction that writes the same id. */
  readonly add: (
    sql: SqlClient.SqlClient,
    consumer: string,
    channel: string,
    message: string
  ) => Effect.Effect<boolean, SqlError.SqlError>
  /** Deletes ids older than `keep` now; answers their number. */
  readonly prune: Effect.Effect<number, InboxError>
}>()("@millrace/sql/Inbox") {}

export { InboxStore as Store }

const pruned = 1000

/** Milliseconds that a removal of old ids may take. */
const pruneLimit = 30_000

/** A longer part of the key is hashed: an index of PostgreSQL takes up to 2,700 bytes. */
const longest = 255

/** The hint if an insert waits too long, e.g. for another transaction with the same id. */
const waited = "another transaction handles the same message, or the server hangs or is out of reach"

const check = OptionCheck.make("Inbox")

/**
 * Provides the table of ids, and prunes it.
 *
 * Provides `Store` and needs the `SqlClient`, PostgreSQL's or SQLite's. Fails with an `InboxError` if the table is missing
 * and cannot be created.
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options = {}): Layer.Layer<InboxStore, InboxError, SqlClient.SqlClient> => {
  const table = Tables.check("Inbox.layer", options.table ?? defaults.table)
  const keep = check.millis("keep", options.keep ?? defaults.keep, { least: 1000 })
  const every = check.millis("pruneEvery", options.pruneEvery ?? defaults.pruneEvery, { least: 1000 })
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
  return Layer.effect(
    InboxStore,
    Effect.gen(function*() {
      const { ask, dialect, name } = yield* Tables.open("inbox", table, pruneLimit, (told) => new InboxError(told))
      const at = dialect.placeholder
      const insert = `INSERT INTO ${name} (consumer, channel, message, handled_at) VALUES (${at(1)}, ${at(2)}, ${
        at(3)
      }, ${dialect.now}) ON CONFLICT (consumer, channel, message) DO NOTHING RETURNING 1 AS added`
      const key = "consumer, channel, message"
      const prune = ask(
        `DELETE FROM ${name} WHERE (${key}) IN (SELECT ${key} FROM ${name} WHERE handled_at <= ${dialect.now} - ${keep}`
          + ` ORDER BY handled_at LIMIT ${pruned}${dialect.skipLocked}) RETURNING 1 AS gone`
      ).pipe(Effect.map((rows) => rows.length))
      const all = Effect.suspend(() => {
        let total = 0
        return Effect.repeat(Effect.tap(prune, (gone) => Effect.sync(() => void (total += gone))), {
          while: (gone) => gone === pruned
        }).pipe(Effect.map(() => total))
      })
      yield* Effect.forkScoped(Detached.effect(Effect.forever(Effect.delay(Effect.ignoreCause(all), every))))
      return InboxStore.of({
        table,
        timeout,
        add: (sql, ...key) =>
          Effect.map(
            limited(
              sql.unsafe(insert, key.map((text) => storable(text, longest))).withoutTransform,
              timeout,
              () => noAnswer(timeout, "execute", waited)
            ),
            (rows) => rows.length > 0
          ),
        prune: all
      })
    })
  )
}

/**
 * Creates or updates the table, for a deployment whose programs may not create tables. A layer does the same, and
 * only reads if the table is up to date.
 *
 * Fails with an `InboxError`, also if the schema is newer than the program.
 *
 * @throws RangeError when the table's name is none
 */
export const migrate = (
  options: Pick<Options, "table"> = {}
): Effect.Effect<void, InboxError, SqlClient.SqlClient> =>
  Tables.migrate(
    "inbox",
    Tables.check("Inbox.migrate", options.table ?? defaults.table),
    (told) => new InboxError(told)
  )

/**
 * Makes the id of a message from its partition and position, for brokers with lasting positions, such as Kafka.
 *
 * Not for brokers whose positions belong to a connection, such as RabbitMQ.
 */
export const position = (message: Message<unknown>): string => `${message.partition}/${message.position}`

/** Whether the message is done; otherwise it goes back or becomes a dead letter, and may be redelivered under its id. */
const isDone = (exit: Exit.Exit<unknown, unknown>): boolean =>
  exit._tag === "Success" &&
  (!Outcome.isOutcome(exit.value) || exit.value._tag === "Ack" || exit.value._tag === "Reject")

/** Why a middleware with a store of its own must be outside. */
const apart = "what its store keeps does not take part in the inbox's transaction, and stays where that is rolled back"

/** Rolls the transaction back with the handler's exit; never leaves this module. */
class Undo<A, E> extends Data.TaggedError("Undo")<{ readonly exit: Exit.Exit<A, E> }> {}

/**
 * Handles each message once for each group: its id and the handler's writes by the same `SqlClient` are one transaction.
 *
 * Types: any consumed message in, the same message on; `Store` and the `SqlClient` enter R, `InboxError` and `InboxRefused`
 * enter E, and `Ack` enters the answer: a message whose id exists already is acknowledged without running the handler. `Ack`,
 * `Reject` and an answer that is not an outcome commit. A failure, a defect, an interruption, `Retry`, `Release` and
 * `DeadLetter` roll back, so the message may be redelivered. Two concurrent deliveries of one message wait for each other.
 *
 * Place `Idempotency`, `IdempotencyKey`, `RateLimit` and `Hmac` outside: their stores do not take part in the transaction.
 *
 * The handler's other effects are not part of the transaction; its answer is, if it is published by `Outbox.on` inside this
 * middleware. The message's hooks run after the commit. Place `Retry` outside, so that each attempt has its own transaction.
 *
 * Errors: `InboxError` (with the class of the database's error) sends the message back to the source, `InboxRefused` (class
 * `validation`) makes it a dead letter.
 *
 * Source: the inbox, or idempotent consumer, by C. Richardson,
 * https://microservices.io/patterns/communication-style/idempotent-consumer.html
 *
 * **Example** (a payment is booked once)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { SqlClient } from "effect/sql"
 * import { Channel, Decode, type Message, Retry } from "@millrace/core"
 * import { Inbox } from "@millrace/sql"
 *
 * const Payment = Schema.Struct({ account: Schema.String, amount: Schema.Finite })
 * const Payments = Channel.make("payments", { payload: Payment })
 *
 * const handler = pipe(
 *   ({ payload }: Message<typeof Payment.Type>) =>
 *     Effect.orDie(Effect.flatMap(SqlClient.SqlClient, (sql) =>
 *       sql`UPDATE accounts SET balance = balance + ${payload.amount} WHERE id = ${payload.account}`)),
 *   Decode.middleware(Payments),
 *   Inbox.middleware(),
 *   Retry.middleware()
 * )
 * ```
 *
 * @category constructors
 */
export const middleware = <M extends Message<unknown> = Message<unknown>>(options: MiddlewareOptions<M> = {}) => {
  const { id = Identity.of, missing } = options
  return Middleware.make<{ message: M }>()({
    name: "Inbox",
    stage: "consume",
    shows: { missing },
    order: [
      { inside: "Auth", because: "whoever is refused must not use up an id" },
      {
        inside: "Retry",
        because: "each attempt is a transaction of its own, and a failed one takes no statement more"
      },
      { inside: "Hedge", because: "two runs in one transaction would both write" },
      { inside: "Idempotency", every: true, because: apart },
      { inside: "IdempotencyKey", every: true, because: apart },
      { inside: "RateLimit", every: true, because: apart },
      { inside: "Hmac", every: true, because: apart },
      { outside: "Publish", because: "an answer that fails to be published after the commit would never be" }
    ]
  }, (next) => (message): Returns => {
    const own = id(message)
    if (own === undefined && missing === "run") return next(message)
    if (own === undefined || own === "" || own.length > 255 || own.includes("\0")) {
      const reason = own === undefined ? "missing" : "invalid"
      return Exit.fail(new InboxRefused({ channel: message.channel, reason }))
    }
    const consumer = message.delivery.origin.group
    return Effect.gen(function*() {
      const store = yield* InboxStore
      const sql = yield* SqlClient.SqlClient
      const failed = (error: SqlError.SqlError) => new InboxError(told(`Inbox ${store.table}`, error))
      const once = Effect.flatMap(
        store.add(sql, consumer, message.channel, own),
        (isNew): Effect.Effect<Exit.Exit<Answer, Failing>, Undo<Answer, Failing>, Middleware.Services> =>
          isNew
            ? Effect.flatMap(
              Effect.exit(Effect.suspend(() => next(message))),
              (exit) => isDone(exit) ? Effect.succeed(exit) : Effect.fail(new Undo({ exit }))
            )
            : Effect.succeed(Exit.succeed(Outcome.Ack))
      )
      const exit = yield* Effect.catch(
        limitedEnds(
          once,
          (body) => typed(sql.withTransaction(body)),
          store.timeout,
          (step) => noAnswer(store.timeout, step, lateEnds[step])
        ),
        (error): Effect.Effect<Exit.Exit<Answer, Failing>, InboxError> =>
          error._tag === "Undo" ? Effect.succeed(error.exit) : Effect.fail(failed(error))
      )
      return yield* exit
    })
  })
}

type Answer = Middleware.Result | Outcome.Ack
type Failing = Middleware.Failure
type Returns = Middleware.Returns<InboxError | InboxRefused, InboxStore | SqlClient.SqlClient, Outcome.Ack>
