import { Context, type Duration, Effect, Layer, Redacted, type Scope } from "effect"
import { readFileSync, realpathSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { findTool, type Probe, runTool, settled } from "./process.ts"
import { borrowed, own as ownServer, type Server as RunningServer, ServerFailed, ServerUnavailable } from "./Server.ts"

/** A RabbitMQ node; clients connect to `url`. */
export interface RabbitMqServer extends RunningServer {
  readonly host: string
  readonly port: number
  /** The port of the TLS listener, if `tls` was given. */
  readonly tlsPort: number | undefined
  readonly username: string
  readonly password: Redacted.Redacted<string>
  /** All of the above: `amqp://username:password@host:port/`. */
  readonly url: Redacted.Redacted<string>
  /** Runs `rabbitmqctl` and returns its output; fails with the output if the exit code is not 0. */
  readonly ctl: (...args: ReadonlyArray<string>) => Effect.Effect<string, ServerFailed>
  /**
   * Flushes the node's metadata of queues and exchanges to disk. Without it, a kill may lose those that were declared in the
   * last seconds, with all their messages; or a quorum queue survives without a leader, so that publishes to it are never
   * confirmed.
   */
  readonly sync: Effect.Effect<void, ServerFailed>
}

/** Options of a server; each is optional. */
export interface Options {
  /** PEM files of a TLS listener beside the plain one. With `verify`, clients need a certificate of the authority `ca`. */
  readonly tls?: {
    readonly ca: string
    readonly cert: string
    readonly key: string
    readonly verify: boolean
  }
  /** Settings beside or instead of the defaults, as in rabbitmq.conf. */
  readonly settings?: Readonly<Record<string, string>>
  /** The plugins to enable, by name: `rabbitmq_auth_backend_oauth2`. Default: none. */
  readonly plugins?: ReadonlyArray<string>
  /** The longest start; default one minute. */
  readonly startTimeout?: Duration.Input
}

/** The defaults of the options. */
export const defaults = { settings: {}, plugins: [], startTimeout: "1 minute" } as const satisfies Options

const name = "RabbitMQ"
const username = "millrace"
const password = "millrace"

// protocol header; the answer is a method frame on channel 0: Connection.Start (AMQP 0-9-1, section 4.2)
const hello = Buffer.from("AMQP\0\0\x09\x01", "latin1")
const probe = (host: string, port: number): Probe => ({
  host,
  port,
  hello,
  isAnswer: (reply) => reply.length >= 11 && reply[0] === 1 && reply.readUInt32BE(7) === 0x000a_000a
})

interface Tools {
  /** The folder of `rabbitmq-server` and `rabbitmqctl`, without the wrappers that change the user. */
  readonly folder: string
  readonly epmd: string
  readonly env: string
}

const unavailable = (tool: string) =>
  new ServerUnavailable({
    server: name,
    tool,
    message:
      `${name} needs ${tool}: install it (on Debian: apt-get install rabbitmq-server), or set MILLRACE_RABBITMQ=amqp://user:password@host:port/vhost to use a running one.`
  })

const find: Effect.Effect<Tools, ServerUnavailable> = Effect.suspend(() => {
  const debian = "/usr/lib/rabbitmq/bin"
  const server = findTool("rabbitmq-server", [debian, "/usr/sbin"])
  if (server === undefined) return Effect.fail(unavailable("rabbitmq-server"))
  const folder = findTool("rabbitmq-server", [debian]) === join(debian, "rabbitmq-server")
    ? debian
    : dirname(realpathSync(server))
  const epmd = findTool("epmd")
  const env = findTool("env")
  if (epmd === undefined) return Effect.fail(unavailable("epmd"))
  if (env === undefined) return Effect.fail(unavailable("env"))
  return Effect.succeed({ folder, epmd, env })
})

const failed = (cause: unknown) =>
  new ServerFailed({
    server: name,
    logs: "",
    message: `${name} could not be prepared: ${cause instanceof Error ? cause.message : String(cause)}`
  })

const lines = (settings: Readonly<Record<string, string>>): string =>
  Object.entries(settings).map(([key, value]) => `${key} = ${value}\n`).join("")

const address = (host: string, port: number, user: string, secret: string, vhost: string) => ({
  host,
  port,
  username: user,
  password: Redacted.make(secret),
  url: Redacted.make(`amqp://${encodeURIComponent(user)}:${encodeURIComponent(secret)}@${host}:${port}/${vhost}`)
})

/**
 * Starts an own RabbitMQ on free ports of the loopback interface, with its data in a temporary folder and a port mapper of
 * its own, and completes when it accepts connections: after about 5 seconds. Closing the scope, or any end of this process,
 * kills it and removes the data.
 *
 * Fails with `ServerUnavailable` if it is not installed, and with `ServerFailed` if it does not answer in time.
 */
export const own = (
  options: Options = {}
): Effect.Effect<RabbitMqServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const settings = { ...defaults, ...options }
    const { env, epmd, folder: bin } = yield* find
    let home = ""
    let tlsPort: number | undefined
    let environment: ReadonlyArray<string> = []
    // Erlang nodes find each other by a port mapper, which the first node would start for the whole machine and leave behind
    let mapperPort = 0
    const mapper = yield* ownServer({
      name: `${name}'s epmd`,
      ports: 1,
      startTimeout: settings.startTimeout,
      prepare: () => Effect.void,
      program: (_folder, [port = 0]) => {
        mapperPort = port
        return {
          command: env,
          args: [`ERL_EPMD_PORT=${port}`, "ERL_EPMD_ADDRESS=127.0.0.1", epmd],
          stopSignal: "SIGTERM",
          // NAMES_REQ; the answer begins with the mapper's own port
          probe: {
            host: "127.0.0.1",
            port,
            hello: Buffer.from([0, 1, 110]),
            isAnswer: (reply) => reply.length >= 4 && reply.readUInt32BE(0) === port
          }
        }
      }
    })
    const server = yield* ownServer({
      name,
      ports: 3,
      startTimeout: settings.startTimeout,
      prepare: (folder) =>
        Effect.try({
          try: () => {
            home = folder
            writeFileSync(join(folder, "enabled_plugins"), `[${settings.plugins.join(",")}].\n`)
            writeFileSync(join(folder, ".erlang.cookie"), "MILLRACE", { mode: 0o400 })
          },
          catch: failed
        }),
      program: (folder, [port = 0, secure = 0, distribution = 0]) => {
        const { tls } = settings
        tlsPort = tls && secure
        writeFileSync(
          join(folder, "rabbitmq.conf"),
          lines({
            "listeners.tcp.1": `127.0.0.1:${port}`,
            default_user: username,
            default_pass: password,
            "log.console": "true",
            "log.console.level": "warning",
            "log.file": "false",
            "disk_free_limit.absolute": "50MB",
            ...tls && {
              "listeners.ssl.1": `127.0.0.1:${secure}`,
              "ssl_options.cacertfile": tls.ca,
              "ssl_options.certfile": tls.cert,
              "ssl_options.keyfile": tls.key,
              "ssl_options.verify": tls.verify ? "verify_peer" : "verify_none",
              "ssl_options.fail_if_no_peer_cert": String(tls.verify),
              "ssl_options.versions.1": "tlsv1.3",
              "ssl_options.versions.2": "tlsv1.2"
            },
            ...settings.settings
          })
        )
        environment = [
          "-i",
          `PATH=${process.env["PATH"] ?? ""}`,
          "LANG=C.UTF-8",
          `HOME=${folder}`,
          `ERL_EPMD_PORT=${mapperPort}`,
          "ERL_EPMD_ADDRESS=127.0.0.1",
          "RABBITMQ_CONF_ENV_FILE=/dev/null",
          `RABBITMQ_NODENAME=millrace${port}@localhost`,
          `RABBITMQ_DIST_PORT=${distribution}`,
          `RABBITMQ_CONFIG_FILE=${join(folder, "rabbitmq.conf")}`,
          `RABBITMQ_MNESIA_BASE=${join(folder, "mnesia")}`,
          `RABBITMQ_LOG_BASE=${join(folder, "logs")}`,
          `RABBITMQ_ENABLED_PLUGINS_FILE=${join(folder, "enabled_plugins")}`,
          "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
          // the script execs the server, so that the supervised process is the server itself
          "RUNNING_UNDER_SYSTEMD=1"
        ]
        return {
          command: env,
          args: [...environment, join(bin, "rabbitmq-server")],
          stopSignal: "SIGTERM",
          probe: probe("127.0.0.1", port)
        }
      }
    })
    const ctl = (...args: ReadonlyArray<string>): Effect.Effect<string, ServerFailed> =>
      Effect.flatMap(
        settled(
          (signal) => runTool(env, [...environment, join(bin, "rabbitmqctl"), ...args], { cwd: home, signal }),
          failed
        ),
        ({ code, output }) =>
          code === 0
            ? Effect.succeed(output)
            : Effect.fail(
              new ServerFailed({ server: name, logs: output, message: `rabbitmqctl ${args[0]} failed: ${output}` })
            )
      )
    const [host = "", port = "0"] = server.address.split(":")
    return {
      ...server,
      ...address(host, Number(port), username, password, ""),
      tlsPort,
      // the server's children find the mapper by the environment, and it lives as long as the server's scope
      start: Effect.andThen(mapper.start, server.start),
      restart: Effect.andThen(mapper.start, server.restart),
      logs: Effect.sync(() => {
        try {
          return readFileSync(join(home, "log"), "utf8").slice(-4_000)
        } catch {
          return ""
        }
      }),
      ctl,
      // Mnesia stores the definitions; Raft records in tables of its own which log on disk belongs to which quorum queue
      sync: Effect.asVoid(ctl("eval", "mnesia:sync_log(), [ok = dets:sync(Table) || Table <- dets:all()]."))
    }
  })

