import { Context, type Duration, Effect, Layer, Redacted, type Scope } from "effect"
import { execFileSync } from "node:child_process"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Probe } from "./process.ts"
import { findServer } from "./redisCommand.ts"
import { quoted, tlsLines, type TlsListener } from "./redisTls.ts"
import { borrowed, own as ownServer, type Server as RunningServer, ServerFailed, ServerUnavailable } from "./Server.ts"

export type { TlsListener } from "./redisTls.ts"

/** A Redis server; clients connect to `url`. */
export interface RedisServer extends RunningServer {
  readonly host: string
  readonly port: number
  /** `redis://host:port`, with `user:password@` if there is a password. */
  readonly url: Redacted.Redacted<string>
  /** `host:port` of the TLS listener, if `tls` was given. */
  readonly tlsAddress: string | undefined
  /** The port for other nodes, if the server is a cluster node. */
  readonly busPort: number | undefined
}

/** Options of a server; each is optional. */
export interface Options {
  /** The folder of `redis-server` or `valkey-server`; default: `redis-server` of the PATH. */
  readonly bin?: string
  /** The password of the user `default`; default none. */
  readonly password?: string
  /** Additional users by name, each with its password and its rules as `ACL SETUSER` takes them; default none. */
  readonly users?: Readonly<Record<string, { readonly password: string; readonly rules: ReadonlyArray<string> }>>
  /** A second listener with TLS, by the files of its certificates; `clients` decides whether clients need a certificate. */
  readonly tls?: TlsListener
  /**
   * Makes the server a cluster node, alone at first; it considers another node dead after `nodeTimeout` milliseconds.
   * Default: none.
   */
  readonly cluster?: { readonly nodeTimeout: number }
  /** Settings of the server, as in redis.conf; default none. */
  readonly settings?: Readonly<Record<string, string>>
  /** The longest start; default 10 seconds. */
  readonly startTimeout?: Duration.Input
}

/** The defaults of the options. */
export const defaults = { users: {}, settings: {}, startTimeout: "10 seconds" } as const satisfies Options

const name = "Redis"

// An inline command. A server that requires a password answers -NOAUTH, which counts as ready; -LOADING does not.
const hello = Buffer.from("PING\r\n")
const probe = (host: string, port: number): Probe => ({
  host,
  port,
  hello,
  isAnswer: (reply) => /^(\+PONG|-NOAUTH)/.test(reply.toString("latin1"))
})

/**
 * The content of the configuration file, which holds the passwords: a command line would show them to every user of the
 * machine.
 */
const settingsOf = (folder: string, ports: ReadonlyArray<number>, options: Options): string => {
  const { cluster, password, settings, tls, users = {} } = options
  const [port = 0, tlsPort = 0, busPort = 0] = ports
  const lines = Object.entries({
    bind: "127.0.0.1",
    port: `${port}`,
    dir: quoted(folder),
    save: `""`,
    // confirmed writes survive any end of the process
    appendonly: "yes",
    appendfsync: "always",
    ...settings
  }).map(([key, value]) => `${key} ${value}`)
  if (tls !== undefined) lines.push(...tlsLines(tlsPort, tls))
  if (cluster !== undefined) {
    lines.push("cluster-enabled yes", `cluster-port ${busPort}`, `cluster-node-timeout ${cluster.nodeTimeout}`)
  }
  if (password !== undefined) lines.push(`requirepass ${quoted(password)}`)
  for (const [user, { password, rules }] of Object.entries(users)) {
    lines.push(`user ${user} on ${quoted(`>${password}`)} ${rules.join(" ")}`)
  }
  return `${lines.join("\n")}\n`
}

const address = (host: string, port: number, user: string, password: string | undefined) => ({
  host,
  port,
  url: Redacted.make(
    password === undefined
      ? `redis://${host}:${port}`
      : `redis://${encodeURIComponent(user)}:${encodeURIComponent(password)}@${host}:${port}`
  )
})

