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
import { Effect, Exit, type Scope } from "effect"
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

  /** Calls back when it ends, or at once where it has; what is returned calls that off. */
  onEnd(listener: (error: Failed) => void): () => void {
    if (this.ended !== undefined) {
      listener(this.ended)
      return () => {}
    }
    this.ends.add(listener)
    return () => void this.ends.delete(listener)
  }

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
      const off = this.onEnd(() => resume(Exit.fail(Errors.lost(operation, this.place))))
      if (this.ended !== undefined) return
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
    return Effect.tryPromise({ try: () => call(this.nc), catch: (error) => this.failure(error, operation, where) })
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

/** A connection that is opened when it is needed. */
export class Client {
  readonly options: ResolvedOptions
  private readonly log: (message: string) => void
  private current: Connection | undefined
  private opening: Promise<Connection> | undefined
  private isClosed = false

  constructor(options: ResolvedOptions, log: (message: string) => void) {
    this.options = options
    this.log = log
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

  private async dial(): Promise<Connection> {
    const nc = await connect({ ...this.options.native })
    const connection = new Connection(nc, this.options.place, this.log)
    if (this.isClosed) await nc.close()
    return this.current = connection
  }

  /** Asks the server for one answer. */
  readonly check: Effect.Effect<void, Failed> = Effect.suspend(() =>
    Effect.flatMap(this.connection("check"), (connection) => connection.flush("check")).pipe(this.inTime("check"))
  )

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

  /** Ends the connection, with what was written still on its way. */
  readonly close: Effect.Effect<void> = Effect.promise(async () => {
    this.isClosed = true
    await this.opening?.catch(() => {})
    await this.current?.nc.close().catch(() => {})
  })
}

/** Connects; the connection ends with the scope. A wrong address, wrong credentials or a wrong certificate fail here. */
export const make = (options: ResolvedOptions): Effect.Effect<Client, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const context = yield* Effect.context<never>()
    const run = Effect.runForkWith(context)
    const client = yield* Effect.acquireRelease(
      Effect.sync(() => new Client(options, (message) => void run(Effect.logWarning(message)))),
      (client) => client.close
    )
    yield* client.connection("connect")
    return client
  })
