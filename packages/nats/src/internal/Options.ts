/** Options of every NATS connection, checked once; each invalid option fails with an explanatory error. */
import { type BrokerError, type Credentials, DriverOptions } from "@millrace/core"
import {
  type Authenticator,
  nkeyAuthenticator,
  type NodeConnectionOptions,
  type TlsOptions as NodeTlsOptions
} from "@nats-io/transport-node"
import type { Duration } from "effect"
import { Config, type Effect, Option, Redacted } from "effect"
import * as NatsCredentials from "./Credentials.ts"
import type * as Errors from "./Errors.ts"

const { bad, decoded, millis, plain } = DriverOptions

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

/** Options of every NATS connection. */
export interface Options {
  /**
   * `host:port`, or a URL `nats://user:password@host:port`, `nats://token@host:port`, and `tls://…` or `natss://…` for TLS;
   * several in an array or separated by commas, tried in any order. The first URL with credentials supplies them for all.
   */
  readonly servers: string | ReadonlyArray<string>
  /** The connection's name in the server's connection list. Default: `millrace`. */
  readonly clientId?: string | undefined
  /** Default: none, or the URL's. */
  readonly username?: string | undefined
  /** Default: none, or the URL's. */
  readonly password?: string | Redacted.Redacted | undefined
  /** Default: none, or the URL's. */
  readonly token?: string | Redacted.Redacted | undefined
  /**
   * The credentials file that `nsc` writes: a JWT and the seed of its key. The driver reads it at each connection, and again
   * at 80 % of the JWT's life. Default: none.
   */
  readonly credentialsFile?: string | undefined
  /** The seed of a user's nkey, `SU…`. Default: none. */
  readonly nkey?: string | Redacted.Redacted | undefined
  /**
   * Credentials that expire, obtained at each connection. At 80 % of their life the driver opens a connection with new ones,
   * moves its publishers and subscriptions there, and closes the old one. They replace `username`, `password`, `token`,
   * `credentialsFile`, `nkey` and those of the URL. Default: none.
   */
  readonly credentials?: Credentials.Source<NatsCredentials.Issued> | undefined
  /** `auto` uses TLS if the server offers it. Default: `auto`, or as the URL says. */
  readonly tls?: "auto" | "on" | Tls | undefined
  /** How long one attempt to connect may take. Default: 3 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /** How long a request or a confirmation may take. Default: 5 seconds. */
  readonly requestTimeout?: Duration.Input | undefined
  /**
   * The time between two pings on an idle connection; after two unanswered pings the connection is lost. Default: 20
   * seconds.
   */
  readonly pingInterval?: Duration.Input | undefined
  /** The prefix of reply subjects, for users that may not subscribe to `_INBOX.>`. Default: `_INBOX`. */
  readonly inboxPrefix?: string | undefined
}

/** Checked options, times in milliseconds. */
export interface ResolvedOptions {
  readonly place: Errors.Place
  readonly requestTimeout: number
  readonly inboxPrefix: string
  /** Credentials that are not part of `native`. */
  readonly credentials: Credentials.Credentials<NatsCredentials.Issued> | undefined
  /** Options of the client of NATS. */
  readonly native: NodeConnectionOptions
}

interface Parts {
  readonly address: string
  readonly host: string
  readonly isTls: boolean
  readonly user: { readonly name: string; readonly password: string } | undefined
  readonly token: string | undefined
}

const shape = /^(?:(nats|tls|natss):\/\/)?(?:([^@/]*)@)?(\[[0-9a-fA-F:.]+\]|[^\s:/@,[\]]+)(?::(\d{1,5}))?\/?$/i

