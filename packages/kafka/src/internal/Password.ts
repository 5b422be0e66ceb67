/**
 * User and password of SASL PLAIN and SCRAM: constants, or an Effect that runs at each authentication.
 */
import { Credentials, DriverOptions } from "@millrace/core"
import { Clock, Effect, type Redacted } from "effect"

/** A user and its password. */
export interface Password extends Credentials.Issued {
  readonly username: string
  readonly password: string | Redacted.Redacted
}

/** Obtains user and password. The connection's error message includes the error of the source. */
export type Source = Credentials.Source<Password>

/** User and password for one authentication. */
export interface Login {
  readonly username: string
  readonly password: string
  /** The rest of the credentials' life in milliseconds; Infinity if unknown. */
  readonly life: number
}

/** Users and passwords in the form that client libraries take. */
export interface Passwords {
  /** Obtains a login for one authentication; rejects with a `BrokerError`. */
  readonly next: () => Promise<Login>
  /** The user of the last login; undefined before the first. */
  readonly user: () => string | undefined
  /** Removes passwords from a text. */
  readonly redact: (text: string) => string
}

const { plain } = DriverOptions

const refuse = ({ password, username }: Password): string | undefined => {
  if (username === "" || plain(password) === "") return "the username or the password is empty"
  // the mechanism PLAIN separates them by this character
  return /\0/.test(username + plain(password)) ? "the username or the password has a NUL character" : undefined
}

/** Makes logins from a source, or uses one user and password for all connections. */
export const make = (given: Password | Source): Passwords => {
  let user = Effect.isEffect(given) ? undefined : given.username
  const credentials = Credentials.make<Password>({
    system: "kafka",
    product: "Kafka",
    source: Effect.isEffect(given) ? given : Effect.succeed(given),
    refuse,
    // an error may repeat the URL
    secrets: ({ password }) => [plain(password), encodeURIComponent(plain(password))]
  })
  const next = Effect.zipWith(credentials.get, Clock.currentTimeMillis, ({ expiresAt, password, username }, now) => {
    user = username
    return { username, password: plain(password), life: Number(expiresAt ?? Infinity) - now }
  })
  return { next: () => Effect.runPromise(next), user: () => user, redact: credentials.redact }
}
