/**
 * The metadata that codecs see: of a message that is read, and of one that is written.
 */
import * as Headers from "../message/Headers.ts"
import type { Message, Outgoing } from "../message/Message.ts"
import type { Metadata } from "../message/PayloadCodec.ts"
import { firstChannel, names, originalFields } from "./deadLetters/letter.ts"

/** Metadata of a consumed message: as it was published, also in a dead letter channel. Reads nothing before it is asked. */
class Received implements Metadata {
  private readonly message: Message<unknown>

  constructor(message: Message<unknown>) {
    this.message = message
  }

  get system(): string {
    return this.message.delivery.origin.system
  }
  get channel(): string {
    return firstChannel(this.message)
  }
  get key(): string | undefined {
    return this.message.key
  }
  get keyBytes(): Uint8Array | undefined {
    return this.message.keyBytes
  }
  get headers(): Headers.Headers {
    return this.isEncoded ? Headers.fromFields(this.fields) : this.message.headers
  }
  get fields(): ReadonlyArray<Headers.Field> {
    const { delivery } = this.message
    return this.isEncoded ? originalFields(delivery) : delivery.fields
  }
  get attempt(): number {
    return this.message.attempt
  }
  get timestamp(): number | undefined {
    return this.message.timestamp
  }
  /** Whether it is a dead letter whose original headers are in one header. */
  private get isEncoded(): boolean {
    return this.message.headers[names.headers] !== undefined && firstChannel(this.message) !== this.message.channel
  }
}

/** Metadata of a message that is being published. */
class Written implements Metadata {
  readonly system: string
  private readonly outgoing: Outgoing<unknown>

  constructor(outgoing: Outgoing<unknown>, system: string) {
    this.outgoing = outgoing
    this.system = system
  }

  get channel(): string {
    return this.outgoing.channel
  }
  get key(): string | undefined {
    return this.outgoing.key
  }
  get keyBytes(): Uint8Array | undefined {
    return this.outgoing.keyBytes
  }
  get headers(): Headers.Headers {
    return this.outgoing.headers
  }
  get fields(): ReadonlyArray<Headers.Field> {
    return this.outgoing.fields
  }
  get attempt(): number {
    return 1
  }
  get timestamp(): number | undefined {
    return undefined
  }
}

/** Returns the metadata of a consumed message, for its codec. */
export const received = (message: Message<unknown>): Metadata => new Received(message)

/** Returns the metadata of a message that is published to a broker of `system`. */
export const written = (outgoing: Outgoing<unknown>, system: string): Metadata => new Written(outgoing, system)