/**
 * A running RabbitMQ, by its `amqp://user:password@host:port/vhost`; waits up to 5 seconds for its answer. Stopping, killing and
 * restarting it fail with `ServerNotOwned`, whose message ends with `whose`; `ctl` and `sync` fail with `ServerFailed`.
 */
export const existing = (
  url: Redacted.Redacted<string>,
  whose = "it was started by somebody else; use RabbitMq.own for one that may be stopped."
): Effect.Effect<RabbitMqServer, ServerFailed> =>
  Effect.suspend(() => {
    const parsed = URL.parse(Redacted.value(url))
    if (parsed === null || parsed.protocol !== "amqp:" || parsed.hostname === "") {
      return Effect.fail(
        new ServerFailed({
          server: name,
          logs: "",
          message: "RabbitMQ's address is amqp://user:password@host:port/vhost, and this is not."
        })
      )
    }
    const port = Number(parsed.port || 5672)
    const ctl = () =>
      Effect.fail(new ServerFailed({ server: name, logs: "", message: `rabbitmqctl cannot be used: ${whose}` }))
    return Effect.map(borrowed(name, probe(parsed.hostname, port), whose), (server) => ({
      ...server,
      ...address(
        parsed.hostname,
        port,
        decodeURIComponent(parsed.username || "guest"),
        decodeURIComponent(parsed.password || "guest"),
        parsed.pathname.slice(1)
      ),
      url,
      tlsPort: undefined,
      ctl,
      sync: ctl()
    }))
  })

