/**
 * Header fields of a message: the text read by middlewares, and the native fields that a copy must not lose.
 *
 * Brokers allow headers that a text record cannot hold: repeated names, upper-case names, null and binary values. A driver
 * therefore gives both: `Headers`, one string for each lower-case name, and `Field`s, exactly as received.
 */

/**
 * Text headers: lower-case names, one string each, no prototype.
 *
 * `effect/http` Headers are assignable to this type.
 */
export interface Headers {
  readonly [name: string]: string
}

/** A header field as stored by the broker: the name as written, and bytes or null. */
export type Field = readonly [name: string, value: Uint8Array | null]

const strict = new TextDecoder("utf-8", { fatal: true })
const encoder = new TextEncoder()

/** No headers. */
export const empty: Headers = Object.freeze(Object.create(null) as Headers)

/** Makes headers from a record; names become lower case, and of two names that differ only in case the last wins. */
export const fromRecord = (record: { readonly [name: string]: string }): Headers => {
  const headers: Record<string, string> = Object.create(null)
  for (const name of Object.keys(record)) headers[name.toLowerCase()] = record[name]!
  return headers
}

/** Copies headers with one header added or replaced. */
export const set = (self: Headers, name: string, value: string): Headers => {
  const headers: Record<string, string> = Object.create(null)
  for (const each in self) headers[each] = self[each]!
  headers[name.toLowerCase()] = value
  return headers
}

/** Copies headers with others added; of equal names the others win. */
export const merge = (self: Headers, others: Headers): Headers => {
  const headers: Record<string, string> = Object.create(null)
  for (const name in self) headers[name] = self[name]!
  for (const name in others) headers[name] = others[name]!
  return headers
}

/** Copies fields without those that have the name of one of `by`, in any case, and adds `more`. Default: `more` is `by`. */
export const replaceFields = (
  self: ReadonlyArray<Field>,
  by: ReadonlyArray<Field>,
  more: ReadonlyArray<Field> = by
): ReadonlyArray<Field> => {
  if (self.length === 0) return more
  const names = new Set(by.concat(more).map(([name]) => name.toLowerCase()))
  return self.filter(([name]) => !names.has(name.toLowerCase())).concat(more)
}

/** Decodes a header's bytes, or returns undefined if they are null or not UTF-8. */
export const textOf = (value: Uint8Array | null): string | undefined => {
  if (value === null) return undefined
  try {
    return strict.decode(value)
  } catch {
    return undefined
  }
}

// lists, which may span several fields (RFC 9110, 5.3); two joined `traceparent` fields are invalid, as they must be
const joined: ReadonlySet<string> = new Set(["baggage", "traceparent", "tracestate"])

/**
 * Makes the text view of native fields: the first valid UTF-8 field of each name; for the W3C's trace headers all fields, as one
 * list. The fields keep everything that the view leaves out.
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

/** Makes native fields from text headers. */
export const toFields = (headers: Headers): Array<Field> => {
  const fields: Array<Field> = []
  for (const name in headers) fields.push([name, encoder.encode(headers[name])])
  return fields
}

/** Headers whose values are always secret. */
export const secretNames: ReadonlySet<string> = new Set([
  "authorization",
  "cookie",
  "proxy-authorization",
  "set-cookie",
  "x-api-key"
])

/** Copies headers with the values of the named ones replaced by `<redacted>`. */
export const redact = (self: Headers, names: ReadonlySet<string> = secretNames): Headers => {
  const headers: Record<string, string> = Object.create(null)
  for (const name in self) headers[name] = names.has(name) ? "<redacted>" : self[name]!
  return headers
}
