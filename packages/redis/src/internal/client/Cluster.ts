/**
 * A Redis Cluster: the map from slots to nodes, and a connection to each node that has slots.
 *
 * A node without the slot refuses a command and names the node that has it (`MOVED`, `ASK`), so the client resends it there. The
 * client never resends a command whose connection ended: the node may have run it.
 *
 * Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding
 */
import type { BrokerError } from "@millrace/core"
import { Clock, Deferred, Effect, Exit, FiberMap, Latch, type Scope } from "effect"
import * as Address from "./Address.ts"
import * as Connection from "./Connection.ts"
import * as Errors from "./Errors.ts"
import * as ServerConnection from "./ServerConnection.ts"
import type { ResolvedOptions } from "./Options.ts"
import * as Slots from "./Slots.ts"

type Failed = BrokerError.BrokerError

/** The most redirections that one command follows. */
const mostRedirections = 5
/** Milliseconds between two attempts while keys of a call move to another node. */
const pause = 100
/** The longest that a node may take to send its map, in milliseconds. */
const patience = 1000
/** Milliseconds between two refreshes of the map: while a node is unreachable, and while all are connected. */
const pace = { trouble: 100, calm: 5_000 }

/** The node that a command belongs to, according to another node. */
interface Redirection {
  readonly address: string | undefined
  readonly asks: boolean
}

const redirection = (error: unknown, from: Connection.Connection): Redirection | undefined => {
  const word = Errors.wordOf(error)
  // for a moment some of the command's keys are on another node
  if (word === "TRYAGAIN") return { address: undefined, asks: false }
  if (word !== "MOVED" && word !== "ASK") return undefined
  const { host, port } = Address.read(String(error).split(" ").at(-1) ?? "")
  // an empty host means the node that replied, at another port
  return { address: Address.textOf({ host: host === "" ? from.address.host : host, port }), asks: word === "ASK" }
}

/** One command of a pipeline, and its node. */
interface Part {
  readonly command: Connection.Command
  address: string | undefined
  asks: boolean
}

/** The nodes and the map of slots. */
export class Cluster {
  private readonly slots = new Array<string | undefined>(Slots.count)
  private readonly servers = new Map<string, ServerConnection.ServerConnection>()
  /** All nodes, including replicas: each can send the map. */
  private known: ReadonlyArray<Address.Address>
  private round = 0
  private readonly stale = Latch.makeUnsafe(false)
  private readonly resolved: ResolvedOptions
  private readonly clock: Clock.Clock
  private readonly start: (address: string, life: Effect.Effect<never>) => void
  private readonly sleep: (millis: number) => Promise<void>
  private readonly stop: (address: string) => Effect.Effect<void>

  constructor(
    resolved: ResolvedOptions,
    nodes: ReadonlyArray<Address.Address>,
    clock: Clock.Clock,
    run: {
      readonly start: (address: string, life: Effect.Effect<never>) => void
      readonly stop: (address: string) => Effect.Effect<void>
      readonly sleep: (millis: number) => Promise<void>
    }
  ) {
    this.resolved = resolved
    this.known = nodes
    this.clock = clock
    this.start = run.start
    this.stop = run.stop
    this.sleep = run.sleep
  }

  /** The connection to a node; starts one if there is none. */
  private serverAt(text: string): ServerConnection.ServerConnection {
    const known = this.servers.get(text)
    if (known !== undefined) return known
    const server = new ServerConnection.ServerConnection(this.clock, () => this.stale.openUnsafe())
    this.servers.set(text, server)
    this.start(text, ServerConnection.keep(server, this.resolved, { locate: Exit.succeed(Address.read(text)) }))
    return server
  }

  /** The connection to the node that has a key. */
  serverOf(key: string): ServerConnection.ServerConnection | undefined {
    const address = this.slots[Slots.slotOf(key)]
    return address === undefined ? undefined : this.serverAt(address)
  }

  /** The connections to all nodes that have slots. */
  get owners(): ReadonlyArray<ServerConnection.ServerConnection> {
    return [...new Set(this.slots)].flatMap((text) => text === undefined ? [] : [this.serverAt(text)])
  }

