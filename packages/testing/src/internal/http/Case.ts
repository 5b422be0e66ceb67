/** A case of the HTTP suite as data: a section, the bytes to send, and the expected answers. */

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

/** A text or bytes to send, or a wait: until this many answers, interim ones included, have arrived, or for milliseconds. */
export type Part = string | Uint8Array | { readonly answers: number } | { readonly millis: number }

/** The expected value of a field: a text, a pattern, `true` for any value, or `false` for none. */
export type FieldRule = string | RegExp | boolean | ReadonlyArray<string>

/** An expected answer. */
export interface Expected {
  readonly status: number | ReadonlyArray<number>
  /** By lower-case name. A list of texts is the field's lines in their order. */
  readonly fields?: { readonly [name: string]: FieldRule } | undefined
  /** The whole body, a pattern in it, or the body of an earlier answer, by its number in the case from 0. */
  readonly body?: string | RegExp | { readonly same: number } | undefined
  /** Members that a JSON body must have; `undefined` means that the member is absent. */
  readonly json?: { readonly [name: string]: unknown } | undefined
  /** The answer of HEAD, which never has a body. */
  readonly head?: boolean | undefined
}

/** The bytes to send on one connection, and the expected answers on it. */
export interface Exchange {
  readonly send: ReadonlyArray<Part>
  readonly expect: ReadonlyArray<Expected>
  /** Whether the server must close the connection after its last answer. Default: if the client requests it. */
  readonly closes?: boolean | undefined
}

/** The expected final answers; interim answers (1xx) precede the final answer of their request. */
export const finalsOf = ({ expect }: Exchange): ReadonlyArray<Expected> =>
  expect.filter(({ status }) => typeof status !== "number" || status >= 200)

/** Whether the connection must end: the server has to close it, or the client requests it. */
export const closesOf = ({ closes, send }: Exchange): boolean =>
  closes ?? send.some((part) => typeof part === "string" && part.includes("connection: close"))

/** One case. */
export interface Case {
  /** The section that requires it, e.g. `RFC 9110, 9.3.2`. */
  readonly section: string
  readonly title: string
  readonly needs: ReadonlyArray<Resource>
  /** Exchanges run one after another, each on a connection of its own. */
  readonly exchanges: ReadonlyArray<Exchange>
}

/** Lines of a field. */
export type Fields = ReadonlyArray<string>

const head = (method: string, resource: string, fields: Fields): string =>
  [`${method} ${resource} HTTP/1.1`, "host: {host}", ...fields, "", ""].join("\r\n")

/** A request without a body, on a connection that ends with its answer. */
export const ask = (method: string, resource: string, fields: Fields = []): string =>
  head(method, resource, [...fields, "connection: close"])

/** A request without a body, on a connection that stays open. */
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
