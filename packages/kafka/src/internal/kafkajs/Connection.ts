/**
 * The connection: kafkajs clients, their log led into Effect's, and what is secret kept out of it.
 */
import { Context, Effect, LogLevel, Redacted, References } from "effect"
import kafkajs, {
  Kafka,
  type KafkaConfig,
  type logCreator,
  logLevel,
  type Mechanism,
  type RetryOptions,
  type SASLOptions
} from "kafkajs"
import { createRequire } from "node:module"
import { connect, isIP } from "node:net"
import { connect as connectTls, type ConnectionOptions } from "node:tls"
import { promisify } from "node:util"
import { zstdCompress, zstdDecompress } from "node:zlib"
import type { ResolvedOptions } from "../Options.ts"
import { refusalIn, type Tokens } from "../Token.ts"

const { CompressionCodecs, CompressionTypes } = kafkajs

/** Where kafkajs's log goes, and how much of it. */
export interface Log {
  readonly logCreator: logCreator
  readonly logLevel: logLevel
}

/** Three attempts within two seconds: a wrong address is known soon, and the engine tries again by its own schedule. */
const connecting: RetryOptions = { initialRetryTime: 100, maxRetryTime: 1000, multiplier: 3, factor: 0.1, retries: 2 }

/** A client of its own: consumers of one client share their positions, whatever they consume. */
export const make = (settings: ResolvedOptions, log: Log): Kafka => {
  quiet()
  knowZstd()
  const { brokers, clientId, connectTimeout, requestTimeout, sasl, tls } = settings
  return new Kafka({
    clientId,
    ...named(brokers),
    connectionTimeout: connectTimeout,
    authenticationTimeout: connectTimeout,
    requestTimeout,
    // kafkajs's 10 s would authenticate for each request where a token lives shorter, which Kafka refuses within a second
    reauthenticationThreshold: 2000,
    retry: connecting,
    ...(tls === undefined ? {} : { ssl: Object.keys(tls).length === 0 ? true : tls }),
    ...(sasl === undefined ? {} : { sasl: saslOf(sasl) }),
    ...log
  })
}

type Sasl = NonNullable<ResolvedOptions["sasl"]>

const saslOf = (sasl: Sasl): SASLOptions | Mechanism =>
  sasl.mechanism === "oauthbearer" ? bearing(sasl.tokens) : passwordOf(sasl)

const passwordOf = (
  { mechanism, password, username }: Exclude<Sasl, { readonly mechanism: "oauthbearer" }>
): SASLOptions => ({ mechanism, username, password: Redacted.value(password) })

/** OAUTHBEARER by this package: kafkajs's own takes a refused token for an accepted one. */
const bearing = (tokens: Tokens): Mechanism => ({
  mechanism: "OAUTHBEARER",
  authenticationProvider: ({ saslAuthenticate }) => ({
    authenticate: async () => {
      const message = Buffer.from(`n,,\x01auth=Bearer ${await tokens.next().catch(failed)}\x01\x01`)
      const length = Buffer.alloc(4)
      length.writeInt32BE(message.length)
      const refused = await saslAuthenticate({
        request: { encode: () => Buffer.concat([length, message]) },
        // behind its length
        response: { decode: (answer) => answer.subarray(4), parse: refusalIn }
      })
      if (refused instanceof Error) failed(refused)
    }
  })
})

/** Fails as kafkajs fails by itself; it would else go on without the user having logged in. */
const failed = (cause: unknown): never => {
  throw Object.assign(new Error("The token was refused, or there is none", { cause }), {
    name: "KafkaJSSASLAuthenticationError",
    retriable: false
  })
}

const ipv6 = /^\[([^\]]+)\]:(\d+)$/

/**
 * kafkajs takes an address apart at its first colon. So an address of IPv6 gets a name for it, which the socket factory knows.
 */
