import type { Nats as Servers } from "@millrace/testing/servers"
import { Effect, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"

/** A consumer in a process of its own, and what it has printed. */
export interface Child {
  readonly process: ChildProcess
  readonly lines: Array<string>
}

/** Starts one, as `fixtures/consumer.ts` describes; it is killed when the scope closes. */
export const start = (
  server: Servers.NatsServer,
  channel: string,
  mode: "ordered" | "shared" | "held" | "slow"
): Effect.Effect<Child, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync((): Child => {
      const file = new URL("fixtures/consumer.ts", import.meta.url).pathname
      const child = spawn(process.execPath, ["--no-warnings", file, server.address, channel, mode], {
        stdio: ["ignore", "pipe", "inherit"]
      })
      const lines: Array<string> = []
      let rest = ""
      child.stdout.on("data", (chunk: Buffer) => {
        const parts = (rest + chunk.toString()).split("\n")
        rest = parts.pop()!
        lines.push(...parts)
      })
      return { process: child, lines }
    }),
    ({ process }) => Effect.sync(() => void process.kill("SIGKILL"))
  )

/** Kills it, and completes when it is gone. */
export const kill = ({ process }: Child): Effect.Effect<void> =>
  Effect.promise(() =>
    new Promise<void>((resolve) => {
      process.once("exit", () => resolve())
      process.kill("SIGKILL")
    })
  )
