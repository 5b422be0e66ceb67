/**
 * The parts of servers that Maven downloads once into `$XDG_CACHE_HOME/millrace`, with the errors that name the server.
 */
import { Effect } from "effect"
import { randomUUID } from "node:crypto"
import { existsSync } from "node:fs"
import { mkdir, rename, rm } from "node:fs/promises"
import { homedir } from "node:os"
import { join } from "node:path"
import { findTool, runTool, settled } from "./process.ts"
import { ServerFailed, ServerUnavailable } from "./Server.ts"

type Prepared = Effect.Effect<void, ServerUnavailable | ServerFailed>

/** The folder of the downloads of one version. */
export const cacheFolder = (folder: string): string =>
  join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "millrace", folder)

/** Makes the steps that prepare a server of this name. */
export const downloads = (name: string) => {
  const unknownFailure = (cause: unknown) =>
    new ServerFailed({
      server: name,
      logs: "",
      message: `${name} could not be prepared: ${cause instanceof Error ? cause.message : String(cause)}`
    })

  /** Finds a command, also in `folders`. */
  const tool = (command: string, advice: string, folders: ReadonlyArray<string> = []) =>
    Effect.suspend(() => {
      const found = findTool(command, folders)
      return found === undefined
        ? Effect.fail(
          new ServerUnavailable({
            server: name,
            tool: command,
            message: `${name} needs ${command}: ${advice}, and put it on the PATH.`
          })
        )
        : Effect.succeed(found)
    })

  /** Finds a command of Java, also below `JAVA_HOME`. */
  const javaTool = (command: string, advice: string) =>
    Effect.suspend(() => {
      const home = process.env["JAVA_HOME"]
      return tool(command, advice, home === undefined ? [] : [join(home, "bin")])
    })

  const attempt = <A>(work: () => Promise<A>) => settled(work, unknownFailure)

  /** Runs a command, which must succeed. */
  const run = (cwd: string, command: string, ...args: ReadonlyArray<string>) =>
    Effect.filterOrFail(
      settled((signal) => runTool(command, args, { cwd, signal }), unknownFailure),
      ({ code }) => code === 0,
      ({ output }) =>
        new ServerUnavailable({
          server: name,
          tool: command,
          message: `${name} could not be prepared by ${command}:\n${output.trim().slice(-2_000)}`
        })
    )

  /** Fills a folder of its own, and makes it the cache, unless there is one. */
  const install = (cache: string, fill: (fresh: string, maven: string) => Prepared): Prepared =>
    Effect.gen(function*() {
      if (existsSync(cache)) return
      const maven = yield* tool("mvn", "on Debian: apt-get install maven")
      const fresh = `${cache}.${randomUUID()}`
      yield* Effect.gen(function*() {
        yield* attempt(() => mkdir(fresh, { recursive: true }))
        yield* fill(fresh, maven)
        yield* attempt(() =>
          // two processes may install at once: the first to rename its folder has made the cache
          rename(fresh, cache).catch((error: NodeJS.ErrnoException) => {
            if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error
          })
        )
      }).pipe(Effect.ensuring(Effect.promise(() => rm(fresh, { recursive: true, force: true }))))
    })

  return { attempt, install, javaTool, run, tool }
}
