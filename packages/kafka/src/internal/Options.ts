/**
 * Options of every Kafka client and their check, with one error sentence for each invalid option.
 */
import { type BrokerError, DriverOptions } from "@millrace/core"
import type { Duration, Effect } from "effect"
import { Config, Option, Redacted } from "effect"
import type { ConnectionOptions } from "node:tls"
import type * as Errors from "./Errors.ts"
import * as Password from "./Password.ts"
import * as Token from "./Token.ts"

const { bad, decoded, integer, millis, oneOf, plain } = DriverOptions

/** The client's authentication. */
export type Sasl = {
  readonly mechanism: "plain" | "scram-sha-256" | "scram-sha-512"
  readonly username: string
  readonly password: string | Redacted.Redacted
} | {
  readonly mechanism: "plain" | "scram-sha-256" | "scram-sha-512"
  /**
   * An Effect that obtains user and password, with their expiry if it is known; it runs at each connection, and whenever an
   * open connection authenticates again (the broker's `connections.max.reauth.ms`).
   */
  readonly credentials: Password.Source
} | {
  readonly mechanism: "oauthbearer"
  /** A token, or an Effect that obtains one with its expiry; the Effect runs at each connection. */
  readonly token: string | Redacted.Redacted | Token.Source
}

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

/** Options of every Kafka client. */
export interface Options {
  /**
   * `host:port`, several in an array or with commas between, or one URL:
   * `kafka://user:password@host:port,host:port?mechanism=plain`, and `kafkas://…` for TLS.
   */
  readonly brokers: string | ReadonlyArray<string>
  /** The client's name in the broker's logs and quotas. Default: `millrace`. */
  readonly clientId?: string | undefined
  /** Whether to use TLS, or its certificates. Default: `off`, or as the URL says. */
  readonly tls?: "off" | "on" | Tls | undefined
  /** The client's authentication. Default: none, or the URL's user with `mechanism` (default `plain`). */
  readonly sasl?: Sasl | undefined
  /**
   * Whether a missing topic fails with `NotFound` (`refuse`), or is created with the broker's defaults (`create`). Default:
   * `refuse`.
   */
  readonly missingTopics?: "refuse" | "create" | undefined
  /** The longest time of one attempt to connect. Default: 3 seconds; a start makes three attempts. */
  readonly connectTimeout?: Duration.Input | undefined
  /** The longest time to wait for the answer to a request. Default: 30 seconds. */
  readonly requestTimeout?: Duration.Input | undefined
  /** Options for consuming. */
  readonly consumer?: {
    /** The time without a heartbeat after which the broker removes a member from its group. Default: 30 seconds. */
    readonly sessionTimeout?: Duration.Input | undefined
    /** The time between two heartbeats, at most a third of `sessionTimeout`. Default: 3 seconds. */
    readonly heartbeatInterval?: Duration.Input | undefined
    /** How long a rebalance waits for members to finish their running messages. Default: 60 seconds. */
    readonly rebalanceTimeout?: Duration.Input | undefined
    /** How long the broker may hold a fetch until messages arrive. Default: 500 ms. */
    readonly maximumWait?: Duration.Input | undefined
    /** The most bytes of one partition in one fetch; an integer from 1. Default: 1 MiB. */
    readonly partitionBytes?: number | undefined
    /** Whether consumers also read messages of open transactions. Default: `committed`. */
    readonly read?: "committed" | "uncommitted" | undefined
    /**
     * Kafka's `group.instance.id`: a member that restarts under its name within `sessionTimeout` gets its partitions back
     * without a rebalance. Each running member needs a name of its own. Refused by kafkajs. Default: none.
     */
    readonly instanceId?: string | undefined
    /**
     * Kafka's `client.rack`: the consumer fetches from a replica in the same rack (KIP-392) if the brokers have `broker.rack`
     * and a `replica.selector.class`; otherwise from the leader. Refused by kafkajs. Default: none, so from the leader.
     */
    readonly rack?: string | undefined
    /**
     * Where a group without committed offsets begins, in place of its subscription's setting: at the first message at or
     * after this time, a `Date` or Unix time in milliseconds; at the end if there is none. Default: the subscription's
     * setting.
     */
    readonly fromTime?: Date | number | undefined
    /**
     * The content of a commit. `metadata` also stores the settled messages beyond the offset (at most 3 KiB), so only
     * messages in flight are redelivered after a crash; `offset` stores the offset alone. Members that do not read the
     * metadata may share the group, and have more messages redelivered. kafkajs writes the offset alone, and refuses
     * `metadata`. Default: `metadata`.
     */
    readonly progress?: "metadata" | "offset" | undefined
    /** How often a pattern looks for new topics, and a group for new partitions. Default: 30 seconds. */
    readonly metadataMaxAge?: Duration.Input | undefined
  } | undefined
  /** Options for publishing. */
  readonly producer?: {
    /**
     * The compression of messages. kafkajs has `gzip` and `zstd`; for `snappy` and `lz4` add a codec to its
     * `CompressionCodecs`, or a publish fails with `Unsupported`. Default: `none`.
     */
    readonly compression?: (typeof compressions)[number] | undefined
    /**
     * The replicas that must have a message before its publish completes: `all` in-sync replicas, with an idempotent
     * producer; the `leader` alone, which may lose confirmed messages and write a message twice when it fails; or `none`, at
     * most once: the publish completes when the message is sent, and a message that Kafka refuses or never receives is lost
     * without an error. Default: `all`.
     */
    readonly acks?: (typeof acks)[number] | undefined
    /** About how long a publish is retried before it fails. Default: 30 seconds. */
    readonly retryFor?: Duration.Input | undefined
  } | undefined
}

