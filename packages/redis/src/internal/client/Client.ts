/**
 * The client of all drivers and stores: a single server, a primary found by sentinels, and a cluster share one interface.
 *
 * A command names a key, and the key decides which server gets the command. The client sends each command once: it fails with
 * `Lost` if the server may have run it, and with `Unreachable` if it was not sent. The client reconnects on its own.
 */
import type { BrokerError } from "@millrace/core"
import { Effect, Exit, type Scope } from "effect"
import * as Address from "./Address.ts"
import * as Cluster from "./Cluster.ts"
import * as Connection from "./Connection.ts"
import * as Errors from "./Errors.ts"
import * as ServerConnection from "./ServerConnection.ts"
import type { ResolvedOptions } from "./Options.ts"
import * as Sentinel from "./Sentinel.ts"

type Failed = BrokerError.BrokerError
type Operation = Failed["operation"]

export { type Argument, type Command, Connection, type Script, script } from "./Connection.ts"

/** Whether a reply says that the server is a replica (`READONLY`), as after a failover. */
const isReplica = (error: unknown): boolean => Errors.wordOf(error) === "READONLY"

/** Routes commands over the connections that all parts of one driver or store share. */
export class Client {
  readonly resolved: ResolvedOptions
  private readonly routes: ServerConnection.ServerConnection | Cluster.Cluster
  /** The longest value that Redis accepts, as last reported: `proto-max-bulk-len`, 512 MiB by default. */
  longest = 512 * 1024 * 1024

  constructor(resolved: ResolvedOptions, routes: ServerConnection.ServerConnection | Cluster.Cluster) {
    this.resolved = resolved
    this.routes = routes
  }

  /** The connection to the server that has a key. */
  private serverOf(key: string): ServerConnection.ServerConnection | undefined {
    return this.routes instanceof ServerConnection.ServerConnection ? this.routes : this.routes.serverOf(key)
  }

  /** The place that errors name: the server's address if there is only one server. */
  get place(): Errors.Place {
    return this.routes instanceof ServerConnection.ServerConnection
      ? this.routes.open?.place ?? this.resolved.place
      : this.resolved.place
  }

  /** How long the server of a key has been unreachable, in milliseconds; 0 while it is connected. */
  downFor(key: string): number {
    return this.serverOf(key)?.downFor ?? 0
  }

  private at<A>(key: string, work: (connection: Connection.Connection, asks: boolean) => Promise<A>): Promise<A> {
    if (!(this.routes instanceof ServerConnection.ServerConnection)) return this.routes.at(key, work)
    const connection = this.routes.open
    if (connection === undefined) return Promise.reject(this.routes.missing)
    const server = this.routes
    return work(connection, false).catch((error: unknown) => {
      if (isReplica(error)) server.drop(connection, error)
      throw error
    })
  }

  /** Sends a command that belongs to a key. */
  send(key: string, name: string, args: Array<Connection.Argument>): Promise<unknown> {
    return this.at(key, (connection, asks) => {
      if (asks) connection.ask()
      return connection.send(name, args)
    })
  }

  /** Runs a script on the server that has its keys. */
  run(
    script: Connection.Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<Connection.Argument>
  ): Promise<unknown> {
    return this.at(keys[0]!, (connection, asks) => connection.run(script, keys, args, asks))
  }

  /**
   * Sends commands in pipelines, each to the server that has its first argument. Rejects with one of the errors; other commands
   * may have run. Each server gets `last` at the end of its pipeline, and the result holds the replies to `last`.
   */
  async pipeline(
    commands: ReadonlyArray<Connection.Command>,
    last?: Connection.Command
  ): Promise<ReadonlyArray<unknown>> {
    const [first] = commands
    if (first !== undefined && commands.length === 1 && last === undefined) {
      const [name, ...args] = first
      await this.send(String(args[0]), name, args)
      return []
    }
    if (!(this.routes instanceof ServerConnection.ServerConnection)) return this.routes.pipeline(commands, last)
    return this.at("", async (connection) => {
      const replies = await connection.exec(last === undefined ? commands : [...commands, last])
      const failed = replies.filter((reply) => reply instanceof Error)
      if (failed.length > 0) throw Errors.gravest(failed)
      return last === undefined ? [] : replies.slice(-1)
    })
  }

  /** Runs a call as an effect; a rejection becomes a `BrokerError`. */
  attempt<A>(operation: Operation, call: () => Promise<A>, where?: Errors.Where): Effect.Effect<A, Failed> {
    return Effect.tryPromise({
      try: call,
      catch: (error) => Errors.fromUnknown(error, operation, this.place, where)
    })
  }

  /** Runs a script as an effect. */
  perform(
    operation: Operation,
    script: Connection.Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<Connection.Argument>,
    where?: Errors.Where
  ): Effect.Effect<unknown, Failed> {
    return this.attempt(operation, () => this.run(script, keys, args), where)
  }

  /** Fails when the connection to the server of a key ends. */
  ended(key: string, operation: Operation, where?: Errors.Where): Effect.Effect<never, Failed> {
    return Effect.suspend(() => this.opened(key, operation, where)).pipe(
      Effect.flatMap((connection) => connection.ended(operation, where))
    )
  }

  private opened(
    key: string,
    operation: Operation,
    where?: Errors.Where
  ): Exit.Exit<Connection.Connection, Failed> {
    const server = this.serverOf(key)
    return server?.open === undefined
      ? Exit.fail(Errors.fromUnknown(server?.missing ?? new Errors.Unsent(undefined), operation, this.place, where))
      : Exit.succeed(server.open)
  }

  /** Opens a separate connection to the server of a key; the scope closes it, and the client does not reopen it. */
  separate(key: string, how?: { readonly isPaused?: true }): Effect.Effect<Connection.Connection, Failed, Scope.Scope> {
    return Effect.flatMap(
      Effect.suspend(() => this.opened(key, "connect")),
      ({ address }) => Connection.open(this.resolved, address, how)
    )
  }

  /** The shared connection to the same server as `other`, if that server still has the key. */
  beside(key: string, other: Connection.Connection): Connection.Connection | undefined {
    const open = this.serverOf(key)?.open
    return other.isOpen && open !== undefined && Address.textOf(open.address) === Address.textOf(other.address)
      ? open
      : undefined
  }

  /** Sends a command to every primary and returns the replies. */
  all(
    operation: Operation,
    name: string,
    args: Array<Connection.Argument>
  ): Effect.Effect<ReadonlyArray<unknown>, Failed> {
    const servers = this.routes instanceof ServerConnection.ServerConnection ? [this.routes] : this.routes.owners
    return Effect.forEach(
      servers,
      (server) => this.attempt(operation, () => server.open?.send(name, [...args]) ?? Promise.reject(server.missing)),
      { concurrency: "unbounded" }
    )
  }

  /** Sends `PING` to every primary. */
  get check(): Effect.Effect<void, Failed> {
    return Effect.asVoid(this.all("check", "PING", []))
  }
}

/** Opens a client that the scope closes; fails with `Unreachable`, `Credentials` or another reason. */
export const open = (resolved: ResolvedOptions): Effect.Effect<Client, Failed, Scope.Scope> => {
  const { where } = resolved
  const routes: Effect.Effect<ServerConnection.ServerConnection | Cluster.Cluster, Failed, Scope.Scope> =
    where._tag === "Cluster"
      ? Cluster.open(resolved, where.nodes)
      : ServerConnection.open(
        resolved,
        where._tag === "Server" ? { locate: Exit.succeed(where.address) } : Sentinel.target(resolved, where.sentinels)
      )
  return Effect.map(routes, (found) => new Client(resolved, found))
}
