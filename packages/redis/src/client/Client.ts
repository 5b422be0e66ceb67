/**
 * Connections: ioredis's clients, each opened before it is used and closed with its scope, their errors made telling.
 */
import type { BrokerError } from "@millrace/core"
import { Effect, Exit, type Scope } from "effect"
import { Redis } from "ioredis"
import { createHash } from "node:crypto"
import * as Failure from "./Failure.ts"
import type { Settings } from "./Options.ts"

type Failed = BrokerError.BrokerError
type Operation = Failed["operation"]

/** What a command is made of. */
export type Argument = string | Buffer | number

/** A script that Redis runs in one piece: nothing of others comes between its commands. */
export interface Script {
  readonly text: string
  readonly sha: string
}

/**
 * Makes a script of its text. Scripts take and settle, so they run on a server that is full, too: what is in it could not be
 * worked off else. One that only adds is `refused` by such a server.
 */
export const script = (body: string, whenFull: "runs" | "refused" = "runs"): Script => {
  const text = `#!lua${whenFull === "runs" ? " flags=allow-oom" : ""}\n${body}`
  return { text, sha: createHash("sha1").update(text).digest("hex") }
}

/** One command of a pipeline. */
export type Command = [name: string, ...args: Array<Argument>]

/** A connection to Redis. Replies are numbers, null, Buffers, and arrays of them. */
export class Connection {
  private readonly settings: Settings
  private readonly redis: Redis
  /** The longest value that Redis takes, as far as it has said so: `proto-max-bulk-len`, 512 MiB by default. */
  longest = 512 * 1024 * 1024
  /** Why there is no connection, while there is none. */
  private readonly trouble: () => unknown

  constructor(settings: Settings, redis: Redis, trouble: () => unknown) {
    this.settings = settings
    this.redis = redis
    this.trouble = trouble
  }

  get place(): Failure.Place {
    return this.settings.place
  }

  /** Sends a command. */
  send(name: string, args: Array<Argument>): Promise<unknown> {
    return this.redis.callBuffer(name, args)
  }

  /** Runs a script, and sends its text only to a server that does not know it yet. */
  run({ sha, text }: Script, keys: ReadonlyArray<string>, args: ReadonlyArray<Argument>): Promise<unknown> {
    const rest: Array<Argument> = [keys.length, ...keys, ...args]
    return this.redis.callBuffer("EVALSHA", [sha, ...rest]).catch((error: unknown) => {
      if (Failure.wordOf(error) !== "NOSCRIPT") throw error
      return this.redis.callBuffer("EVAL", [text, ...rest])
    })
  }

  /** Sends commands in one go; rejects with the first that failed, and the others may have been done. */
  async pipeline(commands: Array<Command>): Promise<void> {
    const first = commands[0]
    if (first !== undefined && commands.length === 1) {
      await this.redis.callBuffer(first[0], first.slice(1))
      return
    }
    const replies = await this.redis.pipeline(commands.map((command) => ["call", ...command])).exec()
    for (const [error] of replies ?? []) if (error !== null) throw error
  }

  /** A call of this connection as an effect; what it rejects with becomes a `BrokerError`. */
  attempt<A>(operation: Operation, call: () => Promise<A>, where?: Failure.Where): Effect.Effect<A, Failed> {
    return Effect.tryPromise({
      try: call,
      catch: (error) => {
        // of a command that could not be sent ioredis says no more than that
        const cause = Failure.isUnsent(error) ? this.trouble() ?? error : error
        return Failure.fromUnknown(cause, operation, this.place, where)
      }
    })
  }

  /** The run of a script as an effect. */
  perform(
    operation: Operation,
    script: Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<Argument>,
    where?: Failure.Where
  ): Effect.Effect<unknown, Failed> {
    return this.attempt(operation, () => this.run(script, keys, args), where)
  }

  /** Fails when the connection ends. */
  ended(operation: Operation, where?: Failure.Where): Effect.Effect<never, Failed> {
    return Effect.callback<never, Failed>((resume) => {
      const end = () =>
        resume(Exit.fail(Failure.fromUnknown(new Error("Connection is closed."), operation, this.place, where)))
      if (this.redis.status !== "ready") end()
      this.redis.once("close", end)
      return Effect.sync(() => void this.redis.off("close", end))
    })
  }

  /** What ioredis offers beside commands: subscriptions, and the socket. */
  get client(): Redis {
    return this.redis
  }
}

/**
 * Opens a connection that is closed with the scope; fails with `Unreachable`, `Credentials` or another reason why not.
 *
 * One that `lasts` connects again by itself when it is lost, and fails what is asked of it meanwhile; any other ends for good.
 * One that `isPaused` now and then is not read then, so nobody but its owner knows whether an answer is late.
 */
export const open = (
  settings: Settings,
  how: { readonly lasts: boolean; readonly isPaused?: true }
): Effect.Effect<Connection, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const { connectTimeout, native, place } = settings
    let last: unknown
    const redis = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const client = new Redis({
          ...native,
          // an answer that does not come ends the connection, and every command that waits on it
          ...(how.isPaused ? {} : { socketTimeout: settings.commandTimeout }),
          ...(how.lasts ? {} : { retryStrategy: null })
        })
        // each source listens for the end of the connection that all share; without a listener of errors ioredis writes to the console
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
      Failure.fromUnknown(last ?? error, "connect", { ...place, isShaken: isShaken && native.tls !== undefined })
    yield* Effect.callback<void, Failed>((resume) => {
      // its handshake, that of TLS included, is over on this side
      redis.once("connect", () => {
        isShaken = true
      })
      redis.connect().then(() => redis.ping()).catch((error: unknown) => {
        // who may not ask that may do other things
        if (Failure.wordOf(error) !== "NOPERM") throw error
      }).then(
        // a database that is not there is an event to ioredis, and it goes on with another one
        () => resume(last === undefined ? Exit.void : Exit.fail(failure(last))),
        // its own error only says that it closed
        (error: unknown) => resume(Exit.fail(failure(error)))
      )
    }).pipe(
      Effect.timeoutOrElse({
        duration: connectTimeout,
        orElse: () => Effect.suspend(() => Effect.fail(failure(new Error("connect timed out"))))
      }),
      // it would go on trying
      Effect.onError(() => Effect.sync(() => redis.disconnect()))
    )
    last = undefined
    redis.on("ready", () => {
      last = undefined
    })
    return new Connection(settings, redis, () => last)
  })
