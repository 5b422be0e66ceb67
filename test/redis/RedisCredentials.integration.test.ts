import { it } from "@effect/vitest"
import { RedisPubSub, RedisStreams } from "@millrace/redis"
import { Redis as Servers } from "@millrace/testing/servers"
import { Clock, Effect, Exit, Redacted, References } from "effect"
import { inspect } from "node:util"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { eventually, fresh, outgoing, plain } from "./support.ts"

const rules = ["~*", "&*", "+@all"]
const quiet = Effect.provideService(References.MinimumLogLevel, "None")

describeServer("Credentials of Redis that expire", Servers.own({ password: "of the operator" }), (server) => {
  it.live("X17 an open connection proves who it is again before its credentials end, and a new one asks for them", () =>
    Effect.gen(function*() {
      const operator = yield* plain(server())
      const url = `redis://${server().address}`
      let asked = 0
      const credentials = Effect.gen(function*() {
        const n = ++asked
        yield* Effect.promise(() => operator.acl("SETUSER", `app-${n}`, "on", `>token/${n}`, ...rules))
        return {
          username: `app-${n}`,
          password: Redacted.make(`token/${n}`),
          expiresAt: (yield* Clock.currentTimeMillis) + 2000
        }
      })
      const driver = yield* RedisStreams.driver({ url, credentials, clientId: "renewing" })
      yield* driver.check
      const mine = async () => {
        const lines = String(await operator.client("LIST")).split("\n").filter((line) => line.includes("name=renewing"))
        return lines.map((line) => [/id=(\d+)/.exec(line)?.[1], /user=(\S+)/.exec(line)?.[1]] as const)
      }
      const [[id, user] = []] = yield* Effect.promise(mine)
      expect(user).toBe("app-1")
      yield* eventually(async () => (await mine()).some(([each, now]) => each === id && now !== "app-1"))
      // the server ends the connection of a user that is gone
      const [[, last] = []] = yield* Effect.promise(mine)
      yield* Effect.promise(() => operator.acl("DELUSER", String(last)))
      yield* eventually(async () =>
        Exit.isSuccess(await Effect.runPromiseExit(driver.publish([outgoing(fresh("renewed"), "m")])))
      )
      const [[next] = []] = yield* Effect.promise(mine)
      expect(next).not.toBe(id)
    }).pipe(Effect.scoped, quiet))

  it.live("X17 credentials that are refused, or cannot be had, fail with a sentence without them, and two kinds are refused", () =>
    Effect.gen(function*() {
      const url = `redis://${server().address}`
      const wrong = yield* Effect.flip(
        RedisPubSub.driver({ url, credentials: Effect.succeed({ password: "t0ken/x" }) })
      )
      expect([wrong.reason, wrong.operation]).toEqual(["Credentials", "connect"])
      expect(inspect(wrong, { depth: 10 })).not.toMatch(/t0ken/)
      const none = yield* Effect.flip(
        RedisPubSub.driver({ url, credentials: Effect.fail({ _tag: "VaultError", message: "vault is sealed" }) })
      )
      expect([none.reason, none.failure]).toEqual(["Credentials", "dependency"])
      expect(none.message).toContain("vault is sealed")
      const both = yield* Effect.flip(
        RedisPubSub.driver({ url, password: "p", credentials: Effect.succeed({ password: "q" }) })
      )
      expect(both.reason).toBe("Invalid")
    }).pipe(Effect.scoped))
})
