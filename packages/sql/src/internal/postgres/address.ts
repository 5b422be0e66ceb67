/**
 * The address of a PostgreSQL server, as it may be shown.
 */
import { Redacted } from "effect"

/** The address without user and password, or undefined where it is none; what Node says of such a one quotes its password. */
export const shown = (url: Redacted.Redacted<string>): string | undefined => {
  const parsed = URL.parse(Redacted.value(url))
  return parsed === null || !/^postgres(ql)?:$/.test(parsed.protocol)
    ? undefined
    : `PostgreSQL at ${parsed.host || "localhost"}${parsed.pathname}`
}

/** What to say of an address that is none. */
export const needed =
  "PostgreSQL's URL is postgres://user:password@host:port/database, with %-escapes for what else is in a part, and this is not"
