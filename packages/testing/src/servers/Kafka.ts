import { Context, type Duration, Effect, Layer, type Scope } from "effect"
import { createHash, randomBytes, randomUUID } from "node:crypto"
import { existsSync, readdirSync, realpathSync, statSync, writeFileSync } from "node:fs"
import { copyFile, cp, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises"
import { homedir } from "node:os"
import { join } from "node:path"
import { findTool, type Probe, runTool, settled } from "./process.ts"
import { borrowed, own as ownServer, type Server as RunningServer, ServerFailed, ServerUnavailable } from "./Server.ts"

/** The version of an own copy, unless the options name another. */
export const version = "4.2.0"

/** A node's position in its cluster; the nodes must know each other before the first one starts. */
export interface Node {
  /** Kafka's `node.id`, from 1. */
  readonly id: number
  /** Kafka's `controller.quorum.voters`. */
  readonly voters: string
  /** The ports of the plain listener and of the controller. */
  readonly ports: readonly [broker: number, controller: number]
}

/** A Kafka broker with its controller in one process; clients connect to `brokers`. */
export interface KafkaServer extends RunningServer {
  readonly brokers: Array<string>
  /** `host:port` of each additional listener, by name. */
  readonly listeners: Readonly<Record<string, string>>
}

/** Options of a server; each is optional. */
export interface Options {
  /** The version to download; default {@link version}. */
  readonly version?: string
  /** Makes it a node of a cluster; default: a cluster of its own. */
  readonly node?: Node
  /** Java's heap, as `-Xmx` spells it; default `256m`. */
  readonly heap?: string
  /**
   * Other flags of the Java machine; the default starts fast and stays small. Use `[]` for benchmarks, which lets the
   * optimizing compiler run.
   */
  readonly jvm?: ReadonlyArray<string>
  /** Server properties beside or instead of the defaults, which make one broker start and recover fast. */
  readonly properties?: Readonly<Record<string, string>>
  /** Listeners beside the plain one, by upper-case name; put settings of a protocol into `properties`. */
  readonly listeners?: Readonly<Record<string, "PLAINTEXT" | "SSL" | "SASL_PLAINTEXT" | "SASL_SSL">>
  /** The longest start, also after a kill with much data; default one minute. */
  readonly startTimeout?: Duration.Input
}

/** The defaults of the options. */
export const defaults = {
  heap: "256m",
  jvm: ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"],
  properties: {},
  listeners: {},
  startTimeout: "1 minute"
} as const satisfies Options

const nameOf = (version: string): string => `Kafka ${version}`

// Metadata v4 without topics: a broker that has not yet joined its cluster lists no brokers, and would refuse to create a
// topic. https://kafka.apache.org/protocol#The_Messages_Metadata
const hello = Buffer.from("\0\0\0\x14\0\x03\0\x04\0\0\0\x07\0\x05probe\0\0\0\0\0", "latin1")
const probe = (host: string, port: number): Probe => ({
  host,
  port,
  hello,
  // size, correlation id 7, throttle time, then the number of brokers
  isAnswer: (reply) => reply.length >= 16 && reply.readInt32BE(4) === 7 && reply.readInt32BE(12) > 0
})

const pom = (version: string) =>
  `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>millrace</groupId>
  <artifactId>kafka-server</artifactId>
  <version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>${version}</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.3</version></dependency>
  </dependencies>
</project>
`

const logging = `status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %p %m (%c)%n%ex
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
`

interface Listener {
  readonly name: string
  readonly protocol: string
  readonly port: number
}

const endpoint = ({ name, port }: Listener): string => `${name}://127.0.0.1:${port}`

const properties = (
  data: string,
  { id, ports: [broker, controller], voters }: Node,
  listeners: ReadonlyArray<Listener>,
  more: Readonly<Record<string, string>>
): string => {
  const beside = (text: (listener: Listener) => string) => listeners.map((listener) => `,${text(listener)}`).join("")
  return Object.entries({
    "process.roles": "broker,controller",
    "node.id": String(id),
    "controller.quorum.voters": voters,
    listeners: `PLAINTEXT://127.0.0.1:${broker},CONTROLLER://127.0.0.1:${controller}${beside(endpoint)}`,
    "advertised.listeners": `PLAINTEXT://127.0.0.1:${broker}${beside(endpoint)}`,
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": `PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT${
      beside(({ name, protocol }) => `${name}:${protocol}`)
    }`,
    "log.dirs": data,
    // a replication factor of one, since there is one broker
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    // a killed broker can rejoin once its old session has ended: 9 s by default
    "broker.session.timeout.ms": "1000",
    "broker.heartbeat.interval.ms": "200",
    ...more
  }).map(([key, value]) => `${key}=${value}\n`).join("")
}

/** A node that is a cluster by itself. */
const alone = (broker: number, controller: number): Node => ({
  id: 1,
  voters: `1@127.0.0.1:${controller}`,
  ports: [broker, controller]
})

const unavailable = (server: string, tool: string, message: string) => new ServerUnavailable({ server, tool, message })

const findJava = (name: string) =>
  Effect.suspend(() => {
    const home = process.env["JAVA_HOME"]
    const java = findTool("java", home === undefined ? [] : [join(home, "bin")])
    return java === undefined
      ? Effect.fail(unavailable(
        name,
        "java",
        `${name} needs Java 17 or newer: install it (on Debian: apt-get install default-jre-headless) and put java on the PATH, or set MILLRACE_KAFKA=host:port to use a running Kafka.`
      ))
      : Effect.succeed(realpathSync(java))
  })

const cacheFolder = (version: string) =>
  join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "millrace", `kafka-${version}`)

const classPath = (cache: string) =>
  readdirSync(join(cache, "lib")).sort().map((jar) => join(cache, "lib", jar)).join(":")

const lastLines = (output: string) => output.trim().split("\n").slice(-8).join("\n")

const unknownFailure = (name: string) => (cause: unknown) =>
  new ServerFailed({
    server: name,
    logs: "",
    message: `${name} could not be prepared: ${cause instanceof Error ? cause.message : String(cause)}`
  })

// Two processes may install at once: each fills a folder of its own, and the first to rename it has made the cache.
const install = (
  version: string,
  java: string,
  cache: string
): Effect.Effect<void, ServerUnavailable | ServerFailed> =>
  Effect.gen(function*() {
    const name = nameOf(version)
    const failed = unknownFailure(name)
    const maven = findTool("mvn")
    if (maven === undefined) {
      return yield* unavailable(
        name,
        "mvn",
        `${name} is downloaded by Maven: install it (on Debian: apt-get install maven) and put mvn on the PATH, or set MILLRACE_KAFKA=host:port to use a running Kafka.`
      )
    }
    const run = (command: string, args: ReadonlyArray<string>, cwd: string) =>
      settled((signal) => runTool(command, args, { cwd, signal }), failed)
    const attempt = (work: () => Promise<unknown>) => settled(work, failed)

    const fresh = `${cache}.${randomUUID()}`
    yield* Effect.gen(function*() {
      yield* attempt(async () => {
        await mkdir(fresh, { recursive: true })
        await writeFile(join(fresh, "pom.xml"), pom(version))
        await writeFile(join(fresh, "log4j2.properties"), logging)
        await writeFile(
          join(fresh, "format.properties"),
          properties(join(fresh, "template"), alone(9092, 9093), [], {})
        )
      })
      const copied = yield* run(
        maven,
        [
          "-q",
          "-B",
          "dependency:copy-dependencies",
          "-DincludeScope=runtime",
          `-DoutputDirectory=${join(fresh, "lib")}`
        ],
        fresh
      )
      if (copied.code !== 0) {
        return yield* unavailable(
          name,
          "mvn",
          `Maven could not download ${name}: give it a repository it can reach, or set MILLRACE_KAFKA=host:port to use a running Kafka.\n${
            lastLines(copied.output)
          }`
        )
      }
      const formatted = yield* run(
        java,
        [
          "-cp",
          classPath(fresh),
          "kafka.tools.StorageTool",
          "format",
          "-t",
          "bWlsbHJhY2UtdGVzdC1rYQ",
          "-c",
          "format.properties"
        ],
        fresh
      )
      if (formatted.output.includes("UnsupportedClassVersionError")) {
        return yield* unavailable(
          name,
          "java",
          `${name} needs Java 17 or newer and ${java} is older: put a newer java on the PATH or into JAVA_HOME.`
        )
      }
      if (formatted.code !== 0) return yield* Effect.fail(failed(new Error(lastLines(formatted.output))))
      yield* attempt(() =>
        rename(fresh, cache).catch((error: NodeJS.ErrnoException) => {
          if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error
        })
      )
    }).pipe(Effect.ensuring(Effect.promise(() => rm(fresh, { recursive: true, force: true }))))
  })

/** Turns formatted data into that of another node: sets its id, and a random id of the folder. */
const become = async (data: string, id: number): Promise<void> => {
  const file = join(data, "meta.properties")
  const text = await readFile(file, "utf8")
  await writeFile(
    file,
    text.replace(/^node\.id=.*$/m, `node.id=${id}`)
      .replace(/^directory\.id=.*$/m, `directory.id=${randomBytes(16).toString("base64url").replace(/^-/, "A")}`)
  )
}

/**
 * Starts an own Kafka (4.2.0 by default) on free ports of the loopback interface, with its data in a temporary folder, and
 * completes when it accepts requests. Closing the scope, or any end of this process, kills it and removes the data.
 *
 * The first start on a machine downloads it with Maven, once, into `$XDG_CACHE_HOME/millrace` (5 seconds, 43 MB). Needs Java
 * 17. Fails with `ServerUnavailable` if Java, Maven or the download is missing, and with `ServerFailed` if it does not
 * answer in time.
 */
export const own = (options: Options = {}): Effect.Effect<KafkaServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const settings = { ...defaults, ...options }
    const { node, version: wanted = version } = options
    const name = nameOf(wanted)
    const java = yield* findJava(name)
    const cache = cacheFolder(wanted)
    if (!existsSync(cache)) yield* install(wanted, java, cache)

    // Class data sharing halves the start. The archive belongs to one Java, and the first server that closes records it.
    const javaId = createHash("sha256").update(`${java} ${statSync(java).mtimeMs}`).digest("hex").slice(0, 12)
    const archive = join(cache, `classes-${javaId}.jsa`)
    const record = !existsSync(archive)
    const recording = (folder: string) => join(folder, "classes.jsa")

    const asked = Object.entries<string>(options.listeners ?? defaults.listeners)
    let listeners: ReadonlyArray<Listener> = []
    const server = yield* ownServer({
      name,
      ports: (node === undefined ? 2 : 0) + asked.length,
      startTimeout: settings.startTimeout,
      prepare: (folder) =>
        settled(async () => {
          const data = join(folder, "data")
          await cp(join(cache, "template"), data, { recursive: true })
          if (node !== undefined) await become(data, node.id)
        }, unknownFailure(name)),
      program: (folder, ports) => {
        const [broker = 0, controller = 0] = node?.ports ?? ports
        const more = node === undefined ? ports.slice(2) : ports
        listeners = asked.map(([name, protocol], index) => ({ name, protocol, port: more[index] ?? 0 }))
        const file = join(folder, "server.properties")
        writeFileSync(
          file,
          properties(join(folder, "data"), node ?? alone(broker, controller), listeners, settings.properties)
        )
        return {
          command: java,
          args: [
            `-Xmx${settings.heap}`,
            ...settings.jvm,
            "-Xshare:auto",
            record ? `-XX:ArchiveClassesAtExit=${recording(folder)}` : `-XX:SharedArchiveFile=${archive}`,
            `-Dlog4j2.configurationFile=${join(cache, "log4j2.properties")}`,
            "-cp",
            classPath(cache),
            "kafka.Kafka",
            file
          ],
          stopSignal: "SIGTERM",
          probe: probe("127.0.0.1", broker)
        }
      },
      ...(record
        ? {
          beforeClose: (folder, stop) =>
            Effect.andThen(
              stop,
              Effect.promise(async () => {
                const made = recording(folder)
                if (!existsSync(made)) return
                const fresh = `${archive}.${randomUUID()}`
                await copyFile(made, fresh)
                await rename(fresh, archive)
              })
            )
        }
        : {})
    })
    return {
      ...server,
      brokers: [server.address],
      listeners: Object.fromEntries(listeners.map(({ name, port }) => [name, `127.0.0.1:${port}`]))
    }
  })

/**
 * A running Kafka, at one `host:port` or several separated by commas; waits up to 5 seconds for an answer of the first. Stopping,
 * killing and restarting it fail with `ServerNotOwned`, whose message ends with `whose`.
 */
export const existing = (
  addresses: string,
  whose = "it was started by somebody else; use Kafka.own for one that may be stopped."
): Effect.Effect<KafkaServer, ServerFailed> => {
  const brokers = addresses.split(",").map((address) => address.trim())
  const [, host, port] = /^\[?([^\]]+?)\]?:(\d+)$/.exec(brokers[0] ?? "") ?? []
  return host === undefined || port === undefined
    ? Effect.fail(
      new ServerFailed({
        server: "Kafka",
        logs: "",
        message: `A Kafka's address is host:port, and "${addresses}" is not.`
      })
    )
    : Effect.map(
      borrowed("Kafka", probe(host, Number(port)), whose),
      (server) => ({ ...server, brokers, listeners: {} })
    )
}

/**
 * The Kafka that the environment variable `MILLRACE_KAFKA=host:port` names, or an own copy (see {@link own}) if it is not
 * set. The options are those of the own copy.
 *
 * @example
 * ```ts
 * import { Kafka } from "@millrace/testing/servers"
 * import { Effect } from "effect"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const kafka = yield* Kafka.make()
 *   yield* Effect.log(kafka.brokers)
 *   yield* kafka.kill
 *   yield* kafka.restart
 * }))
 * ```
 */
export const make = (
  options: Options = {}
): Effect.Effect<KafkaServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.suspend(() => {
    const address = process.env["MILLRACE_KAFKA"]
    return address ? existing(address, "MILLRACE_KAFKA names it, so it is not ours to start or stop.") : own(options)
  })

/** The Kafka of a test, as a service. */
export class Server extends Context.Service<Server, KafkaServer>()("@millrace/testing/servers/Kafka/Server") {}

/** {@link make} as a layer: the server lives as long as the layer. */
export const layer = (options: Options = {}): Layer.Layer<Server, ServerUnavailable | ServerFailed> =>
  Layer.effect(Server, make(options))
