import { type Duration, Effect, type Scope } from "effect"
import { randomUUID } from "node:crypto"
import { existsSync, mkdirSync, symlinkSync } from "node:fs"
import { cp, mkdir, readdir, rename, rm } from "node:fs/promises"
import { homedir } from "node:os"
import { join } from "node:path"
import { findTool, type Probe, runTool, settled } from "./process.ts"
import { own as ownServer, type Server as RunningServer, ServerFailed, ServerUnavailable } from "./Server.ts"

/** The version of an own copy. */
export const version = "26.7.3"

/** A Keycloak with the realm `master`; its admin API can create others. */
export interface KeycloakServer extends RunningServer {
  /** `http://host:port`, without a path. */
  readonly url: string
  /** The credentials of the administrator, for the client `admin-cli` of the realm `master`. */
  readonly admin: { readonly username: string; readonly password: string }
}

/** Options of a server; each is optional. */
export interface Options {
  /** Java's heap, as `-Xmx` spells it; default `512m`. */
  readonly heap?: string
  /** The longest start, including the first one, which creates the tables; default three minutes. */
  readonly startTimeout?: Duration.Input
}

/** The defaults of the options. */
export const defaults = { heap: "512m", startTimeout: "3 minutes" } as const satisfies Required<Options>

const name = `Keycloak ${version}`

const admin = { username: "admin", password: "admin" } as const

const probe = (port: number): Probe => ({
  host: "127.0.0.1",
  port,
  hello: Buffer.from(`GET /realms/master HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\nconnection: close\r\n\r\n`),
  isAnswer: (reply) => reply.toString("latin1").startsWith("HTTP/1.1 200 ")
})

const unavailable = (tool: string, message: string) => new ServerUnavailable({ server: name, tool, message })

const tool = (command: string, advice: string, folders: ReadonlyArray<string> = []) =>
  Effect.suspend(() => {
    const found = findTool(command, folders)
    return found === undefined
      ? Effect.fail(unavailable(command, `${name} needs ${command}: ${advice}, and put it on the PATH.`))
      : Effect.succeed(found)
  })

const unknownFailure = (cause: unknown) =>
  new ServerFailed({
    server: name,
    logs: "",
    message: `${name} could not be prepared: ${cause instanceof Error ? cause.message : String(cause)}`
  })

const cacheFolder = () =>
  join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "millrace", `keycloak-${version}`)

// Two processes may install at once: each fills a folder of its own, and the first to rename it has made the cache.
const becomes = (fresh: string, cache: string) =>
  rename(fresh, cache).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error
  })

const install = (cache: string): Effect.Effect<void, ServerUnavailable | ServerFailed> =>
  Effect.gen(function*() {
    const maven = yield* tool("mvn", "on Debian: apt-get install maven")
    const tar = yield* tool("tar", "on Debian: apt-get install tar")
    const fresh = `${cache}.${randomUUID()}`
    const archive = join(fresh, "archive")
    const dist = join(fresh, "dist")
    const run = (command: string, ...args: ReadonlyArray<string>) =>
      Effect.filterOrFail(
        settled((signal) => runTool(command, args, { cwd: fresh, signal }), unknownFailure),
        ({ code }) => code === 0,
        ({ output }) =>
          unavailable(command, `${name} could not be prepared by ${command}:\n${output.trim().slice(-2_000)}`)
      )
    const attempt = <A>(work: () => Promise<A>) => settled(work, unknownFailure)
    yield* Effect.gen(function*() {
      yield* attempt(() => mkdir(dist, { recursive: true }))
      const artifact = `org.keycloak:keycloak-quarkus-dist:${version}:tar.gz`
      yield* run(maven, "-q", "-B", "dependency:copy", `-Dartifact=${artifact}`, `-DoutputDirectory=${archive}`)
      const [file = ""] = yield* attempt(() => readdir(archive))
      yield* run(tar, "-xzf", join(archive, file), "--strip-components=1", "-C", dist)
      yield* run(join(dist, "bin", "kc.sh"), "build", "--db=dev-file", "--cache=local")
      yield* attempt(async () => {
        await rm(archive, { recursive: true })
        await becomes(fresh, cache)
      })
    }).pipe(Effect.ensuring(Effect.promise(() => rm(fresh, { recursive: true, force: true }))))
  })

