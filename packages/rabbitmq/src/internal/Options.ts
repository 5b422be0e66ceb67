/**
 * Options of every RabbitMQ client and their check, with one error sentence for each invalid option.
 */
import { type BrokerError, Credentials, DriverOptions } from "@millrace/core"
import type { Duration, Effect } from "effect"
import { Config, Option, Redacted } from "effect"
import type * as Errors from "./Errors.ts"
import { type Node, taken } from "./Url.ts"

export type { Node } from "./Url.ts"

const { bad, integer, millis, oneOf, plain } = DriverOptions

/** Certificates in PEM; each is optional. */
export interface Tls {
  /** The authority that signed the broker's certificate. Default: Node's trusted authorities. */
  readonly ca?: string | undefined
  /** The client's own certificate, if the broker requires one. */
  readonly cert?: string | undefined
  readonly key?: string | Redacted.Redacted | undefined
  /** The expected name in the broker's certificate. Default: the host connected to. */
  readonly serverName?: string | undefined
}

/** A user and a password that may expire: a secret of a vault, or a token of OAuth 2. */
export interface Issued extends Credentials.Issued {
  /** The user's name in RabbitMQ. Default: none; RabbitMQ reads the user from the token. */
  readonly username?: string | undefined
  /** The password, or the token. */
  readonly password: string | Redacted.Redacted
}

/** The place of a channel in existing exchanges and queues of RabbitMQ. */
export interface Route {
  /** An existing exchange, of any type. Publishers send the channel's messages to it, and groups bind their queues to it. */
  readonly exchange?: string | undefined
  /** The routing key for publishing and binding. Default: the channel's name; empty for an exchange that ignores it. */
  readonly routingKey?: string | undefined
  /** Binding arguments of the groups' queues, for a headers exchange: `{ "x-match": "all", kind: "order" }`. */
  readonly arguments?: Readonly<Record<string, string>> | undefined
  /**
   * An existing queue, classic or quorum: groups consume it unchanged, and the driver neither declares nor binds it. All
   * groups of the channel share it.
   */
  readonly queue?: string | undefined
}

/** Options of every RabbitMQ client. */
export interface Options {
  /**
   * `amqp://user:password@host:port/vhost`, and `amqps://…` for TLS; several nodes as `host:port,host:port`, tried in turn. User
   * and password default to `guest`, the port to 5672 or 5671, the virtual host to `/`; `/` within its name is written `%2F`.
   */
  readonly url: string | Redacted.Redacted
  /** Default: the URL's. */
  readonly username?: string | undefined
  /** Default: the URL's. */
  readonly password?: string | Redacted.Redacted | undefined
  /**
   * An Effect that obtains user and password, or a token, in place of `username`, `password` and those of the URL. The driver
   * runs it at each connection, and again at 80 % of the credentials' life for open connections, which send them to RabbitMQ
   * (`connection.update-secret`) and go on. Default: none.
   */
  readonly credentials?: Credentials.Source<Issued> | undefined
  /** Certificates, for a URL with `amqps://`. */
  readonly tls?: Tls | undefined
  /**
   * The authentication of the user; `external` uses the client's certificate (plugin rabbitmq_auth_mechanism_ssl). Default:
   * `plain`.
   */
  readonly authentication?: "plain" | "external" | undefined
  /** The name of the connections in the management pages. Default: `millrace`. */
  readonly clientId?: string | undefined
  /** A connection without a heartbeat for twice this time is lost; from 1 second. Default: 10 seconds. */
  readonly heartbeat?: Duration.Input | undefined
  /** The longest time of one attempt to connect to one node. Default: 5 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /** The longest time to wait for the answer to a request, or for the confirmation of a message. Default: 30 seconds. */
  readonly requestTimeout?: Duration.Input | undefined
  /** The durable topic exchange of all channels without a route. Default: `millrace`. */
  readonly exchange?: string | undefined
  /** Whether an undeclared channel fails with `NotFound` (`refuse`), or is declared (`create`). Default: `refuse`. */
  readonly missingChannels?: "refuse" | "create" | undefined
  /**
   * The type of the groups' queues. Quorum queues are replicated and count deliveries. Classic queues do not, so attempts
   * begin at 1 again after each restart, and the program holds the delays of retries. Default: `quorum`.
   */
  readonly queueType?: "quorum" | "classic" | undefined
  /**
   * Whether a declared channel keeps published messages in a stream, from which new groups begin and which browsing reads.
   * Default: `stream`. With `none` a group begins when it first subscribes, and browsing is not possible.
   */
  readonly log?: "stream" | "none" | undefined
  /** How long a log keeps messages, in RabbitMQ's format: a number and Y, M, D, h, m or s. Default: `7D`. */
  readonly logAge?: string | undefined
  /** The most bytes that a log keeps, in whole segments of 64 MB; an integer from 1. Default: 1 GiB. */
  readonly logBytes?: number | undefined
  /**
   * The most unsettled messages that RabbitMQ delivers to one subscription, from 1 to 65535. Default: the subscription's
   * limit in flight, up to 1024. Each message may be as long as the broker allows: lower the limit for long bodies, raise it
   * for many handlers that wait.
   */
  readonly prefetch?: number | undefined
  /**
   * Additional arguments of the groups' queues: `{ "x-max-length": 100_000, "x-overflow": "reject-publish" }`. An existing
   * queue with other arguments fails with `Conflict`. Default: none.
   */
  readonly queueArguments?: Readonly<Record<string, string | number | boolean>> | undefined
  /**
   * The priority of this program's consumers, an integer from 1: RabbitMQ delivers to consumers of a lower priority only when
   * all of a higher priority have used up their prefetch. Default: RabbitMQ's 0, the lowest.
   */
  readonly consumerPriority?: number | undefined
  /**
   * The broker's `consumer_timeout`, after which RabbitMQ redelivers an unacknowledged message to another consumer. Default:
   * 30 minutes.
   */
  readonly consumerTimeout?: Duration.Input | undefined
  /** Routes of channels to exchanges and queues of other programs, by channel name. */
  readonly channels?: Readonly<Record<string, Route>> | undefined
}

