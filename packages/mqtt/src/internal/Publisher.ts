/**
 * Publishing: a batch goes out in order, as much of it at once as the server allows, and is done when all of it is confirmed.
 *
 * Nothing waits in the client for a better day: without a connection a publish opens one, or fails.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import { Effect, Exit, Latch, Schedule, type Scope, Semaphore } from "effect"
import * as Connection from "./Connection.ts"
import * as Errors from "./Errors.ts"
import * as Packet from "./Packet.ts"
import type { ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError

/** MQTT's word for a message that nobody subscribes to. */
const noSubscribers = 16

/** The most that a packet of MQTT can be long. */
const largest = 268_435_455

/** Messages of one call. */
class PublishCall {
  readonly packets: ReadonlyArray<Packet.Packet>
  readonly resume: (exit: Exit.Exit<void, Failed>) => void
  next = 0
  confirmed = 0
  /** Nobody waits for it any more. */
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

/** One connection's publishes: the oldest batch first, and no more than `window` unconfirmed. */
class OutboundQueue {
  private readonly connection: Connection.Connection
  private readonly window: number
  /** Whether the answer that mqtt.js handles now says that nobody subscribes; its callbacks do not tell. */
  private isUnheard = false
  /** Numbers of messages of QoS 2 of which the server has said so; they are not done before its last word. */
  private readonly unheard = new Set<number>()
  private readonly batches: Array<PublishCall> = []
  private readonly waiting = new Set<PublishCall>()
  /** Open when no call waits. */
  readonly idle = Latch.makeUnsafe(true)
  private unconfirmed = 0
  /** How many messages are sent one at a time, since one of those before them ended a connection. */
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
    // a message of QoS 0 is confirmed in the middle of the call that writes it
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

/** What publishes, and answers for the server's health. */
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
    // the first that comes connects, the others wait for it
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
        // what has not gone out yet goes out all the same: a batch is not torn, and nobody hears of it
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
      // the will says that this process is gone: it comes back by itself, not with its next message only
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
