/**
 * Pulls that overlap: what was asked of a consumer and has not come, and what the server says of it.
 *
 * Pull requests: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-13.md
 */
import type { BrokerError, Driver } from "@millrace/core"
import { createInbox, type Msg } from "@nats-io/transport-node"
import { Latch } from "effect"
import type { ResolvedOptions } from "./Options.ts"
import type { Source } from "./Topology.ts"
import type { Client, Connection } from "../Connection.ts"
import * as Errors from "../Errors.ts"

type Failed = BrokerError.BrokerError

/** What a reader reads, and for whom. */
export interface Reading {
  readonly client: Client
  readonly settings: ResolvedOptions
  readonly connection: Connection
  readonly source: Source
  readonly durable: string
  /** Milliseconds that a message may be with a reader that gives no sign of life. */
  readonly claim: number
  readonly options: Driver.ConsumeOptions
  readonly sink: Driver.Sink
  /** Ends this life of the subscription. */
  readonly fail: (error: Failed) => void
  /** Whether the right to read is still its own; always, where consumers share. */
  readonly isMine: () => Failed | undefined
}

const encoder = new TextEncoder()

export class Pulls {
  /** Where pulls are asked for. */
  readonly subject: string
  /** Where what they bring arrives. */
  readonly inbox: string
  /** Open when nothing more is to come. */
  readonly answered = Latch.makeUnsafe(false)
  /** Messages that pulls may still bring. */
  wanted = 0
  /** How often something came. */
  signs = 0
  private readonly of: Reading
  /** Bytes that the next messages may have, each: what the last ones had. */
  private size: number

  constructor(of: Reading) {
    const { client, durable, connection, settings, source } = of
    const prefix = settings.domain === undefined ? "$JS.API" : `$JS.${settings.domain}.API`
    this.of = of
    this.subject = `${prefix}.CONSUMER.MSG.NEXT.${source.stream}.${durable}`
    this.inbox = createInbox(client.options.inboxPrefix)
    this.size = connection.nc.info?.max_payload ?? 1024 * 1024
  }

  /** One of the messages has come. */
  came(): void {
    if (this.wanted > 0 && --this.wanted === 0) this.answered.openUnsafe()
  }

  /** One that is taken in has so many bytes. */
  sized(bytes: number): void {
    const { size } = this
    this.size = bytes >= size ? bytes : size - Math.ceil(size / 16)
  }

  /** So many messages that what they have fits into the bytes the engine takes. */
  private get most(): number {
    const { batch, bytes } = this.of.options
    return Math.max(1, Math.min(batch, Math.floor(bytes / Math.max(1, this.size))))
  }

  /** Asks for more when half of what was asked for has come and was taken; `here` messages wait to be. */
  more(here: number): void {
    const had = this.wanted + here
    if (had > this.of.options.batch >> 1) return
    const { most } = this
    if (had <= most >> 1) this.ask(most, this.of.settings.heartbeat)
  }

  /** Asks for messages; its end, after `wait` milliseconds at the latest, is a sign of life. */
  ask(batch: number, wait: number): void {
    this.wanted += batch
    this.answered.closeUnsafe()
    this.write(this.subject, encoder.encode(JSON.stringify({ batch, expires: wait * 1e6 })), this.inbox)
  }

  /** The server has forgotten a pull. */
  forget(): void {
    this.wanted = 0
    this.answered.openUnsafe()
  }

  /** Writes what asks for messages or answers them before the engine has them. */
  write(subject: string, body: Uint8Array, reply?: string): void {
    const failed = this.of.connection.write("consume", subject, body, reply === undefined ? undefined : { reply })
    if (failed !== undefined) this.of.fail(failed)
  }

  /** What the server says of a pull: that it is over, that the consumer does not answer, or why there can be no other pull; nothing, where it only lives. */
  told({ headers }: Msg): "over" | "silent" | Failed | undefined {
    const code = headers?.code ?? 0
    const text = headers?.description.toLowerCase() ?? ""
    if (code === 100) return undefined
    const left = Number(headers?.get("Nats-Pending-Messages") ?? "")
    if (code === 404 || code === 408 || code === 409) {
      this.wanted = Number.isInteger(left) && left > 0 ? Math.max(0, this.wanted - left) : 0
      if (this.wanted === 0) this.answered.openUnsafe()
    }
    const { source, options } = this.of
    if (code === 503) return "silent"
    if (code === 409 && /deleted/.test(text)) {
      return Errors.make(
        "consume",
        "NotFound",
        `The consumer of group ${options.group} on ${source.channel} was deleted under it, and with it its place.`,
        "transient"
      )
    }
    if (
      code === 400 || (code === 409 && /exceeded max(requestbatch|requestexpires|requestmaxbytes|waiting)/.test(text))
    ) {
      return Errors.make(
        "consume",
        "Conflict",
        `The consumer of group ${options.group} on ${source.channel} does not take this reader's pulls (${text}): raise its limits.`
      )
    }
    return "over"
  }
}
