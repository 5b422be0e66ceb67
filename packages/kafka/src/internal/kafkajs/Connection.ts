/**
 * Makes kafkajs clients, routes their log into Effect's, and keeps secrets out of it.
 */
import { Context, Effect, LogLevel, References } from "effect"
import kafkajs, { Kafka, type KafkaConfig, type logCreator, logLevel, type RetryOptions } from "kafkajs"
import { createRequire } from "node:module"
import { connect, isIP } from "node:net"
import { connect as connectTls, type ConnectionOptions } from "node:tls"
import { promisify } from "node:util"
import { zstdCompress, zstdDecompress } from "node:zlib"
import type { ResolvedOptions } from "../Options.ts"
import * as Sasl from "./Sasl.ts"

const { CompressionCodecs, CompressionTypes } = kafkajs

/** The target and the level of kafkajs's log. */
export interface Log {
  readonly logCreator: logCreator
  readonly logLevel: logLevel
}

/** Three attempts within two seconds: a wrong address fails soon, and the engine retries by its own schedule. */
const connecting: RetryOptions = { initialRetryTime: 100, maxRetryTime: 1000, multiplier: 3, factor: 0.1, retries: 2 }

/** Makes a separate client: consumers of one client share their positions, whatever they consume. */
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
    // kafkajs's default of 10 s would authenticate before each request if tokens live shorter, and Kafka refuses to
    // reauthenticate within a second
    reauthenticationThreshold: 2000,
    retry: connecting,
    ...(tls === undefined ? {} : { ssl: Object.keys(tls).length === 0 ? true : tls }),
    ...(sasl === undefined ? {} : { sasl: Sasl.make(sasl) }),
    ...log
  })
}

const ipv6 = /^\[([^\]]+)\]:(\d+)$/

/** Gives each IPv6 address a name, which the socket factory resolves, because kafkajs splits an address at its first colon. */
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
      // like kafkajs's own socket; its types omit that ssl may be null
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

/** Converts a compression to kafkajs's constant. */
export const compressionOf = ({ producer }: ResolvedOptions) => compressions[producer.compression]

const zstd = () => ({
  compress: ({ buffer }: { readonly buffer: Buffer }) => promisify(zstdCompress)(buffer),
  decompress: (buffer: Buffer) => promisify(zstdDecompress)(buffer)
})

/** Registers Node's zstd codec with kafkajs, unless the program has registered one. */
const knowZstd = (): void => {
  try {
    CompressionCodecs[CompressionTypes.ZSTD]()
  } catch {
    CompressionCodecs[CompressionTypes.ZSTD] = zstd
  }
}

/**
 * The errors and warnings of kafkajs that are logged as such: kafkajs retries them for ever, and no caller gets an error. For
 * the rest, a retry succeeds or a call fails with the error.
 */
const telling = /^Connection (error|timeout)/

const severities: ReadonlyArray<readonly [logLevel, LogLevel.Severity]> = [
  [logLevel.ERROR, "Warn"],
  [logLevel.WARN, "Info"],
  [logLevel.INFO, "Debug"],
  [logLevel.DEBUG, "Trace"]
]

/** Routes kafkajs's log into Effect's, with the loggers and the level of the current fiber. */
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
 * Stops kafkajs 2.2.4 from setting a timer with a negative time after each answer, for which Node 24 prints a warning. The
 * timer is needed only while requests wait, and each new waiting request sets one of its own.
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
    // another version, or a bundle: the warning appears, with no other effect
    return
  }
  const schedule = prototype.scheduleCheckPendingRequests
  if (typeof schedule !== "function") return
  prototype.scheduleCheckPendingRequests = function(this: Queue) {
    if (this.pending.length > 0) schedule.call(this)
  }
}

/** Disconnects a client; gives up after 5 seconds without an answer. */
export const disconnect = (client: { disconnect(): Promise<void> }): Effect.Effect<void> =>
  Effect.interruptible(Effect.tryPromise(() => client.disconnect())).pipe(
    Effect.timeoutOption("5 seconds"),
    Effect.ignore
  )
