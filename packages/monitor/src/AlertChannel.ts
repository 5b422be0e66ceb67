/**
 * Channels that alerts are sent through: the log, webhooks, Slack; `AlertEmail` has mail.
 */
import { type Envelope, OptionCheck, Outgoing } from "@millrace/core"
import { boundedText } from "@millrace/core/boundedText"
import { manualRedirects, redirects } from "@millrace/core/manualRedirects"
import * as RetryAfter from "@millrace/core/retryAfter"
import { Hmac } from "@millrace/security"
import { Config, Data, DateTime, Duration, Effect, Redacted } from "effect"
import { HttpBody, HttpClient, HttpClientRequest, type HttpClientResponse } from "effect/http"
import { type Level, levels as allLevels } from "./AlertRule.ts"
import type { Alert } from "./Fold.ts"
import { bounded } from "./internal/text.ts"

/** An alert could not be sent. Class `dependency`; the monitor tries again, unless `isFinal`. */
export class AlertUnsent extends Data.TaggedError("AlertUnsent")<{
  /** What went wrong, without addresses and secrets. */
  readonly message: string
  /** Whether another attempt would fail, too. */
  readonly isFinal: boolean
  /** When the receiver wants the next attempt. */
  readonly retryAfter?: Duration.Duration | undefined
}> {
  readonly failure = "dependency" as const
}

/** The alerts that a channel gets. */
export interface Routing {
  /** Only alerts of these levels. Default: every level. */
  readonly levels?: ReadonlyArray<Level> | undefined
  /** Only alerts with all of these labels. Default: any labels. */
  readonly labels?: Readonly<Record<string, string>> | undefined
}

/** A channel: a name, the alerts it gets, and a function that sends one. */
export interface AlertChannel<out R = never> extends Routing {
  readonly name: string
  readonly send: (alert: Alert) => Effect.Effect<void, AlertUnsent, R>
  /** The shortest time between two alerts that were sent. Default: none. */
  readonly spacing?: Duration.Duration | undefined
}

/** Checks the routing of a channel: levels that exist. */
const routingOf = (module: string, { labels, levels }: Routing): Routing => {
  for (const level of levels ?? []) OptionCheck.make(module).oneOf("each of levels", level, allLevels)
  return { labels, levels }
}

/** Tells whether a channel gets an alert. */
export const gets = ({ labels, levels }: Routing, alert: Pick<Alert, "labels" | "level">): boolean =>
  (levels === undefined || levels.includes(alert.level)) &&
  Object.entries(labels ?? {}).every(([name, value]) => alert.labels[name] === value)

/** The heading of an alert, on one line. */
export const titleOf = ({ items, level, more, repeated, rule, status }: Alert): string =>
  `[${level}] ${rule} ${status}${items.length + more > 1 ? ` (${items.length + more})` : ""}${
    repeated ? ", still" : ""
  }`

/** The lines of an alert: one for each item. */
export const linesOf = ({ items, more, status }: Alert): ReadonlyArray<string> => [
  ...items.map((item) => item.status === status ? item.text : `${item.status}: ${item.text}`),
  ...(more > 0 ? [`and ${more} more`] : [])
]

const logLevels = { critical: "Error", warning: "Warn", info: "Info" } as const

/** Writes an alert as one line of the log. */
export const write = (alert: Alert, more: Readonly<Record<string, unknown>> = {}): Effect.Effect<void> =>
  Effect.annotateLogs(
    Effect.logWithLevel(logLevels[alert.level])(`${titleOf(alert)}: ${bounded(linesOf(alert).join("; "), 2_000)}`),
    { alert: alert.id, ...(alert.runbook === undefined ? {} : { runbook: alert.runbook }), ...more }
  )

/**
 * Makes a channel that writes alerts to the log: critical ones at Error, warnings at Warn, all others at Info.
 *
 * @throws RangeError when a level does not exist
 * @category constructors
 */
export const log = (options: Routing = {}): AlertChannel => ({
  ...routingOf("AlertChannel.log", options),
  name: "log",
  send: (alert) => write(alert)
})

