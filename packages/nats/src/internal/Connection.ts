/**
 * One connection for all operations of a driver.
 *
 * The NATS client could reconnect by itself, but it would drop messages written meanwhile and go on reading under leases
 * that have ended. So a connection never reconnects: when it ends, all pending operations fail at once, and the next call
 * opens another.
 */
import { BrokerError } from "@millrace/core"
import {
  connect,
  errors,
  type NatsConnection,
  type PermissionViolationError,
  type Subscription
} from "@nats-io/transport-node"
import { Effect, Exit, type Fiber, Schedule, type Scope } from "effect"
import * as Credentials from "./Credentials.ts"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError
type Operation = Failed["operation"]

/** The client's internal writer of raw bytes. It is not part of the public interface: another version may lack it. */
interface Wire {
  readonly sendCommand: (bytes: Uint8Array) => void
}

const isWire = (value: unknown): value is Wire =>
  typeof value === "object" && value !== null && "sendCommand" in value && typeof value.sendCommand === "function"

const encoder = new TextEncoder()
const nothing = new Uint8Array(0)

/** A connection, from connecting to its end. */
export class Connection {
  readonly nc: NatsConnection
  readonly place: Errors.Place
  /** The error with which the connection ended. */
  ended: Failed | undefined
  /** Sends many messages in one write; undefined if the client lacks `sendCommand`. */
  readonly wire: Wire | undefined
  private readonly ends = new Set<(error: Failed) => void>()
  private readonly violations = new Set<(error: PermissionViolationError) => void>()
  private readonly successors = new Set<() => void>()
  private readonly stops = new Set<() => void>()
  private isStopping = false
  private users = 0
  private isReplaced = false

  constructor(nc: NatsConnection, place: Errors.Place, log: (message: string) => void) {
    this.nc = nc
    this.place = place
    const protocol = "protocol" in nc ? nc.protocol : undefined
    this.wire = isWire(protocol) ? protocol : undefined
    void nc.closed().then((error) => this.end(error ?? undefined))
    void this.watch(log)
  }

  private async watch(log: (message: string) => void): Promise<void> {
    for await (const status of this.nc.status()) {
      switch (status.type) {
        case "disconnect":
        case "staleConnection":
          this.end(undefined)
          break
        case "ldm":
          log(`NATS at ${this.place.servers} is about to stop`)
          this.isStopping = true
          for (const each of Array.from(this.stops)) each()
          break
        case "error":
          if (status.error instanceof errors.PermissionViolationError) {
            for (const each of Array.from(this.violations)) each(status.error)
          } else if (/slow consumer/i.test(status.error.message)) {
            this.end(new Error("it was too slow to read for the server, which closed it"))
          }
          break
      }
    }
  }

  private end(cause: Error | undefined): void {
    if (this.ended !== undefined) return
    const why = cause === undefined ? "ended in the middle" : `ended in the middle: ${this.place.redact(cause.message)}`
    this.ended = Errors.lost("consume", this.place, why)
    for (const each of Array.from(this.ends)) each(this.ended)
    this.ends.clear()
    this.violations.clear()
    void this.nc.close().catch(() => {})
  }

  /** Counts a user of the connection; the returned function releases it. A replaced connection without users is closed. */
  retain(): () => void {
    this.users++
    let isHeld = true
    return () => {
      if (!isHeld) return
      isHeld = false
      this.users--
      this.closeUnused()
    }
  }

  private closeUnused(): void {
    if (this.isReplaced && this.users === 0) void this.nc.drain().catch(() => {})
  }

  /** Marks this connection as replaced: users move to the new connection, and the last user to leave closes this one. */
  replace(): void {
    if (this.isReplaced) return
    this.isReplaced = true
    for (const each of Array.from(this.successors)) each()
    this.successors.clear()
    this.closeUnused()
  }

  /** Calls back when another connection takes over, or at once if one has; the returned function cancels the callback. */
  onReplace(listener: () => void): () => void {
    if (this.isReplaced) {
      listener()
      return () => {}
    }
    this.successors.add(listener)
    return () => void this.successors.delete(listener)
  }

  /** Calls back when the server announces its shutdown (lame duck mode), or at once if it has done so. */
  onStopping(listener: () => void): void {
    if (this.isStopping) listener()
    else this.stops.add(listener)
  }

  /** Calls back when the connection ends, or at once if it has ended; the returned function cancels the callback. */
  onEnd(listener: (error: Failed) => void): () => void {
    if (this.ended !== undefined) {
      listener(this.ended)
      return () => {}
    }
    this.ends.add(listener)
    return () => void this.ends.delete(listener)
  }

  /** Fails when the connection ends. */
  readonly lost: Effect.Effect<never, Failed> = Effect.callback<never, Failed>((resume) => {
    const off = this.onEnd((error) => resume(Exit.fail(error)))
    return Effect.sync(off)
  })

