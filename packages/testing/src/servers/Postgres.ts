import { Context, type Duration, Effect, Layer, Redacted, type Scope } from "effect"
import { execFileSync } from "node:child_process"
import { chownSync, readdirSync, realpathSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { findTool, type Probe, runTool, settled, type User } from "./process.ts"
import { borrowed, own as ownServer, type Server as RunningServer, ServerFailed, ServerUnavailable } from "./Server.ts"

/** A PostgreSQL server and one database in it. */
export interface PostgresServer extends RunningServer {
  readonly host: string
  readonly port: number
  readonly username: string
  readonly password: Redacted.Redacted<string>
  readonly database: string
  /** All of the above: `postgres://username:password@host:port/database`. */
  readonly url: Redacted.Redacted<string>
}

/** Options of a server; each is optional. */
export interface Options {
  /** The folder of `initdb` and `postgres`; default: the folder on the PATH that has them, else Debian's newest. */
  readonly bin?: string
  /** Settings of the server, as in postgresql.conf; default none. */
  readonly settings?: Readonly<Record<string, string>>
  /** The longest start; default half a minute. */
  readonly startTimeout?: Duration.Input
}

/** The defaults of the options. */
export const defaults = { settings: {}, startTimeout: "30 seconds" } as const satisfies Options

const name = "PostgreSQL"
const username = "millrace"
const password = "millrace"
const database = "test"

// StartupMessage of protocol 3.0: https://www.postgresql.org/docs/current/protocol-message-formats.html
const startupMessage = (user: string): Buffer => {
  const words = Buffer.from(`\0\0\0\0\0\x03\0\0user\0${user}\0database\0postgres\0\0`, "utf8")
  words.writeUInt32BE(words.length, 0)
  return words
}

const probe = (host: string, port: number, user: string): Probe => ({
  host,
  port,
  hello: startupMessage(user),
  // R requests the password; E means that the server is still starting
  isAnswer: (reply) => reply[0] === "R".charCodeAt(0)
})

const newestOfDebian = (): Array<string> => {
  const root = "/usr/lib/postgresql"
  try {
    return readdirSync(root).sort((left, right) => Number(right) - Number(left)).map((version) =>
      join(root, version, "bin")
    )
  } catch {
    return []
  }
}

const findBin = (bin: string | undefined): Effect.Effect<string, ServerUnavailable> =>
  Effect.suspend(() => {
    const folders = bin === undefined
      ? [
        ...[findTool("initdb")].flatMap((found) => found === undefined ? [] : [dirname(realpathSync(found))]),
        ...newestOfDebian()
      ]
      : [bin]
    const found = folders.find((folder) =>
      ["initdb", "postgres"].every((tool) => findTool(tool, [folder]) === join(folder, tool))
    )
    return found === undefined
      ? Effect.fail(
        new ServerUnavailable({
          server: name,
          tool: "initdb",
          message: `${name} needs initdb and postgres${
            bin === undefined ? "" : ` in ${bin}`
          }: install it (on Debian: apt-get install postgresql) or put its bin folder on the PATH, or set MILLRACE_POSTGRES=postgres://user:password@host:port/database to use a running one.`
        })
      )
      : Effect.succeed(found)
  })

// PostgreSQL refuses to run as root.
const findUser: Effect.Effect<User | undefined, ServerUnavailable> = Effect.suspend(() => {
  if (process.getuid?.() !== 0) return Effect.undefined
  const id = (flag: string) => Number(execFileSync("id", [flag, "postgres"], { stdio: ["ignore", "pipe", "ignore"] }))
  return Effect.try({
    try: () => ({ uid: id("-u"), gid: id("-g") }),
    catch: () =>
      new ServerUnavailable({
        server: name,
        tool: "user postgres",
        message:
          `${name} refuses to run as root, and there is no user postgres to run it as: make one (useradd --system postgres) or run as another user.`
      })
  })
})

const address = (host: string, port: number, user: string, secret: string, base: string) => ({
  host,
  port,
  username: user,
  password: Redacted.make(secret),
  database: base,
  url: Redacted.make(
    `postgres://${encodeURIComponent(user)}:${encodeURIComponent(secret)}@${host}:${port}/${encodeURIComponent(base)}`
  )
})

/**
 * Starts an own PostgreSQL on a free port of the loopback interface, with a password (SCRAM), a superuser and an empty
 * database `test`, and its data in a temporary folder. Closing the scope, or any end of this process, kills it and removes
 * the data. If this process runs as root, the server runs as user postgres.
 *
 * Fails with `ServerUnavailable` if `initdb` or the user is missing, and with `ServerFailed` if it does not answer in time.
 */
export const own = (
  options: Options = {}
): Effect.Effect<PostgresServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const settings = { ...defaults, ...options }
    const bin = yield* findBin(options.bin)
    const user = yield* findUser
    const run = (folder: string, tool: string, args: ReadonlyArray<string>, input = "") =>
      settled((signal) => runTool(join(bin, tool), args, { cwd: folder, user, input, signal }), String).pipe(
        Effect.filterOrFail(({ code }) => code === 0, ({ output }) => output.slice(-4_000)),
        Effect.mapError((logs) =>
          new ServerFailed({ server: name, logs, message: `${name}'s ${tool} failed\n${logs}` })
        )
      )

    const server = yield* ownServer({
      name,
      user,
      ports: 1,
      startTimeout: settings.startTimeout,
      prepare: (folder) =>
        Effect.gen(function*() {
          const passwordFile = join(folder, "password")
          yield* Effect.sync(() => {
            writeFileSync(passwordFile, password, { mode: 0o600 })
            if (user !== undefined) chownSync(passwordFile, user.uid, user.gid)
          })
          yield* run(folder, "initdb", [
            "-D",
            join(folder, "data"),
            "-U",
            username,
            `--pwfile=${passwordFile}`,
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--no-instructions"
          ])
          yield* run(
            folder,
            "postgres",
            ["--single", "-D", join(folder, "data"), "postgres"],
            `CREATE DATABASE ${database}\n`
          )
        }),
      program: (folder, [port = 0]) => ({
        command: join(bin, "postgres"),
        args: [
          "-D",
          join(folder, "data"),
          "-p",
          `${port}`,
          ...Object.entries({ listen_addresses: "127.0.0.1", unix_socket_directories: "", ...settings.settings })
            .flatMap(([key, value]) => ["-c", `${key}=${value}`])
        ],
        user,
        // fast shutdown: ends sessions instead of waiting for them
        stopSignal: "SIGINT",
        probe: probe("127.0.0.1", port, username)
      })
    })
    return { ...server, ...address("127.0.0.1", Number(server.address.split(":")[1]), username, password, database) }
  })

