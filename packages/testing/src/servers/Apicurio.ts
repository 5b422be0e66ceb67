import { type Duration, Effect, type Scope } from "effect"
import { randomUUID } from "node:crypto"
import { existsSync } from "node:fs"
import { mkdir, readdir, rename, rm } from "node:fs/promises"
import { homedir } from "node:os"
import { join } from "node:path"
import { findTool, type Probe, runTool, settled } from "./process.ts"
import { own as ownServer, type Server as RunningServer, ServerFailed, ServerUnavailable } from "./Server.ts"

/** The version of an own copy. */
export const version = "3.0.9"

/** An Apicurio Registry, with its schemas in memory. */
export interface ApicurioServer extends RunningServer {
  /** The address of its API that is compatible with Confluent's. */
  readonly url: string
}

/** Options of a server; each is optional. */
export interface Options {
  /** Java's heap, as `-Xmx` spells it; default `256m`. */
  readonly heap?: string
  /** The longest start; default three minutes. */
  readonly startTimeout?: Duration.Input
}

/** The defaults of the options. */
export const defaults = { heap: "256m", startTimeout: "3 minutes" } as const satisfies Required<Options>

const name = `Apicurio ${version}`

const path = "/apis/ccompat/v7"

const probe = (port: number): Probe => ({
  host: "127.0.0.1",
  port,
  hello: Buffer.from(`GET ${path}/subjects HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\nconnection: close\r\n\r\n`),
  isAnswer: (reply) => reply.toString("latin1").startsWith("HTTP/1.1 200 ")
})

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

const unknownFailure = (cause: unknown) =>
  new ServerFailed({
    server: name,
    logs: "",
    message: `${name} could not be prepared: ${cause instanceof Error ? cause.message : String(cause)}`
  })

const cacheFolder = () =>
  join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "millrace", `apicurio-${version}`)

const install = (cache: string): Effect.Effect<void, ServerUnavailable | ServerFailed> =>
  Effect.gen(function*() {
    const maven = yield* tool("mvn", "on Debian: apt-get install maven")
    const tar = yield* tool("tar", "on Debian: apt-get install tar")
    const fresh = `${cache}.${randomUUID()}`
    const archive = join(fresh, "archive")
    const run = (command: string, ...args: ReadonlyArray<string>) =>
      Effect.filterOrFail(
        settled((signal) => runTool(command, args, { cwd: fresh, signal }), unknownFailure),
        ({ code }) => code === 0,
        ({ output }) =>
          new ServerUnavailable({
            server: name,
            tool: command,
            message: `${name} could not be prepared by ${command}:\n${output.trim().slice(-2_000)}`
          })
      )
    const attempt = <A>(work: () => Promise<A>) => settled(work, unknownFailure)
    yield* Effect.gen(function*() {
      yield* attempt(() => mkdir(fresh, { recursive: true }))
      const artifact = `io.apicurio:apicurio-registry-app:${version}:tar.gz:all`
      yield* run(maven, "-q", "-B", "dependency:copy", `-Dartifact=${artifact}`, `-DoutputDirectory=${archive}`)
      const [file = ""] = yield* attempt(() => readdir(archive))
      yield* run(tar, "-xzf", join(archive, file), "-C", fresh)
      yield* attempt(async () => {
        await rm(archive, { recursive: true })
        // two processes may install at once: the first to rename its folder has made the cache
        await rename(fresh, cache).catch((error: NodeJS.ErrnoException) => {
          if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error
        })
      })
    }).pipe(Effect.ensuring(Effect.promise(() => rm(fresh, { recursive: true, force: true }))))
  })

/**
 * Starts an own Apicurio Registry on free ports of the loopback interface, with its schemas in memory, and completes when it
 * answers. Closing the scope, or any end of this process, kills it.
 *
 * The first start on a machine downloads it with Maven (109 MB) into `$XDG_CACHE_HOME/millrace`; each start takes 10 to 40
 * seconds. Needs Java 17. Fails with `ServerUnavailable` if Java, Maven or the download is missing, and with `ServerFailed` if
 * it does not answer in time.
 */
export const own = (
  options: Options = {}
): Effect.Effect<ApicurioServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const settings = { ...defaults, ...options }
    const home = process.env["JAVA_HOME"]
    const java = yield* tool(
      "java",
      "17 or newer, on Debian: apt-get install default-jre-headless",
      home === undefined ? [] : [join(home, "bin")]
    )
    const cache = cacheFolder()
    if (!existsSync(cache)) yield* install(cache)
    const server = yield* ownServer({
      name,
      ports: 2,
      startTimeout: settings.startTimeout,
      prepare: () => Effect.void,
      program: (_folder, [port = 0, management = 0]) => ({
        command: java,
        args: [
          `-Xmx${settings.heap}`,
          "-XX:+UseSerialGC",
          "-XX:TieredStopAtLevel=1",
          "-Dquarkus.http.host=127.0.0.1",
          `-Dquarkus.http.port=${port}`,
          // its default is port 9000 of every interface
          "-Dquarkus.management.host=127.0.0.1",
          `-Dquarkus.management.port=${management}`,
          "-jar",
          join(cache, `apicurio-registry-app-${version}-runner.jar`)
        ],
        stopSignal: "SIGTERM",
        probe: probe(port)
      })
    })
    return { ...server, url: `http://${server.address}${path}` }
  })
