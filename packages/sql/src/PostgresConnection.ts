/**
 * Supplies expiring passwords to connections to PostgreSQL.
 *
 * A store that opens connections of its own takes `credentials` among its options. A program that gives its own `PgClient` to an
 * outbox, an inbox or a store makes the client's `password` here.
 */
import type { Credentials } from "@millrace/core"
import type { Effect, Redacted } from "effect"
import * as Connection from "./internal/postgres/connection.ts"

export { defaults, type Issued, type Options } from "./internal/postgres/connection.ts"

/** Obtains passwords. */
export type Source = Credentials.Source<Connection.Issued>

/**
 * Makes the `password` of a `PgClient` from a source that may fail: the client asks for it at each new connection.
 *
 * While the source fails, connections reuse a password that has not expired. After its expiry, the connection waits for the
 * source and asks again, until the client's `connectTimeout` fails it with a `ConnectionError`; a Warn line tells why. Then a
 * relay waits, a store retries, and a message goes back to its source, as for an unreachable server.
 *
 * **Example** (an outbox on Amazon RDS with tokens of 15 minutes)
 *
 * ```ts no-run
 * import { PgClient } from "@effect/sql-pg"
 * import { Outbox, PostgresConnection } from "@millrace/sql"
 * import { Effect, Layer, Redacted } from "effect"
 *
 * declare const token: Effect.Effect<{ readonly value: string; readonly expiresAt: Date }, Error>
 *
 * const client = PgClient.layer({
 *   url: Redacted.make("postgres://orders@orders.example:5432/orders?sslmode=verify-full"),
 *   password: PostgresConnection.password(
 *     Effect.map(token, ({ expiresAt, value }) => ({ password: Redacted.make(value), expiresAt }))
 *   ),
 *   connectionTTL: "1 hour"
 * })
 * export const outbox = Outbox.layer().pipe(Layer.provideMerge(client))
 * ```
 *
 * @category constructors
 */
export const password = (source: Source): Effect.Effect<Redacted.Redacted<string>> =>
  Connection.passwordOf(Connection.credentialsOf(source))
