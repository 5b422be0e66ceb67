/**
 * A case of the HTTP suite as data: a section, bytes that are sent, and the answers that must come.
 */

/** The resources of the service under test; see `HttpConformance`. */
export type Resource =
  | "hello"
  | "echo"
  | "item"
  | "empty"
  | "stream"
  | "cookies"
  | "inflate"
  | "slow"
  | "unread"
  | "fails"
  | "defect"
  | "broken"
  | "busy"
  | "private"
  | "admin"
  | "payments"
  | "limited"
  | "trace"
  | "cors"
  | "corsPrivate"
  | "corsFails"

/** A text or bytes to send, or a wait: until so many answers, interim ones included, have come, or for milliseconds. */
export type Part = string | Uint8Array | { readonly answers: number } | { readonly millis: number }

/** What a field must be: a text, a pattern, `true` for any value, or `false` for none. */
export type FieldRule = string | RegExp | boolean | ReadonlyArray<string>

/** An answer that must come. */
export interface Expected {
  readonly status: number | ReadonlyArray<number>
  /** By lower-case name. A list of texts is the field's lines in their order. */
  readonly fields?: { readonly [name: string]: FieldRule } | undefined
  /** The whole body, a pattern in it, or the body of an answer that came before, by its number in the case from 0. */
  readonly body?: string | RegExp | { readonly same: number } | undefined
  /** Members that a JSON body must have; `undefined` is none. */
  readonly json?: { readonly [name: string]: unknown } | undefined
  /** The answer of HEAD, which never has a body. */
  readonly head?: boolean | undefined
}

/** What is sent on one connection, and what must come back on it. */
export interface Exchange {
  readonly send: ReadonlyArray<Part>
  readonly expect: ReadonlyArray<Expected>
  /** Whether the server must close the connection after its last answer. Default: where the client asks for it. */
  readonly closes?: boolean | undefined
}

/** The final answers; those of 1xx are expected before the one that they are of. */
export const finalsOf = ({ expect }: Exchange): ReadonlyArray<Expected> =>
  expect.filter(({ status }) => typeof status !== "number" || status >= 200)

/** Whether the connection must end: the server has to close it, or the client asks for that. */
export const closesOf = ({ closes, send }: Exchange): boolean =>
  closes ?? send.some((part) => typeof part === "string" && part.includes("connection: close"))

/** One case. */
export interface Case {
  /** The section that asks for it, e.g. `RFC 9110, 9.3.2`. */
  readonly section: string
  readonly title: string
  readonly needs: ReadonlyArray<Resource>
  /** One after another, each on a connection of its own. */
  readonly exchanges: ReadonlyArray<Exchange>
}

/** Lines of a field. */
export type Fields = ReadonlyArray<string>

const head = (method: string, resource: string, fields: Fields): string =>
  [`${method} ${resource} HTTP/1.1`, "host: {host}", ...fields, "", ""].join("\r\n")

/** A request without a body, on a connection that ends with its answer. */
export const ask = (method: string, resource: string, fields: Fields = []): string =>
  head(method, resource, [...fields, "connection: close"])

/** A request without a body, on a connection that goes on. */
export const keep = (method: string, resource: string, fields: Fields = []): string => head(method, resource, fields)

const lengthOf = (body: string | Uint8Array): number =>
  typeof body === "string" ? new TextEncoder().encode(body).length : body.length

/** A request with a body and its length. */
export const post = (
  resource: string,
  body: string | Uint8Array,
  fields: Fields = ["content-type: application/json"],
  method: string = "POST"
): ReadonlyArray<Part> => [ask(method, resource, [...fields, `content-length: ${lengthOf(body)}`]), body]

/** Makes the cases of one document. */
export const of = (document: string) =>
(
  section: string,
  title: string,
  needs: ReadonlyArray<Resource>,
  send: Part | ReadonlyArray<Part>,
  expect: Expected | ReadonlyArray<Expected>,
  more: { readonly closes?: boolean; readonly next?: ReadonlyArray<Exchange> } = {}
): Case => ({
  section: `${document}, ${section}`,
  title,
  needs,
  exchanges: [{
    send: Array.isArray(send) ? send as ReadonlyArray<Part> : [send as Part],
    expect: Array.isArray(expect) ? expect as ReadonlyArray<Expected> : [expect as Expected],
    closes: more.closes
  }, ...more.next ?? []]
})
