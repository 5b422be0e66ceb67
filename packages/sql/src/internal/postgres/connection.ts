/**
 * Connections that a store opens for itself: the server's address, the password of each connection, and a client for as long as
 * the store lives.
 */
import { PgClient } from "@effect/sql-pg"
import { Credentials, OptionCheck } from "@millrace/core"
import { type Context, Duration, Effect, Layer, Redacted, type Scope } from "effect"
import { type SqlClient, SqlError } from "effect/sql"
import * as Address from "./address.ts"
import type { Server } from "./errors.ts"
import { doubling } from "./retry.ts"

/** A password that may expire: a token of AWS IAM, Entra ID or Cloud SQL, or a secret that a vault rotates. */
export interface Issued extends Credentials.Issued {
  readonly password: Redacted.Redacted<string>
}

/** Options of every store that opens connections of its own. */
export interface Options {
  /** `postgres://user:password@host:port/database`, with `sslmode` and other parameters of libpq. */
  readonly url: Redacted.Redacted<string>
  /**
   * Issues the password of the user in `url`, and replaces the password there: called at each new connection, within
   * `connectTimeout`. A server keeps connections open whose password has expired. Default: the password in `url`.
   */
  readonly credentials?: Credentials.Source<Issued> | undefined
  /** The most connections; an integer from 1. Default: 4. */
  readonly maximumConnections?: number | undefined
  /** The longest that opening a connection may take; from 1 ms. Default: 5 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /**
   * The maximum age of a connection: an older one is closed when a statement would use it, and a new one opened with the
   * current password; from 1 ms. Default: no limit.
   */
  readonly maximumLifetime?: Duration.Input | undefined
}

/** The defaults of a store's connection options. */
export const defaults = { maximumConnections: 4, connectTimeout: Duration.seconds(5) } as const

/** Delays between requests for a password, while a connection waits for one: 100 ms, doubled up to 1 second. */
const patience = doubling("100 millis")

/** Makes the credentials of one client; calls no source yet. */
export const credentialsOf = (source: Credentials.Source<Issued>): Credentials.Credentials<Issued> =>
  Credentials.make<Issued>({
    system: "postgresql",
    product: "PostgreSQL",
    source,
    refuse: ({ password }) => {
      const text = Redacted.value(password)
      return text === "" ? "the password is empty" : text.includes("\0") ? "the password has a zero" : undefined
    },
    secrets: ({ password }) => [Redacted.value(password), encodeURIComponent(Redacted.value(password))]
  })

/**
 * Obtains the password of one connection. Asks until the source answers: the connection's own time limit ends this with an error
 * that the client knows, whereas it would treat a failure here as a defect.
 */
export const passwordOf = (credentials: Credentials.Credentials<Issued>): Effect.Effect<Redacted.Redacted<string>> =>
  Effect.suspend(() => {
    let isTold = false
    return credentials.get.pipe(
      Effect.map(({ password }) => password),
      Effect.tapError((error) => {
        if (isTold) return Effect.void
        isTold = true
        return Effect.ignoreCause(
          Effect.logWarning(`A connection to PostgreSQL waits for its password. ${error.message}`)
        )
      }),
      Effect.retry(patience),
      Effect.orDie
    )
  })

/** A store, and its errors. */
export interface Store<S, E> {
  /** The module in error texts. */
  readonly module: string
  /** The name in PostgreSQL's list of connections. */
  readonly applicationName: string
  readonly make: (server: Server) => Effect.Effect<S, E, SqlClient.SqlClient | Scope.Scope>
  /** The error of a malformed address. */
  readonly invalid: () => E
  /** The error of a connection that fails. */
  readonly told: (server: Server) => (error: SqlError.SqlError) => E
}

/**
 * Builds the layer of a store with its own connection pool.
 *
 * @throws RangeError when an option is out of range
 */
export const own = <I, S, E>(
  tag: Context.Key<I, S>,
  options: Options,
  { applicationName, invalid, make, module, told }: Store<S, E>
): Layer.Layer<I, E> => {
  const { credentials: source, maximumLifetime, url } = options
  const check = OptionCheck.make(module)
  const name = Address.shown(url)
  if (source !== undefined && URL.parse(Redacted.value(url))?.password) {
    throw new RangeError(`${module}: credentials stand in place of the password of url: give one of them`)
  }
  const credentials = source === undefined ? undefined : credentialsOf(source)
  const server: Server = {
    name: name ?? "PostgreSQL",
    isRenewed: credentials !== undefined,
    lastError: () => credentials?.lastError()?.message
  }
  const client = PgClient.layer({
    url,
    password: credentials === undefined ? undefined : passwordOf(credentials),
    maxConnections: check.count("maximumConnections", options.maximumConnections ?? defaults.maximumConnections),
    connectTimeout: check.millis("connectTimeout", options.connectTimeout ?? defaults.connectTimeout),
    connectionTTL: maximumLifetime === undefined ? undefined : check.millis("maximumLifetime", maximumLifetime),
    applicationName
  })
  const store = make(server)
  return name === undefined
    ? Layer.effect(tag, Effect.suspend(() => Effect.fail(invalid())))
    : Layer.effect(tag, store).pipe(
      Layer.provide(client),
      Layer.catch((error) =>
        Layer.effect(tag, Effect.fail(error instanceof SqlError.SqlError ? told(server)(error) : error))
      )
    )
}
