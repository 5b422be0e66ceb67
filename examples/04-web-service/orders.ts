/**
 * The orders as those see them who placed them. What is placed is a row and a message of the outbox, both or none.
 */
import { type Broker, Status } from "@millrace/core"
import { Outbox } from "@millrace/sql"
import { Context, Data, Effect, Layer, Schema } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { Cancelled, type NewOrder, Order, Placed, type Reply } from "./contract.ts"
import { type Failed, type StoreFailed, tables, typed } from "./store.ts"

/** There is no such order. Class `permanent`. */
export class NoSuchOrder extends Data.TaggedError("NoSuchOrder")<{ readonly id: string }> {
  readonly failure = "permanent" as const
  override get message(): string {
    return `There is no order ${this.id}`
  }
}

/** An order, and each state that it was seen in. */
export interface Seen extends Order, Status.Standing {
  readonly correlationId: string
  readonly states: ReadonlyArray<
    { readonly sequence: number; readonly status: Status.Status; readonly reason?: string }
  >
}

interface Row {
  readonly id: string
  readonly correlation_id: string
  readonly body: string
  readonly status: Status.Status
  readonly sequence: number
}

interface StateRow {
  readonly sequence: number
  readonly status: Status.Status
  readonly reason: string | null
}

const body = Schema.fromJsonString(Order)
const write = Schema.encodeSync(body)
const read = Schema.decodeSync(body)

const placed = Outbox.publisher(Placed)
const cancelled = Outbox.publisher(Cancelled)

export class Orders extends Context.Service<Orders, {
  readonly place: (id: string, correlationId: string, order: NewOrder) => Effect.Effect<void, Failed>
  readonly find: (id: string) => Effect.Effect<Seen, NoSuchOrder | StoreFailed>
  /** Asks the worker to take it back; refused where the order is known to have ended. */
  readonly cancel: (id: string) => Effect.Effect<void, NoSuchOrder | Status.IllegalTransition | Failed>
  /** Takes a reply, in whatever order they come; answers whether it changed anything. */
  readonly reply: (reply: Reply) => Effect.Effect<boolean, NoSuchOrder | Status.IllegalTransition | StoreFailed>
  /** Publishes again whatever has no end yet, for a broker that forgets; answers how many. */
  readonly again: Effect.Effect<number, Failed>
}>()("examples/web/Orders") {}

const make = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  const outbox = yield* Effect.context<Outbox.To<Broker.Broker>>()
  const committed = <A, E>(effect: Effect.Effect<A, E | SqlError.SqlError, Outbox.To<Broker.Broker>>) =>
    typed(sql.withTransaction(Effect.provideContext(effect, outbox)))

  const state = (id: string, { sequence, status }: Status.Standing, reason?: string) =>
    sql`INSERT INTO web_states (id, sequence, status, reason) VALUES (${id}, ${sequence}, ${status}, ${reason ?? null})
      ON CONFLICT (id, sequence) DO NOTHING`
  const row = (id: string) =>
    Effect.flatMap(
      sql<Row>`SELECT * FROM web_orders WHERE id = ${id}`,
      ([row]) => row === undefined ? Effect.fail(new NoSuchOrder({ id })) : Effect.succeed(row)
    )

  return Orders.of({
    place: Effect.fn("Orders.place")(function*(id, correlationId, order) {
      const { sequence, status } = Status.initial
      const data = { id, ...order }
      yield* sql`INSERT INTO web_orders (id, correlation_id, body, status, sequence)
        VALUES (${id}, ${correlationId}, ${write(data)}, ${status}, ${sequence})`
      yield* state(id, Status.initial)
      yield* placed.publish({ correlationId, data })
    }, committed),

    find: Effect.fn("Orders.find")(function*(id) {
      const { body, correlation_id, sequence, status } = yield* row(id)
      const states = yield* sql<StateRow>`SELECT * FROM web_states WHERE id = ${id} ORDER BY sequence`
      return {
        ...read(body),
        correlationId: correlation_id,
        status,
        sequence: Number(sequence),
        states: states.map(({ reason, sequence, status }) =>
          reason === null ? { sequence: Number(sequence), status } : { sequence: Number(sequence), status, reason }
        )
      }
    }, typed),

    cancel: Effect.fn("Orders.cancel")(function*(id) {
      const { correlation_id: correlationId, status } = yield* row(id)
      yield* Effect.fromResult(Status.transition(status, "cancelled"))
      yield* cancelled.publish({ correlationId, data: { id } })
    }, committed),

    reply: Effect.fn("Orders.reply")(function*({ data }) {
      const { sequence, status } = yield* row(data.id)
      const before = { status, sequence: Number(sequence) }
      const after = yield* Effect.fromResult(Status.apply(before, data))
      // a late one is worth a line of the history, too
      yield* state(data.id, data, data.reason)
      if (after === before) return false
      yield* sql`UPDATE web_orders SET status = ${after.status}, sequence = ${after.sequence}
        WHERE id = ${data.id} AND sequence < ${after.sequence}`
      return true
    }, committed),

    again: Effect.gen(function*() {
      const states = Status.states.filter((status) => !Status.isFinal(status))
      const open = yield* sql<Row>`SELECT * FROM web_orders WHERE ${sql.in("status", states)}`
      yield* placed.publishAll(
        open.map(({ body, correlation_id }) => ({ correlationId: correlation_id, data: read(body) }))
      )
      return open.length
    }).pipe(committed)
  })
})

export const layer = Layer.provide(Layer.effect(Orders, make), tables)
