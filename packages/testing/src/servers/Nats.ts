import { Context, type Duration, Effect, Layer, Redacted, type Scope } from "effect"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Certificates } from "./Certificates.ts"
import { findTool, type Probe } from "./process.ts"
import { borrowed, own as ownServer, type Server as RunningServer, ServerFailed, ServerUnavailable } from "./Server.ts"

/** A NATS server with JetStream; streams in files keep all acknowledged messages, however the process ends. */
export interface NatsServer extends RunningServer {
  /**
   * The URL for clients: `nats://user:password@host:port`, `nats://token@host:port` or `nats://host:port`, and `tls://` if
   * the server requires TLS.
   */
  readonly url: Redacted.Redacted<string>
}

/** An additional user and its permissions. */
export interface User {
  readonly password: string
  /** Subjects that the user may publish to; default all. */
  readonly publish?: ReadonlyArray<string>
  /** Subjects that the user may subscribe to; default all. */
  readonly subscribe?: ReadonlyArray<string>
}

/** Options of a server; each is optional. */
export interface Options {
  /** Lines of the configuration file beside the default ones, which enable JetStream; default none. */
  readonly settings?: ReadonlyArray<string>
  /** Users beside `millrace`; default none, and then the server requires no password. */
  readonly users?: Readonly<Record<string, User>>
  /** The token that the server requires, in place of users; default none. */
  readonly token?: string
  /** Makes the server accept TLS only, with these certificates; default none. */
  readonly certificates?: Certificates
  /** Whether the server requires a client certificate with TLS; default true. */
  readonly mutual?: boolean
  /** The longest start; default ten seconds. */
  readonly startTimeout?: Duration.Input
}

/** The defaults of the options. */
export const defaults = { settings: [], users: {}, mutual: true, startTimeout: "10 seconds" } as const satisfies Options

const name = "NATS"
const username = "millrace"
const password = "millrace"

// the server speaks first, and in clear text, even if it requires TLS after that
const probe = (host: string, port: number): Probe => ({
  host,
  port,
  hello: Buffer.alloc(0),
  isAnswer: (reply) => reply.toString("latin1").startsWith("INFO ") && reply.includes("\r\n")
})

const quoted = JSON.stringify

const permissions = ({ publish, subscribe }: User): string => {
  const rules = [
    ...(publish === undefined ? [] : [`publish: ${quoted(publish)}`]),
    ...(subscribe === undefined ? [] : [`subscribe: ${quoted(subscribe)}`])
  ]
  return rules.length === 0 ? "" : `, permissions: { ${rules.join(", ")} }`
}

type Known = Options & Required<Pick<Options, keyof typeof defaults>>

const configuration = (folder: string, port: number, options: Known): string => {
  const { certificates, mutual, settings, token, users } = options
  const others = Object.entries(users)
  const all: ReadonlyArray<readonly [string, User]> = others.length === 0 ? [] : [[username, { password }], ...others]
  return [
    `listen: "127.0.0.1:${port}"`,
    `jetstream { store_dir: ${quoted(join(folder, "jetstream"))}, max_memory_store: 256MB, max_file_store: 4GB }`,
    ...(certificates === undefined ? [] : [
      `tls { cert_file: ${quoted(certificates.server.certFile)}, key_file: ${
        quoted(certificates.server.keyFile)
      }, ca_file: ${quoted(certificates.caFile)}, verify: ${mutual} }`
    ]),
    ...(token === undefined ? [] : [`authorization { token: ${quoted(token)} }`]),
    ...(all.length === 0 ? [] : [
      "authorization { users: [",
      ...all.map(([user, each]) =>
        `  { user: ${quoted(user)}, password: ${quoted(each.password)}${permissions(each)} }`
      ),
      "] }"
    ]),
    ...settings
  ].map((line) => `${line}\n`).join("")
}

const findNats = Effect.suspend(() => {
  // Debian installs servers in folders that may not be on a user's PATH
  const found = findTool("nats-server") ?? findTool("nats-server", ["/usr/sbin", "/usr/local/sbin"])
  return found === undefined
    ? Effect.fail(
      new ServerUnavailable({
        server: name,
        tool: "nats-server",
        message:
          `${name} needs nats-server: install it (on Debian: apt-get install nats-server) and put it on the PATH, or set MILLRACE_NATS=nats://host:port to use a running one.`
      })
    )
    : Effect.succeed(found)
})

/**
 * Starts an own NATS on a free port of the loopback interface, with JetStream and its data in a temporary folder. Closing
 * the scope, or any end of this process, kills it and removes the data.
 *
 * Fails with `ServerUnavailable` if `nats-server` is missing, and with `ServerFailed` if it does not answer in time.
 */
export const own = (
  options: Options = {}
): Effect.Effect<NatsServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const settings: Known = { ...defaults, ...options }
    const command = yield* findNats
    const server = yield* ownServer({
      name,
      ports: 1,
      startTimeout: settings.startTimeout,
      prepare: () => Effect.void,
      program: (folder, [port = 0]) => {
        writeFileSync(join(folder, "nats.conf"), configuration(folder, port, settings), { mode: 0o600 })
        return {
          command,
          args: ["-c", join(folder, "nats.conf")],
          probe: probe("127.0.0.1", port),
          stopSignal: "SIGINT"
        }
      }
    })
    const who = options.token !== undefined
      ? `${encodeURIComponent(options.token)}@`
      : Object.keys(settings.users).length > 0
      ? `${username}:${password}@`
      : ""
    const scheme = settings.certificates === undefined ? "nats" : "tls"
    return { ...server, url: Redacted.make(`${scheme}://${who}${server.address}`) }
  })

/**
 * A running NATS; waits up to 5 seconds for its answer. Its operations fail with `ServerNotOwned`, whose message ends with `whose`.
 */
export const existing = (
  url: Redacted.Redacted<string>,
  whose = "it was started by somebody else; use Nats.own for one that may be stopped."
): Effect.Effect<NatsServer, ServerFailed> =>
  Effect.suspend(() => {
    const parsed = URL.parse(Redacted.value(url))
    if (parsed === null || !/^(nats|tls):$/.test(parsed.protocol) || parsed.hostname === "") {
      return Effect.fail(
        new ServerFailed({
          server: name,
          logs: "",
          message: "NATS's address is nats://user:password@host:port, and this is not."
        })
      )
    }
    return Effect.map(borrowed(name, probe(parsed.hostname, Number(parsed.port || 4222)), whose), (server) => ({
      ...server,
      url
    }))
  })

/**
 * The NATS that the environment variable `MILLRACE_NATS=nats://user:password@host:port` names, or an own copy (see
 * {@link own}) if it is not set. The options are those of the own copy.
 *
 * @example
 * ```ts
 * import { Nats } from "@millrace/testing/servers"
 * import { Effect } from "effect"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const nats = yield* Nats.make()
 *   yield* Effect.log(nats.address)
 *   yield* nats.kill
 *   yield* nats.restart
 * }))
 * ```
 */
export const make = (
  options: Options = {}
): Effect.Effect<NatsServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.suspend(() => {
    const url = process.env["MILLRACE_NATS"]
    return url
      ? existing(Redacted.make(url), "MILLRACE_NATS names it, so it is not ours to start or stop.")
      : own(options)
  })

/** The NATS of a test, as a service. */
export class Server extends Context.Service<Server, NatsServer>()("@millrace/testing/servers/Nats/Server") {}

/** {@link make} as a layer: the server lives as long as the layer. */
export const layer = (options: Options = {}): Layer.Layer<Server, ServerUnavailable | ServerFailed> =>
  Layer.effect(Server, make(options))
