/** One connection: an mqtt.js client that never reconnects by itself, and its end. */
import { type BrokerError, type Credentials, DriverOptions } from "@millrace/core"
import { Effect } from "effect"
import { connect, type IClientOptions, type IConnackPacket, type MqttClient, type Packet, Store } from "mqtt"
import * as Errors from "./Errors.ts"
import type { Issued, ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError

/** The options that differ between the clients of a driver. */
export interface ClientOptions extends Pick<IClientOptions, "clean" | "customHandleAcks" | "properties" | "will"> {
  readonly clientId: string
}

/** Stores no packets: a connection that has ended never sends again, so a store has no use. */
class Nothing extends Store {
  override put(_packet: Packet, done: () => void): this {
    done()
    return this
  }
  override del(packet: Pick<Packet, "messageId">, done: (error?: Error, packet?: Packet) => void): this {
    // the packet itself, of which callers read no more than its id
    done(undefined, packet as Packet)
    return this
  }
}

/** A connection that the server has accepted. */
export class Connection {
  readonly client: MqttClient
  readonly connack: IConnackPacket
  readonly place: Errors.Place
  /** The error with which the connection ended, once it has. */
  ended: Failed | undefined
  private readonly observers = new Set<(error: Failed) => void>()
  /** Whether users should leave this connection for one with new credentials. */
  isReplaced = false
  private readonly successors = new Set<() => void>()

  constructor(client: MqttClient, connack: IConnackPacket, place: Errors.Place) {
    this.client = client
    this.connack = connack
    this.place = place
  }

  /** Calls back when the connection ends, or at once if it has ended; the returned function cancels the callback. */
  onEnd(observer: (error: Failed) => void): () => void {
    if (this.ended !== undefined) {
      observer(this.ended)
      return () => {}
    }
    this.observers.add(observer)
    return () => this.observers.delete(observer)
  }

  /** Asks the users to leave this connection and connect again. */
  replace(): void {
    if (this.isReplaced) return
    this.isReplaced = true
    for (const each of this.successors) each()
    this.successors.clear()
  }

  /** Calls back when the connection is replaced, or at once if it is; the returned function cancels the callback. */
  onReplace(listener: () => void): () => void {
    if (this.isReplaced) {
      listener()
      return () => {}
    }
    this.successors.add(listener)
    return () => this.successors.delete(listener)
  }

  /** Completes when the connection is replaced. */
  readonly replaced: Effect.Effect<void> = Effect.callback<void>((resume) => {
    const off = this.onReplace(() => resume(Effect.void))
    return Effect.sync(off)
  })

  end(error: Failed): void {
    if (this.ended !== undefined) return
    this.ended = error
    for (const observer of this.observers) observer(error)
    this.observers.clear()
  }

  /** Fails when the connection ends; never completes otherwise. */
  readonly lost: Effect.Effect<never, Failed> = Effect.callback<never, Failed>((resume) => {
    const off = this.onEnd((error) => resume(Effect.fail(error)))
    return Effect.sync(off)
  })
}

/**
 * Connects. `prepare` receives the client before a packet can arrive. Fails with `Unreachable`, `Credentials` or the reason
 * that the server's answer maps to.
 */
export const open = (
  resolved: ResolvedOptions,
  options: ClientOptions,
  operation: "consume" | "publish",
  prepare: (client: MqttClient) => void = () => {}
): Effect.Effect<Connection, Failed> => {
  const { credentials } = resolved
  if (credentials === undefined) return dial(resolved, options, operation, prepare, undefined)
  return Effect.flatMap(
    credentials.get,
    (issued) =>
      Effect.tap(
        dial(resolved, options, operation, prepare, issued),
        (connection) => keep(connection, credentials, issued)
      )
  )
}

/** Obtains new credentials before those of a connection expire, and then replaces the connection. */
const keep = (
  connection: Connection,
  credentials: Credentials.Credentials<Issued>,
  issued: Issued
): Effect.Effect<void> => {
  // with the same credentials, a new connection would not last longer
  const use = (fresh: Issued) =>
    Effect.sync(() => {
      const isSame = fresh.username === issued.username &&
        DriverOptions.plain(fresh.password) === DriverOptions.plain(issued.password)
      if (!isSame) connection.replace()
    })
  return Effect.map(Effect.forkDetach(credentials.renew(issued, use)), (fiber) => {
    const stop = () => fiber.interruptUnsafe()
    connection.onEnd(stop)
    connection.onReplace(stop)
  })
}

const dial = (
  resolved: ResolvedOptions,
  options: ClientOptions,
  operation: "consume" | "publish",
  prepare: (client: MqttClient) => void,
  issued: Issued | undefined
): Effect.Effect<Connection, Failed> =>
  Effect.callback<Connection, Failed>((resume) => {
    const place = {
      ...resolved.place,
      clientId: options.clientId,
      ...(issued === undefined ? {} : { user: issued.username, isRenewable: true })
    }
    const failure = (error: unknown, when: Failed["operation"]) => Errors.fromUnknown(error, when, place)
    let client: MqttClient
    try {
      client = connect({ ...resolved.client(issued), ...options, outgoingStore: new Nothing() })
    } catch (error) {
      resume(Effect.fail(failure(error, "connect")))
      return
    }
    let connection: Connection | undefined
    // the server's reason and the first error say more than the end of the stream that follows
    let reason: unknown
    prepare(client)
    client.on("error", (error) => {
      if (error === held) return
      reason ??= error
      // the stream closes by itself, except if mqtt.js found the packet malformed
      if (connection !== undefined) client.stream.destroy()
    })
    client.on("disconnect", ({ properties, reasonCode }) => {
      reason ??= new Errors.Disconnected(reasonCode ?? 0, properties?.reasonString)
      // no packet follows a DISCONNECT, whether the server closes the connection or not
      client.stream.destroy()
    })
    client.on("connect", (connack) => {
      connection = new Connection(client, connack, place)
      resume(Effect.succeed(connection))
    })
    client.on("close", () => {
      const error = reason ?? new Error("the connection ended")
      if (connection === undefined) {
        client.end(true)
        resume(Effect.fail(failure(error, "connect")))
      } else connection.end(failure(error, operation))
    })
    return Effect.sync(() => {
      client.end(true)
    })
  })

/** Makes mqtt.js's reader go on without an acknowledgement, which is sent when the engine has settled the message. */
export const held: Error = new Error("The engine acknowledges it later")

/** Sends DISCONNECT, so that the server publishes no will; a connection that does not close within 2 seconds is cut. */
export const close = (connection: Connection): Effect.Effect<void> =>
  Effect.suspend(() => {
    const { client } = connection
    connection.end(
      Errors.fromUnknown(new Error("the connection ended: this program closed it"), "publish", connection.place)
    )
    const goodbye = Effect.callback<void>((resume) => {
      // `end` alone waits for answers that may never come
      client.outgoing = {}
      client.end(false, () => resume(Effect.void))
    })
    return Effect.interruptible(goodbye).pipe(
      Effect.timeoutOption("2 seconds"),
      Effect.andThen(Effect.sync(() => void client.end(true))),
      Effect.andThen(Effect.sync(() => void client.stream.destroy()))
    )
  })

/** Sends a ping and waits for the answer. */
export const ping = (connection: Connection, timeout: number): Effect.Effect<void, Failed> =>
  Effect.callback<void, Failed>((resume) => {
    const { client } = connection
    const stop = () => {
      client.off("packetreceive", answered)
      off()
    }
    const answered = (packet: Packet) => {
      if (packet.cmd !== "pingresp") return
      stop()
      resume(Effect.void)
    }
    client.on("packetreceive", answered)
    const off = connection.onEnd((error) => {
      client.off("packetreceive", answered)
      resume(Effect.fail(error))
    })
    if (connection.ended === undefined) client.sendPing()
    return Effect.sync(stop)
  }).pipe(
    Effect.timeoutOrElse({
      duration: timeout,
      orElse: () =>
        Effect.fail(
          Errors.fromUnknown(
            new Error(`a ping got no answer within ${timeout} ms: the connection ended`),
            "check",
            connection.place
          )
        )
    })
  )
