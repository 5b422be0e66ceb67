/**
 * Connections by amqplib, without automatic recovery, because messages delivered before a connection ended must not be
 * settled after it. A request on an ended connection fails, and the next request opens a new one.
 */
import { DriverOptions } from "@millrace/core"
import { type Channel, type ChannelModel, type ConfirmChannel, connect, credentials } from "amqplib"
import { type Context, Effect, type Fiber, Redacted, type Scope } from "effect"
import * as Errors from "./Errors.ts"
import * as FrameSize from "./FrameSize.ts"
import * as Frames from "./Frames.ts"
import type { Issued, Node, ResolvedOptions } from "./Options.ts"
import * as Requests from "./Requests.ts"

const once = (
  resolved: ResolvedOptions,
  purpose: string,
  { host, port }: Node,
  { password, username = "" }: Issued
): Promise<ChannelModel> => {
  const { authentication, clientId, connectTimeout, heartbeat, tls, vhost } = resolved
  return connect(
    // amqplib decodes the virtual host's name, as if it came from a URL
    {
      protocol: tls === undefined ? "amqp" : "amqps",
      hostname: host,
      port,
      vhost: encodeURIComponent(vhost),
      heartbeat
    },
    {
      noDelay: true,
      keepAlive: true,
      timeout: connectTimeout,
      clientProperties: { connection_name: `${clientId} ${purpose}` },
      credentials: authentication === "external"
        ? credentials.external()
        : credentials.plain(username, DriverOptions.plain(password)),
      ...tls?.ca !== undefined && { ca: tls.ca },
      ...tls?.cert !== undefined && { cert: tls.cert },
      ...tls?.key !== undefined && { key: Redacted.value(tls.key) },
      ...tls?.serverName !== undefined && { servername: tls.serverName }
    }
  )
}

/** A channel, and the reason of its end. */
export interface Opened<C extends Channel> {
  readonly channel: C
  readonly why: () => unknown
}

/** One connection for one purpose, opened on first use, and again after it has ended. */
export class Connection {
  /** Why RabbitMQ currently accepts no messages on this connection: memory or disk is short. */
  blocked: string | undefined
  /** The version of RabbitMQ, as of the last connection. */
  version: string | undefined
  /** Called when RabbitMQ accepts messages again. */
  onUnblocked: () => void = () => {}
  /** The longest frame of properties, in bytes; Infinity if amqplib's own limit is lower. */
  maximumFrame = Number.POSITIVE_INFINITY
  /** The authenticated user, as far as this client knows; empty for a token. */
  user: string
  readonly resolved: ResolvedOptions
  private readonly purpose: string
  private opening: Promise<ChannelModel> | undefined
  private model: ChannelModel | undefined
  private turn = 0
  /** The reasons why connections have ended. */
  private readonly reasons = new WeakMap<ChannelModel, unknown>()
  private closed = false
  private readonly run: <A, E>(effect: Effect.Effect<A, E>) => Promise<A>
  private readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>

  constructor(resolved: ResolvedOptions, purpose: string, context: Context.Context<never>) {
    this.resolved = resolved
    this.purpose = purpose
    this.user = resolved.username
    this.run = Effect.runPromiseWith(context)
    this.fork = Effect.runForkWith(context)
  }

  /** Completes when RabbitMQ has confirmed all messages sent on a channel; fails if it does not within `requestTimeout`. */
  confirmed(channel: ConfirmChannel): Promise<void> {
    return this.run(Requests.ask(this.resolved, "publish", () => channel.waitForConfirms()))
  }

  open(): Promise<ChannelModel> {
    if (this.closed) {
      return Promise.reject(
        Errors.invalid("connect", "The broker's layer is closed: use it while its scope is open.")
      )
    }
    return this.opening ??= this.connect().catch((error) => {
      this.opening = undefined
      throw error
    })
  }

  private async connect(): Promise<ChannelModel> {
    const { credentials, nodes, password, place, username } = this.resolved
    const issued = credentials === undefined ? { username, password } : await this.run(credentials.get)
    let failure: unknown
    for (let i = 0; i < nodes.length; i++) {
      try {
        const model = await once(this.resolved, this.purpose, nodes[(this.turn + i) % nodes.length]!, issued)
        this.turn = (this.turn + i) % nodes.length
        this.user = issued.username ?? ""
        this.watch(model)
        this.renew(model, issued)
        return model
      } catch (error) {
        failure = Errors.fromUnknown(error, "connect", place)
      }
    }
    throw failure
  }

  private watch(model: ChannelModel): void {
    Frames.keep(model)
    this.model = model
    const { version } = model.connection.serverProperties
    this.version = typeof version === "string" ? version : undefined
    this.maximumFrame = FrameSize.maximumOf(model)
    this.blocked = undefined
    // the error precedes the close of the channels; without a listener it would end the process
    model.on("error", (error) => void this.reasons.set(model, error))
    model.on("blocked", (reason) => {
      if (this.model === model) this.blocked = reason
    })
    model.on("unblocked", () => {
      if (this.model !== model) return
      this.blocked = undefined
      this.onUnblocked()
    })
    model.on("close", (error) => {
      // a broker that is stopped reports it without an error
      if (error !== undefined && !this.reasons.has(model)) this.reasons.set(model, error)
      if (this.model === model) this.forget()
    })
    if (this.closed) void model.close().catch(() => {})
  }

  /** Sends RabbitMQ new credentials before those of an open connection expire. */
  private renew(model: ChannelModel, issued: Issued): void {
    const { credentials } = this.resolved
    if (credentials === undefined) return
    const fiber = this.fork(credentials.renew(issued, ({ password, username }) =>
      // a connection keeps its user: another user applies to the next connection
      username === issued.username
        ? Requests.ask(
          this.resolved,
          "connect",
          () => model.updateSecret(Buffer.from(DriverOptions.plain(password)), "it ends soon")
        )
        : Effect.void))
    model.on("close", () => fiber.interruptUnsafe())
  }

  /**
   * Leaves a connection whose credentials have expired: a new connection obtains new ones at once, this one only at its next
   * renewal.
   */
  private leave(model: ChannelModel): void {
    if (this.model === model) this.forget()
    void model.close().catch(() => {})
  }

  private forget(): void {
    this.model = undefined
    this.opening = undefined
    this.blocked = undefined
  }

  /** Opens a channel; `ended` is called once, when the channel closes for any reason. */
  async channel<C extends Channel>(make: (model: ChannelModel) => Promise<C>, ended?: () => void): Promise<Opened<C>> {
    const model = await this.open()
    let why: unknown
    const reason = () => why ?? this.reasons.get(model)
    try {
      const channel = await make(model)
      channel.on("error", (error) => {
        why ??= error
        if (Errors.isExpired(error)) this.leave(model)
      })
      // a connection that RabbitMQ has closed reports the reason after its channels close
      if (ended !== undefined) channel.on("close", () => queueMicrotask(ended))
      return { channel, why: () => reason() ?? new Error("Channel closed") }
    } catch (error) {
      throw reason() ?? error
    }
  }

  async close(): Promise<void> {
    this.closed = true
    const model = await this.opening?.catch(() => undefined)
    if (model !== undefined && this.model === model) await model.close().catch(() => {})
  }
}

/** Makes a connection that closes with the scope; gives up closing after 5 seconds without an answer. */
export const make = (resolved: ResolvedOptions, purpose: string): Effect.Effect<Connection, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.map(Effect.context<never>(), (context) => new Connection(resolved, purpose, context)),
    (connection) => Effect.ignore(Effect.timeoutOption(Effect.promise(() => connection.close()), "5 seconds"))
  )
