import { Effect, Schedule } from "effect"
import { assert, describe, it } from "@effect/vitest"
import { spawn } from "node:child_process"

const main = new URL("../../examples/10-operations/main.ts", import.meta.url).pathname

describe("operations", { timeout: 60_000 }, () => {
  it.live("H13, H14, H16 a storm leaves dead letters on the dashboard, and alerts at their receiver", () =>
    Effect.gen(function*() {
      let printed = ""
      const child = yield* Effect.acquireRelease(
        Effect.sync(() => {
          const args = ["--port", "0", "--rate", "50", "--phase", "2", "--seed", "1"]
          const child = spawn(process.execPath, [main, ...args], { stdio: ["ignore", "pipe", "inherit"] })
          child.stdout.on("data", (chunk: Buffer) => printed += chunk.toString())
          return child
        }),
        (child) => Effect.sync(() => child.kill("SIGKILL"))
      )
      const seen = (pattern: RegExp) =>
        Effect.sync(() => pattern.exec(printed)?.[1]).pipe(
          Effect.repeat({ until: (found) => found !== undefined, schedule: Schedule.spaced("50 millis") })
        )
      const url = yield* seen(/at (http:\S+)\/monitor/)
      const token = yield* seen(/token: (\S+)/)
      yield* seen(/^(The storm: (?!calm).*)$/m)
      yield* seen(/^(alert\.firing: \[critical\] high-errors firing)$/m)
      const headers = { authorization: `Bearer ${token}` }
      const text = yield* Effect.promise(async () => (await fetch(`${url}/monitor/dead-letters`, { headers })).text())
      const open = JSON.parse(text).channels.map((
        { channel, groups }: { channel: string; groups: ReadonlyArray<{ errorType: string }> }
      ) => [
        channel,
        groups.map(({ errorType }) => errorType)
      ])
      assert.deepStrictEqual(open[0], ["orders.dead-letters", ["TypeError"]])
      child.kill("SIGTERM")
      const code = yield* Effect.callback<number | null>((resume) => {
        child.on("close", (code) => resume(Effect.succeed(code)))
      })
      assert.include([0, 130, 143], code)
    }).pipe(Effect.scoped))
})