  /** Calls back with each permission violation that the server reports; the returned function cancels the callback. */
  onViolation(listener: (error: PermissionViolationError) => void): () => void {
    this.violations.add(listener)
    return () => void this.violations.delete(listener)
  }

  /** Converts the error of an operation on this connection. */
  failure(error: unknown, operation: Operation, where?: Where): Failed {
    if (this.ended !== undefined) return Errors.lost(operation, this.place)
    const found = Errors.fromUnknown(error, operation, { ...this.place, ...where })
    // a server with JetStream whose JetStream does not answer is still starting
    return found.reason === "Unsupported" && Errors.isUnanswered(error) && this.nc.info?.jetstream === true
      ? Errors.make(operation, "Lost", `JetStream at ${this.place.servers} does not answer yet.`)
      : found
  }

  /**
   * Completes when the server has read all bytes written before; fails when the connection ends, and then it is unknown
   * which bytes the server has read.
   */
  flush(operation: Operation): Effect.Effect<void, Failed> {
    return Effect.callback<void, Failed>((resume) => {
      const unheard = this.onEnd(() => resume(Exit.fail(Errors.lost(operation, this.place))))
      if (this.ended !== undefined) return
      const release = this.retain()
      const off = () => {
        unheard()
        release()
      }
      this.nc.flush().then(() => {
        off()
        resume(Exit.void)
      }, (error) => {
        off()
        resume(Exit.fail(this.failure(error, operation)))
      })
      return Effect.sync(off)
    })
  }

  /** Calls the client and converts its exceptions to a `BrokerError`. */
  attempt<A>(operation: Operation, call: (nc: NatsConnection) => Promise<A>, where?: Where): Effect.Effect<A, Failed> {
    const retaining = async () => {
      const release = this.retain()
      try {
        return await call(this.nc)
      } finally {
        release()
      }
    }
    return Effect.tryPromise({ try: retaining, catch: (error) => this.failure(error, operation, where) })
  }

  /** Writes a message; returns an error if the client does not accept it. */
  write(
    operation: Operation,
    subject: string,
    body: Uint8Array,
    options?: Parameters<NatsConnection["publish"]>[2]
  ): Failed | undefined {
    if (this.ended !== undefined) return Errors.lost(operation, this.place)
    try {
      this.nc.publish(subject, body, options)
      return undefined
    } catch (error) {
      return this.failure(error, operation, { channel: subject })
    }
  }

  /** Acknowledges: writes a message without a body to each of these subjects, which the server made. */
  writeAll(operation: Operation, subjects: ReadonlyArray<string>): Failed | undefined {
    const { wire } = this
    if (wire === undefined) {
      for (const subject of subjects) {
        const failed = this.write(operation, subject, nothing)
        if (failed !== undefined) return failed
      }
      return undefined
    }
    if (this.ended !== undefined) return Errors.lost(operation, this.place)
    if (subjects.length === 0) return undefined
    // the client's own publish allocates three arrays and copies each per message, which costs more than handling the
    // message
    let text = ""
    for (const subject of subjects) text += `PUB ${subject} 0\r\n\r\n`
    wire.sendCommand(encoder.encode(text))
    return undefined
  }
}

/** The channel and group of an operation, for its error. */
export interface Where {
  readonly channel?: string | undefined
  readonly group?: string | undefined
}

/** Ends a subscription, and completes when none of its messages is in flight. */
export const unsubscribe = (connection: Connection, subscription: Subscription): Effect.Effect<void> =>
  connection.ended !== undefined || subscription.isClosed()
    ? Effect.void
    : Effect.callback<void>((resume) => {
      const off = connection.onEnd(() => resume(Exit.void))
      const finish = () => {
        off()
        resume(Exit.void)
      }
      subscription.drain().then(finish, finish)
    })

/** Runs effects for the client, in the context in which the driver was made. */
export interface Runner {
  readonly promise: <A, E>(effect: Effect.Effect<A, E>) => Promise<A>
  readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
}

/** Opens a connection on demand. */
export class Client {
  readonly options: ResolvedOptions
  private readonly run: Runner
  private readonly log: (message: string) => void
  private current: Connection | undefined
  private opening: Promise<Connection> | undefined
  private isClosed = false
  private readonly all = new Set<Connection>()

  constructor(options: ResolvedOptions, run: Runner) {
    this.options = options
    this.run = run
    this.log = (message) => void run.fork(Effect.logWarning(message))
  }

  /** The open connection, if there is one. */
  get open(): Connection | undefined {
    return this.current?.ended === undefined ? this.current : undefined
  }