/**
 * A running PostgreSQL, by its `postgres://user:password@host:port/database`; waits up to 5 seconds for its answer. Stopping, killing
 * and restarting it fail with `ServerNotOwned`, whose message ends with `whose`.
 */
export const existing = (
  url: Redacted.Redacted<string>,
  whose = "it was started by somebody else; use Postgres.own for one that may be stopped."
): Effect.Effect<PostgresServer, ServerFailed> =>
  Effect.suspend(() => {
    const parsed = URL.parse(Redacted.value(url))
    if (
      parsed === null || !/^postgres(ql)?:$/.test(parsed.protocol) || parsed.hostname === "" || parsed.username === ""
    ) {
      return Effect.fail(
        new ServerFailed({
          server: name,
          logs: "",
          message: "PostgreSQL's address is postgres://user:password@host:port/database, and this is not."
        })
      )
    }
    const user = decodeURIComponent(parsed.username)
    const port = Number(parsed.port || 5432)
    const base = decodeURIComponent(parsed.pathname.slice(1)) || user
    return Effect.map(borrowed(name, probe(parsed.hostname, port, user), whose), (server) => ({
      ...server,
      ...address(parsed.hostname, port, user, decodeURIComponent(parsed.password), base),
      url
    }))
  })

/**
 * The PostgreSQL that the environment variable `MILLRACE_POSTGRES=postgres://user:password@host:port/database` names, or an
 * own copy (see {@link own}) if it is not set. The options are those of the own copy.
 *
 * @example
 * ```ts
 * import { Postgres } from "@millrace/testing/servers"
 * import { Effect } from "effect"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const postgres = yield* Postgres.make()
 *   yield* Effect.log(postgres.address, postgres.database)
 * }))
 * ```
 */
export const make = (
  options: Options = {}
): Effect.Effect<PostgresServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.suspend(() => {
    const url = process.env["MILLRACE_POSTGRES"]
    return url
      ? existing(Redacted.make(url), "MILLRACE_POSTGRES names it, so it is not ours to start or stop.")
      : own(options)
  })

/** The PostgreSQL of a test, as a service. */
export class Server extends Context.Service<Server, PostgresServer>()("@millrace/testing/servers/Postgres/Server") {}

/** {@link make} as a layer: the server lives as long as the layer. */
export const layer = (options: Options = {}): Layer.Layer<Server, ServerUnavailable | ServerFailed> =>
  Layer.effect(Server, make(options))
