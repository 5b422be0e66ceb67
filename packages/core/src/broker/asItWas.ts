/**
 * Reads a message that was copied to another channel, with headers for its origin, as it was in its own channel.
 */
import * as Headers from "../message/Headers.ts"
import { type Delivery, delivery, type Reader } from "../message/Message.ts"

/** Reads the copy without the added headers. */
class AsItWas implements Reader<Delivery> {
  private readonly fieldsOf: (copy: Delivery) => ReadonlyArray<Headers.Field>
  private readonly published: number | undefined

  constructor(fieldsOf: (copy: Delivery) => ReadonlyArray<Headers.Field>, published: number | undefined) {
    this.fieldsOf = fieldsOf
    this.published = published
  }

  key(copy: Delivery): string | undefined {
    return copy.ownKey
  }
  keyBytes(copy: Delivery): Uint8Array | undefined {
    return copy.keyBytes
  }
  headers(copy: Delivery): Headers.Headers {
    return Headers.fromFields(this.fieldsOf(copy))
  }
  fields(copy: Delivery): ReadonlyArray<Headers.Field> {
    return this.fieldsOf(copy)
  }
  timestamp(): number | undefined {
    return this.published
  }
}

/** The place and time of a message in its own channel. */
export interface Place {
  readonly channel: string
  readonly partition: number
  readonly position: number
  /** Unix time in milliseconds, or undefined if its broker gave none. */
  readonly timestamp: number | undefined
  readonly group: string
  readonly handler: string
}

/** Returns the message of a copy as it was at its place; `fieldsOf` leaves out the added headers. */
export const asItWas = (
  copy: Delivery,
  { channel, group, handler, partition, position, timestamp }: Place,
  attempt: number,
  fieldsOf: (copy: Delivery) => ReadonlyArray<Headers.Field>
): Delivery =>
  delivery(
    { ...copy.origin, channel, group, handler, partition },
    new AsItWas(fieldsOf, timestamp),
    copy,
    position,
    copy.tombstone ? null : copy.raw,
    attempt
  )
