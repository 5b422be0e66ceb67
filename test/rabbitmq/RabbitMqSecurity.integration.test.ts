import { Broker, BrokerError, Channel, Lanes, type Message, Subscription } from "@millrace/core"
import { RabbitMq } from "@millrace/rabbitmq"
import { Certificates, RabbitMq as Servers } from "@millrace/testing/servers"
import { it } from "@effect/vitest"
import { Cause, Effect, Exit, Layer, Logger, Redacted } from "effect"
import { inspect } from "node:util"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { eventually, fresh, optionsOf, outgoing, textOf } from "./support.ts"

const secret = "s3cret/p@ss:word"

const make = Effect.gen(function*() {
  const certificates = yield* Certificates.make
  const server = yield* Servers.own({
    tls: {
      ca: certificates.caFile,
      cert: certificates.server.certFile,
      key: certificates.server.keyFile,
      verify: true
    }
  })
  yield* server.ctl("add_user", "clerk", secret)
  yield* server.ctl("add_vhost", "office")
  yield* server.ctl("set_permissions", "-p", "office", "clerk", "^none$", "^none$", "^none$")
  yield* server.ctl("add_user", "stranger", secret)
  return { server, certificates }
})

/** The error of a driver that must not come to be, with nothing secret wherever it is shown. */
const refused = <A, R>(effect: Effect.Effect<A, BrokerError.BrokerError, R>) =>
  Effect.gen(function*() {
    const lines: Array<string> = []
    const logger = Logger.make(({ cause, message }) => void lines.push(inspect(message), Cause.pretty(cause)))
    const exit = yield* Effect.exit(
      Effect.provide(Effect.tapCause(effect, (cause) => Effect.logError(cause)), Logger.layer([logger]))
    )
    if (exit._tag === "Success") throw new Error("It was not refused")
    const error = Cause.squash(exit.cause)
    if (!(error instanceof BrokerError.BrokerError)) throw error
    const shown = [
      inspect(error, { depth: 20, showHidden: true }),
      JSON.stringify(error),
      String(error),
      error.message,
      inspect(error.cause, { depth: 20 }),
      ...lines
    ]
    expect(lines.length).toBeGreaterThan(0)
    for (const text of shown) {
      expect(text).not.toContain(secret)
      expect(text).not.toContain(encodeURIComponent(secret))
    }
    return error
  })

const connecting = (options: RabbitMq.Options) =>
  refused(Effect.scoped(RabbitMq.driver({ connectTimeout: "3 seconds", ...options })))

const clerk = (address: string, vhost = "office", password = secret) =>
  `amqp://clerk:${encodeURIComponent(password)}@${address}/${vhost}`

