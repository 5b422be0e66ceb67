/**
 * The client of all drivers and stores: one server, the primary that sentinels name, and a cluster have the same interface.
 *
 * A command names a key, and the key decides to which server the command goes. Each command is sent once: it fails with `Lost` when
 * the server may have done it, and with `Unreachable` when it was not sent. The links connect again by themselves.
 */
import type { BrokerError } from "@millrace/core"
import { Effect, Exit, type Scope } from "effect"
import * as Address from "./Address.ts"
import * as Cluster from "./Cluster.ts"
import * as Connection from "./Connection.ts"
import * as Failure from "./Failure.ts"
import * as Link from "./Link.ts"
import type { Settings } from "./Options.ts"
import * as Sentinel from "./Sentinel.ts"

type Failed = BrokerError.BrokerError
type Operation = Failed["operation"]

export { type Argument, type Command, Connection, type Script, script } from "./Connection.ts"

/** The words of a server that is no primary any more, or is about to be none. */
const isReplica = (error: unknown): boolean => Failure.wordOf(error) === "READONLY"

/** Connections that all parts of one driver or store share. */
export class Client {
  readonly settings: Settings
  private readonly routes: Link.Link | Cluster.Cluster
  /** The longest value that Redis takes, as far as it has said so: `proto-max-bulk-len`, 512 MiB by default. */
  longest = 512 * 1024 * 1024

  constructor(settings: Settings, routes: Link.Link | Cluster.Cluster) {
    this.settings = settings
    this.routes = routes
  }

  /** The link to the server that has a key. */
  private link(key: string): Link.Link | undefined {
    return this.routes instanceof Link.Link ? this.routes : this.routes.link(key)
  }

  /** The place that errors name: the address of the server, where there is but one. */
  get place(): Failure.Place {
    return this.routes instanceof Link.Link ? this.routes.open?.place ?? this.settings.place : this.settings.place
  }

  /** How long the server that has a key has been out of reach, in milliseconds; 0 while it is there. */
  downFor(key: string): number {
    return this.link(key)?.downFor ?? 0
  }

  private at<A>(key: string, work: (connection: Connection.Connection, asks: boolean) => Promise<A>): Promise<A> {
    if (!(this.routes instanceof Link.Link)) return this.routes.at(key, work)
    const connection = this.routes.open
    if (connection === undefined) return Promise.reject(this.routes.missing)
    const link = this.routes
    return work(connection, false).catch((error: unknown) => {
      if (isReplica(error)) link.drop(connection, error)
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

  /** Runs a script at the server that has its keys. */
  run(
    script: Connection.Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<Connection.Argument>
  ): Promise<unknown> {
    return this.at(keys[0]!, (connection, asks) => connection.run(script, keys, args, asks))
  }

  /**
   * Sends commands in one go, each to the server that has its first argument; rejects with one that failed, and the others may have
   * been done. `last` is sent behind them to each server, and its replies are answered.
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
    if (!(this.routes instanceof Link.Link)) return this.routes.pipeline(commands, last)
    return this.at("", async (connection) => {
      const replies = await connection.exec(last === undefined ? commands : [...commands, last])
      const failed = replies.filter((reply) => reply instanceof Error)
      if (failed.length > 0) throw Failure.gravest(failed)
      return last === undefined ? [] : replies.slice(-1)
    })
  }

  /** Runs a call as an effect; a rejection becomes a `BrokerError`. */
  attempt<A>(operation: Operation, call: () => Promise<A>, where?: Failure.Where): Effect.Effect<A, Failed> {
    return Effect.tryPromise({
      try: call,
      catch: (error) => Failure.fromUnknown(error, operation, this.place, where)
    })
  }

  /** The run of a script as an effect. */
  perform(
    operation: Operation,
    script: Connection.Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<Connection.Argument>,
    where?: Failure.Where
  ): Effect.Effect<unknown, Failed> {
    return this.attempt(operation, () => this.run(script, keys, args), where)
  }

  /** Fails when the connection to the server that has a key ends. */
  ended(key: string, operation: Operation, where?: Failure.Where): Effect.Effect<never, Failed> {
    return Effect.suspend(() => this.opened(key, operation, where)).pipe(
      Effect.flatMap((connection) => connection.ended(operation, where))
    )
  }

  private opened(
    key: string,
    operation: Operation,
    where?: Failure.Where
  ): Exit.Exit<Connection.Connection, Failed> {
    const link = this.link(key)
    return link?.open === undefined
      ? Exit.fail(Failure.fromUnknown(link?.missing ?? new Failure.Unsent(undefined), operation, this.place, where))
      : Exit.succeed(link.open)
  }

  /** Opens a connection of its own to the server that has a key; it is closed with the scope and is not opened again. */
  separate(key: string, how?: { readonly isPaused?: true }): Effect.Effect<Connection.Connection, Failed, Scope.Scope> {
    return Effect.flatMap(
      Effect.suspend(() => this.opened(key, "connect")),
      ({ address }) => Connection.open(this.settings, address, how)
    )
  }

  /** The shared connection to the server that another one leads to, where that server still has the key. */
  beside(key: string, other: Connection.Connection): Connection.Connection | undefined {
    const open = this.link(key)?.open
    return other.isOpen && open !== undefined && Address.textOf(open.address) === Address.textOf(other.address)
      ? open
      : undefined
  }

  /** Asks every server for one answer. */
  get check(): Effect.Effect<void, Failed> {
    const links = this.routes instanceof Link.Link ? [this.routes] : this.routes.owners
    return Effect.forEach(
      links,
      (link) => this.attempt("check", () => link.open?.send("PING", []) ?? Promise.reject(link.missing)),
      { concurrency: "unbounded", discard: true }
    )
  }
}

/** Opens a client that is closed with the scope; fails with `Unreachable`, `Credentials` or another reason why not. */
export const open = (settings: Settings): Effect.Effect<Client, Failed, Scope.Scope> => {
  const { where } = settings
  const routes: Effect.Effect<Link.Link | Cluster.Cluster, Failed, Scope.Scope> = where._tag === "Cluster"
    ? Cluster.open(settings, where.nodes)
    : Link.open(
      settings,
      where._tag === "Server" ? { locate: Exit.succeed(where.address) } : Sentinel.target(settings, where.sentinels)
    )
  return Effect.map(routes, (found) => new Client(settings, found))
}