/** The flags of the script `kc.sh`, which is not used: it would stay as the parent of the server. */
const flags = [
  "-Dkc.config.built=true",
  "-XX:+UseSerialGC",
  "-XX:TieredStopAtLevel=1",
  "--add-opens=java.base/java.util=ALL-UNNAMED",
  "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
  "--add-opens=java.base/java.security=ALL-UNNAMED",
  "--add-opens=java.base/java.lang=ALL-UNNAMED",
  "-Djava.util.concurrent.ForkJoinPool.common.threadFactory=io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
  "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
  "-Dpicocli.disable.closures=true"
]

/**
 * Starts an own Keycloak on a free port of the loopback interface, with its data in a temporary folder, and completes when
 * it serves its realm `master`. Closing the scope, or any end of this process, kills it and removes the data.
 *
 * The first start on a machine downloads it with Maven (176 MB) into `$XDG_CACHE_HOME/millrace`, builds it and creates its
 * tables: one to two minutes. Later ones take 15 to 20 seconds and 350 MB of memory. Needs Java 17. Fails with
 * `ServerUnavailable` if Java, Maven or the download is missing, and with `ServerFailed` if it does not answer in time.
 *
 * @example
 * ```ts
 * import { Keycloak } from "@millrace/testing/servers"
 * import { Effect } from "effect"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const keycloak = yield* Keycloak.own()
 *   yield* Effect.log(`${keycloak.url}/realms/master/.well-known/openid-configuration`)
 * }))
 * ```
 */
export const own = (
  options: Options = {}
): Effect.Effect<KeycloakServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const settings = { ...defaults, ...options }
    const home = process.env["JAVA_HOME"]
    const java = yield* tool(
      "java",
      "17 or newer, on Debian: apt-get install default-jre-headless",
      home === undefined ? [] : [join(home, "bin")]
    )
    const env = yield* tool("env", "on Debian: apt-get install coreutils")
    const cache = cacheFolder()
    if (!existsSync(cache)) yield* install(cache)
    const template = join(cache, "data")
    const isFirst = !existsSync(template)
    let data = ""
    const server = yield* ownServer({
      name,
      ports: 1,
      startTimeout: settings.startTimeout,
      prepare: (folder) =>
        settled(async () => {
          data = join(folder, "data")
          for (const each of ["conf", "providers"]) mkdirSync(join(folder, each))
          symlinkSync(join(cache, "dist", "lib"), join(folder, "lib"))
          if (!isFirst) await cp(template, data, { recursive: true })
        }, unknownFailure),
      program: (folder, [port = 0]) => ({
        command: env,
        args: [
          `KC_BOOTSTRAP_ADMIN_USERNAME=${admin.username}`,
          `KC_BOOTSTRAP_ADMIN_PASSWORD=${admin.password}`,
          java,
          `-Xmx${settings.heap}`,
          ...flags,
          `-Dkc.home.dir=${folder}`,
          `-Djboss.server.config.dir=${join(folder, "conf")}`,
          "-cp",
          join(cache, "dist", "lib", "quarkus-run.jar"),
          "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
          "start",
          "--optimized",
          "--http-enabled=true",
          "--hostname-strict=false",
          "--http-host=127.0.0.1",
          `--http-port=${port}`
        ],
        stopSignal: "SIGTERM",
        probe: probe(port)
      })
    })
    if (isFirst) {
      // the tables exist now: stop the server and keep a copy of its file, with which later servers begin
      const keep = settled(async () => {
        const fresh = `${template}.${randomUUID()}`
        await cp(data, fresh, { recursive: true })
        await becomes(fresh, template)
      }, unknownFailure)
      yield* server.stop.pipe(
        Effect.andThen(keep),
        Effect.andThen(server.start),
        // an own server may be stopped
        Effect.catchTag("ServerNotOwned", Effect.die)
      )
    }
    return { ...server, url: `http://${server.address}`, admin }
  })
