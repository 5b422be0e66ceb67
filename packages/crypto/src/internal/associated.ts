/**
 * The associated data of a body: what the tag protects beside it. Every field has its length before it, so no two contexts give the
 * same bytes.
 */
import type { Headers } from "@millrace/core"

/** The context that an encrypted body is bound to. */
export interface Context {
  /** The channel that the message was first published to: of a dead letter, its origin. */
  readonly channel: string
  /** The bytes of the message's key; undefined if it has none. */
  readonly key: Uint8Array | undefined
  readonly contentType: string | undefined
  /** Read for the names of the option `bind`, in lower case. */
  readonly headers: Headers.Headers
}

/** The length that stands for a field that is not there, which differs from an empty one. */
const absent = 0xffff_ffff

// one buffer for all messages: it is filled and handed to the cipher in one go
let scratch = Buffer.allocUnsafe(4096)
let at = 0

const reserve = (bytes: number): void => {
  if (at + bytes <= scratch.length) return
  const wider = Buffer.allocUnsafe(Math.max(scratch.length * 2, at + bytes))
  scratch.copy(wider, 0, 0, at)
  scratch = wider
}

const putText = (text: string | undefined): void => {
  if (text === undefined) {
    reserve(4)
    at = scratch.writeUInt32BE(absent, at)
    return
  }
  // UTF-8 has at most three bytes for each UTF-16 unit
  reserve(4 + text.length * 3)
  const length = scratch.write(text, at + 4)
  scratch.writeUInt32BE(length, at)
  at += 4 + length
}

const putBytes = (bytes: Uint8Array | undefined): void => {
  if (bytes === undefined) return putText(undefined)
  reserve(4 + bytes.length)
  scratch.writeUInt32BE(bytes.length, at)
  scratch.set(bytes, at + 4)
  at += 4 + bytes.length
}

/** Makes the associated data. The bytes are valid until the next call: use them at once. */
export const associatedData = (header: Uint8Array, context: Context, bind: ReadonlyArray<string>): Uint8Array => {
  at = 0
  putBytes(header)
  putText(context.channel)
  putBytes(context.key)
  putText(context.contentType)
  for (let i = 0; i < bind.length; i++) {
    const name = bind[i]!
    putText(name)
    putText(Object.hasOwn(context.headers, name) ? context.headers[name] : undefined)
  }
  return scratch.subarray(0, at)
}

/** Stands where a body has the length of its header, so that no field's associated data is that of a body. */
const fieldMark = 0xffff_fffe

/** The context that an encrypted value is bound to. */
export interface FieldContext {
  readonly channel: string
  /** The bytes of the message's key; undefined if it has none. */
  readonly key: Uint8Array | undefined
  /** The names and numbers that lead to the value. */
  readonly path: ReadonlyArray<string>
  /** The id of the data subject; undefined if the value has none. */
  readonly subject: string | undefined
}

/** Makes the associated data of one value. The bytes are valid until the next call: use them at once. */
export const fieldAssociatedData = (header: Uint8Array, { channel, key, path, subject }: FieldContext): Uint8Array => {
  at = 0
  reserve(8)
  at = scratch.writeUInt32BE(fieldMark, at)
  putBytes(header)
  putText(channel)
  putBytes(key)
  putText(subject)
  for (let i = 0; i < path.length; i++) putText(path[i])
  return scratch.subarray(0, at)
}
