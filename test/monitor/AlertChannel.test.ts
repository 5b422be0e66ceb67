import { assert, describe, it } from "@effect/vitest"
import { AlertChannel, AlertRule, type Fold, Monitor, Preset } from "@millrace/monitor"
import * as AlertEmail from "@millrace/monitor/AlertEmail"
import { Hmac } from "@millrace/security"
import { Cause, ConfigProvider, Effect, Exit, Layer, Logger, Redacted, type Scope } from "effect"
import { FetchHttpClient } from "effect/http"
import { createServer, type IncomingHttpHeaders, type ServerResponse } from "node:http"
import { type ParsedMail, simpleParser } from "mailparser"
import { Socket } from "node:net"
import { SMTPServer, type SMTPServerOptions } from "smtp-server"
import { Webhook } from "standardwebhooks"

const alertOf = (options: Partial<Fold.Alert> = {}): Fold.Alert => ({
  id: "dead-letters-15000",
  thread: "dead-letters",
  rule: "dead-letters",
  level: "critical",
  status: "firing",
  at: 15_000,
  items: [{
    rule: "dead-letters",
    label: "orders",
    status: "firing",
    value: 3,
    since: 15_000,
    text: "3 dead letters of orders"
  }],
  more: 0,
  labels: {},
  runbook: undefined,
  repeated: false,
  ...options
})

const texted = (...texts: ReadonlyArray<string>) =>
  alertOf({
    items: texts.map((text) => ({
      rule: "dead-letters",
      label: "orders",
      status: "firing",
      value: 3,
      since: 15_000,
      text
    }))
  })

interface Received {
  readonly headers: IncomingHttpHeaders
  readonly text: string
  readonly at: number
}

/** A real receiver, whose answers a test writes. */
const receiver = (answer: (response: ServerResponse, n: number) => void) =>
  Effect.acquireRelease(
    Effect.promise(() => {
      const received: Array<Received> = []
      const server = createServer((request, response) => {
        const chunks: Array<Buffer> = []
        request.on("data", (chunk: Buffer) => chunks.push(chunk))
        request.on("end", () => {
          received.push({ headers: request.headers, text: Buffer.concat(chunks).toString(), at: performance.now() })
          answer(response, received.length)
        })
      })
      return new Promise<{ readonly url: string; readonly received: Array<Received>; readonly close: () => void }>((
        resolve
      ) =>
        server.listen(0, "127.0.0.1", () => {
          const address = server.address()
          const port = typeof address === "object" && address !== null ? address.port : 0
          resolve({
            url: `http://127.0.0.1:${port}/hook/secret-path`,
            received,
            close: () => {
              server.closeAllConnections()
              server.close()
            }
          })
        })
      )
    }),
    ({ close }) => Effect.sync(close)
  )

const ok = (response: ServerResponse) => void response.writeHead(204).end()

/** A real mail server, on loopback. */
const mailServer = (options: SMTPServerOptions = {}): Effect.Effect<
  { readonly url: Redacted.Redacted<string>; readonly mails: Array<ParsedMail>; readonly raw: Array<string> },
  never,
  Scope.Scope
> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(() => {
        const mails: Array<ParsedMail> = []
        const raw: Array<string> = []
        const server = new SMTPServer({
          authOptional: true,
          // the name of a client is of no use here, and its lookup takes time
          disableReverseLookup: true,
          logger: false,
          onData: (stream, _session, done) => {
            const chunks: Array<Buffer> = []
            stream.on("data", (chunk: Buffer) => chunks.push(chunk))
            stream.on("end", () => {
              const text = Buffer.concat(chunks)
              raw.push(text.toString())
              void simpleParser(text, (error, mail) => {
                mails.push(mail)
                done(error)
              })
            })
          },
          ...options
        })
        // a client that ends in the middle is part of a test
        server.on("error", () => undefined)
        return new Promise<
          {
            readonly server: SMTPServer
            readonly port: number
            readonly mails: Array<ParsedMail>
            readonly raw: Array<string>
          }
        >((resolve) => {
          const listening = server.listen(0, "127.0.0.1", () => {
            const address = listening.address()
            resolve({ server, port: typeof address === "object" && address !== null ? address.port : 0, mails, raw })
          })
        })
      }),
      ({ server }) => Effect.promise(() => new Promise<void>((resolve) => server.close(() => resolve())))
    ),
    ({ mails, port, raw }) => ({ url: Redacted.make(`smtp://127.0.0.1:${port}`), mails, raw })
  )

const plainTls = { disabledCommands: ["STARTTLS"] }

