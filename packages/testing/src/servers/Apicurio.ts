import { type Duration, Effect, type Scope } from "effect"
import { randomUUID } from "node:crypto"
import { existsSync } from "node:fs"
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises"
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
  /** The address of its own API. */
  readonly ownUrl: string
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

const cacheFolder = (folder: string) =>
  join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "millrace", folder)

const attempt = <A>(work: () => Promise<A>) => settled(work, unknownFailure)

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

type Prepared = Effect.Effect<void, ServerUnavailable | ServerFailed>

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

const installServer = (cache: string): Prepared =>
  install(cache, (fresh, maven) =>
    Effect.gen(function*() {
      const tar = yield* tool("tar", "on Debian: apt-get install tar")
      const archive = join(fresh, "archive")
      const artifact = `io.apicurio:apicurio-registry-app:${version}:tar.gz:all`
      yield* run(fresh, maven, "-q", "-B", "dependency:copy", `-Dartifact=${artifact}`, `-DoutputDirectory=${archive}`)
      const [file = ""] = yield* attempt(() => readdir(archive))
      yield* run(fresh, tar, "-xzf", join(archive, file), "-C", fresh)
      yield* attempt(() => rm(archive, { recursive: true }))
    }))

/** The version of the serializers: the first with the message indexes of Confluent's wire format. */
const serializers = "3.1.7"

const dependency = (artifact: string, group = "io.apicurio", version = serializers) =>
  `<dependency><groupId>${group}</groupId><artifactId>${artifact}</artifactId><version>${version}</version></dependency>`

const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>millrace</groupId>
  <artifactId>apicurio-serializers</artifactId>
  <version>1</version>
  <dependencies>
    ${dependency("apicurio-registry-avro-serde-kafka")}
    ${dependency("apicurio-registry-jsonschema-serde-kafka")}
    ${dependency("apicurio-registry-protobuf-serde-kafka")}
    ${
  /* the one that they resolve to is older than the one that they use */ dependency(
    "kotlin-stdlib",
    "org.jetbrains.kotlin",
    "2.2.21"
  )
}
  </dependencies>
</project>
`

/** A command and its arguments. */
export interface Command {
  readonly command: string
  readonly args: ReadonlyArray<string>
}

/**
 * Returns the command that runs a Java source file with Apicurio's serializers for Kafka, Apache Avro, and protobuf-java.
 *
 * The first call on a machine downloads them with Maven (63 MB) into `$XDG_CACHE_HOME/millrace`. Needs a JDK 17.
 */
export const java = (source: string): Effect.Effect<Command, ServerUnavailable | ServerFailed> =>
  Effect.gen(function*() {
    const command = yield* javaTool
    const cache = cacheFolder(`apicurio-serializers-${serializers}`)
    yield* install(cache, (fresh, maven) =>
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
    const flags = ["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    return { command, args: [...flags, "-cp", join(cache, "lib", "*"), source] }
  })

const javaTool = Effect.suspend(() => {
  const home = process.env["JAVA_HOME"]
  return tool(
    "java",
    "17 or newer, on Debian: apt-get install default-jdk-headless",
    home === undefined ? [] : [join(home, "bin")]
  )
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
    const java = yield* javaTool
    const cache = cacheFolder(`apicurio-${version}`)
    yield* installServer(cache)
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
    return {
      ...server,
      url: `http://${server.address}${path}`,
      ownUrl: `http://${server.address}/apis/registry/v3`
    }
  })
