import { Context, type Duration, Effect, Layer, Redacted, type Scope } from "effect"
import { statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import type { Certificates } from "./Certificates.ts"
import { findTool, type Probe, runTool, settled } from "./process.ts"
import { borrowed, own as ownServer, type Server as RunningServer, ServerFailed, ServerUnavailable } from "./Server.ts"

/** A Mosquitto; `stop` saves all sessions and messages, `kill` loses those since the last save. */
export interface MosquittoServer extends RunningServer {
  /** `mqtt://user:password@host:port`. */
  readonly url: Redacted.Redacted<string>
  /**
   * `mqtts://user:password@host:port`; undefined without `certificates`. Requires a client certificate, unless `mutual` is
   * false.
   */
  readonly tlsUrl: Redacted.Redacted<string> | undefined
  /** `ws://user:password@host:port`. */
  readonly webSocketUrl: Redacted.Redacted<string> | undefined
  readonly username: string
  readonly password: Redacted.Redacted<string>
  /** Changes the password of a user; the server closes connections that use the old one. */
  readonly setPassword: (user: string, secret: string) => Effect.Effect<void, ServerFailed>
  /** Makes the server save its state to its file, as it does each second, and waits for it. */
  readonly save: Effect.Effect<void, ServerFailed>
}

/** Options of a server; each is optional. */
export interface Options {
  /** Lines of mosquitto.conf beside the default ones, which make it keep messages; default none. */
  readonly settings?: ReadonlyArray<string>
  /** Lines of an access control file; default none, and every user may do everything. */
  readonly access?: ReadonlyArray<string>
  /** Opens a second listener with TLS and these certificates; default none. */
  readonly certificates?: Certificates
  /** Whether the TLS listener requires a client certificate; default true. */
  readonly mutual?: boolean
  /** Users beside `millrace`, and their passwords; default none. */
  readonly users?: Readonly<Record<string, string>>
  /** The longest start; default ten seconds. */
  readonly startTimeout?: Duration.Input
}

/** The defaults of the options. */
export const defaults = {
  settings: [],
  access: [],
  mutual: true,
  users: {},
  startTimeout: "10 seconds"
} as const satisfies Options

const name = "Mosquitto"
const username = "millrace"
const password = "grindstone"

// CONNECT of MQTT 3.1.1 with the client id `probe`; the server refuses it, and the answer is a CONNACK
const hello = Buffer.from("\x10\x11\0\x04MQTT\x04\x02\0\x05\0\x05probe", "latin1")
const probe = (host: string, port: number): Probe => ({
  host,
  port,
  hello,
  isAnswer: (reply) => reply[0] === 0x20 && reply[1] === 0x02
})

const urlOf = (scheme: string, host: string, port: number): Redacted.Redacted<string> =>
  Redacted.make(`${scheme}://${username}:${password}@${host}:${port}`)

type Settings = Required<Omit<Options, "certificates">> & Pick<Options, "certificates">

const configuration = (
  folder: string,
  [plain = 0, tls = 0, web = 0]: ReadonlyArray<number>,
  { access, certificates, mutual, settings }: Settings
): string =>
  [
    // as root it would otherwise drop its rights, and silently save nothing
    ...(process.getuid?.() === 0 ? ["user root"] : []),
    "persistence true",
    `persistence_location ${folder}/`,
    "autosave_interval 1",
    // no bound on the queue of a disconnected client, or the server would lose confirmed messages
    "max_queued_messages 0",
    "allow_anonymous false",
    `password_file ${join(folder, "passwords")}`,
    ...(access.length === 0 ? [] : [`acl_file ${join(folder, "access")}`]),
    ...settings,
    `listener ${plain} 127.0.0.1`,
    `listener ${web} 127.0.0.1`,
    "protocol websockets",
    ...(certificates === undefined ? [] : [
      `listener ${tls} 127.0.0.1`,
      `cafile ${certificates.caFile}`,
      `certfile ${certificates.server.certFile}`,
      `keyfile ${certificates.server.keyFile}`,
      `require_certificate ${mutual}`
    ])
  ].map((line) => `${line}\n`).join("")

const findMosquitto = (tool: "mosquitto" | "mosquitto_passwd") =>
  Effect.suspend(() => {
    // Debian installs servers in folders that may not be on a user's PATH
    const found = findTool(tool) ?? findTool(tool, ["/usr/sbin", "/usr/local/sbin"])
    return found === undefined
      ? Effect.fail(
        new ServerUnavailable({
          server: name,
          tool,
          message:
            `${name} needs ${tool}: install it (on Debian: apt-get install mosquitto) and put it on the PATH, or set MILLRACE_MQTT=mqtt://user:password@host:port to use a running one.`
        })
      )
      : Effect.succeed(found)
  })

const failed = (cause: unknown) =>
  new ServerFailed({
    server: name,
    logs: "",
    message: `${name} could not be prepared: ${cause instanceof Error ? cause.message : String(cause)}`
  })

/** When the file was last written, in nanoseconds; 0 if it does not exist yet. */
const writtenAt = (file: string): bigint => statSync(file, { bigint: true, throwIfNoEntry: false })?.mtimeNs ?? 0n

/** Makes it save by a signal, and waits until the complete file is renamed into its place. */
const saved = async (file: string, pid: number | undefined, signal: AbortSignal): Promise<void> => {
  if (pid === undefined) throw new Error("it does not run")
  const before = writtenAt(file)
  process.kill(pid, "SIGUSR1")
  for (let round = 0; writtenAt(file) === before; round++) {
    if (signal.aborted || round > 1_000) throw new Error("it did not save within 10 s")
    await sleep(10)
  }
}

/**
 * Starts an own Mosquitto on free ports of the loopback interface: with a password, by TCP, WebSocket and, with
 * `certificates`, TLS; its data in a temporary folder. Closing the scope, or any end of this process, kills it and removes
 * the data.
 *
 * Mosquitto acknowledges before it saves. `stop` (SIGTERM) saves first, so no confirmed message is lost; `kill` loses up to
 * a second, unless `save` ran in between.
 *
 * Fails with `ServerUnavailable` if `mosquitto` or `mosquitto_passwd` is missing, and with `ServerFailed` if it does not
 * answer in time.
 */
export const own = (
  options: Options = {}
): Effect.Effect<MosquittoServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const settings = { ...defaults, ...options }
    const command = yield* findMosquitto("mosquitto")
    const passwd = yield* findMosquitto("mosquitto_passwd")
    let home = ""
    let ports: ReadonlyArray<number> = []
    const write = (user: string, secret: string) =>
      Effect.flatMap(
        settled(
          (signal) => runTool(passwd, ["-b", join(home, "passwords"), user, secret], { cwd: home, signal }),
          failed
        ),
        ({ code, output }) => code === 0 ? Effect.void : Effect.fail(failed(`mosquitto_passwd: ${output}`))
      )
    const server = yield* ownServer({
      name,
      ports: 3,
      startTimeout: settings.startTimeout,
      prepare: (folder) =>
        Effect.gen(function*() {
          home = folder
          const file = join(folder, "passwords")
          yield* Effect.sync(() => {
            writeFileSync(file, "", { mode: 0o600 })
            writeFileSync(join(folder, "access"), settings.access.map((line) => `${line}\n`).join(""), { mode: 0o600 })
          })
          for (const [user, secret] of Object.entries({ ...settings.users, [username]: password })) {
            yield* write(user, secret)
          }
        }),
      program: (folder, given) => {
        ports = given
        writeFileSync(join(folder, "mosquitto.conf"), configuration(folder, given, settings), { mode: 0o600 })
        return {
          command,
          args: ["-c", join(folder, "mosquitto.conf")],
          probe: probe("127.0.0.1", given[0] ?? 0),
          stopSignal: "SIGTERM"
        }
      }
    })
    const [plain = 0, tls = 0, web = 0] = ports
    return {
      ...server,
      url: urlOf("mqtt", "127.0.0.1", plain),
      tlsUrl: settings.certificates === undefined ? undefined : urlOf("mqtts", "localhost", tls),
      webSocketUrl: urlOf("ws", "127.0.0.1", web),
      username,
      password: Redacted.make(password),
      setPassword: (user, secret) =>
        Effect.andThen(
          write(user, secret),
          Effect.map(server.pid, (pid) => {
            // makes it reload its files
            if (pid !== undefined) process.kill(pid, "SIGHUP")
          })
        ),
      save: Effect.flatMap(
        server.pid,
        (pid) => settled((signal) => saved(join(home, "mosquitto.db"), pid, signal), failed)
      )
    }
  })

