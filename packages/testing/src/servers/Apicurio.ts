import { type Duration, Effect, type Scope } from "effect"
import { readdir, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { cacheFolder, downloads } from "./downloads.ts"
import type { Probe } from "./process.ts"
import { own as ownServer, type Server as RunningServer, type ServerFailed, type ServerUnavailable } from "./Server.ts"

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

const { attempt, install, javaTool, run, tool } = downloads(name)

const java17 = javaTool("java", "17 or newer, on Debian: apt-get install default-jdk-headless")

type Prepared = Effect.Effect<void, ServerUnavailable | ServerFailed>

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
    const command = yield* java17
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
    const java = yield* java17
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