const mailTo = (url: Redacted.Redacted<string>, options: Partial<AlertEmail.Options> = {}) =>
  AlertEmail.make({ url, from: "shop@example.com", to: ["duty@example.com"], timeout: "5 seconds", ...options })

const slackOf = (url: string) => AlertChannel.slack({ url: Redacted.make(url), private: "allow" })

/** Sends alerts through channels as a monitor does, and answers the lines of the log. */
const through = <R>(
  channels: ReadonlyArray<AlertChannel.AlertChannel<R>>,
  body: Effect.Effect<void, unknown, Monitor.Service>,
  options: Partial<Monitor.Options> = {}
) =>
  Effect.gen(function*() {
    const lines: Array<string> = []
    yield* Effect.gen(function*() {
      const monitor = yield* Monitor.Service
      yield* monitor.gauge("lag", "orders", 1)
      yield* monitor.tick
      yield* body
    }).pipe(
      Effect.provide(
        Layer.provide(
          Monitor.layer(Preset.production, {
            ...options,
            groupWait: 0,
            backoff: "20 millis",
            rules: options.rules ?? [
              AlertRule.make({
                name: "lag",
                when: { kind: "gauge", name: "lag", atLeast: 1 },
                level: "critical",
                template: "{label} lags"
              })
            ],
            send: channels
          }),
          Monitor.layerMemory
        ).pipe(
          Layer.provideMerge(Logger.layer([Logger.make(({ fiber: _, message }) => void lines.push(String(message)))]))
        )
      )
    )
    return lines
  })

const waitUntil = (isTrue: () => boolean) =>
  Effect.gen(function*() {
    while (!isTrue()) yield* Effect.sleep("5 millis")
  })

