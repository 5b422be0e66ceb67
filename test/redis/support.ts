import type { Redis as Servers } from "@millrace/testing/servers"
import { Effect, Redacted } from "effect"
import { Redis } from "ioredis"
import { type ChildProcess, spawn } from "node:child_process"
import { createInterface } from "node:readline"

export { bytes, eventually, fresh, outgoing, textOf } from "../services/driving.ts"

/** `n` texts in order. */
export const numbered = (n: number, prefix = "m"): ReadonlyArray<string> =>
  Array.from({ length: n }, (_, i) => `${prefix}-${i}`)

/** A client that knows nothing of us, as a program beside ours would have; it goes with the scope. */
export const plain = (server: Servers.RedisServer) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const client = new Redis(Redacted.value(server.url), { protocol: 2 })
      client.on("error", () => {})
      return client
    }),
    (client) => Effect.sync(() => client.disconnect())
  )

/** A process of its own that consumes: what it prints, line by line. */
export interface Worker {
  readonly child: ChildProcess
  readonly lines: Array<string>
}

/** Starts `worker.ts` with these words; killed with the scope. */
export const worker = (...words: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.sync((): Worker => {
      const file = new URL("worker.ts", import.meta.url).pathname
      const child = spawn(process.execPath, ["--no-warnings", file, ...words], { stdio: ["pipe", "pipe", "inherit"] })
      const lines: Array<string> = []
      createInterface({ input: child.stdout }).on("line", (line) => lines.push(line))
      return { child, lines }
    }),
    ({ child }) =>
      Effect.promise(async () => {
        if (child.exitCode !== null || child.signalCode !== null) return
        const ended = new Promise((resolve) => child.once("exit", resolve))
        child.kill("SIGKILL")
        await ended
      })
  )
