import { Broker, type BrokerError } from "@millrace/core"
import { JetStream, Nats } from "@millrace/nats"
import { Certificates, Nats as Servers } from "@millrace/testing/servers"
import { expect, it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { inspect } from "node:util"
import { describeServer } from "../services/describe.ts"
import { client, eventually, failureOf, fresh, outgoing, reader, send } from "./support.ts"

const secret = "s3cret-pass"

/** All that a log could show of an error. */
const shown = (error: unknown): string =>
  `${String(error)} ${inspect(error, { depth: 12, showHidden: true })} ${JSON.stringify(error)} ${
    (error as Error).stack
  }`

/** A message that says what to do and holds no secret. */
const says = (error: BrokerError.BrokerError, reason: BrokerError.Reason, what: RegExp) => {
  expect([error.reason, error.message]).toEqual([reason, expect.stringMatching(what)])
  expect(shown(error)).not.toContain(secret)
}

const both = [
  ["JetStream", (options: Nats.Options) => JetStream.driver(options)],
  ["Nats", (options: Nats.Options) => Nats.driver(options)]
] as const

const secured = Effect.flatMap(Certificates.make, (certificates) =>
  Effect.all({
    certificates: Effect.succeed(certificates),
    mutual: Servers.own({ certificates }),
    oneWay: Servers.own({ certificates, mutual: false })
  }))

describeServer("X5 NATS over TLS", secured, (servers) => {
  for (const [name, driver] of both) {
    const open = (which: "mutual" | "oneWay", tls: Nats.Options["tls"]) =>
      Effect.suspend(() =>
        Effect.scoped(Effect.flatMap(
          driver({ servers: Redacted.value(servers()[which].url), tls, connectTimeout: "2 seconds" }),
          ({ check }) => check
        ))
      )

    it.live(`X5 ${name} connects where the authority is known`, () =>
      Effect.suspend(() => open("oneWay", { ca: servers().certificates.ca })))
    it.live(`X5 ${name} refuses a server whose authority is unknown`, () =>
      Effect.gen(function*() {
        says(yield* failureOf(open("oneWay", "on")), "Credentials", /Give tls\.ca/)
        says(
          yield* failureOf(open("oneWay", { ca: servers().certificates.stranger.cert })),
          "Credentials",
          /Give tls\.ca/
        )
      }))
    it.live(`X5 ${name} shows its own certificate`, () =>
      Effect.suspend(() => {
        const { ca, client } = servers().certificates
        return open("mutual", { ca, cert: client.cert, key: Redacted.make(client.key) })
      }))
    it.live(`X5 ${name} is refused without a certificate, or with a stranger's`, () =>
      Effect.gen(function*() {
        const { ca, stranger } = servers().certificates
        says(yield* failureOf(open("mutual", { ca })), "Credentials", /tls\.cert and tls\.key/)
        const error = yield* failureOf(open("mutual", { ca, cert: stranger.cert, key: stranger.key }))
        says(error, "Credentials", /tls\.cert and tls\.key/)
        expect(shown(error)).not.toContain(stranger.key.slice(40, 80))
      }))
  }
})

const guarded = Effect.all({
  users: Servers.own({
    users: {
      narrow: { password: secret, publish: ["allowed", "_INBOX.>"], subscribe: ["allowed", "_INBOX.>"] },
      blind: { password: secret, publish: [">"], subscribe: ["_INBOX.>"] }
    }
  }),
  token: Servers.own({ token: secret })
})

describeServer("X5 NATS with users and tokens", guarded, (servers) => {
  for (const [name, driver] of both) {
    const check = (options: Nats.Options) => Effect.scoped(Effect.flatMap(driver(options), ({ check }) => check))

    it.live(`X5 ${name} is let in by password and by token, from the URL and from options`, () =>
      Effect.gen(function*() {
        const { token, users } = servers()
        yield* check({ servers: Redacted.value(users.url) })
        yield* check({ servers: Redacted.value(token.url) })
        yield* check({ servers: users.address, username: "millrace", password: Redacted.make("millrace") })
        yield* check({ servers: token.address, token: Redacted.make(secret) })
      }))
    it.live(`X5 ${name} says that a password or a token is wrong, and shows neither`, () =>
      Effect.gen(function*() {
        const { token, users } = servers()
        says(
          yield* failureOf(check({ servers: `nats://millrace:${secret}@${users.address}` })),
          "Credentials",
          /user millrace by password .*check user, password/
        )
        says(
          yield* failureOf(check({ servers: users.address, username: "millrace", password: secret })),
          "Credentials",
          /check user/
        )
        says(yield* failureOf(check({ servers: users.address })), "Credentials", /by nothing/)
        says(yield* failureOf(check({ servers: token.address, token: `${secret}x` })), "Credentials", /by token/)
        says(yield* failureOf(check({ servers: `nats://${secret}x@${token.address}` })), "Credentials", /by token/)
      }))
    it.live(`X5 ${name} says that nobody answers, without the password of the URL`, () =>
      Effect.gen(function*() {
        says(
          yield* failureOf(check({ servers: `nats://user:${secret}@127.0.0.1:1` })),
          "Unreachable",
          /start it, or correct servers/
        )
        says(
          yield* failureOf(check({ servers: `nats://user:${secret}@no-such-host.invalid` })),
          "Unreachable",
          /cannot be resolved|Nothing answers/
        )
      }))
    it.live(`X5 ${name} refuses bad options with a sentence that names them and no secret`, () =>
      Effect.gen(function*() {
        for (
          const [options, what] of [
            [{ servers: "" }, /servers is empty/],
            [{ servers: `http://user:${secret}@host:1` }, /servers must be/],
            [{ servers: "host:0" }, /from 1 to 65535/],
            [{ servers: `nats://user:${secret}@::1:4222` }, /an IPv6 address in brackets/],
            [{ servers: `nats://user:%zz${secret}@host` }, /percent-encoded/],
            [{ servers: "host", username: "", password: secret }, /one of them is empty/],
            [{ servers: "host", username: "a", password: secret, token: secret }, /username and token/],
            [{ servers: "host", nkey: secret }, /begins with SU/],
            [{ servers: "host", credentialsFile: "/nowhere" }, /\/nowhere cannot be read/],
            [{ servers: "host", tls: { cert: "x" } }, /both cert and key/],
            [{ servers: "host", connectTimeout: "0 millis" }, /connectTimeout must be a duration/],
            [{ servers: "host", inboxPrefix: "a.*" }, /inboxPrefix/]
          ] as const
        ) says(yield* failureOf(check(options)), "Invalid", what)
        // wrong on purpose, as a program without types may be
        const untyped: ReadonlyArray<object> = [{}, { servers: 4222 }, { servers: "host", username: "a" }]
        for (const options of untyped) {
          says(
            yield* failureOf(check(options as Nats.Options)),
            "Invalid",
            /servers must be a text|one of them is empty/
          )
        }
      }))
    it.live(`X5 ${name} takes a scheme in capitals and an IPv6 address in brackets`, () =>
      Effect.gen(function*() {
        const { users } = servers()
        const url = `NATS://user:${secret}x@${users.address}`
        says(yield* failureOf(check({ servers: url })), "Credentials", /check user/)
        says(yield* failureOf(check({ servers: "nats://[::1]:1" })), "Unreachable", /at \[::1\]:1/)
      }))
    it.live(`X5 ${name} says what a user may not do`, () =>
      Effect.scoped(Effect.gen(function*() {
        const { users } = servers()
        const own = yield* driver({
          servers: users.address,
          username: "narrow",
          password: secret,
          requestTimeout: "2 seconds"
        })
        const error = yield* failureOf(own.publish([outgoing("forbidden", "m")]))
        says(error, "Permission", /User narrow may not publish to forbidden.*grant it/)
        // and goes on
        if (name === "Nats") yield* own.publish([outgoing("allowed", "m")])
      })))
  }

  it.live("X5 Nats says which subject a user may not subscribe to", () =>
    Effect.gen(function*() {
      const { users } = servers()
      const error = yield* failureOf(
        Effect.scoped(reader("secret.things")).pipe(
          Effect.provide(Nats.layer({ servers: users.address, username: "blind", password: secret }))
        )
      )
      says(error, "Permission", /User blind may not subscribe to secret\.things/)
    }))
})

describeServer("X5 core NATS", Servers.own(), (server) => {
  it.live("X5 a group without a name is refused, for it would be none, and so is half of a character in a subject", () =>
    Effect.gen(function*() {
      for (const layer of [Nats.layer({ servers: server().address }), JetStream.layer({ servers: server().address })]) {
        yield* Effect.gen(function*() {
          const broker = yield* Broker.Broker
          const error = yield* failureOf(Effect.scoped(reader(fresh("nameless"), { group: "" })))
          expect([error.reason, error.message]).toEqual(["Invalid", expect.stringContaining("has no name")])
          const half = yield* failureOf(broker.publish(outgoing("a\ud83d", "m")))
          expect([half.reason, half.message]).toEqual(["Invalid", expect.stringContaining("surrogate")])
        }).pipe(Effect.provide(layer))
      }
    }))

  it.live("X5 a channel whose stream would have too long a name is refused for good, with a sentence", () =>
    Effect.gen(function*() {
      const error = yield* failureOf(send("x".repeat(300), "m"))
      expect([error.reason, error.message]).toEqual(["Invalid", expect.stringContaining("255 are the most")])
    }).pipe(Effect.provide(JetStream.layer({ servers: server().address, missingStreams: "create" }))))

  it.live("X5 F17 the subject for answers comes as reply-to, and goes out by it", () =>
    Effect.scoped(Effect.gen(function*() {
      const nc = yield* client(server())
      const channel = fresh("ask")
      yield* Effect.gen(function*() {
        const broker = yield* Broker.Broker
        yield* reader(channel, {}, ({ headers }) => {
          const to = headers["reply-to"] ?? "none"
          return Effect.orDie(broker.publish(outgoing(to, "answer")))
        })
        const answer = yield* Effect.promise(() => nc.request(channel, "question", { timeout: 5000 }))
        expect(answer.string()).toBe("answer")

        const seen: Array<string | undefined> = []
        nc.subscribe("told", { callback: (_, message) => void seen.push(message.reply) })
        yield* Effect.promise(() => nc.flush())
        yield* broker.publish(outgoing("told", "m", { headers: { "reply-to": "back.to.me" } }))
        yield* eventually(() => seen.length === 1)
        expect(seen).toEqual(["back.to.me"])
      }).pipe(Effect.provide(Nats.layer({ servers: server().address })))
    })))

  it.live("X3 what is too much for a slow consumer is dropped, and the rest goes on", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("slow")
      const broker = yield* Broker.Broker
      let open = false
      const { texts } = yield* reader(
        channel,
        { inFlight: { messages: 1 } },
        () => Effect.andThen(eventually(() => open), Effect.void)
      )
      for (let i = 0; i < 50; i++) yield* broker.publish(outgoing(channel, `m-${i}`))
      yield* Effect.sleep("100 millis")
      open = true
      yield* broker.publish(outgoing(channel, "later"))
      yield* Effect.sleep("300 millis")
      yield* broker.publish(outgoing(channel, "end"))
      yield* eventually(() => texts.includes("end"))
      expect(texts.length).toBeGreaterThan(5)
      expect(texts.length).toBeLessThan(30)
      expect(texts.slice(0, 5)).toEqual(["m-0", "m-1", "m-2", "m-3", "m-4"])
    })).pipe(Effect.provide(Nats.layer({ servers: server().address, waiting: { messages: 10 } }))))

  it.live("X5 JetStream says that a server runs without it", () =>
    Effect.scoped(Effect.gen(function*() {
      const plain = yield* Servers.own({
        settings: ["accounts { A { users: [{ user: a, password: a }] } }", "no_auth_user: a"]
      })
      const driver = yield* JetStream.driver({ servers: plain.address })
      expect((yield* failureOf(driver.check)).reason).toBe("Unsupported")
    })))
})
