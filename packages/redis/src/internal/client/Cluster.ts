/**
 * A Redis Cluster: which node has which slot, and a connection to each of these nodes.
 *
 * A node that does not have a slot does nothing and names the one that has it (`MOVED`, `ASK`), so the command is sent there. A
 * command whose connection ended is never sent again: it may have been done.
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

/** The most nodes that one command is sent to. */
const mostRedirections = 5
/** Between two attempts while keys of a call are on their way to another node. */
const pause = 100
/** The longest that a node may take to tell its map. */
const patience = 1000
/** Between two looks at the map while a node is out of reach, and while none is. */
const pace = { trouble: 100, calm: 5_000 }

/** Where a command belongs, as a node has said. */
interface Redirection {
  readonly address: string | undefined
  readonly asks: boolean
}

const redirection = (error: unknown, from: Connection.Connection): Redirection | undefined => {
  const word = Errors.wordOf(error)
  // some of its keys are at another node, for a moment
  if (word === "TRYAGAIN") return { address: undefined, asks: false }
  if (word !== "MOVED" && word !== "ASK") return undefined
  const { host, port } = Address.read(String(error).split(" ").at(-1) ?? "")
  // without a host it is the one that answered, at another port
  return { address: Address.textOf({ host: host === "" ? from.address.host : host, port }), asks: word === "ASK" }
}

/** One command of a pipeline, and the node that it goes to. */
interface Part {
  readonly command: Connection.Command
  address: string | undefined
  asks: boolean
}

/** The nodes and their slots. */
export class Cluster {
  private readonly slots = new Array<string | undefined>(Slots.count)
  private readonly servers = new Map<string, ServerConnection.ServerConnection>()
  /** All nodes, replicas too: each can tell the map. */
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

  /** The connection to a node, made where there is none. */
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

  /** The connection to a node; waits for the first attempt to open one. */
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

  /** Does work at the node that has a key, and again where that node names another. */
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
   * Sends the commands of each node in one go, in their order; those that a node sends on go in the next round. `last` ends each
   * pipeline, and its replies are answered.
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

  /** Sends the commands of one node; answers those that this node sends on to another. */
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
    // ranges: the first slot, the last one, the primary, and its replicas
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

  /** Gets the map from a node that answers: from one that there is a connection to, or else from any that is known. */
  readonly refresh: Effect.Effect<void, Failed> = Effect.gen({ self: this }, function*() {
    const connections = [...this.servers.values()].flatMap((server) => server.open ?? [])
    // one that does not answer is not asked first each time
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
      // a replica took its place: commands without an answer would wait in vain
      if (before.has(text) && server.open !== undefined) server.drop(server.open, new Error("MOVED to a replica"))
      if (server.open !== undefined) continue
      this.servers.delete(text)
      yield* this.stop(text)
    }
  })

  /** Keeps the map right, until interrupted. */
  readonly watch: Effect.Effect<never> = Effect.forever(
    Effect.suspend(() => {
      const isWhole = this.owners.every((server) => server.open !== undefined || server.isNew)
      return Effect.timeoutOption(this.stale.await, isWhole ? pace.calm : pace.trouble)
    }).pipe(
      Effect.tap(() => Effect.sync(() => this.stale.closeUnsafe())),
      Effect.andThen(Effect.ignore(Effect.suspend(() => this.refresh))),
      // a node that sends everything on does not make this a loop without end
      Effect.andThen(Effect.sleep(20))
    )
  )
}

/** Finds the nodes, and connects to all that have slots; fails where none of the given ones tells the map. */
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
