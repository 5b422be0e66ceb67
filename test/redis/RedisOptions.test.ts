import * as Environment from "../../packages/redis/src/internal/client/Environment.ts"
import * as Options from "../../packages/redis/src/internal/client/Options.ts"
import { DriverOptions } from "@millrace/core"
import { ConfigProvider, Effect, Exit, Redacted } from "effect"
import { expect, it } from "vitest"

const check = (options: Options.Options) =>
  Effect.runSyncExit(DriverOptions.checked("redis", "Test", () => Options.resolve(options)))

const refusal = (options: Options.Options): string => {
  const exit = check(options)
  const reason = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
  return reason?._tag === "Fail" ? reason.error.message : "nothing"
}

const fromEnvironment = (env: Record<string, string>, given: Options.Options = {}) =>
  Effect.runPromiseExit(Effect.provideService(
    Environment.config(given),
    ConfigProvider.ConfigProvider,
    ConfigProvider.fromUnknown(env)
  ))

it("X5 one of url, cluster and sentinels says where Redis is, in addresses without secrets", () => {
  const url = "redis://localhost"
  const cases: ReadonlyArray<readonly [Options.Options, string]> = [
    [{}, "one of url, cluster and sentinels"],
    [{ url, cluster: ["a"] }, "no two of them"],
    [{ url, name: "main" }, "give sentinels beside it"],
    [{ cluster: [] }, "cluster must hold at least one address"],
    [{ cluster: ["redis://app:secret@a:1"] }, "cluster must hold addresses such as redis-1:6379"],
    [{ sentinels: ["a:0"] }, "sentinels must hold addresses such as redis-1:26379"],
    [{ sentinels: ["a:70000"] }, "sentinels must hold addresses"],
    [{ sentinels: ["a"], name: "" }, "name is empty"],
    [{ sentinels: ["a"], sentinelUsername: "u" }, "sentinelUsername needs sentinelPassword"],
    [{ cluster: ["a"], database: 1 }, "database must be 0 with cluster"],
    [{ url, database: Number.NaN }, "database must be an integer from 0, got NaN"],
    [
      { url: "redis://app:secret@localhost", credentials: Effect.succeed({ password: "x" }) },
      "credentials stand in place of"
    ]
  ]
  for (const [options, sentence] of cases) {
    expect(refusal(options)).toContain(sentence)
    expect(refusal(options)).not.toContain("secret@")
  }
  for (const address of ["a", "a:1", "10.0.0.1:7000", "[::1]:7000", "[::1]", "redis-1.internal:6379"]) {
    expect(Exit.isSuccess(check({ cluster: [address] })), address).toBe(true)
  }
})

it("X5 passwords of servers and sentinels, as they are and in URLs, are hidden in texts", () => {
  const exit = check({ sentinels: ["a"], password: Redacted.make("p@ss"), sentinelPassword: "s€cret", username: "u" })
  const redact = Exit.isSuccess(exit) ? exit.value.place.redact : String
  expect(redact("p@ss p%40ss s€cret s%E2%82%ACcret")).toBe("<redacted> <redacted> <redacted> <redacted>")
})

it("F3 the environment says where Redis is, and options go before it", async () => {
  const found = async (env: Record<string, string>, given?: Options.Options) => {
    const exit = await fromEnvironment(env, given)
    if (Exit.isFailure(exit)) return "missing"
    const { cluster, name, sentinels, url } = exit.value
    return { url: url === undefined ? undefined : "given", cluster, sentinels, name }
  }
  const nothing = { url: undefined, cluster: undefined, sentinels: undefined, name: undefined }
  expect(await found({})).toBe("missing")
  expect(await found({ REDIS_URL: "redis://a" })).toEqual({ ...nothing, url: "given" })
  expect(await found({ REDIS_CLUSTER: "a:1, b:2," })).toEqual({ ...nothing, cluster: ["a:1", "b:2"] })
  expect(await found({ REDIS_SENTINELS: "a", REDIS_SENTINEL_NAME: "main" })).toEqual({
    ...nothing,
    sentinels: ["a"],
    name: "main"
  })
  expect(await found({ REDIS_URL: "redis://a" }, { cluster: ["c"] })).toEqual({ ...nothing, cluster: ["c"] })
})
