/** UTF-8 as decoders need it: fast for short texts, and strict. */
import { isUtf8 } from "node:buffer"

/** A view of bytes with Buffer's readers; it copies nothing. */
export const bufferOf = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

const code = String.fromCharCode

/** Reads a text. Returns undefined if it is not UTF-8. */
export const readText = (buffer: Buffer, start: number, end: number): string | undefined => {
  // a short text is read in the time that the call of a native function takes
  if (end - start <= 12) {
    let text = ""
    let at = start
    for (; at < end; at++) {
      const byte = buffer[at]!
      if (byte > 127) break
      text += code(byte)
    }
    if (at === end) return text
  }
  const text = buffer.toString("utf8", start, end)
  // the replacement character stands for bytes that are no UTF-8, unless the text itself has it
  return text.includes("\uFFFD") && !isUtf8(buffer.subarray(start, end)) ? undefined : text
}
