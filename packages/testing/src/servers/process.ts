import { Effect } from "effect"
import { spawn, spawnSync } from "node:child_process"
import type { ChildProcess } from "node:child_process"
import { accessSync, closeSync, constants, existsSync, openSync, readFileSync, statSync } from "node:fs"
import { connect, createServer } from "node:net"
import type { AddressInfo, Server, Socket } from "node:net"
import { delimiter, join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"

// This module waits in real time with plain promises: a test may start a server while its Clock stands still.

/** The user that runs a program which refuses this process's user. */
export interface User {
  readonly uid: number
  readonly gid: number
}

/** The first executable file called `name`, in the given folders and then on the PATH. */
export const findTool = (name: string, folders: ReadonlyArray<string> = []): string | undefined =>
  [...folders, ...(process.env["PATH"] ?? "").split(delimiter)]
    .filter((folder) => folder !== "")
    .map((folder) => join(folder, name))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK)
        return statSync(file).isFile()
      } catch {
        return false
      }
    })

/**
 * A promise as an effect. Its interruption waits until the work has stopped, so the work cannot write into a removed folder.
 */
export const settled = <A, E>(
  work: (signal: AbortSignal) => Promise<A>,
  onError: (cause: unknown) => E
): Effect.Effect<A, E> =>
  Effect.callback((resume, signal) => {
    const done = Promise.resolve().then(() => work(signal)).then(
      (value) => resume(Effect.succeed(value)),
      (cause: unknown) => resume(Effect.fail(onError(cause)))
    )
    return Effect.promise(() => done)
  })

/** Runs a tool to its end, and returns its exit code and output. Aborting kills it. */
export const runTool = (
  command: string,
  args: ReadonlyArray<string>,
  options: {
    readonly cwd: string
    readonly user?: User | undefined
    readonly input?: string
    readonly signal: AbortSignal
  }
): Promise<{ readonly code: number | null; readonly output: string }> =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      ...options.user
    })
    const abort = () => child.kill("SIGKILL")
    if (options.signal.aborted) abort()
    options.signal.addEventListener("abort", abort, { once: true })
    let output = ""
    child.stdout.on("data", (chunk: Buffer) => output += chunk.toString())
    child.stderr.on("data", (chunk: Buffer) => output += chunk.toString())
    child.once("error", reject)
    child.once("close", (code) => resolve({ code, output }))
    // a tool that ends without reading its input closes the pipe; its exit code reports the failure
    child.stdin.on("error", () => {})
    child.stdin.end(options.input)
  })

const lowestPort = 20_000
const highestPort = 32_000

const listen = (port: number): Promise<Server> =>
  new Promise((resolve, reject) => {
    const server = createServer()
    server.once("error", reject)
    server.listen({ port, host: "127.0.0.1", exclusive: true }, () => resolve(server))
  })

/**
 * `count` free ports, all held open together before they are released. They lie below the range that systems use for
 * outgoing connections: a client that reconnects to a dead server could otherwise occupy its port, or even connect to
 * itself.
 */
export const freePorts = async (count: number): Promise<Array<number>> => {
  const held: Array<Server> = []
  while (held.length < count) {
    const port = lowestPort + Math.floor(Math.random() * (highestPort - lowestPort))
    try {
      held.push(await listen(port))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw error
    }
  }
  const ports = held.map((server) => (server.address() as AddressInfo).port)
  await Promise.all(held.map((server) => new Promise((closed) => server.close(closed))))
  return ports
}

/** A readiness check of a server in its own protocol. */
export interface Probe {
  readonly host: string
  readonly port: number
  readonly hello: Uint8Array
  readonly isAnswer: (reply: Buffer) => boolean
}

/** Connects, sends `hello` and returns whether the answer arrives; gives up after two seconds without activity. */
export const ask = (probe: Probe): Promise<boolean> =>
  new Promise((resolve) => {
    let reply = Buffer.alloc(0)
    const socket: Socket = connect(probe.port, probe.host)
    const end = (answered: boolean) => {
      socket.destroy()
      resolve(answered)
    }
    socket.setTimeout(2_000, () => end(false))
    socket.once("connect", () => socket.write(probe.hello))
    socket.on("data", (chunk: Buffer) => {
      reply = Buffer.concat([reply, chunk])
      if (probe.isAnswer(reply)) end(true)
    })
    socket.once("error", () => end(false))
    socket.once("close", () => end(false))
  })

/** The command of a server's process, with its probe and stop signal. */
export interface Program {
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly user?: User | undefined
  readonly probe: Probe
  readonly stopSignal: "SIGTERM" | "SIGINT"
}

