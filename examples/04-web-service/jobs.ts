/**
 * How far the worker is with each order. A step and the reply that tells of it are one transaction.
 */
import { type Broker, Status } from "@millrace/core"
import { Outbox } from "@millrace/sql"
import { Context, Effect, Layer } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { Replies } from "./contract.ts"
import { type Failed, Overtaken, tables, typed } from "./store.ts"

interface Row {
  readonly status: Status.Status
  readonly sequence: number
  readonly reason: string | null
}

export interface Job {
  readonly id: string
  readonly correlationId: string
}

const replies = Outbox.publisher(Replies)

export class Jobs extends Context.Service<Jobs, {
  /**
   * Begins an attempt, and answers which one it is, from 1; undefined where the order has ended, which is told once more. Where
   * the last attempt has not ended, its process has: that is a retry, too.
   */
  readonly begin: (job: Job) => Effect.Effect<number | undefined, Failed | Overtaken | Status.IllegalTransition>
  /** Goes one step further, or refuses. */
  readonly move: (
    job: Job,
    to: Status.Status,
    reason?: string
  ) => Effect.Effect<void, Failed | Overtaken | Status.IllegalTransition>
}>()("examples/web/Jobs") {}

const make = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const outbox = yield* Effect.context<Outbox.To<Broker.Broker>>()
  const committed = <A, E>(effect: Effect.Effect<A, E | SqlError.SqlError, Outbox.To<Broker.Broker>>) =>
    typed(sql.withTransaction(Effect.provideContext(effect, outbox)))

  const standing = Effect.fnUntraced(function*(id: string) {
    yield* sql`INSERT INTO web_jobs (id, status, sequence) VALUES (${id}, ${Status.initial.status}, ${Status.initial.sequence})
      ON CONFLICT (id) DO NOTHING`
    const [row] = yield* sql<Row>`SELECT status, sequence, reason FROM web_jobs WHERE id = ${id}`
    return { ...row!, sequence: Number(row!.sequence) }
  })

  const tell = ({ correlationId, id }: Job, { sequence, status }: Status.Standing, reason?: string | null) =>
    replies.publish({ correlationId, data: { id, status, sequence, ...(reason == null ? {} : { reason }) } })

  const step = Effect.fnUntraced(function*(job: Job, from: Status.Standing, to: Status.Status, reason?: string) {
    const next = yield* Effect.fromResult(Status.advance(from, to))
    const written = yield* sql`UPDATE web_jobs SET status = ${next.status}, sequence = ${next.sequence},
      reason = ${reason ?? null} WHERE id = ${job.id} AND sequence = ${from.sequence} RETURNING id`
    if (written.length === 0) return yield* new Overtaken({ id: job.id })
    yield* tell(job, next, reason)
    return next
  })

  return Jobs.of({
    begin: Effect.fn("Jobs.begin")(function*(job) {
      const found = yield* standing(job.id)
      if (Status.isFinal(found.status)) {
        yield* tell(job, found, found.reason)
        return undefined
      }
      const open = found.status === "processing"
        ? yield* step(job, found, "retrying", "the worker stopped in the middle")
        : found
      const { sequence } = yield* step(job, open, "processing")
      // each attempt but the first has two steps before it: processing, retrying
      return (sequence + 1) / 2
    }, committed),
    move: Effect.fn("Jobs.move")(function*(job, to, reason) {
      yield* step(job, yield* standing(job.id), to, reason)
    }, committed)
  })
})

export const layer = Layer.provide(Layer.effect(Jobs, make), tables)
