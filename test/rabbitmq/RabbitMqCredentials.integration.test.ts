import { Broker, type BrokerError, Channel, Lanes, type Message, Subscription } from "@millrace/core"
import { RabbitMq } from "@millrace/rabbitmq"
import { RabbitMq as Servers } from "@millrace/testing/servers"
import { it } from "@effect/vitest"
import { connect, credentials as native } from "amqplib"
import { Clock, Effect, Exit, Logger, Redacted } from "effect"
import * as jose from "jose"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { inspect } from "node:util"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { errorOf, eventually, fresh, outgoing, textOf } from "./support.ts"

/** An issuer of tokens that RabbitMQ believes. */
const issuer = Effect.gen(function*() {
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-issuer-"))),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
  )
  const { privateKey, publicKey } = yield* Effect.promise(() => jose.generateKeyPair("RS256"))
  const keyFile = join(folder, "issuer.pem")
  const key = yield* Effect.promise(() => jose.exportSPKI(publicKey))
  writeFileSync(keyFile, key)
  const issued: Array<string> = []
  /** A token of `user` that lives for so many milliseconds, in whole seconds. */
  const issue = (user: string, life: number) =>
    Effect.gen(function*() {
      const expiresAt = Math.ceil(((yield* Clock.currentTimeMillis) + life) / 1000) * 1000
      const token = yield* Effect.promise(() =>
        new jose.SignJWT({
          sub: user,
          aud: ["rabbitmq"],
          // virtual host, exchange or queue, and routing key
          scope: ["rabbitmq.configure:*/*", "rabbitmq.read:*/*/*", "rabbitmq.write:*/*/*"]
        })
          .setProtectedHeader({ alg: "RS256", kid: "issuer" }).setJti(`${issued.length}`).setExpirationTime(
            expiresAt / 1000
          ).sign(privateKey)
      )
      issued.push(token)
      return { password: Redacted.make(token), expiresAt }
    })
  return { issue, issued, keyFile }
})

const make = Effect.gen(function*() {
  const tokens = yield* issuer
  const server = yield* Servers.own({
    plugins: ["rabbitmq_auth_backend_oauth2"],
    settings: {
      "auth_backends.1": "rabbit_auth_backend_oauth2",
      "auth_backends.2": "rabbit_auth_backend_internal",
      "auth_oauth2.resource_server_id": "rabbitmq",
      "auth_oauth2.default_key": "issuer",
      "auth_oauth2.signing_keys.issuer": tokens.keyFile
    }
  })
  // a channel forgets at each tick what its user may do, and asks the token again; every minute by default
  yield* server.ctl("eval", "application:set_env(rabbit, channel_tick_interval, 500).")
  return { server, tokens }
})

