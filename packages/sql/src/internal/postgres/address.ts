/**
 * Shows the address of a PostgreSQL server without secrets.
 */
import { Redacted } from "effect"

/** The address without user and password, or undefined if malformed; Node's error for such an address quotes the password. */
export const shown = (url: Redacted.Redacted<string>): string | undefined => {
  const parsed = URL.parse(Redacted.value(url))
  return parsed === null || !/^postgres(ql)?:$/.test(parsed.protocol)
    ? undefined
    : `PostgreSQL at ${parsed.host || "localhost"}${parsed.pathname}`
}

/** The error text for a malformed address. */
export const needed =
  "PostgreSQL's URL is postgres://user:password@host:port/database, with %-escapes for what else is in a part, and this is not"
