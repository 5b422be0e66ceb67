/**
 * Checks the options of every Redis client once, with an error message for each invalid option.
 */
import { Credentials, DriverOptions } from "@millrace/core"
import type { Duration, Redacted } from "effect"
import type { RedisOptions } from "ioredis"
import type { ConnectionOptions } from "node:tls"
import * as Address from "./Address.ts"
import type * as Errors from "./Errors.ts"

const { bad, decoded, millis, plain } = DriverOptions

/** Certificates in PEM; each is optional. */
export interface Tls {
  /** The authority that signed the server's certificate. Default: the authorities that Node trusts. */
  readonly ca?: string | undefined
  /** The client's certificate, if the server requires one. */
  readonly cert?: string | undefined
  readonly key?: string | Redacted.Redacted | undefined
  /** The name that the server's certificate must hold. Default: the host connected to. */
  readonly serverName?: string | undefined
}

/** A user and a password that may expire, issued by Entra ID, AWS IAM, or a vault. */
export interface Issued extends Credentials.Issued {
  /** Default: Redis's `default`. */
  readonly username?: string | undefined
  readonly password: string | Redacted.Redacted
}

/** The address of Redis: exactly one of `url`, `cluster` and `sentinels`. */
export interface Place {
  /** One server: `redis://user:password@host:port/db`, or `rediss://…` for TLS; only the host is required. */
  readonly url?: string | Redacted.Redacted | undefined
  /** A Redis Cluster: some of its nodes as `host:port`; the client finds the others through them. */
  readonly cluster?: ReadonlyArray<string> | undefined
  /** Redis Sentinel: its processes as `host:port`. The client asks them for the primary called `name` before each connection. */
  readonly sentinels?: ReadonlyArray<string> | undefined
  /** The sentinels' name for the primary and its replicas. Default: `mymaster`. */
  readonly name?: string | undefined
  /** The user and the password of the sentinels themselves. Default: none. */
  readonly sentinelUsername?: string | undefined
  readonly sentinelPassword?: string | Redacted.Redacted | undefined
  /** The number of the database, if not in `url`; a cluster has only 0. Default: 0. */
  readonly database?: number | undefined
}

/** Options of every Redis client. */
export interface Options extends Place {
  /** The user, if not in `url`. Default: none, which is Redis's `default`. */
  readonly username?: string | undefined
  /** The password, if not in `url`. Default: none. */
  readonly password?: string | Redacted.Redacted | undefined
  /**
   * Issues a user and a password for each connection, and new ones for open connections at 80 % of their life (`AUTH`); replaces
   * `username`, `password`, and those of `url`. Default: none.
   */
  readonly credentials?: Credentials.Source<Issued> | undefined
  /** TLS to the servers, and to sentinels too. Default: `off`, or as the URL says. */
  readonly tls?: "off" | "on" | Tls | undefined
  /** The name of the connections in `CLIENT LIST`; letters, digits and `._:-`. Default: `millrace`. */
  readonly clientId?: string | undefined
  /** The most time for one attempt to connect, including authentication. Default: 3 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /** How long a command may go without a reply before it fails with `Lost` and its connection is closed. Default: 30 seconds. */
  readonly requestTimeout?: Duration.Input | undefined
}

/** Options of a store, whose commands delay requests. */
export interface StoreOptions extends Options {
  /**
   * How long a command may go without a reply before it fails; a connection on which nothing arrives is reopened. Default: 1
   * second.
   */
  readonly requestTimeout?: Duration.Input | undefined
}

/** Options of ioredis's clients, except the address. */
export type Native = Omit<RedisOptions, "replyMapping" | "host" | "port">

/** The sentinels to ask for the primary. */
export interface Sentinels {
  readonly addresses: ReadonlyArray<Address.Address>
  readonly name: string
  readonly username: string | undefined
  readonly native: Native
}

/** The addresses of the servers. */
export type Where =
  | { readonly _tag: "Server"; readonly address: Address.Address }
  | { readonly _tag: "Cluster"; readonly nodes: ReadonlyArray<Address.Address> }
  | { readonly _tag: "Sentinels"; readonly sentinels: Sentinels }