/** Checked options, with times in milliseconds. */
export interface ResolvedOptions {
  readonly place: Errors.Place
  readonly nodes: ReadonlyArray<Node>
  readonly vhost: string
  readonly username: string
  readonly password: Redacted.Redacted
  /** Replaces `username` and `password`. */
  readonly credentials: Credentials.Credentials<Issued> | undefined
  readonly authentication: "plain" | "external"
  readonly clientId: string
  /** Undefined without TLS. */
  readonly tls: (Omit<Tls, "key"> & { readonly key: Redacted.Redacted | undefined }) | undefined
  /** In seconds. */
  readonly heartbeat: number
  readonly connectTimeout: number
  readonly requestTimeout: number
  readonly exchange: string
  readonly missingChannels: "refuse" | "create"
  readonly queueType: "quorum" | "classic"
  readonly log: "stream" | "none"
  readonly logAge: string
  readonly logBytes: number
  readonly prefetch: number | undefined
  readonly queueArguments: Readonly<Record<string, string | number | boolean>>
  readonly consumerPriority: number | undefined
  readonly consumerTimeout: number
  readonly channels: ReadonlyMap<string, Route>
}

const checkedTls = (tls: Tls): NonNullable<ResolvedOptions["tls"]> => {
  if ((tls.cert === undefined) !== (tls.key === undefined)) bad("tls needs both cert and key, or neither")
  return { ...tls, key: typeof tls.key === "string" ? Redacted.make(tls.key) : tls.key }
}

const checkedRoutes = (channels: Options["channels"]): ReadonlyMap<string, Route> => {
  const found = new Map(Object.entries(channels ?? {}))
  for (const [name, { exchange, queue }] of found) {
    if (exchange === undefined && queue === undefined) {
      bad(`channels.${name} must name an exchange or a queue that exists, or both`)
    }
    if (queue === "") bad(`channels.${name}.queue must be the name of a queue, got ""`)
  }
  return found
}

/** Arguments that the driver sets, with the option for each. */
const ownArguments: Readonly<Record<string, string>> = { "x-queue-type": "queueType" }

const checkedArguments = (given: Options["queueArguments"] = {}): ResolvedOptions["queueArguments"] => {
  for (const name of Object.keys(given)) {
    const value = given[name]
    if (Object.hasOwn(ownArguments, name)) {
      bad(`queueArguments must not have ${name}: use the option ${ownArguments[name]}`)
    }
    if (typeof value !== "string" && typeof value !== "number" && typeof value !== "boolean") {
      bad(`queueArguments.${name} must be a text, a number, true or false, got ${typeof value}`)
    }
  }
  return given
}

/** The format of RabbitMQ's ages. */
export const age = /^\d+[YMDhms]$/

// a short password would also be replaced within harmless words
const spellings = (password: string): ReadonlyArray<string> =>
  password.length < 4 ? [] : [password, encodeURIComponent(password)]

