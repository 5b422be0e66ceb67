import { type Duration, Effect, type Scope } from "effect"
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { cacheFolder, downloads } from "./downloads.ts"
import type { Probe } from "./process.ts"
import { own as ownServer, type Server as RunningServer, type ServerFailed, type ServerUnavailable } from "./Server.ts"

/** The version of an own copy. */
export const version = "2.6.0"

/** An S3Proxy: the protocol of Amazon S3 over a folder, with signatures that are checked. */
export interface S3ProxyServer extends RunningServer {
  /** The address for clients, with the bucket in paths. */
  readonly url: string
  /** The credentials that it accepts. */
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string }
  /** The folder of its one bucket, whose files are the objects. */
  readonly folder: string
  /** The name of its bucket. */
  readonly bucket: string
}

/** Options of a server; each is optional. */
export interface Options {
  /** Java's heap, as `-Xmx` spells it; default `128m`. */
  readonly heap?: string
  /** The longest start; default one minute. */
  readonly startTimeout?: Duration.Input
}

/** The defaults of the options. */
export const defaults = { heap: "128m", startTimeout: "1 minute" } as const satisfies Required<Options>

const name = `S3Proxy ${version}`
const bucket = "claims"
const credentials = { accessKeyId: "local", secretAccessKey: "secret" }

// a request without a signature is refused, by a server that is ready
const probe = (port: number): Probe => ({
  host: "127.0.0.1",
  port,
  hello: Buffer.from(`GET / HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\nconnection: close\r\n\r\n`),
  isAnswer: (reply) => reply.toString("latin1").startsWith("HTTP/1.1 403 ")
})

const { install, javaTool, run } = downloads(name)

const jar = `s3proxy-${version}-jar-with-dependencies.jar`

const installServer = (cache: string) =>
  install(cache, (fresh, maven) =>
    run(
      fresh,
      maven,
      "-q",
      "-B",
      "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy",
      `-Dartifact=org.gaul:s3proxy:${version}:jar:jar-with-dependencies`,
      `-DoutputDirectory=${fresh}`
    ))

/**
 * Starts an S3Proxy on a free port of the loopback interface, over a temporary folder with one bucket. Closing the scope, or any end of
 * this process, kills it and removes the folder; a restart keeps the objects.
 *
 * The first start on a machine downloads it with Maven (41 MB) into `$XDG_CACHE_HOME/millrace`; later ones take about 4 seconds.
 * Needs Java 17. Fails with `ServerUnavailable` if Java, Maven or the download is missing, and with `ServerFailed` if it does not
 * answer in time.
 *
 * @example
 * ```ts
 * import { S3Proxy } from "@millrace/testing/servers"
 * import { Effect } from "effect"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const s3 = yield* S3Proxy.own()
 *   yield* Effect.log(s3.url, s3.bucket)
 * }))
 * ```
 */
export const own = (
  options: Options = {}
): Effect.Effect<S3ProxyServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const settings = { ...defaults, ...options }
    const java = yield* javaTool("java", "17 or newer, on Debian: apt-get install default-jdk-headless")
    const cache = cacheFolder(`s3proxy-${version}`)
    yield* installServer(cache)
    let data = ""
    const server = yield* ownServer({
      name,
      ports: 1,
      startTimeout: settings.startTimeout,
      prepare: () => Effect.void,
      program: (folder, [port = 0]) => {
        data = join(folder, "data")
        mkdirSync(join(data, bucket), { recursive: true })
        const properties = {
          "s3proxy.endpoint": `http://127.0.0.1:${port}`,
          "s3proxy.authorization": "aws-v2-or-v4",
          "s3proxy.identity": credentials.accessKeyId,
          "s3proxy.credential": credentials.secretAccessKey,
          "jclouds.provider": "filesystem-nio2",
          "jclouds.identity": "unused",
          "jclouds.credential": "unused",
          "jclouds.filesystem.basedir": data
        }
        const file = join(folder, "s3proxy.properties")
        writeFileSync(file, Object.entries(properties).map(([key, value]) => `${key}=${value}\n`).join(""))
        return {
          command: java,
          args: [
            `-Xmx${settings.heap}`,
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-jar",
            join(cache, jar),
            "--properties",
            file
          ],
          stopSignal: "SIGTERM",
          probe: probe(port)
        }
      }
    })
    return { ...server, url: `http://${server.address}`, credentials, folder: join(data, bucket), bucket }
  })
