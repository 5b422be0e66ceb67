/**
 * Consumers as processes: started, told to end, or killed as a power cut would.
 */
import { Effect, type Scope } from "effect"
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
/** A consumer's process. */
export interface Process {
  readonly life: number
  /** Its exit code, or the signal that ended it. */
  readonly ended: Effect.Effect<number | NodeJS.Signals>
  /** SIGKILL; completes when it is gone. */
  readonly kill: Effect.Effect<void>
  /** SIGTERM, once it hears signals; completes with its exit code when it is gone. */
  readonly terminate: Effect.Effect<number | NodeJS.Signals>
  /** SIGSTOP: it stands still, and does not know it. */
  readonly freeze: Effect.Effect<void>
  /** SIGCONT. */
  readonly thaw: Effect.Effect<void>
  readonly isRunning: () => boolean
  /** The last 16,000 characters that it printed. */
  readonly printed: () => string
}

const consumer = fileURLToPath(new URL("./fixtures/consumer.ts", import.meta.url))

/** Starts a consumer, which is told what it is to do as JSON on its command line; it is killed with the scope. */
export const start = <Life extends { readonly life: number }>(
  life: Life,
  script = consumer
): Effect.Effect<Process, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync((): Process => {
      const child = spawn(process.execPath, [script, JSON.stringify(life)], { stdio: ["ignore", "pipe", "pipe"] })
      let printed = ""
      let heard: () => void = () => {}
      const hears = new Promise<void>((resolve) => {
        heard = resolve
      })
      const keep = (chunk: Buffer) => {
        printed = (printed + chunk.toString()).slice(-16_000)
        heard()
      }
      child.stdout.on("data", keep)
      child.stderr.on("data", keep)
      const end = new Promise<number | NodeJS.Signals>((resolve, reject) => {
        child.on("error", reject)
        // one of the two is there
        child.on("close", (code, signal) => resolve(code ?? signal!))
      })
      const ended = Effect.promise(() => end)
      const send = (signal: "SIGKILL" | "SIGTERM") =>
        Effect.suspend(() => {
          child.kill(signal)
          return ended
        })
      // before that, SIGTERM ends it as it ends any process
      const up = Effect.promise(() => Promise.race([hears, end]))
      return {
        life: life.life,
        ended,
        kill: Effect.asVoid(send("SIGKILL")),
        freeze: Effect.sync(() => void child.kill("SIGSTOP")),
        thaw: Effect.sync(() => void child.kill("SIGCONT")),
        terminate: Effect.andThen(up, send("SIGTERM")),
        isRunning: () => child.exitCode === null && child.signalCode === null,
        printed: () => printed
      }
    }),
    (process) => process.kill
  )