/** Checked options, with times in milliseconds. */
export interface ResolvedOptions {
  /** `host:port` each. */
  readonly brokers: ReadonlyArray<string>
  readonly place: Errors.Place
  readonly clientId: string
  /** Options for `node:tls`; undefined without TLS. */
  readonly tls: ConnectionOptions | undefined
  readonly sasl:
    | { readonly mechanism: (typeof mechanisms)[number]; readonly passwords: Password.Passwords }
    | { readonly mechanism: "oauthbearer"; readonly tokens: Token.Tokens }
    | undefined
  readonly missingTopics: "refuse" | "create"
  readonly connectTimeout: number
  readonly requestTimeout: number
  readonly consumer: {
    readonly sessionTimeout: number
    readonly heartbeatInterval: number
    readonly rebalanceTimeout: number
    readonly maximumWait: number
    readonly partitionBytes: number
    readonly read: "committed" | "uncommitted"
    readonly instanceId: string | null
    readonly progress: "metadata" | "offset"
    /** Empty if no rack is set. */
    readonly rack: string
    /** Unix time in milliseconds. */
    readonly fromTime: number | undefined
    readonly metadataMaxAge: number
  }
  readonly producer: {
    readonly compression: (typeof compressions)[number]
    readonly acks: (typeof acks)[number]
    readonly retryFor: number
  }
}

const address = /^(\[[0-9a-fA-F:.]+\]|[^\s:/@,[\]]+):(\d{1,5})$/

const addresses = (given: ReadonlyArray<string>): Array<string> => {
  const list = given.map((each) => each.trim()).filter((each) => each !== "")
  if (list.length === 0) return bad(`brokers is empty: give "host:port"`)
  for (const each of list) {
    const port = Number(address.exec(each)?.[2] ?? 0)
    // the text may hold a password if the URL was parsed wrongly
    if (port < 1 || port > 65_535) {
      bad(`brokers must be "host:port" each, or one kafka:// URL; ${redactUrl(each)} is neither`)
    }
  }
  return list
}

const redactUrl = (text: string): string =>
  text.replace(/\/\/[^@\s]*@|^[^/@\s]*@/, (found) => found.startsWith("//") ? "//<redacted>@" : "<redacted>@")

interface Parts {
  readonly brokers: Array<string>
  readonly tls: "off" | "on"
  readonly sasl: Sasl | undefined
}

const compressions = ["none", "gzip", "snappy", "lz4", "zstd"] as const

const acks = ["all", "leader", "none"] as const

const mechanisms = ["plain", "scram-sha-256", "scram-sha-512"] as const

