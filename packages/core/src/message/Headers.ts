/**
 * Header fields of a message: the text that middlewares read, and the native fields that a copy must not lose.
 *
 * Brokers allow what a text record cannot hold: the same name twice, upper-case names, null and binary values. A driver
 * therefore gives both: `Headers`, one string for each lower-case name, and `Field`s, exactly as they came.
 */

/**
 * Text headers: lower-case names, one string each, no prototype.
 *
 * `effect/http` Headers are assignable to it.
 */
export interface Headers {
  readonly [name: string]: string
}

/** A header field as the broker holds it: the name as it was written, and bytes or null. */
export type Field = readonly [name: string, value: Uint8Array | null]

const strict = new TextDecoder("utf-8", { fatal: true })
const encoder = new TextEncoder()

/** No headers. */
export const empty: Headers = Object.freeze(Object.create(null) as Headers)

/** Makes headers from a record; names become lower case, and of two names that differ only in case the later one stays. */
export const fromRecord = (record: { readonly [name: string]: string }): Headers => {
  const headers: Record<string, string> = Object.create(null)
  for (const name of Object.keys(record)) headers[name.toLowerCase()] = record[name]!
  return headers
}

/** A copy of `self` with one header more, or with that header replaced. */
export const set = (self: Headers, name: string, value: string): Headers => {
  const headers: Record<string, string> = Object.create(null)
  for (const each in self) headers[each] = self[each]!
  headers[name.toLowerCase()] = value
  return headers
}

/** The text of a header's bytes, or undefined where they are null or not UTF-8. */
export const textOf = (value: Uint8Array | null): string | undefined => {
  if (value === null) return undefined
  try {
    return strict.decode(value)
  } catch {
    return undefined
  }
}

// lists, which may come in several fields (RFC 9110, 5.3); a `traceparent` that came twice is none, which is seen when it is joined
const joined: ReadonlySet<string> = new Set(["baggage", "traceparent", "tracestate"])

/**
 * The text view of native fields: the first field of a name that is valid UTF-8, and of the W3C's trace headers all of them, as
 * one list. What is left out stays in the fields.
 */
export const fromFields = (fields: ReadonlyArray<Field>): Headers => {
  if (fields.length === 0) return empty
  const headers: Record<string, string> = Object.create(null)
  for (let i = 0; i < fields.length; i++) {
    const name = fields[i]![0].toLowerCase()
    const before = headers[name]
    if (before !== undefined && !joined.has(name)) continue
    const text = textOf(fields[i]![1])
    if (text !== undefined) headers[name] = before === undefined ? text : `${before},${text}`
  }
  return headers
}

/** Native fields of text headers. */
export const toFields = (headers: Headers): Array<Field> => {
  const fields: Array<Field> = []
  for (const name in headers) fields.push([name, encoder.encode(headers[name])])
  return fields
}

/** Headers whose values are secrets wherever they are shown. */
export const secretNames: ReadonlySet<string> = new Set([
  "authorization",
  "cookie",
  "proxy-authorization",
  "set-cookie",
  "x-api-key"
])

/** A copy in which the values of the named headers read `<redacted>`. */
export const redact = (self: Headers, names: ReadonlySet<string> = secretNames): Headers => {
  const headers: Record<string, string> = Object.create(null)
  for (const name in self) headers[name] = names.has(name) ? "<redacted>" : self[name]!
  return headers
}