/** Options checked, times in milliseconds. */
export interface ResolvedOptions {
  readonly where: Where
  readonly place: Errors.Place
  readonly connectTimeout: number
  /** The longest that a connection may be silent while a command waits for its reply. */
  readonly requestTimeout: number
  /** Whether a late reply also fails its own command while others arrive, because a request waits for it. */
  readonly boundsEach: boolean
  /** The source of user and password, if they are not in `native`. */
  readonly credentials: Credentials.Credentials<Issued> | undefined
  readonly native: Native
}

const checkedTls = (tls: "off" | "on" | Tls): ConnectionOptions | undefined => {
  if (typeof tls === "string") {
    if (tls !== "off" && tls !== "on") bad(`tls must be "off", "on" or certificates, got ${String(tls)}`)
    return tls === "on" ? {} : undefined
  }
  if ((tls.cert === undefined) !== (tls.key === undefined)) bad("tls needs both cert and key, or neither")
  const options: ConnectionOptions = {}
  if (tls.ca !== undefined) options.ca = tls.ca
  if (tls.cert !== undefined) options.cert = tls.cert
  if (tls.key !== undefined) options.key = plain(tls.key)
  if (tls.serverName !== undefined) options.servername = tls.serverName
  return options
}

interface Found {
  readonly where: "Server" | "Cluster" | "Sentinels"
  readonly addresses: ReadonlyArray<Address.Address>
  readonly database?: number
  readonly tls?: "off" | "on"
  readonly username?: string | undefined
  readonly password?: string | undefined
}

const ofUrl = (text: string): Found => {
  const url = URL.parse(text.trim())
  // an invalid URL may still hold a password, so the error shows none of it
  if (url === null || !/^rediss?:$/.test(url.protocol) || url.hostname === "") {
    return bad("url must be redis://user:password@host:port/db or rediss://…, and this is neither")
  }
  const database = url.pathname === "" || url.pathname === "/" ? 0 : Number(url.pathname.slice(1))
  if (!Number.isInteger(database) || database < 0) {
    bad(`the database in url must be a number from 0, got ${url.pathname.slice(1)}`)
  }
  if (url.search !== "" || url.hash !== "") bad("url takes no parameters: give them as options")
  const username = decoded("user in url", url.username)
  const password = decoded("password in url", url.password)
  if (username !== "" && password === "") bad("url names a user without a password: write user:password@")
  return {
    where: "Server",
    addresses: [{ host: url.hostname.replace(/^\[|\]$/g, ""), port: url.port === "" ? 6379 : Number(url.port) }],
    database,
    tls: url.protocol === "rediss:" ? "on" : "off",
    username: username === "" ? undefined : username,
    password: password === "" ? undefined : password
  }
}

const found = ({ cluster, name, sentinels, url }: Place): Found => {
  const given = [url, cluster, sentinels].filter((each) => each !== undefined).length
  if (given !== 1) bad("one of url, cluster and sentinels must say where Redis is, and no two of them")
  if (name !== undefined && sentinels === undefined) {
    bad("name is the name of a primary among sentinels: give sentinels beside it")
  }
  if (cluster !== undefined) return { where: "Cluster", addresses: Address.list("cluster", cluster, 6379) }
  if (sentinels !== undefined) return { where: "Sentinels", addresses: Address.list("sentinels", sentinels, 26_379) }
  return ofUrl(plain(url ?? ""))
}

/** The ioredis options for authentication. */
export const auth = (
  username: string | undefined,
  password: string | undefined
): Pick<RedisOptions, "username" | "password"> =>
  // name the user, or ioredis writes a warning to the console if the default user needs no password
  password === undefined ? {} : { username: username ?? "default", password }

/** The spellings in which passwords may occur in a text, longest first. */
const spellings = (passwords: ReadonlyArray<string | undefined>): ReadonlyArray<string> =>
  [...new Set(passwords.flatMap((each) => each === undefined || each === "" ? [] : [each, encodeURIComponent(each)]))]
    .sort((a, b) => b.length - a.length)