const named = (brokers: ReadonlyArray<string>): Pick<KafkaConfig, "brokers" | "socketFactory"> => {
  const hosts = new Map<string, string>()
  const names = brokers.map((broker) => {
    const [, host, port] = ipv6.exec(broker) ?? []
    if (host === undefined) return broker
    const name = `ipv6-${host.replaceAll(/[^0-9a-f]/gi, "-")}`
    hosts.set(name, host)
    return `${name}:${port}`
  })
  if (hosts.size === 0) return { brokers: names }
  return {
    brokers: names,
    socketFactory: ({ host: name, onConnect, port, ssl }) => {
      const host = hosts.get(name) ?? name
      // as kafkajs makes its own; its types leave out that ssl may be null
      const secure: ConnectionOptions | null = ssl
      const socket = secure === null
        ? connect({ host, port }, onConnect)
        : connectTls({ host, port, ...(isIP(host) === 0 ? { servername: host } : {}), ...secure }, onConnect)
      return socket.setKeepAlive(true, 60_000)
    }
  }
}

const compressions = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD
} as const

/** kafkajs's word for a compression. */
export const compressionOf = ({ producer }: ResolvedOptions) => compressions[producer.compression]

const zstd = () => ({
  compress: ({ buffer }: { readonly buffer: Buffer }) => promisify(zstdCompress)(buffer),
  decompress: (buffer: Buffer) => promisify(zstdDecompress)(buffer)
})

/** Gives kafkajs a codec for zstd, which Node has; where the program has given one, that stays. */
const knowZstd = (): void => {
  try {
    CompressionCodecs[CompressionTypes.ZSTD]()
  } catch {
    CompressionCodecs[CompressionTypes.ZSTD] = zstd
  }
}

/**
 * What of kafkajs's errors and warnings is worth a warning: it goes on trying, and nobody else would tell. The rest it tries
 * again with success, or gives back as the error of a call.
 */
const telling = /^Connection (error|timeout)/

const severities: ReadonlyArray<readonly [logLevel, LogLevel.Severity]> = [
  [logLevel.ERROR, "Warn"],
  [logLevel.WARN, "Info"],
  [logLevel.INFO, "Debug"],
  [logLevel.DEBUG, "Trace"]
]

/** Leads kafkajs's log into Effect's, with the loggers and the level of the fiber that asks. */
export const logger = (settings: ResolvedOptions): Effect.Effect<Log> =>
  Effect.map(Effect.context<never>(), (context) => {
    const run = Effect.runForkWith(context)
    const least = LogLevel.getOrdinal(Context.get(context, References.MinimumLogLevel))
    const shown = (severity: LogLevel.Severity) => LogLevel.getOrdinal(severity) >= least
    const { redact } = settings.place
    return {
      logLevel: severities.findLast(([, severity]) => shown(severity))?.[0] ?? logLevel.NOTHING,
      logCreator: () => ({ level, log, namespace }) => {
        const { logger: _, message, stack: __, timestamp: ___, ...more } = log
        const found = severities.find(([each]) => each === level)?.[1] ?? "Trace"
        const severity = (found === "Warn" || found === "Info") && !telling.test(message) ? "Debug" : found
        if (!shown(severity)) return
        const annotations: Record<string, string> = { kafkajs: namespace ?? "" }
        for (const name in more) {
          const value: unknown = more[name]
          if (value !== undefined) {
            annotations[name] = redact(typeof value === "string" ? value : JSON.stringify(value) ?? "")
          }
        }
        run(Effect.annotateLogs(Effect.logWithLevel(severity)(redact(message)), annotations))
      }
    }
  })

let isQuiet = false

/**
 * kafkajs 2.2.4 sets a timer with a negative time after each answer, of which Node 24 warns every program on its console. Where
 * no request waits there is nothing to look for later, and what comes to wait sets a timer of its own.
 */
const quiet = (): void => {
  if (isQuiet) return
  isQuiet = true
  interface Queue {
    readonly pending: ReadonlyArray<unknown>
    scheduleCheckPendingRequests(): void
  }
  let prototype: Queue
  try {
    prototype = createRequire(import.meta.url)("kafkajs/src/network/requestQueue").prototype
  } catch {
    // another version, or a bundle: the warning comes, and nothing else changes
    return
  }
  const schedule = prototype.scheduleCheckPendingRequests
  if (typeof schedule !== "function") return
  prototype.scheduleCheckPendingRequests = function(this: Queue) {
    if (this.pending.length > 0) schedule.call(this)
  }
}

/** Disconnects a client; one that does not answer is left behind after 5 seconds. */
export const disconnect = (client: { disconnect(): Promise<void> }): Effect.Effect<void> =>
  Effect.interruptible(Effect.tryPromise(() => client.disconnect())).pipe(
    Effect.timeoutOption("5 seconds"),
    Effect.ignore
  )