const partsOf = (given: string): Parts => {
  const [, scheme, who = "", host, port = "4222"] = shape.exec(given) ??
    // the text may hold a password, so the error does not repeat it
    bad(
      "servers must be \"host:port\" or nats://user:password@host:port each, with an IPv6 address in brackets and other characters of user and password percent-encoded, and one of them is neither"
    )
  if (Number(port) < 1 || Number(port) > 65_535) {
    bad(`the port of ${host} in servers must be from 1 to 65535, got ${port}`)
  }
  const colon = who.indexOf(":")
  const isTls = /^(tls|natss)$/i.test(scheme ?? "")
  return {
    address: `${host}:${port}`,
    host: host!,
    isTls,
    user: colon < 0
      ? undefined
      : {
        name: decoded("user in the URL of servers", who.slice(0, colon)),
        password: decoded("password in the URL of servers", who.slice(colon + 1))
      },
    token: who === "" || colon >= 0 ? undefined : decoded("token in the URL of servers", who)
  }
}

const serversOf = (given: Options["servers"]): ReadonlyArray<Parts> => {
  if (typeof given !== "string" && !Array.isArray(given)) bad("servers must be a text or an array of texts")
  const list = (typeof given === "string" ? given.split(",") : given).map((each) => each.trim()).filter((each) =>
    each !== ""
  )
  return list.length === 0 ? bad("servers is empty: give \"host:port\"") : list.map(partsOf)
}

interface Who {
  readonly user: string | undefined
  readonly by: string
  readonly secrets: ReadonlyArray<string>
  readonly options: { user?: string; pass?: string; token?: string; authenticator?: Authenticator }
}

const nothing: Who = { user: undefined, by: "nothing", secrets: [], options: {} }

const whoIs = (options: Options, servers: ReadonlyArray<Parts>): Who => {
  const given = [
    (options.username ?? options.password) === undefined ? undefined : "username",
    options.token && "token",
    options.credentialsFile && "credentialsFile",
    options.nkey && "nkey",
    options.credentials && "credentials"
  ]
    .filter((each) => each !== undefined)
  if (given.length > 1) bad(`${given.join(" and ")} are ways to prove who this is: give one of them`)
  const fromUrl = servers.find(({ token, user }) => user !== undefined || token !== undefined)
  if (options.credentials !== undefined && fromUrl !== undefined) {
    bad("credentials stand in place of user, password and token in the URL of servers: give one of them")
  }
  if (options.credentials !== undefined || options.credentialsFile !== undefined) return nothing
  if (options.nkey !== undefined) {
    const seed = plain(options.nkey)
    if (!/^SU[A-Z2-7]{56}$/.test(seed)) {
      bad("nkey must be the seed of a user's key, which begins with SU and has 58 characters")
    }
    return {
      user: undefined,
      by: "nkey",
      secrets: [seed],
      options: { authenticator: nkeyAuthenticator(new TextEncoder().encode(seed)) }
    }
  }
  const user = options.username === undefined && options.password === undefined
    ? (options.token === undefined ? fromUrl?.user : undefined)
    : { name: options.username ?? "", password: plain(options.password ?? "") }
  if (user !== undefined) {
    if (user.name === "" || user.password === "") bad("username and password belong together, and one of them is empty")
    return {
      user: user.name,
      by: "password",
      secrets: [user.password],
      options: { user: user.name, pass: user.password }
    }
  }
  const token = options.token === undefined ? fromUrl?.token : plain(options.token)
  if (token === "") bad("token is empty")
  return token === undefined
    ? nothing
    : { user: undefined, by: "token", secrets: [token], options: { token } }
}

const tlsOf = (tls: "auto" | "on" | Tls, servers: ReadonlyArray<Parts>): NodeConnectionOptions["tls"] | undefined => {
  if (tls === "auto") return undefined
  if (tls === "on") return hostOf({}, servers)
  if (typeof tls === "string") return bad(`tls must be "auto", "on" or certificates, got ${String(tls)}`)
  if ((tls.cert === undefined) !== (tls.key === undefined)) bad("tls needs both cert and key, or neither")
  return hostOf({
    ...(tls.ca === undefined ? {} : { ca: tls.ca }),
    ...(tls.cert === undefined ? {} : { cert: tls.cert }),
    ...(tls.key === undefined ? {} : { key: plain(tls.key) }),
    // passed on to Node with the rest
    ...(tls.serverName === undefined ? {} : { servername: tls.serverName })
  }, servers)
}