const sentinelPasswordOf = ({ sentinelPassword }: Place): string | undefined =>
  sentinelPassword === undefined ? undefined : plain(sentinelPassword)

const resolveWithin = (options: Options, requestTimeout: number, boundsEach: boolean): ResolvedOptions => {
  const { addresses, where, ...given } = found(options)
  const username = options.username ?? given.username
  const password = options.password === undefined ? given.password : plain(options.password)
  if (username !== undefined && password === undefined) bad("username needs a password beside it")
  if (options.credentials !== undefined && password !== undefined) {
    bad("credentials stand in place of username, password, and those of url: give one of them")
  }
  const credentials = options.credentials === undefined ? undefined : Credentials.make<Issued>({
    system: "redis",
    product: "Redis",
    source: options.credentials,
    secrets: (issued) => spellings([plain(issued.password)])
  })
  const redact = DriverOptions.redacting(spellings([password, sentinelPasswordOf(options)]))
  const sentinelPassword = sentinelPasswordOf(options)
  if (options.sentinelUsername !== undefined && sentinelPassword === undefined) {
    bad("sentinelUsername needs sentinelPassword beside it")
  }
  const database = options.database ?? given.database ?? 0
  if (!Number.isInteger(database) || database < 0) bad(`database must be an integer from 0, got ${String(database)}`)
  if (database !== 0 && where === "Cluster") bad(`database must be 0 with cluster, got ${database}`)
  const tls = checkedTls(options.tls ?? given.tls ?? "off")
  const clientId = options.clientId ?? "millrace"
  if (!/^[\w.:-]+$/.test(clientId)) bad(`clientId must be letters, digits and ._:-, got "${clientId}"`)
  const connectTimeout = millis("connectTimeout", options.connectTimeout, 3000)
  const common: Native = {
    connectionName: clientId,
    connectTimeout,
    ...(tls === undefined ? {} : { tls }),
    // the same shapes of replies from every server
    protocol: 2,
    disableClientInfo: true,
    lazyConnect: true,
    // ioredis's check needs the right to INFO, or it writes to the console; commands to a loading server fail on their own
    enableReadyCheck: false,
    // a sent command may have run: its caller decides whether to retry
    autoResendUnfulfilledCommands: false,
    autoResubscribe: false,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    retryStrategy: null,
    // do not wait longer for a server that does not close its side
    disconnectTimeout: 500
  }
  const [first] = addresses
  const names = addresses.map(Address.textOf).join(", ")
  const sentinels: Sentinels = {
    addresses,
    name: options.name ?? "mymaster",
    username: options.sentinelUsername,
    native: { ...common, ...auth(options.sentinelUsername, sentinelPassword) }
  }
  if (sentinels.name === "") bad("name is empty")
  return {
    where: where === "Server"
      ? { _tag: where, address: first! }
      : where === "Cluster"
      ? { _tag: where, nodes: addresses }
      : { _tag: where, sentinels },
    place: {
      address: where === "Sentinels" ? `${sentinels.name} (sentinels ${names})` : names,
      option: where === "Server" ? "url" : where === "Cluster" ? "cluster" : "sentinels",
      isCluster: where === "Cluster",
      user: username,
      speaks: tls === undefined ? "the plain protocol" : "TLS",
      redact: credentials === undefined ? redact : (text) => credentials.redact(redact(text))
    },
    connectTimeout,
    requestTimeout: millis("requestTimeout", options.requestTimeout, requestTimeout),
    boundsEach,
    credentials,
    native: { ...common, ...auth(username, password), ...(database === 0 ? {} : { db: database }) }
  }
}

/** Checks the options of a driver; call it within `checked`. */
export const resolve = (options: Options): ResolvedOptions => resolveWithin(options, 30_000, false)

/** Checks the options of a store; call it within `checked`. */
export const resolveStore = (options: StoreOptions): ResolvedOptions => resolveWithin(options, 1000, true)
