/**
 * Publishing: a batch goes out in order, as much of it at once as the server allows, and is done when all of it is confirmed.
 *
 * Nothing waits in the client for a better day: without a connection a publish opens one, or fails.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import { Effect, Exit, Schedule, type Scope, Semaphore } from "effect"
import * as MqttClient from "./MqttClient.ts"
import * as MqttError from "./MqttError.ts"
import * as MqttPacket from "./MqttPacket.ts"
import type { Connection } from "./MqttOptions.ts"

type Failed = BrokerError.BrokerError

/** MQTT's word for a message that nobody subscribes to. */
const noSubscribers = 16

/** The most that a packet of MQTT can be long. */
const largest = 268_435_455

/** Messages of one call. */
class Batch {
  readonly packets: ReadonlyArray<MqttPacket.Packet>
  readonly resume: (exit: Exit.Exit<void, Failed>) => void
  next = 0
  confirmed = 0
  /** Nobody waits for it any more. */
  over = false

  constructor(packets: ReadonlyArray<MqttPacket.Packet>, resume: (exit: Exit.Exit<void, Failed>) => void) {
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
class Sender {
  private readonly link: MqttClient.Link
  private readonly window: number
  /** Whether the answer that mqtt.js handles now says that nobody subscribes; its callbacks do not tell. */
  private isUnheard = false
  /** Numbers of messages of QoS 2 of which the server has said so; they are not done before its last word. */
  private readonly unheard = new Set<number>()
  private readonly batches: Array<Batch> = []
  private readonly waiting = new Set<Batch>()
  private unconfirmed = 0
  /** How many messages are sent one at a time, since one of those before them ended a connection. */
  private suspects: number
  private isSending = false

  constructor(link: MqttClient.Link, connection: Connection, suspects: number, suspect: (count: number) => void) {
    this.link = link
    this.window = Math.min(connection.window, link.connack.properties?.receiveMaximum ?? 65_535)
    this.suspects = suspects
    if (connection.unheard === "refuse") {
      link.client.on("packetreceive", (packet) => {
        const { cmd, messageId } = packet
        this.isUnheard = cmd === "puback"
          ? packet.reasonCode === noSubscribers
          : cmd === "pubcomp" && messageId !== undefined && this.unheard.delete(messageId)
        if (cmd === "pubrec" && packet.reasonCode === noSubscribers && messageId !== undefined) {
          this.unheard.add(messageId)
        }
      })
    }
    link.onEnd((ended) => {
      // the server refused one message by ending the connection, and does not say which
      const isUnclear = !ended.retriable && this.unconfirmed > 1
      if (isUnclear) suspect(this.unconfirmed)
      const error = isUnclear ? MqttError.lostByAnother(ended) : ended
      for (const batch of this.waiting) batch.end(Exit.fail(error))
      this.waiting.clear()
      this.batches.length = 0
    })
  }

  add(batch: Batch): void {
    this.waiting.add(batch)
    this.batches.push(batch)
    this.send()
  }

  private send(): void {
    // a message of QoS 0 is confirmed in the middle of the call that writes it
    if (this.isSending) return
    this.isSending = true
    const { batches, link } = this
    while (
      batches.length > 0 && this.unconfirmed < (this.suspects > 0 ? 1 : this.window) && link.ended === undefined
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

  private write(batch: Batch, { options, payload, topic }: MqttPacket.Packet): void {
    this.unconfirmed++
    this.link.client.publish(topic, payload, options, (error?: Error | null) => {
      this.unconfirmed--
      if (this.suspects > 0) this.suspects--
      if (error) this.refuse(batch, topic, error)
      // the server keeps retained messages, and answers nothing at QoS 0
      else if (this.isUnheard && options.retain !== true && options.qos !== 0) {
        this.refuse(batch, topic, new MqttError.Answered(noSubscribers))
      } else if (++batch.confirmed === batch.packets.length) this.done(batch, Exit.void)
      this.send()
    })
  }

  private refuse(batch: Batch, channel: string, error: Error): void {
    this.done(batch, Exit.fail(MqttError.fromUnknown(error, "publish", { ...this.link.place, channel })))
  }

  private done(batch: Batch, exit: Exit.Exit<void, Failed>): void {
    this.waiting.delete(batch)
    batch.end(exit)
  }
}

interface Open {
  readonly link: MqttClient.Link
  readonly sender: Sender
}

/** What publishes, and answers for the server's health. */
export interface Publisher {
  readonly publish: (batch: ReadonlyArray<Outgoing<Uint8Array>>) => Effect.Effect<void, Failed>
  readonly check: Effect.Effect<void, Failed>
}

/** Connects, and keeps a connection as long as the scope is open. */
export const make = (connection: Connection): Effect.Effect<Publisher, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const one = yield* Semaphore.make(1)
    const { clientId } = connection.place
    let open: Open | undefined
    let suspects = 0
    let closed = false
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        closed = true
        return open === undefined ? Effect.void : MqttClient.close(open.link)
      })
    )
    const options: MqttClient.Client = {
      clientId,
      clean: true,
      ...(connection.will === undefined ? {} : { will: connection.will })
    }
    // the first that comes connects, the others wait for it
    const connected: Effect.Effect<Open, Failed> = one.withPermit(
      Effect.suspend(() => {
        if (open !== undefined && open.link.ended === undefined) return Effect.succeed(open)
        if (closed) {
          return Effect.fail(MqttError.fromUnknown(new Error("the connection ended"), "publish", connection.place))
        }
        return Effect.map(
          Effect.uninterruptible(MqttClient.open(connection, options, "publish")),
          (link) => {
            const sender = new Sender(link, connection, suspects, (count) => void (suspects = count))
            suspects = 0
            return open = { link, sender }
          }
        )
      })
    )
    const current = Effect.suspend((): Effect.Effect<Open, Failed> =>
      open !== undefined && open.link.ended === undefined ? Exit.succeed(open) : connected
    )