// the client sets no server name for an IP address, and Node would then expect `localhost` in the certificate
const hostOf = (tls: NodeTlsOptions, servers: ReadonlyArray<Parts>): NodeConnectionOptions["tls"] => {
  const [first] = servers
  return servers.length === 1 && /^\[|^[\d.]+$/.test(first!.host)
    ? Object.assign({ host: first!.host.replace(/[[\]]/g, "") }, tls)
    : tls
}

const resolve = (module: string, options: Options): ResolvedOptions => {
  const servers = serversOf(options.servers)
  const who = whoIs(options, servers)
  const source = options.credentialsFile === undefined
    ? options.credentials
    : NatsCredentials.ofFile(module, options.credentialsFile)
  const credentials = source === undefined ? undefined : NatsCredentials.make(source)
  const tls = tlsOf(options.tls ?? (servers.some(({ isTls }) => isTls) ? "on" : "auto"), servers)
  const inboxPrefix = options.inboxPrefix ?? "_INBOX"
  if (!/^[^\s.*>]+(\.[^\s.*>]+)*$/.test(inboxPrefix)) {
    bad(`inboxPrefix must be a subject without wildcards, got ${JSON.stringify(inboxPrefix)}`)
  }
  const secrets = who.secrets.flatMap((each) => each === "" ? [] : [each, encodeURIComponent(each)])
  const redact = DriverOptions.redacting(secrets)
  return {
    place: {
      servers: servers.map(({ address }) => address).join(","),
      user: who.user,
      by: who.by,
      isSecure: tls !== undefined,
      redact: credentials === undefined ? redact : (text) => credentials.redact(redact(text))
    },
    credentials,
    requestTimeout: millis("requestTimeout", options.requestTimeout, 5000),
    inboxPrefix,
    native: {
      servers: servers.map(({ address }) => address),
      name: options.clientId ?? "millrace",
      timeout: millis("connectTimeout", options.connectTimeout, 3000),
      pingInterval: millis("pingInterval", options.pingInterval, 20_000),
      maxPingOut: 2,
      // a reconnecting client silently drops messages written while disconnected, so a connection never reconnects
      reconnect: false,
      noAsyncTraces: true,
      inboxPrefix,
      ...who.options,
      ...(tls === undefined ? {} : { tls })
    }
  }
}

/** Checks options; fails with a `BrokerError` of reason `Invalid` that names the option. */
export const check = (module: string, options: Options): Effect.Effect<ResolvedOptions, BrokerError.BrokerError> =>
  DriverOptions.checked("nats", module, () => resolve(module, options))

const optional = (name: string) => Config.option(Config.String(name))
const secret = (name: string) => Config.option(Config.Redacted(name))

/**
 * Options from the environment: `NATS_SERVERS` (`host:port,…` or URLs), and optionally `NATS_CLIENT_ID`, `NATS_USERNAME`
 * with `NATS_PASSWORD`, `NATS_TOKEN`, `NATS_CREDENTIALS` (a file), `NATS_NKEY`, `NATS_TLS` (`auto` or `on`).
 */
export const config: Config.Config<Options> = Config.map(
  Config.all({
    servers: Config.Redacted("NATS_SERVERS"),
    clientId: optional("NATS_CLIENT_ID"),
    username: optional("NATS_USERNAME"),
    password: secret("NATS_PASSWORD"),
    token: secret("NATS_TOKEN"),
    credentialsFile: optional("NATS_CREDENTIALS"),
    nkey: secret("NATS_NKEY"),
    tls: Config.option(Config.Literals(["auto", "on"], "NATS_TLS"))
  }),
  ({ clientId, credentialsFile, nkey, password, servers, tls, token, username }): Options => ({
    servers: Redacted.value(servers),
    clientId: Option.getOrUndefined(clientId),
    username: Option.getOrUndefined(username),
    password: Option.getOrUndefined(password),
    token: Option.getOrUndefined(token),
    credentialsFile: Option.getOrUndefined(credentialsFile),
    nkey: Option.getOrUndefined(nkey),
    tls: Option.getOrUndefined(tls)
  })
)