/**
 * A running broker; waits up to 5 seconds for its answer. Its operations fail with `ServerNotOwned`, whose message ends with `whose`;
 * `setPassword` and `save` fail with `ServerFailed`.
 */
export const existing = (
  url: Redacted.Redacted<string>,
  whose = "it was started by somebody else; use Mosquitto.own for one that may be stopped."
): Effect.Effect<MosquittoServer, ServerFailed> =>
  Effect.suspend(() => {
    const parsed = URL.parse(Redacted.value(url))
    if (parsed === null || parsed.protocol !== "mqtt:" || parsed.hostname === "") {
      return Effect.fail(
        new ServerFailed({
          server: name,
          logs: "",
          message: "Its address is mqtt://user:password@host:port, and this is not."
        })
      )
    }
    return Effect.map(borrowed(name, probe(parsed.hostname, Number(parsed.port || 1883)), whose), (server) => ({
      ...server,
      url,
      tlsUrl: undefined,
      webSocketUrl: undefined,
      username: decodeURIComponent(parsed.username),
      password: Redacted.make(decodeURIComponent(parsed.password)),
      setPassword: () =>
        Effect.fail(new ServerFailed({ server: name, logs: "", message: `Cannot change users of ${name}: ${whose}` })),
      save: Effect.fail(new ServerFailed({ server: name, logs: "", message: `Cannot make ${name} save: ${whose}` }))
    }))
  })

/**
 * The broker that the environment variable `MILLRACE_MQTT=mqtt://user:password@host:port` names, or an own copy (see
 * {@link own}) if it is not set. The options are those of the own copy.
 *
 * @example
 * ```ts
 * import { Mosquitto } from "@millrace/testing/servers"
 * import { Effect } from "effect"
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const mosquitto = yield* Mosquitto.make()
 *   yield* Effect.log(mosquitto.address)
 * }))
 * ```
 */
export const make = (
  options: Options = {}
): Effect.Effect<MosquittoServer, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.suspend(() => {
    const url = process.env["MILLRACE_MQTT"]
    return url
      ? existing(Redacted.make(url), "MILLRACE_MQTT names it, so it is not ours to start or stop.")
      : own(options)
  })

/** The MQTT broker of a test, as a service. */
export class Server extends Context.Service<Server, MosquittoServer>()("@millrace/testing/servers/Mosquitto/Server") {}

/** {@link make} as a layer: the server lives as long as the layer. */
export const layer = (options: Options = {}): Layer.Layer<Server, ServerUnavailable | ServerFailed> =>
  Layer.effect(Server, make(options))
