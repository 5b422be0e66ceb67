/**
 * The connection, one for all that a driver does, and its end.
 *
 * The client could connect again by itself, and would then drop what is written in between, and go on reading under leases
 * that have ended. So a connection that ends has ended: all that waits for it fails at once, and the next call opens another.
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

/** The part of the client that takes bytes as they go out. It is no part of its interface: another version may be without it. */
interface Wire {
  readonly sendCommand: (bytes: Uint8Array) => void
}

const isWire = (value: unknown): value is Wire =>
  typeof value === "object" && value !== null && "sendCommand" in value && typeof value.sendCommand === "function"

const encoder = new TextEncoder()
const nothing = new Uint8Array(0)

/** One life of the connection. */
export class Connection {
  readonly nc: NatsConnection
  readonly place: Errors.Place
  /** Why it has ended. */
  ended: Failed | undefined
  /** Where many messages go out as one piece; undefined where the client has no such place. */
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

  /** Counts a user of the connection; the function that is returned uncounts it. A replaced connection without users is closed. */
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

  /** Another connection takes over: users move there, and the last one that leaves closes this one. */
  replace(): void {
    if (this.isReplaced) return
    this.isReplaced = true
    for (const each of Array.from(this.successors)) each()
    this.successors.clear()
    this.closeUnused()
  }

  /** Calls back when another connection takes over, or at once where it has; the function that is returned calls that off. */
  onReplace(listener: () => void): () => void {
    if (this.isReplaced) {
      listener()
      return () => {}
    }
    this.successors.add(listener)
    return () => void this.successors.delete(listener)
  }

  /** Calls back when the server is about to stop (lame duck mode), or at once where it has said so. */
  onStopping(listener: () => void): void {
    if (this.isStopping) listener()
    else this.stops.add(listener)
  }

  /** Calls back when it ends, or at once where it has; what is returned calls that off. */
  onEnd(listener: (error: Failed) => void): () => void {
    if (this.ended !== undefined) {
      listener(this.ended)
      return () => {}
    }
    this.ends.add(listener)
    return () => void this.ends.delete(listener)
  }

  /** Fails when it ends. */
  readonly lost: Effect.Effect<never, Failed> = Effect.callback<never, Failed>((resume) => {
    const off = this.onEnd((error) => resume(Exit.fail(error)))
    return Effect.sync(off)
  })

  /** Calls back with what the server did not allow; what is returned calls that off. */
  onViolation(listener: (error: PermissionViolationError) => void): () => void {
    this.violations.add(listener)
    return () => void this.violations.delete(listener)
  }

  /** The error of an operation on it. */
  failure(error: unknown, operation: Operation, where?: Where): Failed {
    if (this.ended !== undefined) return Errors.lost(operation, this.place)
    const found = Errors.fromUnknown(error, operation, { ...this.place, ...where })
    // a server that has JetStream and does not answer for it is on its way up
    return found.reason === "Unsupported" && Errors.isUnanswered(error) && this.nc.info?.jetstream === true
      ? Errors.make(operation, "Lost", `JetStream at ${this.place.servers} does not answer yet.`)
      : found
  }

  /** Completes when the server has read all that was written before; fails when the connection ends, and nothing then says what was read. */
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

  /** Calls the client; what it throws becomes a `BrokerError`. */
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

  /** Writes a message; an error where the client does not take it. */
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

  /** Writes a message without a body to each of these subjects, which the server made: what acknowledges. */
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
    // the client makes three arrays and copies each for every message, which costs more than handling it
    let text = ""
    for (const subject of subjects) text += `PUB ${subject} 0\r\n\r\n`
    wire.sendCommand(encoder.encode(text))
    return undefined
  }
}

/** What an operation was about, for its error. */
export interface Where {
  readonly channel?: string | undefined
  readonly group?: string | undefined
}

/** Ends a subscription, and completes when nothing of it is on its way any more. */
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

/** Runs effects for the client, in the context that the driver was made in. */
export interface Runner {
  readonly promise: <A, E>(effect: Effect.Effect<A, E>) => Promise<A>
  readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
}

/** A connection that is opened when it is needed. */
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

  /** The connection that is open now. */
  get open(): Connection | undefined {
    return this.current?.ended === undefined ? this.current : undefined
  }

  /** The connection that is open, or a new one. Fails with `Unreachable` or `Credentials` where there can be none. */
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

  /** Replaces a connection before its credentials end, and when its server is about to stop. */
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
    // as long as the credentials are the same, a new connection would not last longer
    const use = (fresh: Credentials.Issued) => Credentials.areSame(fresh, issued) ? Effect.void : replacing(fresh)
    const fiber = this.run.fork(credentials.renew(issued, use))
    connection.onEnd(() => fiber.interruptUnsafe())
    connection.onReplace(() => fiber.interruptUnsafe())
  }

  /** Opens another connection before users leave the one that is open: no message and no confirmation is lost between them. */
  private async replace(connection: Connection, issued: Credentials.Issued | undefined): Promise<void> {
    if (connection.ended !== undefined || this.isClosed) return
    await (this.opening ??= this.dial(issued).finally(() => this.opening = undefined))
    connection.replace()
  }

  /** Asks the server for one answer; answers why credentials could not be renewed, where that is so. */
  readonly check: Effect.Effect<void | Failed, Failed> = Effect.suspend(() =>
    Effect.flatMap(this.connection("check"), (connection) => connection.flush("check")).pipe(
      this.inTime("check"),
      Effect.map(() => this.unrenewed)
    )
  )

  /** Why credentials could not be renewed; undefined where they could. */
  get unrenewed(): Failed | undefined {
    return this.options.credentials?.lastError()
  }

  /** Fails with `Lost` what takes longer than a request may. */
  inTime(operation: Operation): <A, R>(effect: Effect.Effect<A, Failed, R>) => Effect.Effect<A, Failed, R> {
    return Effect.timeoutOrElse({
      duration: this.options.requestTimeout,
      orElse: () =>
        Effect.fail(
          Errors.make(operation, "Lost", `NATS at ${this.options.place.servers} did not answer in time.`)
        )
    })
  }

  /** Ends the connections; messages that were written are still sent. */
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
