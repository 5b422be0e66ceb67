/**
 * A store on connections of its own.
 */
import { PgClient } from "@effect/sql-pg"
import { type Context, type Duration, Effect, Layer, type Redacted, type Scope } from "effect"
import { type SqlClient, SqlError } from "effect/sql"
import * as Address from "./address.ts"

/** How the connections are made. */
export interface Connections {
  readonly url: Redacted.Redacted<string>
  readonly maxConnections: number
  readonly connectTimeout: Duration.Input
  readonly applicationName: string
}

/** `store` as a layer; `invalid` is the error of an address that is none, and `told` makes one of what connecting fails with. */
export const own = <I, S, E>(
  tag: Context.Key<I, S>,
  store: Effect.Effect<S, E, SqlClient.SqlClient | Scope.Scope>,
  connections: Connections,
  errors: { readonly invalid: () => E; readonly told: (error: SqlError.SqlError) => E }
): Layer.Layer<I, E> =>
  Address.shown(connections.url) === undefined
    ? Layer.effect(tag, Effect.suspend(() => Effect.fail(errors.invalid())))
    : Layer.effect(tag, store).pipe(
      Layer.provide(PgClient.layer(connections)),
      Layer.catch((error) =>
        Layer.effect(tag, Effect.fail(error instanceof SqlError.SqlError ? errors.told(error) : error))
      )
    )