/** Options of a channel with an address. */
export interface Addressed extends Routing {
  /** Default: the kind of the channel. */
  readonly name?: string | undefined
  /** The address, which holds a secret. */
  readonly url: Redacted.Redacted<string>
  /**
   * Whether the address may be `http:` or a host of the private network, by its name or number. Default: `refuse`, so that an
   * address from a form of an administration page reaches no service behind the firewall.
   */
  readonly private?: "allow" | "refuse" | undefined
}

const privateHost =
  /^(?:localhost|.*\.(?:local|internal|localhost)|0\.|10\.|127\.|169\.254\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.|100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.|\[(?:::1?|::ffff:.*|f[cd].*|fe[89ab].*)\]$)/i

/** Checks an address, without showing it. */
const addressOf = (module: string, { private: isPrivate, url }: Addressed): string => {
  const fail = (reason: string): never => {
    throw new RangeError(`${module}: url must be ${reason}; its value is secret and not shown`)
  }
  const given = Redacted.value(url)
  if (!URL.canParse(given)) return fail("the address of an HTTP server")
  const { hostname, protocol } = new URL(given)
  if (protocol !== "https:" && protocol !== "http:") return fail("an address of https:")
  if (isPrivate === "allow") return given
  if (protocol !== "https:") return fail("an address of https:, unless private is \"allow\"")
  const bare = hostname.toLowerCase().replace(/\.$/, "")
  return privateHost.test(bare) ? fail("no host of the private network, unless private is \"allow\"") : given
}

const longestWait = Duration.minutes(1)

/** The wait that a receiver asks for; at most a minute. */
const retryAfterOf = (text: string | undefined, now: number): Duration.Duration | undefined => {
  const wait = RetryAfter.parse(text, now)
  return wait === undefined || Duration.isZero(wait) ? undefined : Duration.min(wait, longestWait)
}

/** The most bytes that are read of an answer; its text is not used. */
const mostAnswer = 64 * 1024

const post = (
  url: string,
  body: Uint8Array,
  headers: Readonly<Record<string, string>>
): Effect.Effect<void, AlertUnsent, HttpClient.HttpClient> =>
  Effect.gen(function*() {
    const client = yield* HttpClient.HttpClient
    const request = HttpClientRequest.post(url, { body: HttpBody.uint8Array(body, "application/json"), headers })
    const response: HttpClientResponse.HttpClientResponse = yield* Effect.mapError(
      manualRedirects(client.execute(request)),
      // the error names the address, which is secret
      ({ reason }) => new AlertUnsent({ message: `the receiver gave no answer (${reason._tag})`, isFinal: false })
    )
    // the connection is free only after the body was read; a longer one is cut off, and its connection closed
    yield* Effect.ignore(boundedText(response, mostAnswer, "too long"))
    const { status } = response
    if (status >= 200 && status < 300) return
    const now = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
    return yield* new AlertUnsent({
      message: redirects.has(status)
        ? `the receiver answered ${status}, and redirects are not followed: give its final address`
        : `the receiver answered ${status}`,
      isFinal: status < 500 && status !== 408 && status !== 425 && status !== 429,
      retryAfter: retryAfterOf(response.headers["retry-after"], now)
    })
  })

const utf8 = new TextEncoder()

/** Options of `webhook`. */
export interface WebhookOptions extends Addressed, Hmac.SignOptions {}

/**
 * Makes a channel that posts alerts as JSON `{ type, timestamp, data }`, signed by Standard Webhooks: the receiver verifies
 * `webhook-signature` with the same secret. `webhook-id` is the alert's id, the same for each attempt, by which a receiver
 * recognises a repetition. Redirects are not followed.
 *
 * Source: https://www.standardwebhooks.com
 *
 * **Example** (to a service of one's own)
 *
 * ```ts
 * import { AlertChannel } from "@millrace/monitor"
 * import { Hmac } from "@millrace/security"
 * import { Effect, Redacted } from "effect"
 *
 * const secret = await Effect.runPromise(Hmac.generate)
 * const channel = AlertChannel.webhook({
 *   url: Redacted.make("https://alerts.example.com/millrace"),
 *   keys: [{ name: "alerts", secret }],
 *   levels: ["critical", "warning"]
 * })
 * console.log(channel.name) // => webhook
 * ```
 *
 * @throws RangeError when the address or a secret is invalid
 * @category constructors
 */
