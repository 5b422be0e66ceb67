/**
 * Options of every Redis client, as a user gives them: checked once, with a sentence for each that cannot be right.
 */
import { DriverOptions } from "@millrace/core"
import type { Redacted } from "effect"
import { Config, type Duration, Option } from "effect"
import type { RedisOptions } from "ioredis"
import type { ConnectionOptions } from "node:tls"
import type * as Failure from "./Failure.ts"

const { bad, decoded, millis, plain } = DriverOptions

/** Certificates in PEM; each is optional. */
export interface Tls {
  /** The authority that signed the server's certificate. Default: those that Node trusts. */
  readonly ca?: string | undefined
  /** The client's own certificate, where the server asks for one. */
  readonly cert?: string | undefined
  readonly key?: string | Redacted.Redacted | undefined
  /** The name that the server's certificate must hold. Default: the host connected to. */
  readonly serverName?: string | undefined
}

/** Options of every Redis client. */
export interface Options {
  /** `redis://user:password@host:port/db`, and `rediss://…` for TLS; all but the host may be left out. */
  readonly url: string | Redacted.Redacted
  /** The user, where it is not in `url`. Default: none, which is Redis's `default`. */
  readonly username?: string | undefined
  /** The password, where it is not in `url`. Default: none. */
  readonly password?: string | Redacted.Redacted | undefined
  /** Default: `off`, or as the URL says. */
  readonly tls?: "off" | "on" | Tls | undefined
  /** The name in Redis's list of clients; letters, digits and `._:-`. Default: `millrace`. */
  readonly clientName?: string | undefined
  /** How long one attempt to connect may take, with the proof of who it is. Default: 3 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /** How long a command may go without an answer before its connection is given up. Default: 30 seconds. */
  readonly commandTimeout?: Duration.Input | undefined
}

/** Options checked, times in milliseconds. */
export interface Settings {
  readonly place: Failure.Place
  readonly connectTimeout: number
  readonly commandTimeout: number
  /** What each of ioredis's clients is made of. */
  readonly native: Omit<RedisOptions, "replyMapping">
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

const taken = (text: string) => {
  const url = URL.parse(text.trim())
  // what is no URL may hold a password all the same, so nothing of it is shown
  if (url === null || !/^rediss?:$/.test(url.protocol) || url.hostname === "") {
    return bad("url must be redis://user:password@host:port/db or rediss://…, and this is neither")
  }
  const db = url.pathname === "" || url.pathname === "/" ? 0 : Number(url.pathname.slice(1))
  if (!Number.isInteger(db) || db < 0) bad(`the database in url must be a number from 0, got ${url.pathname.slice(1)}`)
  if (url.search !== "" || url.hash !== "") bad("url takes no parameters: give them as options")
  const username = decoded("user in url", url.username)
  const password = decoded("password in url", url.password)
  if (username !== "" && password === "") bad("url names a user without a password: write user:password@")
  return {
    host: url.hostname.replace(/^\[|\]$/g, ""),
    port: url.port === "" ? 6379 : Number(url.port),
    db,
    tls: url.protocol === "rediss:" ? "on" as const : "off" as const,
    username: username === "" ? undefined : username,
    password: password === "" ? undefined : password
  }
}

const reconnect = (attempt: number): number => Math.min(1000, 25 * 2 ** Math.min(attempt, 6))

const resolve = (options: Options): Settings => {
  const { db, host, port, ...url } = taken(plain(options.url))
  const username = options.username ?? url.username
  const password = options.password === undefined ? url.password : plain(options.password)
  if (username !== undefined && password === undefined) bad("username needs a password beside it")
  const tls = checkedTls(options.tls ?? url.tls)
  const clientName = options.clientName ?? "millrace"
  if (!/^[\w.:-]+$/.test(clientName)) bad(`clientName must be letters, digits and ._:-, got "${clientName}"`)
  const connectTimeout = millis("connectTimeout", options.connectTimeout, 3000)
  const commandTimeout = millis("commandTimeout", options.commandTimeout, 30_000)
  const secrets = password === undefined
    ? []
    : [...new Set([password, encodeURIComponent(password)])].sort((a, b) => b.length - a.length)
  return {
    place: {
      address: `${host.includes(":") ? `[${host}]` : host}:${port}`,
      user: username,
      speaks: tls === undefined ? "the plain protocol" : "TLS",
      redact: DriverOptions.redacting(secrets)
    },
    connectTimeout,
    commandTimeout,
    native: {
      host,
      port,
      db,
      connectionName: clientName,
      connectTimeout,
      // a user named by its name is not asked for a password that it does not have, of which ioredis would tell the console
      ...(password === undefined ? {} : { username: username ?? "default", password }),
      ...(tls === undefined ? {} : { tls }),
      // the same shapes of replies from every server
      protocol: 2,
      disableClientInfo: true,
      lazyConnect: true,
      // it asks by INFO, and complains on the console where it may not; who meets a server that loads hears of it
      enableReadyCheck: false,
      // what was sent may have been done: who asked decides whether to ask again
      autoResendUnfulfilledCommands: false,
      autoResubscribe: false,
      enableOfflineQueue: false,
      maxRetriesPerRequest: 0,
      retryStrategy: reconnect
    }
  }
}

/** Checks the options that every client has, for `checked`. */
export const settings: (options: Options) => Settings = resolve

const optional = (name: string) => Config.option(Config.String(name))

/**
 * Options from the environment: `REDIS_URL`, and where they are set `REDIS_USERNAME`, `REDIS_PASSWORD`, `REDIS_TLS` (`on` or
 * `off`), `REDIS_CLIENT_NAME`.
 */
export const config: Config.Config<Options> = Config.map(
  Config.all({
    url: Config.Redacted("REDIS_URL"),
    username: optional("REDIS_USERNAME"),
    password: Config.option(Config.Redacted("REDIS_PASSWORD")),
    tls: Config.option(Config.Literals(["off", "on"], "REDIS_TLS")),
    clientName: optional("REDIS_CLIENT_NAME")
  }),
  ({ clientName, password, tls, url, username }): Options => ({
    url,
    username: Option.getOrUndefined(username),
    password: Option.getOrUndefined(password),
    tls: Option.getOrUndefined(tls),
    clientName: Option.getOrUndefined(clientName)
  })
)
