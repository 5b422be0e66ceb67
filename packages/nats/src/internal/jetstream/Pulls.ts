/**
 * Overlapping pulls: counts the requested messages that are still to come, and reads the server's status messages.
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

/** The consumer that a reader reads, and the engine that it serves. */
export interface Reading {
  readonly client: Client
  readonly settings: ResolvedOptions
  readonly connection: Connection
  readonly source: Source
  readonly durable: string
  /** Milliseconds that a reader may keep a message without extending it. */
  readonly claim: number
  readonly options: Driver.ConsumeOptions
  readonly sink: Driver.Sink
  /** Fails the subscription on this connection. */
  readonly fail: (error: Failed) => void
  /** Returns an error if the reader has lost its lock; always undefined if consumers share. */
  readonly isMine: () => Failed | undefined
}

const encoder = new TextEncoder()

export class Pulls {
  /** The subject of pull requests. */
  readonly subject: string
  /** The subject on which pulled messages arrive. */
  readonly inbox: string
  /** Open when no requested message is outstanding. */
  readonly answered = Latch.makeUnsafe(false)
  /** Requested messages that pulls may still bring. */
  wanted = 0
  /** Counts everything received: messages and status. */
  signs = 0
  private readonly of: Reading
  /**
   * The expected bytes of the next messages, each: grows to a larger message at once, shrinks by 1/16 with each smaller one.
   */
  private size: number

  constructor(of: Reading) {
    const { client, durable, connection, settings, source } = of
    const prefix = settings.domain === undefined ? "$JS.API" : `$JS.${settings.domain}.API`
    this.of = of
    this.subject = `${prefix}.CONSUMER.MSG.NEXT.${source.stream}.${durable}`
    this.inbox = createInbox(client.options.inboxPrefix)
    this.size = connection.nc.info?.max_payload ?? 1024 * 1024
  }

  /** Counts one arrived message. */
  came(): void {
    if (this.wanted > 0 && --this.wanted === 0) this.answered.openUnsafe()
  }

  /** Updates the expected size with the bytes of an accepted message. */
  sized(bytes: number): void {
    const { size } = this
    this.size = bytes >= size ? bytes : size - Math.ceil(size / 16)
  }

  /** The most messages, by the expected size, that fit into the bytes the engine takes. */
  private get most(): number {
    const { batch, bytes } = this.of.options
    return Math.max(1, Math.min(batch, Math.floor(bytes / Math.max(1, this.size))))
  }

  /** Pulls again when half of the requested messages have arrived and been taken; `here` messages still wait to be taken. */
  more(here: number): void {
    const had = this.wanted + here
    if (had > this.of.options.batch >> 1) return
    const { most } = this
    if (had <= most >> 1) this.ask(most, this.of.settings.heartbeat)
  }

  /** Requests messages; the end of the pull, after `wait` milliseconds at most, serves as a heartbeat. */
  ask(batch: number, wait: number): void {
    this.wanted += batch
    this.answered.closeUnsafe()
    this.write(this.subject, encoder.encode(JSON.stringify({ batch, expires: wait * 1e6 })), this.inbox)
  }

  /** Resets the count, since the server has lost the pulls. */
  forget(): void {
    this.wanted = 0
    this.answered.openUnsafe()
  }

  /** Writes a pull, or a settlement of a message that the engine has not seen. */
  write(subject: string, body: Uint8Array, reply?: string): void {
    const failed = this.of.connection.write("consume", subject, body, reply === undefined ? undefined : { reply })
    if (failed !== undefined) this.of.fail(failed)
  }

  /**
   * Reads the status message of a pull: the pull is over, the consumer does not answer, or an error because no further pull
   * is possible; undefined for a mere heartbeat.
   */
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