/**
 * Starts an own Redis on free ports, with its data in a temporary folder and an append-only file that keeps confirmed
 * writes; closing the scope kills it and removes the data.
 *
 * Fails with `ServerUnavailable` if `redis-server` is missing, and with `ServerFailed` if it does not answer in time.
 */
export const own = (
  options: Options = {}
): Effect.Effect<RedisServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const command = findServer(options.bin)
    if (command === undefined) {
      return yield* new ServerUnavailable({
        server: name,
        tool: "redis-server",
        message:
          `${name} needs redis-server: install it (on Debian: apt-get install redis-server), or set MILLRACE_REDIS=redis://user:password@host:port to use a running one.`
      })
    }
    const version = yield* Effect.try({
      try: () => /v=([\d.]+)/.exec(execFileSync(command, ["--version"], { encoding: "utf8" }))?.[1] ?? "",
      catch: (cause) => new ServerFailed({ server: name, logs: "", message: `${name} does not run: ${String(cause)}` })
    })
    let ports: ReadonlyArray<number> = []
    const server = yield* ownServer({
      name: `${name} ${version}`,
      ports: 3,
      startTimeout: options.startTimeout ?? defaults.startTimeout,
      prepare: () => Effect.void,
      program: (folder, free) => {
        ports = free
        const file = join(folder, "redis.conf")
        writeFileSync(file, settingsOf(folder, free, options), { mode: 0o600 })
        return { command, args: [file], stopSignal: "SIGTERM", probe: probe("127.0.0.1", free[0] ?? 0) }
      }
    })
    return {
      ...server,
      ...address("127.0.0.1", ports[0] ?? 0, "default", options.password),
      tlsAddress: options.tls === undefined ? undefined : `localhost:${ports[1]}`,
      busPort: options.cluster === undefined ? undefined : ports[2]
    }
  })

/**
 * A running Redis, by its `redis://user:password@host:port`; waits up to 5 seconds for its answer. Stopping, killing and restarting
 * it fail with `ServerNotOwned`, whose message ends with `whose`.
 */
export const existing = (
  url: Redacted.Redacted<string>,
  whose = "it was started by somebody else; use Redis.own for one that may be stopped."
): Effect.Effect<RedisServer, ServerFailed> =>
  Effect.suspend(() => {
    const parsed = URL.parse(Redacted.value(url))
    if (parsed === null || parsed.protocol !== "redis:" || parsed.hostname === "") {
      return Effect.fail(
        new ServerFailed({
          server: name,
          logs: "",
          message: "Redis's address is redis://user:password@host:port, and this is not."
        })
      )
    }
    const port = Number(parsed.port || 6379)
    return Effect.map(borrowed(name, probe(parsed.hostname, port), whose), (server) => ({
      ...server,
      host: parsed.hostname,
      port,
      url,
      tlsAddress: undefined,
      busPort: undefined
    }))
  })

/**
 * The Redis that the environment variable `MILLRACE_REDIS=redis://user:password@host:port` names, or an own copy (see
 * {@link own}) if it is not set. The options are those of the own copy.
 *
 * @example
 * ```ts
 * import { Redis } from "@millrace/testing/servers"
 * import { Effect } from "effect"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const redis = yield* Redis.make()
 *   yield* Effect.log(redis.address)
 * }))
 * ```
 */
export const make = (
  options: Options = {}
): Effect.Effect<RedisServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.suspend(() => {
    const url = process.env["MILLRACE_REDIS"]
    return url
      ? existing(Redacted.make(url), "MILLRACE_REDIS names it, so it is not ours to start or stop.")
      : own(options)
  })

/** The Redis of a test, as a service. */
export class Server extends Context.Service<Server, RedisServer>()("@millrace/testing/servers/Redis/Server") {}

/** {@link make} as a layer: the server lives as long as the layer. */
export const layer = (options: Options = {}): Layer.Layer<Server, ServerUnavailable | ServerFailed> =>
  Layer.effect(Server, make(options))
