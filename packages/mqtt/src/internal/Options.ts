/** Options of every MQTT client, checked once; each invalid option fails with an explanatory error. */
import { type BrokerError, Credentials, DriverOptions, OptionCheck, type Outgoing } from "@millrace/core"
import { Config, type Duration, type Effect, Option, type Redacted } from "effect"
import type { IClientOptions } from "mqtt"
import { createHash } from "node:crypto"
import type * as Errors from "./Errors.ts"
import * as Codec from "./Codec.ts"
import * as Packet from "./Packet.ts"

const { bad, decoded, integer, millis, oneOf, plain } = DriverOptions

/** Certificates in PEM; each is optional. */
export interface Tls {
  /** The authority that signed the server's certificate. Default: those that Node trusts. */
  readonly ca?: string | undefined
  /** The client's own certificate, if the server requires one. */
  readonly cert?: string | undefined
  readonly key?: string | Redacted.Redacted | undefined
  /** The name that the server's certificate must contain. Default: the host of the server. */
  readonly serverName?: string | undefined
}

/** A user and a password, or a token in place of the password, that may expire. */
export interface Issued extends Credentials.Issued {
  readonly username: string
  readonly password: string | Redacted.Redacted
}

/** Options of an MQTT broker. */
export interface Options {
  /**
   * `mqtt://user:password@host:port`, `mqtts://…` for TLS, `ws://…/path` and `wss://…/path` for WebSockets. Default ports: 1883,
   * 8883, 80 and 443.
   */
  readonly url: string | Redacted.Redacted
  /**
   * The name of this process at the server: stable over restarts, and unique among running processes. The server keeps a
   * process's unacknowledged messages under this name; two processes that share it disconnect each other for ever.
   */
  readonly clientId: string
  /** Default: the URL's. */
  readonly username?: string | undefined
  /** Default: the URL's. */
  readonly password?: string | Redacted.Redacted | undefined
  /**
   * User and password, obtained at each connection. At 80 % of their life the driver obtains new ones and connects again:
   * publishes wait, running handlers finish, and the session at the server keeps other messages. They replace `username`,
   * `password` and those of `url`. Default: none.
   */
  readonly credentials?: Credentials.Source<Issued> | undefined
  /** Certificates; only with `mqtts` and `wss`. */
  readonly tls?: Tls | undefined
  /**
   * The delivery guarantee of published messages, in both directions: 0 at most once, 1 at least once, 2 once between client
   * and server. The header `mqtt-qos` (`0`, `1`, `2`) of a message overrides it. Default: 1.
   */
  readonly qos?: 0 | 1 | 2 | undefined
  /**
   * The keepalive interval; a connection that is silent for one and a half times as long is lost. Whole seconds up to 18
   * hours. Default: 30 seconds.
   */
  readonly keepalive?: Duration.Input | undefined
  /** How long an attempt to connect, or an answer to a subscription or a ping, may take. Default: 5 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /** The message that the server publishes when this process's connection ends without a clean shutdown. Default: none. */
  readonly will?: Outgoing<Uint8Array> | undefined
  /** How long the server holds the will back in case the process reconnects; whole seconds. Default: 0. */
  readonly willDelay?: Duration.Input | undefined
  /** Consuming. */
  readonly consumer?: {
    /**
     * `group`: processes of a group share its messages, in no order. `exclusive`: a group belongs to one process (its
     * `clientId`), which receives all messages in order. Default: `group`.
     */
    readonly sharing?: "group" | "exclusive" | undefined
    /**
     * How long the server keeps the session of a disconnected process: its unacknowledged messages and its share of new
     * ones; whole seconds. Afterwards they are lost. Without meaning at QoS 0. Default: 7 days.
     */
    readonly sessionExpiry?: Duration.Input | undefined
    /** The most delivered, unacknowledged messages, which may be redelivered; an integer from 1 to 65535. Default: 1024. */
    readonly receiveMaximum?: number | undefined
  } | undefined
  /** Publishing. */
  readonly producer?: {
    /**
     * The most unconfirmed messages in flight; an integer from 1 to 65535, limited by the server's Receive Maximum. Default:
     * 512.
     */
    readonly window?: number | undefined
    /** Whether the server retains a message without a header `mqtt-retain`. Default: `off`. */
    readonly retain?: "off" | "on" | undefined
    /**
     * Decides about a message or dead letter that the server drops because no session subscribes to it: `refuse` fails with
     * `Unreachable`, so that the publish is retried; `confirm` succeeds, as MQTT does. `refuse` needs QoS 1 or 2 and a
     * server that reports it; Mosquitto does so at QoS 1 only. Retained messages are kept, and confirmed. Default: `refuse`,
     * and `confirm` at QoS 0.
     */
    readonly unheard?: "confirm" | "refuse" | undefined
  } | undefined
}