  /** The open connection, or a new one. Fails with `Unreachable` or `Credentials` if connecting fails. */
  connection(operation: Operation): Effect.Effect<Connection, Failed> {
    return Effect.suspend(() => {
      const { open } = this
      if (open !== undefined) return Exit.succeed(open)
      if (this.isClosed) {
        return Exit.fail(Errors.invalid(operation, "The broker's layer is closed: use it while its scope is open."))
      }
      return Effect.tryPromise({
        try: () => this.opening ??= this.dial().finally(() => this.opening = undefined),
        catch: (error) => {
          const found = Errors.fromUnknown(error, "connect", this.options.place)
          return BrokerError.make({ ...found, operation, message: found.message })
        }
      })
    })
  }

  private async dial(given?: Credentials.Issued): Promise<Connection> {
    const { credentials, native } = this.options
    const issued = given ?? (credentials === undefined ? undefined : await this.run.promise(credentials.get))
    const place = issued === undefined
      ? this.options.place
      : { ...this.options.place, ...Credentials.kindOf(issued), isRenewable: true }
    let nc: NatsConnection
    try {
      nc = await connect(
        issued === undefined ? { ...native } : { ...native, authenticator: Credentials.authenticatorOf(issued) }
      )
    } catch (error) {
      throw Errors.fromUnknown(error, "connect", place)
    }
    const connection = new Connection(nc, place, this.log)
    this.all.add(connection)
    connection.onEnd(() => void this.all.delete(connection))
    if (this.isClosed) await nc.close()
    this.current = connection
    this.keep(connection, issued)
    return connection
  }

  /** Replaces a connection before its credentials expire, and when its server is about to stop. */
  private keep(connection: Connection, issued: Credentials.Issued | undefined): void {
    const replacing = (fresh?: Credentials.Issued) =>
      Effect.tryPromise({
        try: () => this.replace(connection, fresh),
        catch: (error) => Errors.fromUnknown(error, "connect", this.options.place)
      })
    connection.onStopping(() => {
      const again = Effect.retry(Effect.suspend(() => replacing()), Schedule.spaced("1 second"))
      const fiber = this.run.fork(Effect.ignore(again))
      connection.onEnd(() => fiber.interruptUnsafe())
    })
    const { credentials } = this.options
    if (credentials === undefined || issued === undefined) return
    // with the same credentials, a new connection would not last longer
    const use = (fresh: Credentials.Issued) => Credentials.areSame(fresh, issued) ? Effect.void : replacing(fresh)
    const fiber = this.run.fork(credentials.renew(issued, use))
    connection.onEnd(() => fiber.interruptUnsafe())
    connection.onReplace(() => fiber.interruptUnsafe())
  }

  /** Opens another connection before users leave the open one, so no message and no confirmation is lost in between. */
  private async replace(connection: Connection, issued: Credentials.Issued | undefined): Promise<void> {
    if (connection.ended !== undefined || this.isClosed) return
    await (this.opening ??= this.dial(issued).finally(() => this.opening = undefined))
    connection.replace()
  }

  /** Checks that the server answers; returns the last renewal error of the credentials, if there is one. */
  readonly check: Effect.Effect<void | Failed, Failed> = Effect.suspend(() =>
    Effect.flatMap(this.connection("check"), (connection) => connection.flush("check")).pipe(
      this.inTime("check"),
      Effect.map(() => this.unrenewed)
    )
  )

  /** The error of the last credential renewal; undefined if it succeeded. */
  get unrenewed(): Failed | undefined {
    return this.options.credentials?.lastError()
  }

  /** Fails with `Lost` if the effect takes longer than `requestTimeout`. */
  inTime(operation: Operation): <A, R>(effect: Effect.Effect<A, Failed, R>) => Effect.Effect<A, Failed, R> {
    return Effect.timeoutOrElse({
      duration: this.options.requestTimeout,
      orElse: () =>
        Effect.fail(
          Errors.make(operation, "Lost", `NATS at ${this.options.place.servers} did not answer in time.`)
        )
    })
  }

  /** Closes all connections; messages already written are still sent. */
  readonly close: Effect.Effect<void> = Effect.promise(async () => {
    this.isClosed = true
    await this.opening?.catch(() => {})
    await Promise.all(Array.from(this.all, ({ nc }) => nc.close().catch(() => {})))
  })
}

/** Connects; the connection ends with the scope. A wrong address, wrong credentials or a wrong certificate fail here. */
export const make = (options: ResolvedOptions): Effect.Effect<Client, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const context = yield* Effect.context<never>()
    const run: Runner = { promise: Effect.runPromiseWith(context), fork: Effect.runForkWith(context) }
    const client = yield* Effect.acquireRelease(
      Effect.sync(() => new Client(options, run)),
      (client) => client.close
    )
    yield* client.connection("connect")
    return client
  })
