/**
 * Publishing: a batch is sent in order, with as many messages in flight as the server allows, and completes when all are
 * confirmed.
 *
 * No message is queued while there is no connection: a publish opens one, or fails.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import { Effect, Exit, Latch, Schedule, type Scope, Semaphore } from "effect"
import * as Connection from "./Connection.ts"
import * as Errors from "./Errors.ts"
import * as Packet from "./Packet.ts"
import type { ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError

/** MQTT's reason code for a message without subscribers. */
const noSubscribers = 16

/** The most bytes of an MQTT packet. */
const largest = 268_435_455

/** Messages of one call. */
class PublishCall {
  readonly packets: ReadonlyArray<Packet.Packet>
  readonly resume: (exit: Exit.Exit<void, Failed>) => void
  next = 0
  confirmed = 0
  /** The caller has its result. */
  over = false

  constructor(packets: ReadonlyArray<Packet.Packet>, resume: (exit: Exit.Exit<void, Failed>) => void) {
    this.packets = packets
    this.resume = resume
  }

  end(exit: Exit.Exit<void, Failed>): void {
    if (this.over) return
    this.over = true
    this.resume(exit)
  }
}

/** The publishes of one connection: the oldest batch first, and at most `window` unconfirmed messages. */
class OutboundQueue {
  private readonly connection: Connection.Connection
  private readonly window: number
  /** Whether the confirmation that mqtt.js is handling reports no subscribers; its callbacks do not say so. */
  private isUnheard = false
  /** Ids of QoS 2 messages whose PUBREC reported no subscribers; they are pending until PUBCOMP. */
  private readonly unheard = new Set<number>()
  private readonly batches: Array<PublishCall> = []
  private readonly waiting = new Set<PublishCall>()
  /** Open when no call waits. */
  readonly idle = Latch.makeUnsafe(true)
  private unconfirmed = 0
  /**
   * The number of messages still to be sent one at a time, because one of as many unconfirmed messages ended a connection.
   */
  private suspects: number
  private isSending = false

  constructor(
    connection: Connection.Connection,
    resolved: ResolvedOptions,
    suspects: number,
    suspect: (count: number) => void
  ) {
    this.connection = connection
    this.window = Math.min(resolved.window, connection.connack.properties?.receiveMaximum ?? 65_535)
    this.suspects = suspects
    if (resolved.unheard === "refuse") {
      connection.client.on("packetreceive", (packet) => {
        const { cmd, messageId } = packet
        this.isUnheard = cmd === "puback"
          ? packet.reasonCode === noSubscribers
          : cmd === "pubcomp" && messageId !== undefined && this.unheard.delete(messageId)
        if (cmd === "pubrec" && packet.reasonCode === noSubscribers && messageId !== undefined) {
          this.unheard.add(messageId)
        }
      })
    }
    connection.onEnd((ended) => {
      // the server refused one message by ending the connection, and does not say which
      const isUnclear = !ended.retriable && this.unconfirmed > 1
      if (isUnclear) suspect(this.unconfirmed)
      const error = isUnclear ? Errors.lostByAnother(ended) : ended
      for (const batch of this.waiting) batch.end(Exit.fail(error))
      this.waiting.clear()
      this.batches.length = 0
      this.idle.openUnsafe()
    })
  }

  add(batch: PublishCall): void {
    this.idle.closeUnsafe()
    this.waiting.add(batch)
    this.batches.push(batch)
    this.send()
  }

  private send(): void {
    // mqtt.js confirms a message of QoS 0 within the call that writes it
    if (this.isSending) return
    this.isSending = true
    const { batches, connection } = this
    while (
      batches.length > 0 && this.unconfirmed < (this.suspects > 0 ? 1 : this.window) && connection.ended === undefined
    ) {
      const batch = batches[0]!
      if (batch.next === batch.packets.length) {
        batches.shift()
        continue
      }
      this.write(batch, batch.packets[batch.next++]!)
    }
    this.isSending = false
  }

  private write(batch: PublishCall, { options, payload, topic }: Packet.Packet): void {
    this.unconfirmed++
    this.connection.client.publish(topic, payload, options, (error?: Error | null) => {
      this.unconfirmed--
      if (this.suspects > 0) this.suspects--
      if (error) this.refuse(batch, topic, error)
      // the server keeps retained messages, and answers nothing at QoS 0
      else if (this.isUnheard && options.retain !== true && options.qos !== 0) {
        this.refuse(batch, topic, new Errors.Answered(noSubscribers))
      } else if (++batch.confirmed === batch.packets.length) this.done(batch, Exit.void)
      this.send()
    })
  }

  private refuse(batch: PublishCall, channel: string, error: Error): void {
    this.done(batch, Exit.fail(Errors.fromUnknown(error, "publish", { ...this.connection.place, channel })))
  }

  private done(batch: PublishCall, exit: Exit.Exit<void, Failed>): void {
    this.waiting.delete(batch)
    batch.end(exit)
    if (this.waiting.size === 0) this.idle.openUnsafe()
  }
}

