/**
 * A message handler that sends each message as an HTTP request.
 */
import { Correlation, type Handler, Identity, type Message, OptionCheck } from "@millrace/core"
import { Data, Duration, Effect, Exit, Redacted } from "effect"
import { HttpBody, HttpClient, HttpClientRequest } from "effect/http"
import * as Client from "./Client.ts"
import { shownUrl } from "./internal/failures.ts"
import { firstWrong, shownName } from "./internal/headerText.ts"

/** The message cannot be written as a request. Class `poison`, so the message is dead-lettered. */
export class SinkRefused extends Data.TaggedError("SinkRefused")<{
  readonly message: string
}> {
  readonly failure = "poison" as const
}

/** Options of `handler`. */
export interface Options {
  /**
   * The target: an absolute URL with variables in its path and query: `{key}`, `{channel}`, `{partition}`, `{position}` and
   * `{header.NAME}`. Values are percent-encoded, so a value cannot change other parts of the URL. Errors never show the user or
   * the query; for a `Redacted` URL, whose path is a secret, they show the origin only.
   */
  readonly url: string | Redacted.Redacted<string>
  /** Default: `POST`. */
  readonly method?: "POST" | "PUT" | "PATCH" | "DELETE" | undefined
  /** Headers of each request, e.g. a credential; they replace forwarded headers. Default: none. */
  readonly headers?:
    | { readonly [name: string]: string }
    | ((message: Message<unknown>) => { readonly [name: string]: string })
    | undefined
  /**
   * Headers of the message that are copied to the request. Default: see `defaults`; inside `Correlate`, its ids replace theirs.
   */
  readonly forward?: ReadonlyArray<string> | undefined
  /**
   * The `Idempotency-Key`, by which the server detects redelivery. Default: the id of the message
   * (`Identity.of`), else `CHANNEL/PARTITION/POSITION`, which names a delivery on some brokers. Without a key, an unanswered request of a non-idempotent method is not sent again.
   */
  readonly idempotencyKey?: ((message: Message<unknown>) => string | undefined) | undefined
  /** How long one request may take, above 0. Default: 30 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** Changes to `Client.statuses`, e.g. `{ 409: "done" }`. Default: 3xx are `permanent`, because redirects are not followed. */
  readonly statuses?: Client.Statuses | undefined
}

/** The defaults of the options of `handler`. */
export const defaults = {
  method: "POST",
  timeout: Duration.seconds(30),
  forward: ["content-type", "correlation-id", "causation-id", "traceparent", "tracestate", "baggage"]
} as const

/** Options with your own client. */
export interface Through<E, R> extends Options {
  /**
   * Wraps the client of the requests, e.g. `(client) => Client.make(client, Trace.middleware())`; called once for each client.
   */
  readonly client: (client: HttpClient.HttpClient) => HttpClient.HttpClient.With<E, R>
}

type Part = (message: Message<unknown>) => string | undefined

const variable = /\{([^{}]*)\}/g

const partOf = (name: string): Part => {
  if (name === "key") return (message) => message.key
  if (name === "channel") return (message) => message.channel
  if (name === "partition") return (message) => String(message.partition)
  if (name === "position") return (message) => String(message.position)
  if (/^header\.[^.\s]+$/.test(name)) {
    const header = name.slice("header.".length).toLowerCase()
    return (message) => message.headers[header]
  }
  throw new RangeError(
    `Sink: url must use {key}, {channel}, {partition}, {position} or {header.NAME}, got {${name}}`
  )
}

const dots = /^(?:\.|%2e){1,2}$/i