/** The reason why a process is not ready, with its last lines of output. */
export class NotReady extends Error {
  readonly logs: string
  constructor(message: string, logs: string) {
    super(message)
    this.logs = logs
  }
}

// Reads the pid to watch, one a line, until the pipe closes: any end of this process, even by kill -9, ends the server too.
const watchScript = `while read -r line; do pid=$line; done
if [ -n "$pid" ]; then
  children=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null || pgrep -P "$pid")
  kill -9 $pid $children 2>/dev/null
fi
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }`

const childrenOf = (pid: number): Array<number> => {
  const file = `/proc/${pid}/task/${pid}/children`
  const text = existsSync(file)
    ? readFileSync(file, "utf8")
    : spawnSync("pgrep", ["-P", `${pid}`], { encoding: "utf8" }).stdout
  return text.split(/\s+/).filter((word) => word !== "").map(Number)
}

/** True while the process runs; false for a zombie. */
export const isRunning = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
  } catch {
    return false
  }
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, "utf8"))
  } catch {
    // without /proc the signal's result counts; with it, the process ended between the two checks
    return !existsSync("/proc/self/stat")
  }
}

/** A program that can be restarted in one folder, and that dies with this process. */
export const supervise = (folder: string) => {
  const logFile = join(folder, "log")
  const watcher = spawn("sh", ["-c", watchScript, "watch", folder], {
    detached: true,
    stdio: ["pipe", "ignore", "ignore"]
  })
  watcher.stdin.on("error", () => {})
  watcher.on("error", () => {})
  watcher.unref()
  const pipe = watcher.stdin as Socket
  pipe.unref()

  let running: { readonly child: ChildProcess; readonly ended: Promise<void> } | undefined

  const logs = (): string => {
    try {
      return readFileSync(logFile, "utf8").slice(-4_000)
    } catch {
      return ""
    }
  }

  const end = async (signal: NodeJS.Signals, patience: number): Promise<void> => {
    if (running === undefined) return
    const { child, ended } = running
    const pid = child.pid as number
    child.ref()
    const children = childrenOf(pid)
    child.kill(signal)
    if (signal !== "SIGKILL") {
      const calm = new AbortController()
      await Promise.race([ended, sleep(patience, undefined, { signal: calm.signal }).catch(() => {})])
      calm.abort()
      if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL")
    }
    await ended
    // a busy child of a killed server outlives it and keeps its shared memory, so that the next start would be refused
    for (const orphan of children) {
      if (!isRunning(orphan)) continue
      try {
        process.kill(orphan, "SIGKILL")
      } catch {
        // the child has ended by itself
      }
      for (let round = 0; round < 500 && isRunning(orphan); round++) await sleep(10)
    }
  }

  const start = async (program: Program, patience: number, signal: AbortSignal): Promise<void> => {
    if (running !== undefined) return
    const log = openSync(logFile, "a")
    const before = statSync(logFile).size
    const child = spawn(program.command, program.args, {
      cwd: folder,
      // its own process group: Ctrl-C in a terminal reaches only this process, which ends the server
      detached: true,
      stdio: ["ignore", log, log],
      ...program.user
    })
    closeSync(log)
    const ended = new Promise<void>((resolve) => {
      const done = () => {
        running = undefined
        pipe.write("\n")
        resolve()
      }
      child.once("exit", done)
      child.once("error", (error) => {
        if (child.pid === undefined) {
          spawnError = error
          done()
        }
      })
    })
    let spawnError: Error | undefined
    running = { child, ended }
    if (child.pid !== undefined) pipe.write(`${child.pid}\n`)
    const deadline = Date.now() + patience
    const printed = () => readFileSync(logFile, "utf8").slice(before).slice(-4_000)
    while (!(await ask(program.probe))) {
      if (running?.child !== child) {
        const reason = spawnError?.message ??
          `it ended with ${child.exitCode === null ? child.signalCode : `code ${child.exitCode}`}`
        throw new NotReady(`did not start: ${reason}`, printed())
      }
      if (signal.aborted || Date.now() > deadline) {
        await end("SIGKILL", 0)
        throw new NotReady(`did not answer on port ${program.probe.port} within ${patience / 1000} s`, printed())
      }
      await sleep(10)
    }
    // another process that took the port first may have answered
    if (running?.child !== child) throw new NotReady("did not start: another process answers on its port", printed())
    child.unref()
  }

  return {
    start,
    stop: (program: Program) => end(program.stopSignal, 30_000),
    kill: () => end("SIGKILL", 0),
    pid: (): number | undefined => running?.child.pid,
    logs,
    /** Ends the watcher, which removes the folder. */
    close: () => pipe.end()
  }
}
