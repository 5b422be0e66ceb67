import { Headers, type NativeParts, Outgoing } from "@millrace/core"
import type { Redis as Servers } from "@millrace/testing/servers"
import { Effect, Redacted } from "effect"
import { Redis } from "ioredis"
import { type ChildProcess, spawn } from "node:child_process"
import { createInterface } from "node:readline"

const encoder = new TextEncoder()
const decoder = new TextDecoder()

let count = 0

/** A name that no other test uses. */
export const fresh = (what: string): string => `${what}.${process.pid}.${++count}`

/** Bytes of text. */
export const bytes = (text: string): Uint8Array => encoder.encode(text)

/** Text of bytes. */
export const textOf = (body: Uint8Array): string => decoder.decode(body)

/** `n` texts in order. */
export const numbered = (n: number, prefix = "m"): ReadonlyArray<string> =>
  Array.from({ length: n }, (_, i) => `${prefix}-${i}`)

/** A message ready to be published. */
export const outgoing = (
  channel: string,
  body: string | Uint8Array,
  options?: {
    readonly key?: string
    readonly headers?: { readonly [name: string]: string }
    readonly native?: NativeParts
  }
): Outgoing<Uint8Array> =>
  new Outgoing(
    channel,
    typeof body === "string" ? bytes(body) : body,
    options?.key,
    Headers.fromRecord(options?.headers ?? {}),
    options?.native
  )

/** Waits until it is so; a test that waits in vain ends by its own time limit. */
export const eventually = (isSo: () => boolean | Promise<boolean>): Effect.Effect<void> =>
  Effect.flatMap(
    Effect.promise(async () => isSo()),
    (so) => so ? Effect.void : Effect.andThen(Effect.sleep("10 millis"), eventually(isSo))
  )

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