const resolve = (options: Options): ResolvedOptions => {
  const parts = taken(plain(options.url))
  const { isSecure, nodes, vhost } = parts
  if (!isSecure && options.tls !== undefined) bad("tls is given and url is amqp://: write amqps://")
  const username = options.username ?? parts.username ?? "guest"
  const password = options.password === undefined ? parts.password ?? "guest" : plain(options.password)
  const authentication = oneOf("authentication", options.authentication, ["plain", "external"], "plain")
  if (authentication === "external" && options.tls?.cert === undefined) {
    bad(`authentication "external" needs tls.cert and tls.key`)
  }
  const logAge = options.logAge ?? "7D"
  if (!age.test(logAge)) bad(`logAge must be a number and one of Y, M, D, h, m, s, got ${logAge}`)
  const exchange = options.exchange ?? "millrace"
  if (exchange === "" || exchange.startsWith("amq.")) {
    bad(`exchange must be a name that does not begin with "amq.", got "${exchange}"`)
  }
  const constant = options.username ?? options.password ?? parts.username
  if (options.credentials !== undefined && constant !== undefined) {
    bad("credentials stand in place of username, password, and those of url: give one of them")
  }
  if (options.credentials !== undefined && authentication === "external") {
    bad(`credentials are for authentication "plain", and "external" proves the user by tls.cert`)
  }
  const credentials = options.credentials === undefined ? undefined : Credentials.make<Issued>({
    system: "rabbitmq",
    product: "RabbitMQ",
    source: options.credentials,
    secrets: (issued) => spellings(plain(issued.password))
  })
  const redact = DriverOptions.redacting(spellings(password))
  return {
    place: {
      nodes: nodes.map((each) => `${each.host.includes(":") ? `[${each.host}]` : each.host}:${each.port}`).join(","),
      user: credentials === undefined ? username : "of the option credentials",
      vhost,
      speaks: isSecure ? "AMQP over TLS" : "AMQP without TLS",
      redact: credentials === undefined ? redact : credentials.redact
    },
    nodes,
    vhost,
    username,
    password: Redacted.make(password),
    credentials,
    authentication,
    clientId: options.clientId ?? "millrace",
    tls: isSecure ? checkedTls(options.tls ?? {}) : undefined,
    heartbeat: Math.round(millis("heartbeat", options.heartbeat, 10_000, 1000) / 1000),
    connectTimeout: millis("connectTimeout", options.connectTimeout, 5000),
    requestTimeout: millis("requestTimeout", options.requestTimeout, 30_000),
    exchange,
    missingChannels: oneOf("missingChannels", options.missingChannels, ["refuse", "create"], "refuse"),
    queueType: oneOf("queueType", options.queueType, ["quorum", "classic"], "quorum"),
    log: oneOf("log", options.log, ["stream", "none"], "stream"),
    logAge,
    logBytes: integer("logBytes", options.logBytes, 1024 ** 3, Number.MAX_SAFE_INTEGER),
    prefetch: integer("prefetch", options.prefetch, undefined, 65_535),
    queueArguments: checkedArguments(options.queueArguments),
    consumerPriority: integer("consumerPriority", options.consumerPriority, undefined, 2 ** 31 - 1),
    consumerTimeout: millis("consumerTimeout", options.consumerTimeout, 1_800_000),
    channels: checkedRoutes(options.channels)
  }
}

/** Checks options; fails with a `BrokerError` of reason `Invalid` that names the option. */
export const check = (options: Options): Effect.Effect<ResolvedOptions, BrokerError.BrokerError> =>
  DriverOptions.checked("rabbitmq", "RabbitMQ", () => resolve(options))

const optional = (name: string) => Config.option(Config.String(name))

/**
 * Reads options from the environment: `RABBITMQ_URL`, and optionally `RABBITMQ_USERNAME`, `RABBITMQ_PASSWORD`,
 * `RABBITMQ_CLIENT_ID`, `RABBITMQ_QUEUE_TYPE` (`quorum` or `classic`), `RABBITMQ_MISSING_CHANNELS` (`refuse` or `create`).
 */
export const config: Config.Config<Options> = Config.map(
  Config.all({
    url: Config.Redacted("RABBITMQ_URL"),
    username: optional("RABBITMQ_USERNAME"),
    password: Config.option(Config.Redacted("RABBITMQ_PASSWORD")),
    clientId: optional("RABBITMQ_CLIENT_ID"),
    queueType: Config.option(Config.Literals(["quorum", "classic"], "RABBITMQ_QUEUE_TYPE")),
    missingChannels: Config.option(Config.Literals(["refuse", "create"], "RABBITMQ_MISSING_CHANNELS"))
  }),
  ({ clientId, missingChannels, password, queueType, url, username }): Options => ({
    url,
    username: Option.getOrUndefined(username),
    password: Option.getOrUndefined(password),
    clientId: Option.getOrUndefined(clientId),
    queueType: Option.getOrUndefined(queueType),
    missingChannels: Option.getOrUndefined(missingChannels)
  })
)
