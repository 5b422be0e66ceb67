/**
 * Health checks for databases: the `SqlClient` of the program, and the relay of an outbox.
 */
import { type BrokerError, Health, OptionCheck } from "@millrace/core"
import { Data, type Duration, Effect } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import type { OutboxError } from "./internal/outbox/error.ts"
import { Relay } from "./OutboxRelay.ts"

/**
 * Runs one query by the program's `SqlClient`. An audit, idempotency or rate limit store with connections of its own has a
 * separate check: `Health.audit`, `Health.idempotency`, `Health.rateLimit`.
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const client = (options: Health.Common<SqlError.SqlError> = {}): Health.Check<SqlClient.SqlClient> =>
  Health.check({
    ...options,
    name: options.name ?? "database",
    check: Effect.flatMap(SqlClient.SqlClient, (sql) => Effect.asVoid(sql`SELECT 1 AS one`))
  })

/** The relay is starting or stopped, and has no error to report. */
export class RelayDown extends Data.TaggedError("RelayDown")<{ readonly message: string }> {
  readonly failure = "dependency" as const
}

/** Options of `relay`. */
export interface RelayOptions extends Health.Common<BrokerError.BrokerError | OutboxError | RelayDown> {
  /** Rows that may wait to be published; more make the check degraded. An integer from 1. Default: no limit. */
  readonly pending?: number | undefined
  /** How long the oldest waiting row may wait; longer makes the check degraded. From 1 ms. Default: 5 minutes. */
  readonly age?: Duration.Input | undefined
}

/**
 * Checks the relay of the outbox and the lag of the outbox. Fails with the relay's last error as long as the relay
 * has one. `whenDown` is `degraded` by default: rows wait, and nothing is lost.
 *
 * The check counts waiting rows by a query: give it a longer `cache` if there may be very many.
 *
 * **Example** (an outbox that may be a minute behind)
 *
 * ```ts
 * import { Health } from "@millrace/core"
 * import { SqlHealth } from "@millrace/sql"
 *
 * const health = Health.layer([SqlHealth.client(), SqlHealth.relay({ age: "1 minute" })])
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const relay = (options: RelayOptions = {}): Health.Check<Relay> => {
  const check = OptionCheck.make("SqlHealth")
  const most = options.pending === undefined ? undefined : check.count("pending", options.pending)
  const oldest = check.millis("age", options.age ?? "5 minutes")
  return Health.check({
    whenDown: "degraded",
    ...options,
    name: options.name ?? "outbox relay",
    check: Effect.gen(function*() {
      const found = yield* Relay
      const { lastError, lastPublished, shards, state } = yield* found.health
      if (lastError !== undefined) return yield* Effect.fail(lastError)
      if (state === "starting" || state === "stopped") {
        return yield* new RelayDown({ message: `the relay is ${state}` })
      }
      const { age, failing, parked, pending } = yield* found.lag
      const details = {
        state,
        shards,
        pending,
        age: age ?? null,
        failing,
        parked,
        lastPublished: lastPublished ?? null
      }
      if (most !== undefined && pending > most) {
        return Health.degraded(`${pending} rows wait, above ${most}`, details)
      }
      return age !== undefined && age > oldest
        ? Health.degraded(`a row has waited for ${age} ms, above ${oldest}`, details)
        : details
    })
  })
}
