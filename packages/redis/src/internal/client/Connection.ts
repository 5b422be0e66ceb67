/**
 * One connection to one server: opened before use, closed with its scope, and never reopened.
 */
import { type BrokerError, DriverOptions } from "@millrace/core"
import { Effect, Exit, type Scope } from "effect"
import { AbstractConnector, Redis } from "ioredis"
import { createHash } from "node:crypto"
import { connect as connectTcp, type Socket } from "node:net"
import { connect as connectTls, type ConnectionOptions } from "node:tls"
import * as Errors from "./Errors.ts"
import { type Address, textOf } from "./Address.ts"
import { auth, type ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError
type Operation = Failed["operation"]

/** One argument of a command. */
export type Argument = string | Buffer | number

/** One command of a pipeline. */
export type Command = [name: string, ...args: Array<Argument>]

/** A script that Redis runs atomically: no command of another client runs between its commands. */
export interface Script {
  readonly text: string
  readonly sha: string
}

/**
 * Makes a script of its text. By default scripts also run on a full server (`maxmemory`), because they take and settle messages,
 * and consumers could not empty it otherwise. With `refused`, for scripts that only add, a full server refuses the script.
 */
export const script = (body: string, whenFull: "runs" | "refused" = "runs"): Script => {
  const text = `#!lua${whenFull === "runs" ? " flags=allow-oom" : ""}\n${body}`
  return { text, sha: createHash("sha1").update(text).digest("hex") }
}

/** A connection. Replies are numbers, null, Buffers, and arrays of them. */
export class Connection {
  readonly address: Address
  readonly place: Errors.Place
  private readonly redis: Redis
  private readonly reason: () => unknown

  constructor(address: Address, place: Errors.Place, redis: Redis, reason: () => unknown) {
    this.address = address
    this.place = place
    this.redis = redis
    this.reason = reason
  }

  /** Whether commands can be sent. */
  get isOpen(): boolean {
    return this.redis.status === "ready"
  }

  /** Sends a command. */
  send(name: string, args: Array<Argument>): Promise<unknown> {
    return this.redis.callBuffer(name, args)
  }

  /** Sends `ASKING`: lets the next command reach a slot that is being moved to this node. */
  ask(): void {
    this.redis.callBuffer("ASKING").catch(() => {})
  }

  /** Runs a script; sends its text only if the server does not know it yet. */
  run(
    { sha, text }: Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<Argument>,
    asks = false
  ): Promise<unknown> {
    const rest: Array<Argument> = [keys.length, ...keys, ...args]
    if (asks) this.ask()
    return this.redis.callBuffer("EVALSHA", [sha, ...rest]).catch((error: unknown) => {
      if (Errors.wordOf(error) !== "NOSCRIPT") throw error
      if (asks) this.ask()
      return this.redis.callBuffer("EVAL", [text, ...rest])
    })
  }

  /** Sends commands in one pipeline and returns the reply or the error of each. */
  async exec(commands: ReadonlyArray<Command>): Promise<ReadonlyArray<unknown>> {
    const replies = await this.redis.pipeline(commands.map((command) => ["call", ...command])).exec()
    return (replies ?? []).map(([error, reply]) => error ?? reply)
  }

  /** Runs a call as an effect; a rejection becomes a `BrokerError`. */
  attempt<A>(operation: Operation, call: () => Promise<A>, where?: Errors.Where): Effect.Effect<A, Failed> {
    return Effect.tryPromise({
      try: call,
      catch: (error) => Errors.fromUnknown(error, operation, this.place, where)
    })
  }

  /** Fails when the connection ends. */
  ended(operation: Operation, where?: Errors.Where): Effect.Effect<never, Failed> {
    return Effect.callback<never, Failed>((resume) => {
      const end = () => {
        const error = this.reason() ?? new Error("Connection is closed.")
        resume(Exit.fail(Errors.fromUnknown(error, operation, this.place, where)))
      }
      if (!this.isOpen) end()
      this.redis.once("close", end)
      return Effect.sync(() => void this.redis.off("close", end))
    })
  }

  /** Closes the connection now; commands without a reply fail. */
  end(): void {
    this.redis.disconnect()
  }

  /** The ioredis client, for subscriptions and the socket. */
  get client(): Redis {
    return this.redis
  }
}

/** Milliseconds that a socket may take to close, as in ioredis. */
const disconnectTimeout = 2000

/**
 * Makes the class by which ioredis opens its socket. ioredis listens for one error of a socket; a TLS socket may tell two, the
 * second as an alert of the server, and an error without a listener ends the process.
 */
export const connectorOf = (address: Address, tls: ConnectionOptions | undefined): new() => AbstractConnector =>
  class extends AbstractConnector {
    constructor() {
      super(disconnectTimeout)
    }

    async connect(): Promise<Socket> {
      this.connecting = true
      // ioredis sets its state after the call
      await Promise.resolve()
      if (!this.connecting) throw new Error("Connection is closed.")
      const stream = tls === undefined ? connectTcp({ ...address }) : connectTls({ ...address, ...tls })
      stream.on("error", (error) => {
        this.firstError ??= error
      })
      this.stream = stream
      return stream
    }
  }

/**
 * Opens a connection that the scope closes; fails with `Unreachable`, `Credentials` or another reason.
 *
 * With `isPaused` the owner sometimes stops reading the socket, so the owner, not a socket timeout, must detect late replies.
 */
export const open = (
  resolved: ResolvedOptions,
  address: Address,
  how: { readonly isPaused?: true } = {}
): Effect.Effect<Connection, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const { connectTimeout, credentials, native } = resolved
    const issued = credentials === undefined ? undefined : yield* credentials.get
    const place = { ...resolved.place, address: textOf(address) }
    let last: unknown
    const redis = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const client = new Redis({
          ...native,
          ...address,
          Connector: connectorOf(address, native.tls),
          ...(issued === undefined ? {} : auth(issued.username, DriverOptions.plain(issued.password))),
          // a missing reply closes the connection and fails all commands that wait on it
          ...(how.isPaused ? {} : { socketTimeout: resolved.requestTimeout }),
          // while other replies arrive, a late reply fails only its own command
          ...(resolved.boundsEach ? { commandTimeout: resolved.requestTimeout } : {})
        })
        // each source listens for the end of the shared connection; without an error listener ioredis writes to the console
        client.setMaxListeners(0)
        client.on("error", (error: unknown) => {
          last = error
        })
        return client
      }),
      (client) => Effect.sync(() => client.disconnect())
    )
    let isShaken = false
    const failure = (error: unknown) =>
      Errors.fromUnknown(last ?? error, "connect", { ...place, isShaken: isShaken && native.tls !== undefined })
    yield* Effect.callback<void, Failed>((resume) => {
      // ioredis emits this after the TCP and TLS handshakes are complete on this side
      redis.once("connect", () => {
        isShaken = true
      })
      redis.connect().then(() => redis.ping()).catch((error: unknown) => {
        // a user without the right to PING may have others
        if (Errors.wordOf(error) !== "NOPERM") throw error
      }).then(
        // ioredis emits an event for a missing database and goes on with another one
        () => resume(last === undefined ? Exit.void : Exit.fail(failure(last))),
        // ioredis's own error only says that the connection closed
        (error: unknown) => resume(Exit.fail(failure(error)))
      )
    }).pipe(
      Effect.timeoutOrElse({
        duration: connectTimeout,
        orElse: () => Effect.suspend(() => Effect.fail(failure(new Error("connect timed out"))))
      })
    )
    last = undefined
    const connection = new Connection(address, place, redis, () => last)
    // a subscriber may not send AUTH; when the server closes its connection, the next one uses new credentials
    if (credentials !== undefined && issued !== undefined && how.isPaused !== true) {
      yield* Effect.forkScoped(credentials.renew(issued, ({ password, username }) =>
        connection.attempt(
          "connect",
          () => connection.send("AUTH", [username ?? "default", DriverOptions.plain(password)])
        )))
    }
    return connection
  })
