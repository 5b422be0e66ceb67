import { type Duration, Effect, type Scope } from "effect"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Certificates } from "./Certificates.ts"
import * as Redis from "./Redis.ts"
import { command, findServer, until } from "./redisCommand.ts"
import { amongServers, listenerOf, tlsLines, tlsPortOf } from "./redisTls.ts"
import { own as ownServer, type Server, ServerFailed, type ServerUnavailable } from "./Server.ts"
import { OptionCheck } from "@millrace/core"

/** A primary, a replica and the sentinels that watch them, all own servers on free ports. */
export interface RedisSentinel {
  /** The server that began as the primary. */
  readonly first: Redis.RedisServer
  /** The server that began as its replica. */
  readonly second: Redis.RedisServer
  readonly sentinels: ReadonlyArray<Server>
  /** `host:port` of each sentinel. */
  readonly addresses: ReadonlyArray<string>
  /** `host:port` of the TLS listener of each sentinel; empty without TLS. */
  readonly tlsAddresses: ReadonlyArray<string>
  /** The sentinels' name of the primary. */
  readonly name: string
  /** `host:port` of the primary, according to the first sentinel that answers. */
  readonly primary: Effect.Effect<string, ServerFailed>
}

/** Options of the servers; each is optional. */
export interface Options {
  /** The folder of `redis-server` or `valkey-server`; default: `redis-server` of the PATH. */
  readonly bin?: string
  /** Servers and sentinels use TLS among themselves and offer it to clients. Default: none. */
  readonly tls?: Certificates
  /** Milliseconds without an answer after which a sentinel considers a server dead; default 500. */
  readonly downAfter?: number
  /** The longest time until a failover is possible; default 20 seconds. */
  readonly startTimeout?: Duration.Input
}

/** The defaults of the options. */
export const defaults = { downAfter: 500, startTimeout: "20 seconds" } as const satisfies Options

const check = OptionCheck.make("RedisSentinel")
const name = "main"
const howMany = 3

const failed = (cause: unknown) =>
  new ServerFailed({ server: "Redis Sentinel", logs: "", message: `Redis Sentinel is not ready: ${String(cause)}` })

const portOf = ({ address }: Server): number => Number(address.slice(address.lastIndexOf(":") + 1))

/**
 * Starts a primary, a replica and three sentinels of its own, and waits until the sentinels agree that they can fail over.
 * Closing the scope kills all and removes their data.
 *
 * Fails with `ServerUnavailable` if `redis-server` is missing, and with `ServerFailed` if they are not ready in time.
 */
export const own = (
  options: Options = {}
): Effect.Effect<RedisSentinel, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const downAfter = check.count("downAfter", options.downAfter ?? defaults.downAfter)
    const patience = check.millis("startTimeout", options.startTimeout ?? defaults.startTimeout)
    const bin = options.bin === undefined ? {} : { bin: options.bin }
    const { tls } = options
    const settings = { "repl-diskless-sync-delay": "0", ...(tls === undefined ? {} : amongServers(tls)) }
    const listener = tls === undefined ? {} : { tls: listenerOf(tls) }
    const first = yield* Redis.own({ ...bin, ...listener, settings })
    // the port by which replica and sentinels reach it
    const port = (server: Redis.RedisServer) => tls === undefined ? server.port : tlsPortOf(server)
    const second = yield* Redis.own({
      ...bin,
      ...listener,
      settings: { ...settings, replicaof: `127.0.0.1 ${port(first)}` }
    })
    const tlsPorts: Array<number> = []
    // the servers above have found it before
    const tool = findServer(options.bin) ?? "redis-server"
    yield* Effect.tryPromise({
      try: () => until(second.port, "INFO replication", (reply) => reply.includes("master_link_status:up"), patience),
      catch: failed
    })
    const sentinels = yield* Effect.all(
      Array.from({ length: howMany }, () =>
        ownServer({
          name: "Redis Sentinel",
          ports: 2,
          startTimeout: patience,
          prepare: () => Effect.void,
          program: (folder, [plain = 0, secure = 0]) => {
            if (tls !== undefined) tlsPorts.push(secure)
            const file = join(folder, "sentinel.conf")
            const lines = [
              `port ${plain}`,
              "bind 127.0.0.1",
              `dir "${folder}"`,
              ...(tls === undefined ? [] : [
                ...tlsLines(secure, listenerOf(tls)),
                ...Object.entries(amongServers(tls)).map(([key, value]) => `${key} ${value}`)
              ]),
              `sentinel monitor ${name} 127.0.0.1 ${port(first)} 2`,
              `sentinel down-after-milliseconds ${name} ${downAfter}`,
              `sentinel failover-timeout ${name} 3000`
            ]
            // the sentinel rewrites this file
            writeFileSync(file, `${lines.join("\n")}\n`)
            return {
              command: tool,
              args: [file, "--sentinel"],
              stopSignal: "SIGTERM" as const,
              probe: {
                host: "127.0.0.1",
                port: plain,
                hello: Buffer.from("PING\r\n"),
                isAnswer: (reply) => reply.toString("latin1").startsWith("+PONG")
              }
            }
          }
        })),
      { concurrency: "unbounded" }
    )
    yield* Effect.tryPromise({
      try: () =>
        Promise.all(sentinels.map(async (sentinel) => {
          const at = portOf(sentinel)
          // without a quorum and a known replica, the sentinel could not fail over
          await until(at, `SENTINEL CKQUORUM ${name}`, (reply) => reply.startsWith(`OK ${howMany}`), patience)
          await until(at, `SENTINEL REPLICAS ${name}`, (reply) => reply.includes(`${port(second)}`), patience)
        })),
      catch: failed
    })
    const primary = async () => {
      for (const sentinel of sentinels) {
        try {
          const found = /\$\d+\r\n(\S+)\r\n\$\d+\r\n(\d+)/.exec(
            await command(portOf(sentinel), `SENTINEL GET-MASTER-ADDR-BY-NAME ${name}`)
          )
          if (found !== null) return `${found[1]}:${found[2]}`
        } catch {
          // the next sentinel may answer
        }
      }
      throw new Error(`no sentinel knows ${name}`)
    }
    return {
      first,
      second,
      sentinels,
      addresses: sentinels.map(({ address }) => address),
      tlsAddresses: tlsPorts.map((port) => `localhost:${port}`),
      name,
      primary: Effect.tryPromise({ try: primary, catch: failed })
    }
  })