describeServer("RabbitMQ with credentials that end", make, (have) => {
  const url = () => `amqp://${have().server.address}`
  const connections = Effect.suspend(() => have().server.ctl("list_connections", "--quiet", "pid")).pipe(
    Effect.map((text) => text.split("\n").filter((line) => line.startsWith("<")).sort())
  )

  it.live(
    "X17 RabbitMQ ends the channel of a publisher whose token has ended, unless it is told another",
    () =>
      Effect.gen(function*() {
        const { issue } = have().tokens
        const { password } = yield* issue("silent", 2000)
        const why = yield* Effect.promise(async () => {
          const model = await connect(url(), { credentials: native.plain("", Redacted.value(password)) })
          const channel = await model.createConfirmChannel()
          channel.publish("amq.topic", "k", Buffer.from("m"))
          await channel.waitForConfirms()
          const ended = new Promise<unknown>((resolve) => channel.on("error", resolve))
          const timer = setInterval(() => {
            try {
              channel.publish("amq.topic", "k", Buffer.from("m"))
            } catch {
              clearInterval(timer)
            }
          }, 20)
          const error = await ended
          clearInterval(timer)
          await model.close().catch(() => {})
          return error
        })
        expect(String(why)).toMatch(/expired/)
      }),
    30_000
  )

  it.live(
    "X17 under load an open connection goes on from token to token: nothing is lost, and nothing connects again",
    () =>
      Effect.gen(function*() {
        const { issue, issued } = have().tokens
        const before = issued.length
        const channel = fresh("tokens")
        const got = new Map<string, number>()
        const attempts = new Set<number>()
        const lines: Array<string> = []
        const subscription = Subscription.make(
          Channel.bytes(channel),
          { group: "readers", lanes: Lanes.unordered(64) },
          ({ attempt, payload }: Message<Uint8Array>) =>
            Effect.sync(() => {
              got.set(textOf(payload), (got.get(textOf(payload)) ?? 0) + 1)
              attempts.add(attempt)
            })
        )
        yield* Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          const { health } = yield* Subscription.run(subscription)
          yield* broker.publish(outgoing(channel, "0"))
          const first = yield* connections
          const end = (yield* Clock.currentTimeMillis) + 12_000
          let n = 1
          while ((yield* Clock.currentTimeMillis) < end) {
            const batch = Array.from({ length: 50 }, () => outgoing(channel, `${n++}`))
            yield* broker.publishAll(batch)
            yield* Effect.sleep(20)
          }
          yield* eventually(() => got.size === n)
          expect(yield* connections).toEqual(first)
          expect(first.length).toBe(2)
          expect(issued.length - before).toBeGreaterThanOrEqual(3)
          expect([Math.max(...got.values()), [...attempts], (yield* health).restarts]).toEqual([1, [1], 0])
          yield* broker.check
        }).pipe(
          Effect.scoped,
          Effect.provide([
            RabbitMq.layer({ url: url(), credentials: issue("orders", 5000) }),
            Logger.layer([Logger.make((line) => void lines.push(inspect(line, { depth: 8 })))])
          ])
        )
        for (const token of issued) expect(lines.join("\n")).not.toContain(token)
      }),
    60_000
  )

  it.live(
    "X17 a token that cannot be renewed shows in the check, is asked for again, and the connection stays",
    () =>
      Effect.gen(function*() {
        const { issue } = have().tokens
        const channel = fresh("renewing")
        let sealed = false
        let asked = 0
        const credentials = Effect.suspend(() => {
          asked++
          return sealed ? Effect.fail({ _tag: "VaultError", message: "the vault is sealed" }) : issue("orders", 6000)
        })
        yield* Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          const first = yield* connections
          sealed = true
          yield* eventually(async () => Exit.isFailure(await Effect.runPromiseExit(broker.check)))
          const error = yield* errorOf(broker.check)
          expect([error.reason, error.failure]).toEqual(["Credentials", "dependency"])
          expect(error.message).toContain("the vault is sealed")
          const before = asked
          sealed = false
          yield* eventually(async () => Exit.isSuccess(await Effect.runPromiseExit(broker.check)))
          expect(asked).toBeGreaterThan(before)
          yield* broker.publish(outgoing(channel, "after"))
          expect(yield* connections).toEqual(first)
        }).pipe(Effect.scoped, Effect.provide(RabbitMq.layer({ url: url(), credentials })))
      }),
    60_000
  )

  it.live(
    "X17 a token that ended while none could be had ends the channel, and the driver goes on with the next token",
    () =>
      Effect.gen(function*() {
        const { issue } = have().tokens
        const channel = fresh("ended")
        const got = new Set<string>()
        let sealed = false
        const credentials = Effect.suspend(() =>
          sealed ? Effect.fail({ _tag: "VaultError", message: "the vault is sealed" }) : issue("orders", 2000)
        )
        const subscription = Subscription.make(
          Channel.bytes(channel),
          { group: "readers", lanes: Lanes.unordered(8), restart: { base: 20, cap: 200 } },
          ({ payload }: Message<Uint8Array>) => Effect.sync(() => void got.add(textOf(payload)))
        )
        yield* Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          yield* Subscription.run(subscription)
          sealed = true
          const confirmed: Array<string> = []
          let last: Exit.Exit<void, BrokerError.BrokerError> = Exit.void
          while (Exit.isSuccess(last)) {
            const text = `m-${confirmed.length}`
            last = yield* Effect.exit(broker.publish(outgoing(channel, text)))
            if (Exit.isSuccess(last)) confirmed.push(text)
            yield* Effect.sleep(20)
          }
          for (const effect of [Effect.suspend(() => last), broker.publish(outgoing(channel, "refused"))]) {
            const error = yield* errorOf(effect)
            expect([error.reason, error.retriable], error.message).toEqual(["Credentials", true])
          }
          sealed = false
          yield* eventually(async () =>
            Exit.isSuccess(await Effect.runPromiseExit(broker.publish(outgoing(channel, "after"))))
          )
          yield* eventually(() => got.has("after") && confirmed.every((text) => got.has(text)))
        }).pipe(Effect.scoped, Effect.provide(RabbitMq.layer({ url: url(), credentials })))
      }),
    60_000
  )

  it.live(
    "X17 a user and a password that a vault rotates are asked for at each connection",
    () =>
      Effect.gen(function*() {
        const { server } = have()
        const channel = fresh("rotated")
        const users = ["app-1", "app-2"]
        for (const user of users) {
          yield* server.ctl("add_user", user, `pass/word of ${user}`)
          yield* server.ctl("set_permissions", user, ".*", ".*", ".*")
        }
        let version = 0
        const credentials = Effect.sync(() => {
          const username = users[Math.min(version++, 1)]!
          return { username, password: Redacted.make(`pass/word of ${username}`) }
        })
        yield* Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* broker.declare({ channel })
          yield* broker.publish(outgoing(channel, "a", { headers: { "user-id": "app-1" } }))
          // RabbitMQ ends the connections of a user that is gone
          yield* server.ctl("delete_user", "app-1")
          const message = outgoing(channel, "b", { headers: { "user-id": "app-2" } })
          yield* eventually(async () => Exit.isSuccess(await Effect.runPromiseExit(broker.publish(message))))
          expect(version).toBeGreaterThan(1)
        }).pipe(Effect.scoped, Effect.provide(RabbitMq.layer({ url: url(), credentials })))
      }),
    60_000
  )

  it.live("X17 credentials that RabbitMQ refuses fail with a sentence without them, and two kinds are refused", () =>
    Effect.gen(function*() {
      const wrong = yield* errorOf(
        Effect.scoped(RabbitMq.driver({ url: url(), credentials: Effect.succeed({ password: "t0ken/secret" }) }))
      )
      expect([wrong.reason, wrong.operation], wrong.message).toEqual(["Credentials", "connect"])
      expect(inspect(wrong, { depth: 10 })).not.toMatch(/t0ken/)
      const both = yield* errorOf(Effect.scoped(RabbitMq.driver({
        url: `amqp://u:p@${have().server.address}`,
        credentials: Effect.succeed({ password: "q" })
      })))
      expect(both.reason).toBe("Invalid")
      expect(both.message).toContain("credentials")
    }))
})