  /** The open connection to a node; waits for the first attempt to connect. */
  private async connection(text: string | undefined): Promise<Connection.Connection> {
    const server = text === undefined ? undefined : this.serverAt(text)
    if (server?.isNew === true) await Effect.runPromise(Effect.exit(Deferred.await(server.first)))
    const connection = server?.open
    if (connection !== undefined) return connection
    this.stale.openUnsafe()
    throw server?.missing ?? new Errors.Unsent(new Error("CLUSTERDOWN no node serves this slot"))
  }

  private moved(key: string, { address, asks }: Redirection): void {
    if (address === undefined || asks) return
    this.slots[Slots.slotOf(key)] = address
    this.stale.openUnsafe()
  }

  /** Runs `work` on the node that has a key, and repeats it on the node that a redirection names. */
  async at<A>(key: string, work: (connection: Connection.Connection, asks: boolean) => Promise<A>): Promise<A> {
    let address = this.slots[Slots.slotOf(key)]
    let asks = false
    for (let left = mostRedirections;; left--) {
      const connection = await this.connection(address)
      try {
        return await work(connection, asks)
      } catch (error) {
        const next = redirection(error, connection)
        if (Errors.wordOf(error) === "CLUSTERDOWN") this.stale.openUnsafe()
        if (next === undefined || left === 0) throw error
        this.moved(key, next)
        asks = next.asks
        if (next.address === undefined) await this.sleep(pause)
        else address = next.address
      }
    }
  }

  /**
   * Sends the commands of each node in one pipeline, in their order; redirected commands go in the next round. `last` ends each
   * pipeline, and the result holds the replies to it.
   */
  async pipeline(
    commands: ReadonlyArray<Connection.Command>,
    last: Connection.Command | undefined
  ): Promise<ReadonlyArray<unknown>> {
    const lasts: Array<unknown> = []
    let parts = commands.map((command): Part => ({
      command,
      address: this.slots[Slots.slotOf(String(command[1]))],
      asks: false
    }))
    for (let left = mostRedirections; parts.length > 0; left--) {
      const rounds = await Promise.allSettled(
        [...Map.groupBy(parts, ({ address }) => address)].map(([address, some]) =>
          this.send(address, some, last, lasts)
        )
      )
      const failed = rounds.flatMap((each) => each.status === "rejected" ? [each.reason as unknown] : [])
      if (failed.length > 0) throw Errors.gravest(failed)
      parts = rounds.flatMap((each) => each.status === "fulfilled" ? each.value : [])
      if (parts.length > 0 && left === 0) throw new Error("TRYAGAIN the slots are on their way to other nodes")
      if (parts.some(({ address }) => address === undefined)) await this.sleep(pause)
    }
    return lasts
  }

  /** Sends the commands of one node; returns those that the node redirects. */
  private async send(
    address: string | undefined,
    parts: ReadonlyArray<Part>,
    last: Connection.Command | undefined,
    lasts: Array<unknown>
  ): Promise<ReadonlyArray<Part>> {
    const connection = await this.connection(address)
    const sent: Array<Connection.Command> = []
    const at: Array<number> = []
    for (const { asks, command } of parts) {
      if (asks) sent.push(["ASKING"])
      at.push(sent.length)
      sent.push(command)
    }
    if (last !== undefined) sent.push(last)
    const replies = await connection.exec(sent)
    const next: Array<Part> = []
    const failed: Array<unknown> = []
    parts.forEach(({ command }, i) => {
      const reply = replies[at[i]!]
      if (!(reply instanceof Error)) return
      const elsewhere = redirection(reply, connection)
      if (elsewhere === undefined) failed.push(reply)
      else {
        this.moved(String(command[1]), elsewhere)
        next.push({ command, address: elsewhere.address ?? address, asks: elsewhere.asks })
      }
    })
    const end = replies[sent.length - 1]
    if (last !== undefined && end instanceof Error) failed.push(end)
    if (failed.length > 0) throw Errors.gravest(failed)
    if (last !== undefined && next.length < parts.length) lasts.push(end)
    return next
  }