describe("AlertChannel", () => {
  it.live("H14 a webhook is signed: Standard Webhooks' own library verifies it, and refuses another secret", () =>
    Effect.gen(function*() {
      const { received, url } = yield* receiver(ok)
      const secret = yield* Hmac.generate
      const channel = AlertChannel.webhook({
        url: Redacted.make(url),
        private: "allow",
        keys: [{ name: "alerts", secret }]
      })
      yield* channel.send(alertOf())
      const { headers, text } = received[0]!
      const signed = {
        "webhook-id": String(headers["webhook-id"]),
        "webhook-timestamp": String(headers["webhook-timestamp"]),
        "webhook-signature": String(headers["webhook-signature"])
      }
      assert.strictEqual(signed["webhook-id"], "dead-letters-15000")
      new Webhook(Redacted.value(secret)).verify(text, signed)
      assert.throws(() => new Webhook(Redacted.value(secret)).verify(`${text} `, signed))
      const body = JSON.parse(text)
      assert.strictEqual(body.type, "alert.firing")
      assert.strictEqual(body.timestamp, "1970-01-01T00:00:15.000Z")
      assert.deepStrictEqual(body.data.lines, ["3 dead letters of orders"])
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))

  it.live("H14 Slack gets blocks in which no text can mention a channel, hide a link or exceed a bound", () =>
    Effect.gen(function*() {
      const { received, url } = yield* receiver(ok)
      const evil = "<!channel> <https://evil.example|click> & ``` \u{1F600}\r\nnext"
      yield* slackOf(url).send(texted(evil, ...Array.from({ length: 19 }, () => "<".repeat(1_000_000))))
      const message = JSON.parse(received[0]!.text)
      const all = JSON.stringify(message)
      assert.notMatch(all, /<!|<http/)
      assert.include(all, "&lt;!channel&gt;")
      assert.isFalse(message.unfurl_links)
      assert.isAtMost(message.blocks.length, 50)
      for (const { text } of message.blocks) assert.isAtMost(text.text.length, 3_000)
      assert.include(message.text, ":red_circle:")
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))

  it.live("H14 429 is tried again after Retry-After, 500 after the backoff, and 400 is final", () =>
    Effect.gen(function*() {
      const answers = [429, 500, 204]
      const { received, url } = yield* receiver((response, n) => {
        const status = answers[n - 1] ?? 204
        response.writeHead(status, status === 429 ? { "retry-after": "1" } : {}).end("busy")
      })
      const lines = yield* through([slackOf(url)], waitUntil(() => received.length === 3))
      assert.isAtLeast(received[1]!.at - received[0]!.at, 950)
      assert.isBelow(received[2]!.at - received[1]!.at, 900)
      assert.deepStrictEqual(lines.filter((line) => line.includes("lag")), [])

      const refusing = yield* receiver((response) => void response.writeHead(400).end())
      const told = yield* through([slackOf(refusing.url)], Effect.void)
      assert.lengthOf(refusing.received, 1)
      assert.deepStrictEqual(told.filter((line) => line.includes("lag")), ["[critical] lag firing: orders lags"])
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))

  it.live("H14 an answer without end is not read to its end", () =>
    Effect.gen(function*() {
      const { url } = yield* receiver((response) => {
        response.writeHead(200)
        const more = () => {
          while (!response.destroyed && response.write(Buffer.alloc(16_384)));
        }
        response.on("drain", more)
        more()
      })
      yield* Effect.timeout(slackOf(url).send(alertOf()), "5 seconds")
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))

  it.live("H14 a redirect is not followed, and no message tells the secret address", () =>
    Effect.gen(function*() {
      const other = yield* receiver(ok)
      const { url } = yield* receiver((response) => void response.writeHead(307, { location: other.url }).end())
      const error = yield* Effect.flip(slackOf(url).send(alertOf()))
      assert.lengthOf(other.received, 0)
      assert.include(error.message, "redirects are not followed")
      const nobody = yield* Effect.flip(slackOf("http://127.0.0.1:1/secret-path").send(alertOf()))
      assert.notInclude(JSON.stringify([error, nobody]) + error.message + nobody.message, "secret-path")
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))

  it.live("H14 a channel that hangs, throws or fails delays no other, and its alert goes to the log", () =>
    Effect.gen(function*() {
      const hanging = yield* receiver(() => undefined)
      const { received, url } = yield* receiver(ok)
      const lines = yield* through(
        [
          slackOf(hanging.url),
          {
            name: "broken",
            send: () => {
              throw new Error("no")
            }
          },
          slackOf(url)
        ],
        waitUntil(() => received.length === 1),
        { timeout: "400 millis", attempts: 2 }
      )
      assert.lengthOf(hanging.received, 2)
      assert.lengthOf(lines.filter((line) => line === "[critical] lag firing: orders lags"), 2)
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))

  it.live("H14 a queue is bounded: further alerts go to the log at once", () =>
    Effect.gen(function*() {
      const started: Array<string> = []
      const rules = ["a", "b", "c", "d"].map((name) =>
        AlertRule.make({ name, when: { kind: "gauge", name: "lag", atLeast: 1 }, level: "critical" })
      )
      const lines = yield* through(
        [{
          name: "slow",
          send: ({ rule }) => Effect.andThen(Effect.sync(() => void started.push(rule)), Effect.sleep("300 millis"))
        }],
        Effect.void,
        { queue: 2, rules }
      )
      // two wait for the channel, and the others are told of in the log
      assert.deepStrictEqual(started, ["a", "b"])
      assert.deepStrictEqual(lines.map((line) => line.slice(0, 19)), ["[critical] c firing", "[critical] d firing"])
    }).pipe(Effect.scoped))

  it.live("H14 mail has plain text and HTML, is marked as generated, and is one thread for a rule", () =>
    Effect.gen(function*() {
      const { mails, raw, url } = yield* mailServer(plainTls)
      const channel = mailTo(url)
      yield* channel.send(texted("<b>evil</b> & \"quoted\"\r\n.\r\nBcc: all@example.com", "é \u{1F600}"))
      yield* channel.send(alertOf({ id: "dead-letters-30000", status: "resolved" }))
      const [first, second] = mails
      assert.strictEqual(first?.subject, "[critical] dead-letters firing (2)")
      assert.include(first?.text, "\u{1F600}")
      assert.include(first?.html === false ? "" : first?.html, "&lt;b&gt;evil&lt;/b&gt; &amp; &quot;quoted&quot;")
      assert.strictEqual(first?.headers.get("auto-submitted"), "auto-generated")
      assert.isUndefined(first?.bcc)
      assert.strictEqual(first?.references, second?.references)
      assert.notStrictEqual(first?.messageId, second?.messageId)
      assert.strictEqual(second?.subject, "[critical] dead-letters resolved")
      assert.lengthOf(raw, 2)
    }).pipe(Effect.scoped))

  it.live("H14 a temporary refusal of the mail server is tried again, a final one is not", () =>
    Effect.gen(function*() {
      const refuse = (code: number) => {
        let tries = 0
        return {
          tries: () => tries,
          options: {
            ...plainTls,
            onRcptTo: (_address: unknown, _session: unknown, done: (error?: Error) => void) => {
              tries += 1
              done(tries === 1 || code >= 500 ? Object.assign(new Error("no"), { responseCode: code }) : undefined)
            }
          }
        }
      }
      const grey = refuse(451)
      const { mails, url } = yield* mailServer(grey.options)
      yield* through([mailTo(url)], waitUntil(() => mails.length === 1))
      assert.strictEqual(grey.tries(), 2)

      const full = refuse(550)
      const other = yield* mailServer(full.options)
      const lines = yield* through([mailTo(other.url)], Effect.void)
      assert.strictEqual(full.tries(), 1)
      assert.include(lines, "[critical] lag firing: orders lags")
    }).pipe(Effect.scoped))

  it.live("H14 a mail server that is slow, or disconnects in the middle of the mail, is a failure that is tried again", () =>
    Effect.gen(function*() {
      const slow = yield* mailServer({ ...plainTls, onConnect: () => undefined })
      const error = yield* Effect.flip(mailTo(slow.url, { timeout: "200 millis" }).send(alertOf()))
      assert.isFalse(error.isFinal)
      let connections = 0
      const cut = yield* mailServer({
        ...plainTls,
        onData: function(this: SMTPServer, stream) {
          connections += 1
          stream.on("data", () => {
            for (const connection of this.connections) {
              const socket: unknown = Reflect.get(connection, "_socket")
              if (socket instanceof Socket) socket.destroy()
            }
          })
        }
      })
      const cutError = yield* Effect.flip(mailTo(cut.url).send(alertOf()))
      assert.isFalse(cutError.isFinal)
      assert.strictEqual(connections, 1)
    }).pipe(Effect.scoped))

  it.live("H14 without TLS no password and no mail leaves, unless the server is of this machine", () =>
    Effect.gen(function*() {
      const { mails, url } = yield* mailServer(plainTls)
      const error = yield* Effect.flip(mailTo(url, { tls: "required" }).send(alertOf()))
      assert.instanceOf(error, AlertChannel.AlertUnsent)
      assert.lengthOf(mails, 0)
    }).pipe(Effect.scoped))

  it.effect("H14 a secret that is missing is an error at start, by the name of its variable", () =>
    Effect.gen(function*() {
      for (
        const [channel, variable] of [
          [AlertChannel.slackConfig(), "SLACK_WEBHOOK_URL"],
          [AlertChannel.webhookConfig(), "ALERT_WEBHOOK"],
          [AlertEmail.config(), "SMTP_URL"]
        ] as const
      ) {
        const layer = Layer.provide(
          Monitor.layer(Preset.production, { send: [channel] }),
          [Monitor.layerMemory, FetchHttpClient.layer]
        )
        const exit = yield* Effect.exit(Effect.scoped(Layer.build(layer))).pipe(
          Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown({}))
        )
        assert.include(Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "", variable)
      }
    }))

  it("H14 addresses that cannot be, or reach the private network, are refused without showing them", () => {
    const refused = [
      "ftp://example.com/secret",
      "http://example.com/secret",
      "https://localhost/secret",
      "https://10.1.2.3/secret",
      "https://192.168.0.1/secret",
      "https://169.254.169.254/secret",
      "https://[::1]/secret",
      "https://[fd00::1]/secret",
      "https://2130706433/secret",
      "https://db.internal/secret",
      "secret"
    ]
    for (const url of refused) {
      assert.throws(
        () => AlertChannel.slack({ url: Redacted.make(url) }),
        /^AlertChannel.slack: url must be (?!.*secret\b.*secret)/,
        url
      )
    }
    AlertChannel.slack({ url: Redacted.make("https://hooks.slack.com/services/T/B/secret") })
    assert.throws(() => AlertChannel.log({ levels: ["fatal" as "info"] }), "each of levels")
  })

  it("H14 mail addresses with names, quotes or several domains are refused", () => {
    const url = Redacted.make("smtps://a:b@mail.example.com")
    const odd = [
      "",
      "ada",
      "\"a@evil.example\"@example.com",
      "Ada <ada@example.com>",
      "a@b.example, c@d.example",
      "a@b.example\r\nRCPT TO:<c@d.example>",
      "(a)b@c.example"
    ]
    for (const to of odd) {
      assert.throws(() => AlertEmail.make({ url, from: "a@b.example", to: [to] }), "AlertEmail: from and to")
    }
    assert.throws(() => AlertEmail.make({ url, from: "a@b.example", to: [] }), "AlertEmail: to must be")
    assert.throws(
      () => AlertEmail.make({ url: Redacted.make("http://secret"), from: "a@b.example", to: ["a@b.example"] }),
      /AlertEmail: url must be (?!.*http)/
    )
  })
})
