/**
 * The storage of the memory broker: partitions of published messages.
 */
import * as Headers from "../message/Headers.ts"
import { type Delivery, delivery, type Origin, type Outgoing, type Reader } from "../message/Message.ts"

const decoder = new TextDecoder()

// equal bytes decode to equal text, even bytes that are not UTF-8: order by key needs no more
const keyOf = ({ key, native }: Outgoing<Uint8Array>): string | undefined =>
  native?.keyBytes === undefined ? key : decoder.decode(native.keyBytes)

/** One publish, shared by its messages: holds their publish time, and reads them as any driver reads its messages. */
export class Publication implements Reader<Outgoing<Uint8Array>> {
  private readonly millis: number

  /** `millis`: Unix time in milliseconds. */
  constructor(millis: number) {
    this.millis = millis
  }

  key(outgoing: Outgoing<Uint8Array>): string | undefined {
    return keyOf(outgoing)
  }
  keyBytes(outgoing: Outgoing<Uint8Array>): Uint8Array | undefined {
    return outgoing.keyBytes
  }
  headers(outgoing: Outgoing<Uint8Array>): Headers.Headers {
    return outgoing.native?.fields === undefined ? outgoing.headers : Headers.fromFields(outgoing.fields)
  }
  fields(outgoing: Outgoing<Uint8Array>): ReadonlyArray<Headers.Field> {
    return outgoing.fields
  }
  timestamp(outgoing: Outgoing<Uint8Array>): number {
    return outgoing.native?.timestamp ?? this.millis
  }
}

const smallest = 64

/**
 * One partition: messages are appended at the end and dropped at the beginning.
 *
 * A ring buffer, written in place. A replaced array soon belongs to the old generation, and its elements live until the next
 * full collection; so would an object around each message.
 */
export class Partition {
  /** The first position that is kept. */
  base = 0
  /** The position of the next message. */
  end = 0
  private messages: Array<Outgoing<Uint8Array> | undefined> = new Array(smallest).fill(undefined)
  private publications: Array<Publication | undefined> = new Array(smallest).fill(undefined)

  append(outgoing: Outgoing<Uint8Array>, publication: Publication): void {
    if (this.end - this.base === this.messages.length) this.resize(this.messages.length * 2)
    const at = this.end++ & (this.messages.length - 1)
    this.messages[at] = outgoing
    this.publications[at] = publication
  }

  /** Returns the message at a kept position. */
  deliver(origin: Origin, position: number, attempt: number): Delivery {
    const at = position & (this.messages.length - 1)
    const outgoing = this.messages[at]!
    const body = outgoing.native?.tombstone === true ? null : outgoing.payload
    return delivery(origin, this.publications[at]!, outgoing, position, body, attempt)
  }

  /** Drops the messages below `position`. */
  trim(position: number): void {
    const mask = this.messages.length - 1
    while (this.base < position) {
      const at = this.base++ & mask
      this.messages[at] = undefined
      this.publications[at] = undefined
    }
    // shrink after a large backlog is gone
    if (mask >= smallest && this.end - this.base < mask / 8) this.resize((mask + 1) / 4)
  }

  /** `length` is a power of two. */
  private resize(length: number): void {
    const { messages, publications } = this
    this.messages = new Array(length).fill(undefined)
    this.publications = new Array(length).fill(undefined)
    for (let position = this.base; position < this.end; position++) {
      const from = position & (messages.length - 1)
      const to = position & (length - 1)
      this.messages[to] = messages[from]
      this.publications[to] = publications[from]
    }
  }
}

/** 32-bit FNV-1a over UTF-16 units. */
const hash = (key: string): number => {
  let h = 0x811c9dc5
  for (let i = 0; i < key.length; i++) h = Math.imul(h ^ key.charCodeAt(i), 0x01000193)
  return h >>> 0
}

/** A channel: its partitions, and the round-robin counter of messages without a key. */
export class Log {
  readonly partitions: ReadonlyArray<Partition>
  /** 1 for each partition that was appended to since its readers were last woken. */
  readonly fresh: Uint8Array
  private turn = 0

  constructor(partitions: number) {
    this.partitions = Array.from({ length: partitions }, () => new Partition())
    this.fresh = new Uint8Array(partitions)
  }
  append(outgoing: Outgoing<Uint8Array>, publication: Publication): void {
    const count = this.partitions.length
    const key = keyOf(outgoing)
    const p = outgoing.native?.partition ?? (key === undefined ? this.turn++ % count : hash(key) % count)
    this.partitions[p]!.append(outgoing, publication)
    this.fresh[p] = 1
  }
}
