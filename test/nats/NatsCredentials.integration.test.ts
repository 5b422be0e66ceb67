import { it } from "@effect/vitest"
import { Broker, Health, Lanes } from "@millrace/core"
import { JetStream, Nats } from "@millrace/nats"
import { Nats as Servers } from "@millrace/testing/servers"
import { Clock, Effect, Logger, Redacted, Schedule } from "effect"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { inspect } from "node:util"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { traffic } from "../services/traffic.ts"
import { operator } from "./jwt.ts"
import { eventually, failureOf, fresh, outgoing } from "./support.ts"

const authority = operator()
const secret = "s3cret/pass"
const both = Effect.all({
  jwt: Servers.own({ settings: authority.settings }),
  users: Servers.own({ users: { one: { password: secret }, two: { password: `${secret}2` } } })
})

/** Seconds of Unix time from now. */
const inSeconds = (seconds: number) => Effect.map(Clock.currentTimeMillis, (now) => Math.floor(now / 1000) + seconds)

const lines = () => {
  const found: Array<string> = []
  return { found, layer: Logger.layer([Logger.make(({ message }) => void found.push(String(message)))]) }
}

describeServer("Credentials of NATS that expire", both, (servers) => {
  it.live(
    "X17 JetStream moves to a connection with new credentials before the old ones end: nothing is lost, repeated or out of order",
    () =>
      Effect.gen(function*() {
        const channel = fresh("renewed")
        let asked = 0
        // the server would take each for longer
        const credentials = Effect.gen(function*() {
          asked++
          return {
            ...authority.user(`app-${asked}`, yield* inSeconds(600)),
            expiresAt: (yield* Clock.currentTimeMillis) + 1500
          }
        })
        const { failures, got, sent } = yield* Effect.andThen(
          Effect.flatMap(Broker.Broker, (broker) => broker.declare({ channel })),
          traffic(channel, Lanes.partition, () => asked > 4)
        ).pipe(
          Effect.provide(
            JetStream.layer({ servers: servers().jwt.address, credentials, consumer: { claim: "2 seconds" } })
          )
        )
        expect(got).toEqual(sent)
        expect(failures).toBe(0)
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "X17 core NATS subscribes by the new connection before it leaves the old one: nothing is lost or repeated",
    () =>
      Effect.gen(function*() {
        let asked = 0
        const credentials = Effect.gen(function*() {
          const [username, password] = ++asked % 2 === 1 ? ["one", secret] : ["two", `${secret}2`]
          return { username, password: Redacted.make(password), expiresAt: (yield* Clock.currentTimeMillis) + 1500 }
        })
        const { failures, got, sent } = yield* traffic(fresh("renewed"), Lanes.unordered(16), () => asked > 4).pipe(
          Effect.provide(Nats.layer({ servers: servers().users.address, credentials }))
        )
        expect(got.toSorted()).toEqual(sent.toSorted())
        expect(failures).toBe(0)
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "X17 a JWT ends when it says so: a file of credentials that is written anew is read for the next connection",
    () =>
      Effect.gen(function*() {
        const folder = yield* Effect.acquireRelease(
          Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-creds-"))),
          (made) => Effect.sync(() => rmSync(made, { recursive: true }))
        )
        const file = join(folder, "app.creds")
        let written = 0
        const write = Effect.map(inSeconds(3), (end) => {
          written++
          writeFileSync(file, authority.user(`file-${written}`, end).creds, { mode: 0o600 })
        })
        yield* write
        yield* Effect.forkScoped(Effect.repeat(write, Schedule.spaced("1 second")))
        const channel = fresh("file")
        const { got, sent } = yield* Effect.andThen(
          Effect.flatMap(Broker.Broker, (broker) => broker.declare({ channel })),
          traffic(channel, Lanes.unordered(16), () => written > 7)
        ).pipe(Effect.provide(JetStream.layer({
          servers: servers().jwt.address,
          credentialsFile: file,
          consumer: { claim: "2 seconds" }
        })))
        expect([...new Set(got)].toSorted()).toEqual(sent.toSorted())
      }).pipe(Effect.scoped),
    60_000
  )

  it.live(
    "X17 while the source fails health is degraded, and the connection goes on; new credentials are taken when they come",
    () => {
      const log = lines()
      return Effect.gen(function*() {
        let isSealed = false
        let asked = 0
        const credentials = Effect.suspend(() => {
          asked++
          return isSealed
            ? Effect.fail({ _tag: "VaultError", message: `sealed; was ${secret}` })
            : Effect.map(Clock.currentTimeMillis, (now) => ({
              username: "one",
              password: secret,
              expiresAt: now + 2000
            }))
        })
        const program = Effect.gen(function*() {
          const broker = yield* Broker.Broker
          expect(yield* broker.check).toBeUndefined()
          isSealed = true
          yield* eventually(async () => asked > 1)
          const pending = yield* Effect.repeat(broker.check, { until: (each) => each !== undefined })
          expect(pending).toMatchObject({ reason: "Credentials", failure: "dependency" })
          const { checks } = yield* Health.report("readiness").pipe(
            Effect.provide(Health.layer([Health.broker()]))
          )
          expect(checks.map(({ status }) => status)).toEqual(["degraded"])
          yield* broker.publish(outgoing(fresh("still"), "m"))
          isSealed = false
          yield* Effect.repeat(broker.check, { until: (each) => each === undefined })
          yield* broker.publish(outgoing(fresh("again"), "m"))
        })
        yield* Effect.provide(program, Nats.layer({ servers: servers().users.address, credentials }))
        expect(log.found.join("\n")).toMatch(/sealed/)
        expect(log.found.join("\n")).not.toContain(secret)
      }).pipe(Effect.scoped, Effect.provide(log.layer))
    },
    60_000
  )

  it.live("X17 credentials that are refused, unreadable or of two kinds fail with what to do, and no secret", () =>
    Effect.gen(function*() {
      const { jwt, users } = servers()
      const lasting = authority.user("lasting")
      const ended = authority.user("ended", 1_000_000)
      const cases = [
        [
          users,
          { credentials: Effect.succeed({ username: "one", password: `${secret}-not` }) },
          "Credentials",
          "dependency",
          /refused user one/
        ],
        [users, { credentials: Effect.succeed({ token: secret }) }, "Credentials", "dependency", /by token/],
        [
          jwt,
          { credentials: Effect.succeed({ jwt: "a.b.c", nkey: ended.nkey }) },
          "Credentials",
          "dependency",
          /cannot be read/
        ],
        [jwt, { credentials: Effect.succeed(ended) }, "Credentials", "dependency", /had ended/],
        [
          jwt,
          { credentials: Effect.succeed({ jwt: lasting.jwt, nkey: "SUABC" }) },
          "Credentials",
          "dependency",
          /begins with SU/
        ],
        [jwt, { credentials: Effect.succeed(ended), token: secret }, "Invalid", "permanent", /token and credentials/]
      ] as const
      for (const [server, options, reason, failure, message] of cases) {
        const error = yield* failureOf(Nats.driver({ servers: server.address, ...options }))
        expect([error.reason, error.failure, error.message]).toEqual([reason, failure, expect.stringMatching(message)])
        const shown = `${inspect(error, { depth: 12, showHidden: true })}${JSON.stringify(error)}`
        for (const each of [secret, ended.jwt, ended.nkey]) expect(shown).not.toContain(each)
      }
    }).pipe(Effect.scoped))
})
