import { type Duration, Effect, type Scope } from "effect"
import { randomUUID } from "node:crypto"
import { mkdir, readdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { cacheFolder, downloads } from "./downloads.ts"
import type { Probe } from "./process.ts"
import { own as ownServer, type Server as RunningServer, type ServerFailed, type ServerUnavailable } from "./Server.ts"

/** The version of an own copy. */
export const version = "1.38.0"

/** Temporal's test server for Java: it answers by gRPC at `address`, keeps its state in memory, and checks no namespace. */
export interface TemporalServer extends RunningServer {
  /** Compiles Java sources with the SDK of Temporal, and returns the command that runs a class of them. */
  readonly java: (folder: string, main: string) => Effect.Effect<Command, ServerUnavailable | ServerFailed>
}

/** A command and its arguments. */
export interface Command {
  readonly command: string
  readonly args: ReadonlyArray<string>
}

/** Options of a server; each is optional. */
export interface Options {
  /** Java's heap, as `-Xmx` spells it; default `256m`. */
  readonly heap?: string
  /** The port; default: a free one. */
  readonly port?: number
  /** The longest start; default one minute. */
  readonly startTimeout?: Duration.Input
}

/** The defaults of the options. */
export const defaults = { heap: "256m", startTimeout: "1 minute" } as const satisfies Options

const name = `Temporal ${version}`

const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>millrace</groupId>
  <artifactId>temporal-server</artifactId>
  <version>1</version>
  <dependencies>
    <dependency><groupId>io.temporal</groupId><artifactId>temporal-test-server</artifactId><version>${version}</version></dependency>
    <dependency><groupId>io.temporal</groupId><artifactId>temporal-sdk</artifactId><version>${version}</version></dependency>
  </dependencies>
</project>
`

// the preface of HTTP/2 and an empty SETTINGS frame: the server answers with a SETTINGS frame (RFC 9113, 3.4)
const hello = Buffer.concat([Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])])

const probe = (port: number): Probe => ({
  host: "127.0.0.1",
  port,
  hello,
  isAnswer: (reply) => reply.length >= 9 && reply[3] === 4
})

const { attempt, install, javaTool, run } = downloads(name)

const installServer = (cache: string) =>
  install(cache, (fresh, maven) =>
    Effect.andThen(
      attempt(() => writeFile(join(fresh, "pom.xml"), pom)),
      run(
        fresh,
        maven,
        "-q",
        "-B",
        "dependency:copy-dependencies",
        "-DincludeScope=runtime",
        `-DoutputDirectory=${join(fresh, "lib")}`
      )
    ))

const flags = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]

/**
 * Starts Temporal's test server on a free port of the loopback interface, and completes when it answers. Closing the scope, or any
 * end of this process, kills it. A restart loses its state.
 *
 * The first start on a machine downloads it with Maven (38 MB) into `$XDG_CACHE_HOME/millrace`; later ones take about 2 seconds.
 * Needs Java 17. Fails with `ServerUnavailable` if Java, Maven or the download is missing, and with `ServerFailed` if it does not
 * answer in time.
 *
 * @example
 * ```ts
 * import { Temporal } from "@millrace/testing/servers"
 * import { Effect } from "effect"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const temporal = yield* Temporal.own()
 *   yield* Effect.log(temporal.address)
 * }))
 * ```
 */
export const own = (
  options: Options = {}
): Effect.Effect<TemporalServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const settings = { ...defaults, ...options }
    const java = yield* javaTool("java", "17 or newer, on Debian: apt-get install default-jdk-headless")
    const cache = cacheFolder(`temporal-${version}`)
    yield* installServer(cache)
    const libraries = join(cache, "lib", "*")
    const server = yield* ownServer({
      name,
      ports: 1,
      startTimeout: settings.startTimeout,
      prepare: () => Effect.void,
      program: (_folder, [free = 0]) => {
        const port = options.port ?? free
        return {
          command: java,
          args: [`-Xmx${settings.heap}`, ...flags, "-cp", libraries, "io.temporal.testserver.TestServer", String(port)],
          stopSignal: "SIGTERM",
          probe: probe(port)
        }
      }
    })
    return {
      ...server,
      java: (folder, main) =>
        Effect.gen(function*() {
          const compiler = yield* javaTool("javac", "on Debian: apt-get install default-jdk-headless")
          const sources = (yield* attempt(() => readdir(folder))).filter((file) => file.endsWith(".java"))
          const classes = yield* attempt(async () => {
            const made = join(cache, "classes", randomUUID())
            await mkdir(made, { recursive: true })
            return made
          })
          yield* run(folder, compiler, "-cp", libraries, "-d", classes, ...sources)
          return { command: java, args: [...flags, "-Xmx128m", "-cp", `${classes}:${libraries}`, main] }
        })
    }
  })