/** Whether a path has a `.` or `..` segment, which a server would resolve. */
const climbs = (url: string): boolean => url.split(/[?#]/, 1)[0]!.split(/[/\\]/).some((segment) => dots.test(segment))

/** Parses the URL template once; the returned function renders the URL of each message. */
const renderer = (template: string, shown: string): (message: Message<unknown>) => string | SinkRefused => {
  const [, origin = "", rest = ""] = /^(https?:\/\/[^/?#{}]+)(.*)$/s.exec(template) ?? []
  if (origin === "" || !URL.canParse(origin)) {
    throw new RangeError(
      `Sink: url must be absolute, of http or https, with variables after its host only, got ${shown}`
    )
  }
  const names = [...rest.matchAll(variable)].map(([, name = ""]) => name)
  const texts = rest.split(variable).filter((_, i) => i % 2 === 0)
  if (texts.some((text) => /[{}]/.test(text))) {
    throw new RangeError(`Sink: url has a brace without its pair, got ${shown}`)
  }
  const parts = names.map(partOf)
  return (message) => {
    let url = origin + texts[0]!
    for (let i = 0; i < parts.length; i++) {
      const value = parts[i]!(message)
      if (value === undefined || value === "" || !value.isWellFormed()) {
        return new SinkRefused({
          message: `The message has no {${names[i]}} that a URL can hold, and ${shown} needs it`
        })
      }
      url += encodeURIComponent(value) + texts[i + 1]!
    }
    return climbs(url.slice(origin.length))
      ? new SinkRefused({ message: `A variable of ${shown} is . or .., which would leave its place` })
      : url
  }
}

const ownKey = (message: Message<unknown>): string =>
  Identity.of(message) ?? `${message.channel}/${message.partition}/${message.position}`

/**
 * Writes a Structured Field string (RFC 9651, 3.3.3), which holds printable ASCII only; other characters are percent-encoded.
 */
const quoted = (key: string): string =>
  `"${key.replace(/[^\x20-\x7e]+/gu, (text) => encodeURIComponent(text.toWellFormed())).replace(/["\\]/g, "\\$&")}"`

const unsendable = (name: string): SinkRefused =>
  new SinkRefused({ message: `The header ${shownName(name)} of the message has characters that no header may have` })

/** The overloads of `handler`. */
export interface Build {
  <E, R>(
    options: Through<E, R>
  ): Handler<
    Message<Uint8Array>,
    void,
    SinkRefused | Client.RequestFailed | Client.Failures<E>,
    HttpClient.HttpClient | R
  >
  (
    options: Options
  ): Handler<
    Message<Uint8Array>,
    void,
    SinkRefused | Client.RequestFailed | Client.StatusFailed,
    HttpClient.HttpClient
  >
}

/**
 * Sends each message as a request through the program's `HttpClient`, with the message's bytes as the body.
 *
 * A 2xx status acknowledges the message. An error settles the message by its class: 408, 425, 429, 5xx (except 501 and 505),
 * failed connections and timeouts are retried, after `Retry-After` if the server sends it; 409 and 423 are retried, because
 * another attempt may still be running; all other 4xx and redirects dead-letter the message, and so does `SinkRefused` (a
 * missing variable, or a header with invalid characters).
 *
 * The subscription's `lanes` set the concurrency. `Retry` around the handler retries in place, and `RateLimit` protects the
 * server. `client` puts middlewares around each request, e.g. `Trace`, which writes its span into the request. A null body is
 * sent as an empty body.
 *
 * **Example** (deliver orders to a partner, eight keys at a time)
 *
 * ```ts
 * import { pipe } from "effect"
 * import { Channel, Lanes, Retry, Subscription } from "@millrace/core"
 * import { Sink } from "@millrace/http"
 *
 * const Orders = Channel.bytes("orders")
 * const partner = Sink.handler({ url: "https://partner.example.com/orders/{key}", method: "PUT" })
 *
 * const subscription = Subscription.make(
 *   Orders,
 *   { group: "partner", name: "partner", lanes: Lanes.key(8) },
 *   pipe(partner, Retry.middleware())
 * )
 * ```
 *
 * @throws RangeError when the URL is not absolute, has a variable in its host or an unknown one, or an option is out of range
 * @category constructors
 */
export const handler: Build = (<E, R>(
  options: Options & Partial<Through<E, R>>
): Handler<Message<Uint8Array>, void, unknown, unknown> => {
  const isSecret = Redacted.isRedacted(options.url)
  const template = Redacted.isRedacted(options.url) ? Redacted.value(options.url) : options.url
  const shows = isSecret ? "origin" : "path"
  const shown = shownUrl(template, shows)
  const urlOf = renderer(template, shown)
  const check = OptionCheck.make("Sink")
  const method = check.oneOf("method", options.method ?? defaults.method, ["POST", "PUT", "PATCH", "DELETE"])
  const forward = (options.forward ?? defaults.forward).map((name) => name.toLowerCase())
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout)
  const keyOf = options.idempotencyKey ?? ownKey
  const { headers: own } = options
  const build = HttpClientRequest.make(method)
  const statuses: Client.Statuses = { "3xx": "permanent", ...options.statuses }

  const headersOf = (message: Message<unknown>): Record<string, string> => {
    const headers: Record<string, string> = Object.create(null)
    for (const name of forward) {
      const value = message.headers[name]
      if (value !== undefined) headers[name] = value
    }
    // the validated ids of `Correlate`
    const ids = options.forward === undefined ? Correlation.current() : undefined
    if (ids !== undefined) {
      headers[Correlation.names.correlation] = headers[Correlation.names.request] = ids.id
      if (ids.causation !== undefined) headers[Correlation.names.causation] = ids.causation
    }
    const key = keyOf(message)
    if (key !== undefined) headers["idempotency-key"] = quoted(key)
    const more = typeof own === "function" ? own(message) : own
    for (const name in more) headers[name.toLowerCase()] = more[name]!
    return headers
  }

  // composed once for each client; a program usually has one client
  let seen: HttpClient.HttpClient | undefined
  let send: Client.Innermost<unknown, unknown> | undefined
  const senderOf = (client: HttpClient.HttpClient): Client.Innermost<unknown, unknown> => {
    if (send !== undefined && seen === client) return send
    seen = client
    return send = options.client === undefined
      ? Client.handler(client, { statuses, shows })
      : Client.handler(options.client(client), { statuses, shows })
  }

  const late = (call: Client.Call) =>
    Effect.fail(
      new Client.RequestFailed({
        method,
        url: shown,
        reason: "Timeout",
        failure: call.isUnrepeatable ? "permanent" : "timeout",
        message: `${method} ${shown} was not answered within ${Duration.format(Duration.millis(timeout))}`
      })
    )

  return (message) => {
    const url = urlOf(message)
    if (typeof url !== "string") return Exit.fail(url)
    const headers = headersOf(message)
    const wrong = firstWrong(headers)
    if (wrong !== undefined) return Exit.fail(unsendable(wrong))
    const { "content-type": contentType, ...rest } = headers
    const body = HttpBody.uint8Array(message.payload, contentType)
    const request = build(url, { headers: rest, body })
    const call = new Client.Call(request, message.channel, message.key)
    return Effect.flatMap(
      HttpClient.HttpClient,
      (client) =>
        Effect.timeoutOrElse(Effect.asVoid(senderOf(client)(call)), { duration: timeout, orElse: () => late(call) })
    )
  }
  // the overloads of Build declare the errors and requirements of the client
}) as Build