/**
 * The RabbitMQ that the environment variable `MILLRACE_RABBITMQ=amqp://user:password@host:port/vhost` names, or an own copy
 * (see {@link own}) if it is not set. The options are those of the own copy.
 *
 * @example
 * ```ts
 * import { RabbitMq } from "@millrace/testing/servers"
 * import { Effect } from "effect"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const rabbit = yield* RabbitMq.make()
 *   yield* Effect.log(rabbit.address)
 *   yield* rabbit.sync
 *   yield* rabbit.kill
 *   yield* rabbit.start
 * }))
 * ```
 */
export const make = (
  options: Options = {}
): Effect.Effect<RabbitMqServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.suspend(() => {
    const url = process.env["MILLRACE_RABBITMQ"]
    return url
      ? existing(Redacted.make(url), "MILLRACE_RABBITMQ names it, so it is not ours to start or stop.")
      : own(options)
  })

/** The RabbitMQ of a test, as a service. */
export class Server extends Context.Service<Server, RabbitMqServer>()("@millrace/testing/servers/RabbitMq/Server") {}

/** {@link make} as a layer: the server lives as long as the layer. */
export const layer = (options: Options = {}): Layer.Layer<Server, ServerUnavailable | ServerFailed> =>
  Layer.effect(Server, make(options))
