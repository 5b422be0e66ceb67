import { OptionCheck } from "@millrace/core"
import { Data, type Duration, Effect, type Scope, Semaphore } from "effect"
import { chownSync, mkdtempSync } from "node:fs"
import { rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ask, freePorts, NotReady, settled, supervise } from "./process.ts"
import type { Probe, Program, User } from "./process.ts"

/**
 * A server is unavailable here: `tool` is missing, and the message says in one sentence how to get it. No server was
 * started.
 */
export class ServerUnavailable extends Data.TaggedError("ServerUnavailable")<{
  readonly server: string
  readonly tool: string
  readonly message: string
}> {
  readonly failure = "dependency"
}

/**
 * A server did not start, stop or answer; `logs` are its last lines of output, at most 4,000 characters, and the message
 * ends with them.
 */
export class ServerFailed extends Data.TaggedError("ServerFailed")<{
  readonly server: string
  readonly message: string
  readonly logs: string
}> {
  readonly failure = "dependency"
}

/**
 * The server was started outside of this process, which therefore may not stop, kill or restart it; the message names its
 * owner.
 */
export class ServerNotOwned extends Data.TaggedError("ServerNotOwned")<{
  readonly server: string
  readonly message: string
}> {
  readonly failure = "permanent"
}

/** A running server. Its operations run one at a time, and each does nothing if its work is already done. */
export interface Server {
  /** The product and, of an own copy, the version: `Kafka 4.2.0`. */
  readonly name: string
  /** `host:port` for clients; it stays the same over restarts. */
  readonly address: string
  /** Starts the server on the same port and data, and waits until it answers. */
  readonly start: Effect.Effect<void, ServerFailed | ServerNotOwned>
  /** Stops the server gracefully; kills it after 30 seconds. */
  readonly stop: Effect.Effect<void, ServerFailed | ServerNotOwned>
  /** Kills the server and its child processes as a power cut would (SIGKILL). */
  readonly kill: Effect.Effect<void, ServerFailed | ServerNotOwned>
  /** Stops the server if it runs, then starts it again on the same port and data. */
  readonly restart: Effect.Effect<void, ServerFailed | ServerNotOwned>
  /** The last lines of output, at most 4,000 characters; empty for a borrowed server. */
  readonly logs: Effect.Effect<string>
  /** The process id while the server runs as a child of this process. */
  readonly pid: Effect.Effect<number | undefined>
}

const failed = (server: string) => (cause: unknown): ServerFailed => {
  const logs = cause instanceof NotReady ? cause.logs : ""
  const reason = cause instanceof Error ? cause.message : String(cause)
  return new ServerFailed({ server, logs, message: `${server} ${reason}${logs === "" ? "" : `\n${logs}`}` })
}

/** The parts that one product's starter passes to {@link own}. */
export interface Recipe {
  readonly name: string
  readonly user?: User | undefined
  readonly ports: number
  /** The longest time until the server answers. */
  readonly startTimeout: Duration.Input
  /** Puts the data into the new folder: once, before the first start. */
  readonly prepare: (folder: string) => Effect.Effect<void, ServerUnavailable | ServerFailed>
  /** The command, once the ports are known. */
  readonly program: (folder: string, ports: ReadonlyArray<number>) => Program
  /** Runs before the folder is removed, if the server is running; afterwards the server is killed. */
  readonly beforeClose?: (folder: string, stop: Effect.Effect<void>) => Effect.Effect<void>
}

// Another process may take a free port before the server does.
const attempts = 3

/**
 * Starts an own copy in a new temporary folder; closing the scope, or any end of this process, kills the server and removes
 * the folder.
 */
export const own = (recipe: Recipe): Effect.Effect<Server, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const patience = OptionCheck.make("Server").millis("startTimeout", recipe.startTimeout)
    let program: Program | undefined
    const attempt = (work: (signal: AbortSignal) => Promise<void>) => settled(work, failed(recipe.name))

    const { folder, supervisor } = yield* Effect.acquireRelease(
      Effect.try({
        try: () => {
          const folder = mkdtempSync(join(tmpdir(), `millrace-${recipe.name.split(" ")[0]?.toLowerCase()}-`))
          if (recipe.user !== undefined) chownSync(folder, recipe.user.uid, recipe.user.gid)
          return { folder, supervisor: supervise(folder) }
        },
        catch: failed(recipe.name)
      }),
      ({ folder, supervisor }) =>
        Effect.gen(function*() {
          if (recipe.beforeClose !== undefined && program !== undefined && supervisor.pid() !== undefined) {
            const running = program
            yield* recipe.beforeClose(folder, Effect.promise(() => supervisor.stop(running)))
          }
          yield* Effect.promise(() => supervisor.kill())
          yield* Effect.promise(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }))
          supervisor.close()
        })
    )
    yield* recipe.prepare(folder)

    const startOn = (ports: ReadonlyArray<number>) => {
      const next = recipe.program(folder, ports)
      program = next
      return Effect.as(attempt((signal) => supervisor.start(next, patience, signal)), next)
    }
    const first = (left: number): Effect.Effect<Program, ServerFailed> =>
      Effect.tryPromise({ try: () => freePorts(recipe.ports), catch: failed(recipe.name) }).pipe(
        Effect.flatMap(startOn),
        Effect.catchIf(
          (error) => left > 1 && /address already in use|another process answers/i.test(error.message),
          () => first(left - 1)
        )
      )
    const started = yield* first(attempts)

    const one = Semaphore.makeUnsafe(1)
    const start = attempt((signal) => supervisor.start(started, patience, signal))
    const stop = attempt(() => supervisor.stop(started))
    return {
      name: recipe.name,
      address: `${started.probe.host}:${started.probe.port}`,
      start: one.withPermit(start),
      stop: one.withPermit(stop),
      kill: one.withPermit(attempt(() => supervisor.kill())),
      restart: one.withPermit(Effect.andThen(stop, start)),
      logs: Effect.sync(supervisor.logs),
      pid: Effect.sync(supervisor.pid)
    }
  })

/**
 * A server started outside of this process: asks it every 100 ms until it answers, and fails with `ServerFailed` after
 * `patience` milliseconds. Its operations fail with `ServerNotOwned`, whose message ends with `whose`.
 */
export const borrowed = (
  name: string,
  probe: Probe,
  whose: string,
  patience = 5_000
): Effect.Effect<Server, ServerFailed> => {
  const address = `${probe.host}:${probe.port}`
  const notOwned = (operation: string) =>
    Effect.fail(new ServerNotOwned({ server: name, message: `Cannot ${operation} ${name} at ${address}: ${whose}` }))
  const answers = Effect.callback<boolean>((resume, signal) => {
    const deadline = Date.now() + patience
    const round = async (): Promise<boolean> =>
      await ask(probe) ||
      (Date.now() < deadline && !signal.aborted && await new Promise((r) => setTimeout(r, 100)).then(round))
    void round().then((answered) => resume(Effect.succeed(answered)))
  })
  return Effect.flatMap(answers, (answered) =>
    answered
      ? Effect.succeed({
        name,
        address,
        start: notOwned("start"),
        stop: notOwned("stop"),
        kill: notOwned("kill"),
        restart: notOwned("restart"),
        logs: Effect.succeed(""),
        pid: Effect.succeed(undefined)
      })
      : Effect.fail(
        new ServerFailed({ server: name, logs: "", message: `${name} does not answer at ${address}: ${whose}` })
      ))
}