/** Checked options, times in seconds as in MQTT. */
export interface ResolvedOptions {
  /** Names `clientId`; consumers have client ids of their own. */
  readonly place: Errors.Place
  readonly qos: 0 | 1 | 2
  /** Milliseconds. */
  readonly connectTimeout: number
  readonly sharing: "group" | "exclusive"
  readonly sessionExpiry: number
  readonly receiveMaximum: number
  readonly window: number
  readonly retain: boolean
  readonly unheard: "confirm" | "refuse"
  readonly will: IClientOptions["will"]
  /** User and password, if they are not part of `client`. */
  readonly credentials: Credentials.Credentials<Issued> | undefined
  /** The options common to all clients. */
  readonly client: (issued?: Issued) => IClientOptions
  /** Derives a client id, the same for the same words, and short: servers may refuse long ones. */
  readonly clientIdOf: (words: ReadonlyArray<string>) => string
}

// 2^32 - 1 would mean for ever, and keep sessions that no client will resume
const longest = 4_294_967_294

const checks = OptionCheck.makeWith(bad)

const seconds = (option: string, value: Duration.Input | undefined, otherwise: number, from: number, to: number) =>
  value === undefined ? otherwise : checks.seconds(option, value, { least: from, most: to })

const ports = { mqtt: 1883, mqtts: 8883, ws: 80, wss: 443 } as const

interface Parts {
  readonly protocol: keyof typeof ports
  readonly host: string
  readonly port: number
  readonly path: string
  readonly username: string | undefined
  readonly password: string | undefined
}

const taken = (text: unknown): Parts => {
  const url = typeof text === "string" ? URL.parse(text.trim()) : null
  const protocol = (["mqtt", "mqtts", "ws", "wss"] as const).find((each) => `${each}:` === url?.protocol)
  if (url === null || protocol === undefined || url.hostname === "") {
    // the text may hold a password, so the error does not repeat it
    return bad("url must be mqtt://host:port, or with mqtts, ws or wss, and with user:password@ before the host")
  }
  if (!protocol.startsWith("ws") && url.pathname !== "" && url.pathname !== "/") {
    bad(`url must have no path with ${protocol}, got ${url.pathname}`)
  }
  if (!protocol.startsWith("ws") && url.search !== "") {
    bad(`url must have no query with ${protocol}: what other programs say there is an option here`)
  }
  if (url.hash !== "") bad("url must have no # but a percent-encoded one")
  if (url.port === "0") bad("the port in url must be from 1 to 65535, got 0")
  return {
    protocol,
    host: url.hostname.replace(/^\[(.*)\]$/, "$1"),
    port: url.port === "" ? ports[protocol] : Number(url.port),
    path: `${url.pathname || "/"}${url.search}`,
    username: url.username === "" ? undefined : decoded("user in url", url.username),
    password: url.password === "" ? undefined : decoded("password in url", url.password)
  }
}

const checkedTls = (tls: Tls, protocol: Parts["protocol"]): IClientOptions => {
  if (protocol === "mqtt" || protocol === "ws") return bad(`tls needs mqtts or wss in url, got ${protocol}`)
  if ((tls.cert === undefined) !== (tls.key === undefined)) bad("tls needs both cert and key, or neither")
  const options: IClientOptions = {}
  if (tls.ca !== undefined) options.ca = tls.ca
  if (tls.cert !== undefined) options.cert = tls.cert
  if (tls.key !== undefined) options.key = plain(tls.key)
  if (tls.serverName !== undefined) options.servername = tls.serverName
  return options
}

const checkedWill = (
  will: Outgoing<Uint8Array>,
  qos: 0 | 1 | 2,
  delay: number,
  retain: boolean
): IClientOptions["will"] => {
  const packet = Packet.toPacket(will, qos, retain)
  if ("_tag" in packet) return bad(`will: ${packet.message.replace(/\.$/, "")}`)
  return {
    topic: packet.topic,
    payload: packet.payload,
    qos: packet.options.qos ?? qos,
    retain: packet.options.retain ?? false,
    properties: { ...packet.options.properties, ...(delay === 0 ? {} : { willDelayInterval: delay }) }
  }
}

const speaking: Record<Parts["protocol"], string> = {
  mqtt: "plain TCP",
  mqtts: "TLS",
  ws: "WebSocket",
  wss: "WebSocket over TLS"
}