interface Open {
  readonly connection: Connection.Connection
  readonly queue: OutboundQueue
}

/** Publishes, and checks the server's health. */
export interface Publisher {
  readonly publish: (batch: ReadonlyArray<Outgoing<Uint8Array>>) => Effect.Effect<void, Failed>
  readonly check: Effect.Effect<void | Failed, Failed>
}

/** Connects, and keeps a connection as long as the scope is open. */
export const make = (resolved: ResolvedOptions): Effect.Effect<Publisher, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const one = yield* Semaphore.make(1)
    const { clientId } = resolved.place
    const run = Effect.runForkWith(yield* Effect.context<never>())
    let open: Open | undefined
    let suspects = 0
    let closed = false
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        closed = true
        return open === undefined ? Effect.void : Connection.close(open.connection)
      })
    )
    const options: Connection.ClientOptions = {
      clientId,
      clean: true,
      ...(resolved.will === undefined ? {} : { will: resolved.will })
    }
    // the first caller connects, the others wait for it
    const connected: Effect.Effect<Open, Failed> = one.withPermit(
      Effect.suspend(() => {
        if (open !== undefined && open.connection.ended === undefined) return Effect.succeed(open)
        if (closed) {
          return Effect.fail(Errors.fromUnknown(new Error("the connection ended"), "publish", resolved.place))
        }
        return Effect.map(
          Effect.uninterruptible(Connection.open(resolved, options, "publish")),
          (connection) => {
            const queue = new OutboundQueue(connection, resolved, suspects, (count) => void (suspects = count))
            suspects = 0
            const opened = open = { connection, queue }
            connection.onReplace(() => void run(move(opened)))
            return opened
          }
        )
      })
    )
    // publishes that begin meanwhile wait: one client id has one connection
    const move = ({ connection, queue }: Open): Effect.Effect<unknown> =>
      one.withPermit(Effect.suspend(() =>
        connection.ended === undefined
          ? Effect.andThen(
            Effect.timeoutOption(queue.idle.await, resolved.connectTimeout),
            Connection.close(connection)
          )
          : Effect.void
      )).pipe(Effect.andThen(Effect.suspend(() => closed ? Effect.void : Effect.ignore(connected))))
    const current = Effect.suspend((): Effect.Effect<Open, Failed> =>
      open !== undefined && open.connection.ended === undefined && !open.connection.isReplaced
        ? Exit.succeed(open)
        : connected
    )

    const convert = (batch: ReadonlyArray<Outgoing<Uint8Array>>): ReadonlyArray<Packet.Packet> | Failed => {
      const packets = new Array<Packet.Packet>(batch.length)
      for (let i = 0; i < batch.length; i++) {
        const packet = Packet.toPacket(batch[i]!, resolved.qos, resolved.retain)
        if ("_tag" in packet) return packet
        packets[i] = packet
      }
      return packets
    }

    const send = ({ connection, queue }: Open, packets: ReadonlyArray<Packet.Packet>): Effect.Effect<void, Failed> => {
      const most = Math.min(largest, connection.connack.properties?.maximumPacketSize ?? largest)
      const long = packets.find(({ size }) => size > most)
      if (long !== undefined) {
        const error = new Errors.Answered(149, `${long.size} bytes, and ${most} are the most`)
        return Exit.fail(Errors.fromUnknown(error, "publish", { ...resolved.place, channel: long.topic }))
      }
      const mostQos = connection.connack.properties?.maximumQoS ?? 2
      const unable = packets.find(({ options: { qos = 0 } }) => qos > mostQos)
      if (unable !== undefined) {
        const error = new Errors.Answered(155, `QoS ${unable.options.qos}, and ${mostQos} is the most`)
        return Exit.fail(Errors.fromUnknown(error, "publish", { ...resolved.place, channel: unable.topic }))
      }
      return Effect.callback<void, Failed>((resume) => {
        const batch = new PublishCall(packets, resume)
        queue.add(batch)
        // after an interruption the rest of the batch is still sent, so no batch is torn; no caller awaits the result
      })
    }

    const publish: Publisher["publish"] = (batch) => {
      if (batch.length === 0) return Exit.void
      const packets = convert(batch)
      if ("_tag" in packets) return Exit.fail(packets)
      return Effect.flatMapEager(current, (each) => send(each, packets))
    }

    yield* connected
    if (resolved.will !== undefined) {
      // a published will means that this process is gone, so reconnect at once and not only with the next publish
      const lost = Effect.flatMap(Effect.suspend(() => Effect.exit(open!.connection.lost)), () => connected)
      const again = Effect.retry(lost, Schedule.spaced("1 second"))
      yield* Effect.forkScoped(Effect.forever(again))
    }
    return {
      publish,
      check: Effect.flatMap(current, ({ connection }) => Connection.ping(connection, resolved.connectTimeout)).pipe(
        Effect.map(() => resolved.credentials?.lastError())
      )
    }
  })