    const convert = (batch: ReadonlyArray<Outgoing<Uint8Array>>): ReadonlyArray<MqttPacket.Packet> | Failed => {
      const packets = new Array<MqttPacket.Packet>(batch.length)
      for (let i = 0; i < batch.length; i++) {
        const packet = MqttPacket.toPacket(batch[i]!, connection.qos, connection.retain)
        if ("_tag" in packet) return packet
        packets[i] = packet
      }
      return packets
    }

    const send = ({ link, sender }: Open, packets: ReadonlyArray<MqttPacket.Packet>): Effect.Effect<void, Failed> => {
      const most = Math.min(largest, link.connack.properties?.maximumPacketSize ?? largest)
      const long = packets.find(({ size }) => size > most)
      if (long !== undefined) {
        const error = new MqttError.Answered(149, `${long.size} bytes, and ${most} are the most`)
        return Exit.fail(MqttError.fromUnknown(error, "publish", { ...connection.place, channel: long.topic }))
      }
      const mostQos = link.connack.properties?.maximumQoS ?? 2
      const unable = packets.find(({ options: { qos = 0 } }) => qos > mostQos)
      if (unable !== undefined) {
        const error = new MqttError.Answered(155, `QoS ${unable.options.qos}, and ${mostQos} is the most`)
        return Exit.fail(MqttError.fromUnknown(error, "publish", { ...connection.place, channel: unable.topic }))
      }
      return Effect.callback<void, Failed>((resume) => {
        const batch = new Batch(packets, resume)
        sender.add(batch)
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
    if (connection.will !== undefined) {
      // the will says that this process is gone: it comes back by itself, not with its next message only
      const lost = Effect.flatMap(Effect.suspend(() => Effect.exit(open!.link.lost)), () => connected)
      const again = Effect.retry(lost, Schedule.spaced("1 second"))
      yield* Effect.forkScoped(Effect.forever(again))
    }
    return {
      publish,
      check: Effect.flatMap(current, ({ link }) => MqttClient.ping(link, connection.connectTimeout))
    }
  })
