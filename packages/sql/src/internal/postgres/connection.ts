/**
 * Connections of a store's own: where the server is, the password of each connection, and a client for as long as the store
 * lives.
 */
import { PgClient } from "@effect/sql-pg"
import { Credentials, OptionCheck } from "@millrace/core"
import { type Context, Duration, Effect, Layer, Redacted, Schedule, type Scope } from "effect"
import { type SqlClient, SqlError } from "effect/sql"
import * as Address from "./address.ts"
import type { Server } from "./errors.ts"

/** A password that may end: a token of AWS IAM, Entra ID or Cloud SQL, or a secret that a vault rotates. */
export interface Issued extends Credentials.Issued {
  readonly password: Redacted.Redacted<string>
}

/** Options of every store that opens connections of its own. */
export interface Options {
  /** `postgres://user:password@host:port/database`, with `sslmode` and what else libpq reads there. */
  readonly url: Redacted.Redacted<string>
  /**
   * Obtains the password of the user in `url`, in place of the one there: asked at each new connection, within `connectTimeout`. A
   * server keeps connections open whose password has ended. Default: the password in `url`.
   */
  readonly credentials?: Credentials.Source<Issued> | undefined
  /** The most connections; an integer from 1. Default: 4. */
  readonly maximumConnections?: number | undefined
  /** How long making a connection may take; from 1 ms. Default: 5 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /**
   * How old a connection may become: an older one is closed when a statement would use it, and a new one opened with the
   * password of that time; from 1 ms. Default: as old as it likes.
   */
  readonly maximumLifetime?: Duration.Input | undefined
}

/** What a store does where an option of its connections is not given. */
export const defaults = { maximumConnections: 4, connectTimeout: Duration.seconds(5) } as const

/** Waits between requests for a password, while a connection waits for one: 100 ms, doubled up to 1 second. */
const patience = Schedule.exponential("100 millis").pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(1))))
)

/** The credentials of one client; asks for nothing yet. */
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
 * The password of one connection. It asks until the source answers: the connection's own time limit ends that, with an error that
 * the client knows, where a failure here would be a defect to it.
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
  /** The error of an address that is none. */
  readonly invalid: () => E
  /** The error of a connection that fails. */
  readonly told: (server: Server) => (error: SqlError.SqlError) => E
}

/**
 * The layer of a store on connections of its own.
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
