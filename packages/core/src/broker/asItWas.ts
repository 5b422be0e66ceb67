/**
 * A message that was copied to another channel with headers about where it came from, read as it was in its own channel.
 */
import * as Headers from "../message/Headers.ts"
import { type Delivery, delivery, type Reader } from "../message/Message.ts"

/** Reads the copy without the headers that were added to it. */
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

/** Where and when a message was in its own channel. */
export interface Place {
  readonly channel: string
  readonly partition: number
  readonly position: number
  /** Unix time in milliseconds, or undefined where its broker did not say. */
  readonly timestamp: number | undefined
  readonly group: string
  readonly handler: string
}

/** The message of a copy as it was at its place; `fieldsOf` leaves out the headers that were added. */
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
