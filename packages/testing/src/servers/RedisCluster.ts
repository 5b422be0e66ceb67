import { type Duration, Effect, type Scope } from "effect"
import type { Certificates } from "./Certificates.ts"
import * as Redis from "./Redis.ts"
import { command, until } from "./redisCommand.ts"
import { amongServers, listenerOf, tlsPortOf } from "./redisTls.ts"
import { ServerFailed, type ServerNotOwned, type ServerUnavailable } from "./Server.ts"
import { OptionCheck } from "@millrace/core"

/** A Redis Cluster of own servers on free ports. */
export interface RedisCluster {
  /** The nodes that began as primaries, then their replicas in the same order. */
  readonly nodes: ReadonlyArray<Redis.RedisServer>
  /** `host:port` of each node. */
  readonly addresses: ReadonlyArray<string>
  /** `host:port` of the TLS listener of each node; empty without TLS. */
  readonly tlsAddresses: ReadonlyArray<string>
  /** The primary that serves the slot of a key now, according to the first node that answers. */
  readonly primaryOf: (key: string) => Effect.Effect<Redis.RedisServer, ServerFailed>
  /** Kills all nodes at once, as a power cut would. */
  readonly kill: Effect.Effect<void, ServerFailed | ServerNotOwned>
  /** Starts all nodes, primaries first, and waits until every slot is served. */
  readonly start: Effect.Effect<void, ServerFailed | ServerNotOwned>
}

/** Options of a cluster; each is optional. */
export interface Options {
  /** The folder of `redis-server` or `valkey-server`; default: `redis-server` of the PATH. */
  readonly bin?: string
  /** The nodes use TLS among themselves and offer it to clients. Default: none. */
  readonly tls?: Certificates
  /** The number of primaries, at least 3; default 3. */
  readonly primaries?: number
  /** The number of replicas of each primary; default 1. */
  readonly replicas?: number
  /** Milliseconds without an answer after which a node is considered dead; default 1,000. */
  readonly nodeTimeout?: number
  /** The longest time until every slot is served; default 20 seconds. */
  readonly startTimeout?: Duration.Input
}

/** The defaults of the options. */
export const defaults = {
  primaries: 3,
  replicas: 1,
  nodeTimeout: 1000,
  startTimeout: "20 seconds"
} as const satisfies Options

const check = OptionCheck.make("RedisCluster")
const slots = 16_384

const attempt = (work: () => Promise<void>): Effect.Effect<void, ServerFailed> =>
  Effect.tryPromise({
    try: work,
    catch: (cause) =>
      new ServerFailed({ server: "Redis Cluster", logs: "", message: `Redis Cluster is not ready: ${String(cause)}` })
  })

const isServing = (reply: string): boolean => reply.includes("cluster_state:ok")
const isLinked = (reply: string): boolean => reply.includes("role:master") || reply.includes("master_link_status:up")

/**
 * Starts a Redis Cluster of its own: each node as {@link Redis.own} starts it, primaries with their share of the slots, and
 * replicas that follow them. Closing the scope kills the nodes and removes their data.
 *
 * Fails with `ServerUnavailable` if `redis-server` is missing, and with `ServerFailed` if the cluster does not serve in time.
 */
export const own = (
  options: Options = {}
): Effect.Effect<RedisCluster, ServerUnavailable | ServerFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const primaries = check.count("primaries", options.primaries ?? defaults.primaries, { least: 3 })
    const replicas = check.count("replicas", options.replicas ?? defaults.replicas, { least: 0 })
    const nodeTimeout = check.count("nodeTimeout", options.nodeTimeout ?? defaults.nodeTimeout)
    const patience = check.millis("startTimeout", options.startTimeout ?? defaults.startTimeout)
    const { tls } = options
    const nodes = yield* Effect.all(
      Array.from({ length: primaries * (1 + replicas) }, () =>
        Redis.own({
          ...(options.bin === undefined ? {} : { bin: options.bin }),
          ...(tls === undefined ? {} : { tls: listenerOf(tls) }),
          cluster: { nodeTimeout },
          settings: {
            // a joining replica does not wait for others
            "repl-diskless-sync-delay": "0",
            ...(tls === undefined ? {} : { ...amongServers(tls), "tls-cluster": "yes" })
          }
        })),
      { concurrency: "unbounded" }
    )
    const ports = nodes.map(({ port }) => port)
    const all = (line: string, isRight: (reply: string) => boolean) =>
      Promise.all(ports.map((port) => until(port, line, isRight, patience)))
    const serves = async () => {
      await all("CLUSTER INFO", isServing)
      await all("INFO replication", isLinked)
    }
    yield* attempt(async () => {
      await Promise.all(
        nodes.slice(0, primaries).map(async ({ port }, i) => {
          const [first, end] = [i, i + 1].map((share) => Math.floor(share * slots / primaries))
          await command(port, `CLUSTER SET-CONFIG-EPOCH ${i + 1}`)
          await command(port, `CLUSTER ADDSLOTSRANGE ${first} ${end! - 1}`)
        })
      )
      for (const node of nodes.slice(1)) {
        const port = tls === undefined ? node.port : tlsPortOf(node)
        await command(ports[0]!, `CLUSTER MEET 127.0.0.1 ${port} ${node.busPort}`)
      }
      const isMet = (reply: string) => reply.includes(`cluster_known_nodes:${nodes.length}`)
      await all("CLUSTER INFO", isMet)
      await Promise.all(
        nodes.slice(primaries).map(async ({ port }, i) => {
          const id = await command(ports[i % primaries]!, "CLUSTER MYID")
          await until(port, `CLUSTER REPLICATE ${id}`, (reply) => reply === "OK", patience)
        })
      )
      await serves()
    })

    const find = async (key: string) => {
      for (const { port } of nodes) {
        try {
          const slot = Number(await command(port, `CLUSTER KEYSLOT ${key}`))
          for (const line of (await command(port, "CLUSTER NODES")).split("\n")) {
            const [, address = "", flags = "", , , , , , ...ranges] = line.split(" ")
            if (!flags.includes("master") || flags.includes("fail")) continue
            const has = ranges.some((range) => {
              const [from, to = from] = range.split("-").map(Number)
              return from! <= slot && slot <= to!
            })
            const found = nodes.find((node) => has && address.startsWith(`${node.host}:${node.port}@`))
            if (found !== undefined) return found
          }
        } catch {
          // the next node may answer
        }
      }
      throw new Error(`no node says which one has ${key}`)
    }
    return {
      nodes,
      addresses: nodes.map(({ address }) => address),
      tlsAddresses: nodes.flatMap(({ tlsAddress }) => tlsAddress === undefined ? [] : [tlsAddress]),
      primaryOf: (key) =>
        Effect.tryPromise({
          try: () => find(key),
          catch: (cause) => new ServerFailed({ server: "Redis Cluster", logs: "", message: String(cause) })
        }),
      kill: Effect.forEach(nodes, (node) => node.kill, { concurrency: "unbounded", discard: true }),
      start: Effect.andThen(
        // a replica that starts first could take over from its primary, and may lack data
        Effect.forEach([nodes.slice(0, primaries), nodes.slice(primaries)], (some) =>
          Effect.forEach(some, (node) => node.start, { concurrency: "unbounded", discard: true }), { discard: true }),
        attempt(serves)
      )
    }
  })