const taken = (brokers: Options["brokers"]): Parts => {
  if (typeof brokers !== "string") return { brokers: addresses(brokers), tls: "off", sasl: undefined }
  const url = /^(kafkas?):\/\/(?:([^@/]*)@)?([^/?#]*)\/?(?:\?([^#]*))?$/.exec(brokers.trim())
  if (url === null) return { brokers: addresses(brokers.split(",")), tls: "off", sasl: undefined }
  const [, scheme, user, hosts = "", query = ""] = url
  const wanted = new URLSearchParams(query).get("mechanism") ?? "plain"
  const mechanism = mechanisms.find((each) => each === wanted.toLowerCase())
  if (mechanism === undefined) {
    return bad(`mechanism in the URL of brokers must be one of ${mechanisms.join(", ")}, got ${wanted}`)
  }
  const colon = user?.indexOf(":") ?? -1
  if (user !== undefined && user !== "" && colon < 0) {
    bad("the URL of brokers names a user without a password: write user:password@")
  }
  return {
    brokers: addresses(hosts.split(",")),
    tls: scheme === "kafkas" ? "on" : "off",
    sasl: user === undefined || user === "" ? undefined : {
      mechanism,
      username: decoded("user in the URL of brokers", user.slice(0, colon)),
      password: Redacted.make(decoded("password in the URL of brokers", user.slice(colon + 1)))
    }
  }
}

const checkedSasl = (sasl: Sasl): ResolvedOptions["sasl"] => {
  if (sasl.mechanism === "oauthbearer") {
    if (typeof sasl.token === "string" && sasl.token === "") {
      bad("sasl.token is empty: give a token, or an Effect that obtains one")
    }
    return { mechanism: "oauthbearer", tokens: Token.make(sasl.token) }
  }
  const mechanism = oneOf("sasl.mechanism", sasl.mechanism, mechanisms, "plain")
  if ("credentials" in sasl) {
    if ("username" in sasl || "password" in sasl) {
      bad("sasl.credentials stand in place of username and password: give one of them")
    }
    return { mechanism, passwords: Password.make(sasl.credentials) }
  }
  const password = plain(sasl.password)
  if (sasl.username === "" || password === "") bad("sasl needs a username and a password, and one of them is empty")
  return { mechanism, passwords: Password.make({ username: sasl.username, password }) }
}

const checkedTls = (tls: "off" | "on" | Tls): ConnectionOptions | undefined => {
  if (typeof tls === "string") return oneOf("tls", tls, ["off", "on"], "off") === "on" ? {} : undefined
  if ((tls.cert === undefined) !== (tls.key === undefined)) bad("tls needs both cert and key, or neither")
  const options: ConnectionOptions = {}
  if (tls.ca !== undefined) options.ca = tls.ca
  if (tls.cert !== undefined) options.cert = tls.cert
  if (tls.key !== undefined) options.key = plain(tls.key)
  if (tls.serverName !== undefined) options.servername = tls.serverName
  return options
}

const nameOf = (option: string, noun: string, name: string | undefined): string | undefined =>
  name === "" ? bad(`consumer.${option} is empty: name ${noun}, or leave it out`) : name

/** Converts `acks` to Kafka's number. */
export const acksOf = ({ producer }: ResolvedOptions): number => ({ all: -1, leader: 1, none: 0 })[producer.acks]

const timeOf = (given: Date | number | undefined): number | undefined => {
  if (given === undefined) return undefined
  const time = typeof given === "number" ? given : given.getTime()
  return Number.isSafeInteger(time) && time >= 0
    ? time
    : bad(`consumer.fromTime must be a Date or Unix time in milliseconds, got ${String(given)}`)
}

const resolve = (options: Options): ResolvedOptions => {
  const parts = taken(options.brokers)
  const sasl = options.sasl ?? parts.sasl
  const auth = sasl === undefined ? undefined : checkedSasl(sasl)
  const tls = checkedTls(options.tls ?? parts.tls)
  const redactConstants = DriverOptions.redacting(secretsOf(sasl, options.tls))
  const redactAuth = redactionOf(auth)
  const connectTimeout = millis("connectTimeout", options.connectTimeout, 3000)
  const sessionTimeout = millis("consumer.sessionTimeout", options.consumer?.sessionTimeout, 30_000)
  const heartbeatInterval = millis(
    "consumer.heartbeatInterval",
    options.consumer?.heartbeatInterval,
    Math.min(3000, Math.floor(sessionTimeout / 3))
  )
  if (heartbeatInterval * 3 > sessionTimeout) {
    bad(
      `consumer.heartbeatInterval must be a third of consumer.sessionTimeout (${sessionTimeout} ms) at most, got ${heartbeatInterval} ms`
    )
  }
  const partitionBytes = integer("consumer.partitionBytes", options.consumer?.partitionBytes, 1_048_576)
  return {
    brokers: parts.brokers,
    clientId: options.clientId ?? "millrace",
    tls,
    sasl: auth,
    place: {
      brokers: parts.brokers.join(","),
      get user() {
        return auth === undefined || auth.mechanism === "oauthbearer" ? undefined : auth.passwords.user()
      },
      isRenewable: sasl !== undefined && "credentials" in sasl,
      speaks:
        [tls === undefined ? undefined : "TLS", sasl && `SASL ${sasl.mechanism.toUpperCase()}`].filter((word) =>
          word !== undefined
        ).join(" and ") || "the plain protocol",
      redact: (text) => redactAuth(redactConstants(text))
    },
    missingTopics: oneOf("missingTopics", options.missingTopics, ["refuse", "create"], "refuse"),
    connectTimeout,
    requestTimeout: millis("requestTimeout", options.requestTimeout, 30_000),
    consumer: {
      sessionTimeout,
      heartbeatInterval,
      rebalanceTimeout: millis("consumer.rebalanceTimeout", options.consumer?.rebalanceTimeout, 60_000),
      maximumWait: millis("consumer.maximumWait", options.consumer?.maximumWait, 500),
      partitionBytes,
      read: oneOf("consumer.read", options.consumer?.read, ["committed", "uncommitted"], "committed"),
      fromTime: timeOf(options.consumer?.fromTime),
      instanceId: nameOf("instanceId", "the member", options.consumer?.instanceId) ?? null,
      progress: oneOf("consumer.progress", options.consumer?.progress, ["metadata", "offset"], "metadata"),
      rack: nameOf("rack", "the rack", options.consumer?.rack) ?? "",
      metadataMaxAge: millis("consumer.metadataMaxAge", options.consumer?.metadataMaxAge, 30_000)
    },
    producer: {
      compression: oneOf("producer.compression", options.producer?.compression, compressions, "none"),
      acks: oneOf("producer.acks", options.producer?.acks, acks, "all"),
      retryFor: millis("producer.retryFor", options.producer?.retryFor, 30_000)
    }
  }
}

/** Lists secrets in every spelling in which a message could repeat them. */
const secretsOf = (sasl: Sasl | undefined, tls: Options["tls"]): ReadonlyArray<string> => {
  const key = typeof tls === "object" && tls.key !== undefined ? [plain(tls.key)] : []
  return sasl !== undefined && "password" in sasl
    ? [...key, plain(sasl.password), encodeURIComponent(plain(sasl.password))]
    : key
}

const redactionOf = (auth: ResolvedOptions["sasl"]): (text: string) => string => {
  if (auth === undefined) return (text) => text
  return auth.mechanism === "oauthbearer" ? auth.tokens.redact : auth.passwords.redact
}

/** Runs a check of options; a refused option fails with a `BrokerError` of reason `Invalid` that names the option. */
export const checked = <A>(check: () => A): Effect.Effect<A, BrokerError.BrokerError> =>
  DriverOptions.checked("kafka", "Kafka", check)

/** Checks options; fails with a `BrokerError` of reason `Invalid` that names the option. */
export const check = (options: Options): Effect.Effect<ResolvedOptions, BrokerError.BrokerError> =>
  checked(() => resolve(options))

const optional = (name: string) => Config.option(Config.String(name))

/**
 * Reads options from the environment: `KAFKA_BROKERS` (`host:port,…` or a URL), and optionally `KAFKA_CLIENT_ID`, `KAFKA_TLS`
 * (`on` or `off`), `KAFKA_SASL_MECHANISM`, `KAFKA_USERNAME`, `KAFKA_PASSWORD`, `KAFKA_MISSING_TOPICS` (`refuse` or `create`).
 */
export const config: Config.Config<Options> = Config.map(
  Config.all({
    brokers: Config.Redacted("KAFKA_BROKERS"),
    clientId: optional("KAFKA_CLIENT_ID"),
    tls: Config.option(Config.Literals(["off", "on"], "KAFKA_TLS")),
    mechanism: Config.option(Config.Literals(mechanisms, "KAFKA_SASL_MECHANISM")),
    username: optional("KAFKA_USERNAME"),
    password: Config.option(Config.Redacted("KAFKA_PASSWORD")),
    missingTopics: Config.option(Config.Literals(["refuse", "create"], "KAFKA_MISSING_TOPICS"))
  }),
  ({ brokers, clientId, mechanism, missingTopics, password, tls, username }): Options => ({
    brokers: Redacted.value(brokers),
    clientId: Option.getOrUndefined(clientId),
    tls: Option.getOrUndefined(tls),
    missingTopics: Option.getOrUndefined(missingTopics),
    sasl: Option.isNone(username) && Option.isNone(password) ? undefined : {
      mechanism: Option.getOrElse(mechanism, () => "plain" as const),
      username: Option.getOrElse(username, () => ""),
      password: Option.getOrElse(password, () => Redacted.make(""))
    }
  })
)