  private read(reply: unknown, from: Address.Address): void {
    // ranges: first slot, last slot, primary, replicas
    const ranges = reply as ReadonlyArray<readonly [number, number, ...ReadonlyArray<readonly [unknown, number]>]>
    const known: Array<Address.Address> = []
    this.slots.fill(undefined)
    for (const [first, last, ...nodes] of ranges) {
      const found = nodes.map(([host, port]) => {
        const text = host === null ? "" : String(host)
        return { host: text === "" || text === "?" ? from.host : text, port }
      })
      known.push(...found)
      if (found[0] !== undefined) this.slots.fill(Address.textOf(found[0]), first, last + 1)
    }
    if (known.length > 0) this.known = known
  }

  private ask(connection: Connection.Connection): Effect.Effect<void, Failed> {
    return connection.attempt("connect", () => connection.send("CLUSTER", ["SLOTS"])).pipe(
      Effect.timeoutOrElse({
        duration: patience,
        orElse: () => Effect.fail(Errors.fromUnknown(new Error("CLUSTER SLOTS timed out"), "connect", connection.place))
      }),
      Effect.map((reply) => this.read(reply, connection.address))
    )
  }

  /** Gets the map from the first node that answers: connected nodes first, then the other known nodes. */
  readonly refresh: Effect.Effect<void, Failed> = Effect.gen({ self: this }, function*() {
    const connections = [...this.servers.values()].flatMap((server) => server.open ?? [])
    // rotate, so that a node that does not answer is not always first
    const first = this.round++ % Math.max(1, connections.length)
    const open = [...connections.slice(first), ...connections.slice(0, first)]
    const before = new Set(this.slots)
    const asked = open.map((connection) => this.ask(connection))
    const tried = new Set(open.map(({ address }) => Address.textOf(address)))
    const others = this.known.filter((address) => !tried.has(Address.textOf(address))).map((address) =>
      Effect.scoped(Effect.flatMap(Connection.open(this.resolved, address), (connection) => this.ask(connection)))
    )
    yield* Effect.firstSuccessOf([...asked, ...others])
    const owners = new Set(this.slots)
    for (const [text, server] of this.servers) {
      if (owners.has(text)) continue
      // a replica took over: commands without a reply would wait in vain
      if (before.has(text) && server.open !== undefined) server.drop(server.open, new Error("MOVED to a replica"))
      if (server.open !== undefined) continue
      this.servers.delete(text)
      yield* this.stop(text)
    }
  })

  /** Refreshes the map until interrupted. */
  readonly watch: Effect.Effect<never> = Effect.forever(
    Effect.suspend(() => {
      const isWhole = this.owners.every((server) => server.open !== undefined || server.isNew)
      return Effect.timeoutOption(this.stale.await, isWhole ? pace.calm : pace.trouble)
    }).pipe(
      Effect.tap(() => Effect.sync(() => this.stale.closeUnsafe())),
      Effect.andThen(Effect.ignore(Effect.suspend(() => this.refresh))),
      // a node that redirects every command must not cause a busy loop
      Effect.andThen(Effect.sleep(20))
    )
  )
}

/** Finds the nodes and connects to all that have slots; fails if none of the given nodes sends the map. */
export const open = (
  resolved: ResolvedOptions,
  nodes: ReadonlyArray<Address.Address>
): Effect.Effect<Cluster, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const fibers = yield* FiberMap.make<string>()
    const run = yield* FiberMap.runtime(fibers)()
    const context = yield* Effect.context<never>()
    const cluster = new Cluster(resolved, nodes, yield* Clock.Clock, {
      start: (address, life) => void run(address, life),
      stop: (address) => FiberMap.remove(fibers, address),
      sleep: (millis) => Effect.runPromiseWith(context)(Effect.sleep(millis))
    })
    yield* cluster.refresh
    yield* Effect.forEach(cluster.owners, (server) => Effect.exit(Deferred.await(server.first)), {
      concurrency: "unbounded",
      discard: true
    })
    yield* Effect.forkScoped(cluster.watch)
    return cluster
  })