const resolve = (options: Options): ResolvedOptions => {
  const parts = taken(options.url === undefined ? undefined : plain(options.url))
  const { clientId, consumer = {}, producer = {} } = options
  if (typeof clientId !== "string" || clientId === "" || !Codec.isText(clientId) || clientId.length > 256) {
    bad("clientId must be 1 to 256 characters, the same over restarts and of this process alone")
  }
  const username = options.username ?? parts.username
  const password = options.password === undefined ? parts.password : plain(options.password)
  if (options.credentials !== undefined && (username ?? password) !== undefined) {
    bad("credentials stand in place of username, password, and those of url: give one of them")
  }
  if (password !== undefined && username === undefined) bad("a password needs a username")
  if (username !== undefined && (username === "" || !Codec.isText(username))) {
    bad("username must be at least one character, and no control character")
  }
  const qos = oneOf("qos", options.qos, [0, 1, 2], 1)
  const connectTimeout = millis("connectTimeout", options.connectTimeout, 5000)
  const keepalive = seconds("keepalive", options.keepalive, 30, 1, 65_535)
  const willDelay = seconds("willDelay", options.willDelay, 0, 0, longest)
  const retain = oneOf("producer.retain", producer.retain, ["off", "on"], "off") === "on"
  const unheard = oneOf("producer.unheard", producer.unheard, ["confirm", "refuse"], qos === 0 ? "confirm" : "refuse")
  if (unheard === "refuse" && qos === 0) bad(`producer.unheard "refuse" needs qos 1 or 2: at 0 servers do not answer`)
  const tls = options.tls === undefined ? {} : checkedTls(options.tls, parts.protocol)
  const secrets = password === undefined || password === "" ? [] : [password, encodeURIComponent(password)]
  const redact = DriverOptions.redacting(secrets)
  const credentials = options.credentials === undefined ? undefined : Credentials.make<Issued>({
    system: "mqtt",
    product: "the MQTT server",
    source: options.credentials,
    refuse: (issued) =>
      issued.username === "" || !Codec.isText(issued.username)
        ? "the username is empty or holds a control character"
        : undefined,
    secrets: (issued) => {
      const text = plain(issued.password)
      return [text, encodeURIComponent(text)]
    }
  })
  const server = `${parts.host.includes(":") ? `[${parts.host}]` : parts.host}:${parts.port}`
  return {
    place: {
      server,
      user: username,
      clientId,
      speaks: speaking[parts.protocol],
      redact: credentials === undefined ? redact : (text) => credentials.redact(redact(text))
    },
    credentials,
    qos,
    connectTimeout,
    sharing: oneOf("consumer.sharing", consumer.sharing, ["group", "exclusive"], "group"),
    sessionExpiry: seconds("consumer.sessionExpiry", consumer.sessionExpiry, 7 * 24 * 3600, 1, longest),
    receiveMaximum: integer("consumer.receiveMaximum", consumer.receiveMaximum, 1024, 65_535),
    window: integer("producer.window", producer.window, 512, 65_535),
    retain,
    unheard,
    will: options.will === undefined ? undefined : checkedWill(options.will, qos, willDelay, retain),
    // a new object for each client: mqtt.js writes into it
    client: (issued) => ({
      ...tls,
      protocol: parts.protocol,
      protocolVersion: 5,
      host: parts.host,
      port: parts.port,
      ...(parts.protocol.startsWith("ws") ? { path: parts.path } : {}),
      ...(username === undefined ? {} : { username }),
      ...(password === undefined ? {} : { password }),
      ...(issued === undefined ? {} : { username: issued.username, password: plain(issued.password) }),
      keepalive,
      connectTimeout,
      // the engine decides when to reconnect, and no message waits in the client meanwhile
      reconnectPeriod: 0,
      resubscribe: false,
      queueQoSZero: false,
      rejectUnauthorized: true,
      // mqtt.js's debug log prints packets unredacted, including passwords
      log: () => {}
    }),
    clientIdOf: (words) =>
      `${clientId}-${createHash("sha256").update(JSON.stringify(words)).digest("hex").slice(0, 16)}`
  }
}

/** Checks options; fails with a `BrokerError` of reason `Invalid` that names the option. */
export const check = (options: Options): Effect.Effect<ResolvedOptions, BrokerError.BrokerError> =>
  DriverOptions.checked("mqtt", "Mqtt", () => resolve(options))

const optional = (name: string) => Config.option(Config.String(name))

/** Options from the environment: see `Mqtt.layerConfig`. */
export const config: Config.Config<Options> = Config.map(
  Config.all({
    url: Config.Redacted("MQTT_URL"),
    clientId: Config.String("MQTT_CLIENT_ID"),
    username: optional("MQTT_USERNAME"),
    password: Config.option(Config.Redacted("MQTT_PASSWORD")),
    qos: Config.option(Config.Literals(["0", "1", "2"], "MQTT_QOS"))
  }),
  ({ clientId, password, qos, url, username }): Options => ({
    url,
    clientId,
    username: Option.getOrUndefined(username),
    password: Option.getOrUndefined(password),
    qos: Option.isNone(qos) ? undefined : qos.value === "0" ? 0 : qos.value === "1" ? 1 : 2
  })
)
