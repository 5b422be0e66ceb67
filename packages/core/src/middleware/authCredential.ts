/**
 * Reads the credential of a message.
 */
import type { Envelope } from "../message/Message.ts"

/** Options of `middleware`. */
export interface Options {
  /** The header that holds the credential. Default: `authorization`. */
  readonly header?: string | undefined
  /**
   * The scheme in front of the credential, in any case (RFC 9110, 11.1). Default: `Bearer`. With the empty string the
   * whole value is the credential, as for an API key.
   */
  readonly scheme?: string | undefined
}

/** The defaults of `middleware`. */
export const defaults: { readonly header: string; readonly scheme: string } = {
  header: "authorization",
  scheme: "Bearer"
}

/** Makes the function that reads the credential of a message; undefined if it has none. */
export const reader = (options: Options): (message: Envelope) => string | undefined => {
  const header = (options.header ?? defaults.header).toLowerCase()
  const scheme = options.scheme ?? defaults.scheme
  if (header === "") throw new RangeError("Auth: header must be a name, got an empty string")
  if (/[^!#$%&'*+.^_`|~\w-]/.test(scheme)) throw new RangeError(`Auth: scheme must be a token, got ${scheme}`)
  if (scheme === "") return (message) => message.headers[header]
  const prefix = `${scheme} `
  const lower = prefix.toLowerCase()
  return (message) => {
    const field = message.headers[header]
    if (field === undefined) return undefined
    if (!field.startsWith(prefix) && field.slice(0, prefix.length).toLowerCase() !== lower) return undefined
    return field.slice(prefix.length)
  }
}
