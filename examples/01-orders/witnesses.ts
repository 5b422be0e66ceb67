/**
 * Asks the witnesses of a run: the payment provider, the dead letters and the audit trail.
 */
import { Audit, type Broker, type BrokerError, DeadLetters } from "@millrace/core"
import { Effect, Option, Stream } from "effect"
import { Orders } from "./order.ts"
import { Payments } from "./payments.ts"
import type { Happened } from "./reconcile.ts"

export const deadLetters = DeadLetters.channelOf(Orders.name)

/** The id in the body's beginning, which an audit row shows. */
const idOf = (row: Audit.Row): string => /"id":"([^"]+)"/.exec(row.body ?? "")?.[1] ?? `row ${row.id}`

/** All rows since a Unix time, page by page. */
const rowsSince = (from: number) =>
  Stream.paginate(undefined as string | undefined, (after) =>
    Effect.map(
      Effect.flatMap(
        Audit.Store,
        (store) => store.query({ channel: Orders.name, from, after, order: "oldest", limit: 5000 })
      ),
      ({ next, rows }) => [rows, next === undefined ? Option.none() : Option.some(next)] as const
    ))

/** What is known of the messages whose ids begin with `run`. */
export const testimony: (
  run: string,
  since: number
) => Effect.Effect<
  Happened,
  Audit.AuditError | BrokerError.BrokerError,
  Audit.Store | Broker.Broker | Payments
> = Effect.fnUntraced(function*(run, since) {
  const { book } = yield* Payments
  const letters = yield* Stream.runCollect(DeadLetters.list(deadLetters))
  const rows = yield* Stream.runCollect(rowsSince(since))
  const own = <A>(byId: ReadonlyMap<string, A>) => new Map([...byId].filter(([id]) => id.startsWith(run)))
  return {
    charges: own(book),
    letters: own(Map.groupBy(letters, ({ delivery }) => delivery.headers["message-id"] ?? "")),
    rows: own(Map.groupBy(rows, idOf))
  }
})