describeServer("RabbitMQ with users and certificates", make, (have) => {
  const urls = () => {
    const { server } = have()
    return {
      plain: server.address,
      secure: `amqps://${server.username}:${Redacted.value(server.password)}@localhost:${server.tlsPort}`
    }
  }

  it.live("T1 T9 speaks mutual TLS: a message goes there and back", () =>
    Effect.gen(function*() {
      const { ca, client } = have().certificates
      const channel = fresh("tls")
      const got: Array<string> = []
      const subscription = Subscription.make(
        Channel.bytes(channel),
        { group: "readers", name: "tls", lanes: Lanes.unordered(4) },
        (message: Message<Uint8Array>) => Effect.sync(() => void got.push(textOf(message.payload)))
      )
      yield* Effect.scoped(Effect.gen(function*() {
        const broker = yield* Broker.Broker
        yield* broker.declare({ channel })
        yield* Subscription.run(subscription)
        yield* broker.publish(outgoing(channel, "there"))
        yield* eventually(() => got.length === 1)
      })).pipe(Effect.provide(RabbitMq.layer({
        url: urls().secure,
        tls: { ca, cert: client.cert, key: Redacted.make(client.key) }
      })))
      expect(got).toEqual(["there"])
    }))

  it.live("T9 says which certificates do not fit: an authority that is not known, and a client without or with a wrong one", () =>
    Effect.gen(function*() {
      const { ca, client, stranger } = have().certificates
      const url = urls().secure
      const unknown = yield* connecting({ url, tls: { cert: client.cert, key: client.key } })
      expect([unknown.reason, unknown.failure]).toEqual(["Credentials", "permanent"])
      expect(unknown.message).toContain("tls.ca")
      const none = yield* connecting({ url, tls: { ca } })
      expect(none.reason, none.message).toBe("Credentials")
      expect(none.message).toContain("tls.cert")
      const other = yield* connecting({ url, tls: { ca, cert: stranger.cert, key: stranger.key } })
      expect(other.reason, other.message).toBe("Credentials")
      const name = yield* connecting({ url, tls: { ca, cert: client.cert, key: client.key, serverName: "elsewhere" } })
      expect(name.reason, name.message).toBe("Credentials")
    }))

  it.live("T9 says that one side speaks TLS and the other does not", () =>
    Effect.gen(function*() {
      const { server } = have()
      const plain = yield* connecting({ url: clerk(`127.0.0.1:${server.tlsPort}`) })
      expect(plain.reason, plain.message).toBe("Unreachable")
      expect(plain.message).toContain("scheme or the port")
      const secure = yield* connecting({ url: clerk(server.address).replace("amqp:", "amqps:") })
      expect(secure.reason, secure.message).toBe("Unreachable")
      expect(secure.message).toContain("does not speak TLS")
    }))

  it.live("T9 says which of user, password, virtual host and permission is wrong, and no secret", () =>
    Effect.gen(function*() {
      const { plain } = urls()
      const password = yield* connecting({ url: clerk(plain, "office", `${secret}x`) })
      expect([password.reason, password.operation]).toEqual(["Credentials", "connect"])
      expect(password.message).toContain("clerk")
      const vhost = yield* connecting({ url: clerk(plain, "attic") })
      expect(vhost.reason, vhost.message).toBe("NotFound")
      expect(vhost.message).toContain("attic")
      const access = yield* connecting({ url: clerk(plain, "office").replace("clerk", "stranger") })
      // the client does not tell one from the other
      expect(access.reason, access.message).toBe("NotFound")
      expect(access.message).toContain("set_permissions")
    }))

  it.live("T9 says what a user may not do: declare, publish, consume", () =>
    Effect.gen(function*() {
      const { server } = have()
      const url = clerk(server.address)
      const declaring = yield* refused(Effect.scoped(Effect.flatMap(
        RabbitMq.driver({ url }),
        (driver) => driver.declare({ channel: "desk" })
      )))
      expect([declaring.reason, declaring.operation], declaring.message).toEqual(["Permission", "declare"])
      yield* server.ctl("set_permissions", "-p", "office", "clerk", ".*", "^none$", "^none$")
      const publishing = yield* refused(Effect.scoped(Effect.flatMap(
        RabbitMq.driver({ url, channels: { desk: { exchange: "amq.topic" } } }),
        (driver) => driver.publish([outgoing("desk", "m")])
      )))
      expect([publishing.reason, publishing.operation], publishing.message).toEqual(["Permission", "publish"])
      expect(publishing.message).toContain("clerk")
      const subscription = Subscription.make(
        Channel.bytes("desk"),
        { group: "readers", lanes: Lanes.unordered(1) },
        (_: Message<Uint8Array>) => Effect.void
      )
      const consuming = yield* refused(
        Effect.scoped(Subscription.run(subscription)).pipe(
          Effect.provide(RabbitMq.layer({ url, channels: { desk: { exchange: "amq.topic" } } }))
        )
      )
      expect([consuming.reason, consuming.operation], consuming.message).toEqual(["Permission", "consume"])
    }))

  it.live("T9 says that nobody is there, and takes the next of several nodes", () =>
    Effect.gen(function*() {
      const { server } = have()
      const nobody = yield* connecting({ url: "amqp://clerk:nobody-knows@127.0.0.1:1" })
      expect([nobody.reason, nobody.failure]).toEqual(["Unreachable", "dependency"])
      expect(nobody.message).toContain("127.0.0.1:1")
      const driver = yield* Effect.exit(Effect.scoped(Effect.flatMap(
        RabbitMq.driver(optionsOf(server, {
          url: `amqp://${server.username}:${Redacted.value(server.password)}@127.0.0.1:1,${server.address}`
        })),
        (driver) => driver.check
      )))
      expect(Exit.isSuccess(driver)).toBe(true)
      yield* Layer.build(RabbitMq.layer(optionsOf(server))).pipe(Effect.scoped)
    }))
})