export const webhook = (options: WebhookOptions): AlertChannel<HttpClient.HttpClient> => {
  const url = addressOf("AlertChannel.webhook", options)
  const sign = Hmac.sign({ keys: options.keys })
  const send = sign((message: Envelope & { readonly payload: Uint8Array }) =>
    post(url, message.payload, message.headers)
  )
  return {
    ...routingOf("AlertChannel.webhook", options),
    name: options.name ?? "webhook",
    send: (alert) =>
      Effect.suspend(() =>
        send(
          new Outgoing(
            "alerts",
            utf8.encode(
              JSON.stringify({
                type: `alert.${alert.status}`,
                timestamp: DateTime.formatIso(DateTime.makeUnsafe(alert.at)),
                data: { ...alert, title: titleOf(alert), lines: linesOf(alert) }
              })
            ),
            undefined,
            { [Hmac.names.id]: alert.id }
          )
        )
      )
  }
}

const marks = { critical: ":red_circle:", warning: ":large_orange_circle:", info: ":large_blue_circle:" } as const

/** Escapes what Slack reads as a link, a mention or an entity. */
const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")

/** The message of an alert for Slack's incoming webhooks. */
const slackMessage = (alert: Alert) => {
  const mark = alert.status === "resolved" ? ":large_green_circle:" : marks[alert.level]
  const title = escaped(titleOf(alert))
  const section = (text: string) => ({ type: "section", text: { type: "mrkdwn", text: bounded(text, 3_000) } })
  const lines = linesOf(alert).map((line) => `• ${escaped(bounded(line, 300)).replaceAll("```", "'''")}`)
  // 10 lines of at most 300 characters, each of which may be escaped to 5, fit in a section only cut
  const parts = [lines.slice(0, 7), lines.slice(7, 14), lines.slice(14)].filter((part) => part.length > 0)
  return {
    text: `${mark} ${bounded(title, 300)}`,
    unfurl_links: false,
    unfurl_media: false,
    blocks: [
      section(`${mark} *${bounded(title, 300)}*`),
      ...parts.map((part) => section(part.join("\n"))),
      ...(alert.runbook === undefined ? [] : [section(`Runbook: ${escaped(alert.runbook)}`)])
    ]
  }
}

/** The shortest time between two messages to one webhook of Slack. */
const slackSpacing = Duration.seconds(1)

/**
 * Makes a channel that posts alerts to an incoming webhook of Slack, as blocks. Texts of errors are escaped, so that none can
 * mention a channel or hide a link, and links are not unfurled. At most one message a second, as Slack asks.
 *
 * @throws RangeError when the address is invalid
 * @category constructors
 */
export const slack = (options: Addressed): AlertChannel<HttpClient.HttpClient> => {
  const url = addressOf("AlertChannel.slack", options)
  return {
    ...routingOf("AlertChannel.slack", options),
    name: options.name ?? "slack",
    spacing: slackSpacing,
    send: (alert) => Effect.suspend(() => post(url, utf8.encode(JSON.stringify(slackMessage(alert))), {}))
  }
}

/**
 * Makes a webhook channel of `ALERT_WEBHOOK_URL` and `ALERT_WEBHOOK_SECRET`; a missing one is a `ConfigError` at start.
 *
 * @category constructors
 */
export const webhookConfig = (
  options: Omit<WebhookOptions, "keys" | "url"> = {}
): Config.Config<AlertChannel<HttpClient.HttpClient>> =>
  Config.map(
    Config.all({ url: Config.Redacted("ALERT_WEBHOOK_URL"), secret: Config.Redacted("ALERT_WEBHOOK_SECRET") }),
    ({ secret, url }) => webhook({ ...options, url, keys: [{ name: "alerts", secret }] })
  )

/**
 * Makes a Slack channel of `SLACK_WEBHOOK_URL`; if it is missing, a `ConfigError` at start.
 *
 * @category constructors
 */
export const slackConfig = (
  options: Omit<Addressed, "url"> = {}
): Config.Config<AlertChannel<HttpClient.HttpClient>> =>
  Config.map(Config.Redacted("SLACK_WEBHOOK_URL"), (url) => slack({ ...options, url }))
