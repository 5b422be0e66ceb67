/**
 * Sends alerts by mail, through an SMTP server; needs the package `nodemailer`, from version 10.6.
 */
import { OptionCheck } from "@millrace/core"
import { Config, Duration, Effect, Redacted } from "effect"
import { createTransport } from "nodemailer"
import { type AlertChannel, AlertUnsent, linesOf, type Routing, titleOf } from "./AlertChannel.ts"
import { type Level, levels as allLevels } from "./AlertRule.ts"
import type { Alert } from "./Fold.ts"
import { oneLine } from "./internal/text.ts"

/** Options of `make`. */
export interface Options extends Routing {
  /** Default: `email`. */
  readonly name?: string | undefined
  /** `smtp://user:password@host:587`, which turns to TLS where the server offers it, or `smtps://…:465`. */
  readonly url: Redacted.Redacted<string>
  /** The address of the sender, without a name. */
  readonly from: string
  /** The addresses of the receivers, without names; at least one, at most 50. */
  readonly to: ReadonlyArray<string>
  /** The alerts that are mailed. Default: critical ones. */
  readonly levels?: ReadonlyArray<Level> | undefined
  /** Whether mail is sent only over TLS. `smtps:` always is. Default: `required`, for servers of this machine `offered`. */
  readonly tls?: "required" | "offered" | undefined
  /** The longest wait for the connection and for each answer of the server; from 1 ms. Default: 5 seconds. */
  readonly timeout?: Duration.Input | undefined
}

/** The defaults of `make`. */
export const defaults: { readonly levels: ReadonlyArray<Level>; readonly timeout: Duration.Duration } = {
  levels: ["critical"],
  timeout: Duration.seconds(5)
}

// Plain addresses only: quoted local parts, comments, groups and names have sent mail to other domains than the one that was read.
const address =
  /^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9-]{1,63}$/

const htmlOf = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("\"", "&quot;")

/** The identity of a mail: of letters, digits and dashes. */
const idOf = (text: string, domain: string): string => `<${text.replaceAll(/[^\w-]/g, "_")}@${domain}>`

const mailOf = (alert: Alert, from: string, to: ReadonlyArray<string>) => {
  const title = titleOf(alert)
  const lines = linesOf(alert)
  const domain = from.slice(from.lastIndexOf("@") + 1)
  const runbook = alert.runbook === undefined ? [] : [`Runbook: ${alert.runbook}`]
  const thread = idOf(`millrace-${alert.thread}`, domain)
  return {
    from,
    to: [...to],
    subject: oneLine(title, 200),
    messageId: idOf(alert.id, domain),
    // all mails of one rule are one thread
    references: thread,
    inReplyTo: thread,
    headers: { "Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All" },
    text: [...lines, ...runbook].join("\n"),
    html: `<p><b>${htmlOf(title)}</b></p><ul>${lines.map((line) => `<li>${htmlOf(line)}</li>`).join("")}</ul>${
      runbook.map((line) => `<p>${htmlOf(line)}</p>`).join("")
    }`,
    disableFileAccess: true,
    disableUrlAccess: true
  }
}

const codeOf = (error: unknown, field: "code" | "responseCode"): unknown =>
  typeof error === "object" && error !== null ? Reflect.get(error, field) : undefined

const unsent = (error: unknown): AlertUnsent => {
  const status = codeOf(error, "responseCode")
  const code = codeOf(error, "code")
  return typeof status === "number"
    ? new AlertUnsent({ message: `the mail server answered ${status}`, isFinal: status >= 500 })
    : new AlertUnsent({
      message: `the mail server is not reached (${typeof code === "string" ? code : "no reason"})`,
      isFinal: false
    })
}

/**
 * Makes a channel that mails alerts, as plain text and HTML, marked as generated, in one thread for each rule. A temporary refusal
 * (4xx) is tried again, a final one (5xx) is not.
 *
 * Source: RFC 5321, RFC 3834
 *
 * **Example** (critical alerts to the people on duty)
 *
 * ```ts
 * import * as AlertEmail from "@millrace/monitor/AlertEmail"
 * import { Redacted } from "effect"
 *
 * const channel = AlertEmail.make({
 *   url: Redacted.make("smtps://shop:secret@mail.example.com:465"),
 *   from: "shop@example.com",
 *   to: ["duty@example.com"]
 * })
 * console.log(channel.levels) // => [ 'critical' ]
 * ```
 *
 * @throws RangeError when the address of the server or a mail address is invalid
 * @category constructors
 */
export const make = (options: Options): AlertChannel => {
  const check = OptionCheck.make("AlertEmail")
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
  const { from, labels, to } = options
  const levels = options.levels ?? defaults.levels
  for (const level of levels) check.oneOf("each of levels", level, allLevels)
  if (to.length === 0 || to.length > 50) {
    throw new RangeError(`AlertEmail: to must be 1 to 50 addresses, got ${to.length}`)
  }
  for (const each of [from, ...to]) {
    if (!address.test(each)) {
      throw new RangeError(
        `AlertEmail: from and to must be addresses like duty@example.com, without a name, got ${JSON.stringify(each)}`
      )
    }
  }
  const given = Redacted.value(options.url)
  if (!URL.canParse(given) || !/^smtps?:$/.test(new URL(given).protocol)) {
    throw new RangeError(
      "AlertEmail: url must be like smtps://user:password@host:465; its value is secret and not shown"
    )
  }
  const url = new URL(given)
  const isLocal = /^(?:localhost|127\.0\.0\.1|\[::1\])$/.test(url.hostname)
  const tls = check.oneOf("tls", options.tls ?? (isLocal ? "offered" : "required"), ["required", "offered"])
  const secure = url.protocol === "smtps:"
  const settings = {
    host: url.hostname.replace(/^\[|\]$/g, ""),
    port: url.port === "" ? (secure ? 465 : 587) : Number(url.port),
    secure,
    requireTLS: tls === "required",
    ...(url.username === ""
      ? {}
      : { auth: { user: decodeURIComponent(url.username), pass: decodeURIComponent(url.password) } }),
    connectionTimeout: timeout,
    greetingTimeout: timeout,
    socketTimeout: timeout
  }
  return {
    name: options.name ?? "email",
    levels,
    labels,
    send: (alert) =>
      Effect.acquireUseRelease(
        Effect.sync(() => createTransport(settings)),
        (transport) =>
          Effect.asVoid(Effect.tryPromise({ try: () => transport.sendMail(mailOf(alert, from, to)), catch: unsent })),
        (transport) => Effect.sync(() => transport.close())
      )
  }
}

/**
 * Makes a mail channel of `SMTP_URL`, `ALERT_EMAIL_FROM` and `ALERT_EMAIL_TO`, addresses with commas between; if one of them is
 * missing, a `ConfigError` at start.
 *
 * @category constructors
 */
export const config = (options: Omit<Options, "from" | "to" | "url"> = {}): Config.Config<AlertChannel> =>
  Config.map(
    Config.all({
      url: Config.Redacted("SMTP_URL"),
      from: Config.NonEmptyString("ALERT_EMAIL_FROM"),
      to: Config.NonEmptyString("ALERT_EMAIL_TO")
    }),
    ({ from, to, url }) => make({ ...options, url, from, to: to.split(",").map((each) => each.trim()) })
  )
