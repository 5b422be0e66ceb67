/** Claims: payloads of channels whose bodies are read as streams. */
import type { Reference } from "./reference.ts"

/** A body in a store, or one that its message carries itself. Made by `Claims.put`, and by decoding. */
export class Claim {
  /** The length of the body in bytes. */
  readonly size: number
  /** The channel that the body was written for. */
  readonly channel: string
  /** Where the body is; undefined if the message carries it. */
  readonly reference: Reference | undefined
  /** The body, if the message carries it. */
  readonly inline: Uint8Array | undefined

  private constructor(channel: string, size: number, reference: Reference | undefined, inline: Uint8Array | undefined) {
    this.channel = channel
    this.size = size
    this.reference = reference
    this.inline = inline
  }

  /** Makes the claim of a body in a store. */
  static stored(channel: string, reference: Reference): Claim {
    return new Claim(channel, reference.size, reference, undefined)
  }

  /** Makes the claim of a body that the message carries. */
  static carried(channel: string, body: Uint8Array): Claim {
    return new Claim(channel, body.length, undefined, body)
  }
}
