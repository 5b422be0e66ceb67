/**
 * Header lines of a message, read from its bytes: names keep their case and may repeat, values are any bytes except line
 * ends.
 *
 * The client discards all headers of a message if one line is not a field or one name has a blank, and replaces bytes that
 * are not UTF-8. So this module parses each line independently.
 */
import type { Msg } from "@nats-io/transport-node"

const encoder = new TextEncoder()
const [cr, lf, colon, blank, tab] = [13, 10, 58, 32, 9]
// the beginning of every header block
const version = "NATS/1.0"

/** A message that knows its length. The method is not part of the client's interface: another version may lack it. */
interface Sized extends Msg {
  readonly size: () => number
}

const isSized = (message: Msg): message is Sized => "size" in message && typeof message.size === "function"

/** The bytes of the headers, which precede the body; undefined if there are none. */
const bytesOf = (message: Sized): Buffer | undefined => {
  const body = message.data
  const rest = message.size() - body.length - Buffer.byteLength(message.subject)
  const size = message.reply === undefined || message.reply === "" ? rest : rest - Buffer.byteLength(message.reply)
  if (size < version.length || size > body.byteOffset) return undefined
  const bytes = Buffer.from(body.buffer, body.byteOffset - size, size)
  return bytes.toString("latin1", 0, version.length) === version ? bytes : undefined
}

/** The end of the line that begins at `from`; the length of `bytes` if the line does not end. */
const endOf = (bytes: Buffer, from: number): number => {
  for (let at = bytes.indexOf(cr, from); at >= 0; at = bytes.indexOf(cr, at + 1)) {
    if (bytes[at + 1] === lf) return at
  }
  return bytes.length
}

/** The bytes between two positions, without surrounding blanks and tabs. */
const trimmed = (bytes: Buffer, from: number, to: number): Uint8Array => {
  while (from < to && (bytes[from] === blank || bytes[from] === tab)) from++
  while (to > from && (bytes[to - 1] === blank || bytes[to - 1] === tab)) to--
  return new Uint8Array(bytes.buffer, bytes.byteOffset + from, to - from)
}

type Line = readonly [name: string, value: Uint8Array]

/** The fields as the client reads them: all, or none if one of them is unreadable. */
const byClient = (message: Msg): Array<Line> => {
  try {
    return Array.from(message.headers ?? []).flatMap(([name, values]) =>
      values.map((value): Line => [name, encoder.encode(value)])
    )
  } catch {
    return []
  }
}

/** Name and value of each line that is a field; other lines are skipped. */
export const linesOf = (message: Msg): Array<Line> => {
  if (!isSized(message)) return byClient(message)
  const bytes = bytesOf(message)
  const lines: Array<Line> = []
  if (bytes === undefined) return lines
  for (let from = endOf(bytes, 0) + 2; from < bytes.length;) {
    const end = endOf(bytes, from)
    const middle = bytes.indexOf(colon, from)
    if (middle > from && middle < end) {
      lines.push([bytes.toString("utf8", from, middle), trimmed(bytes, middle + 1, end)])
    }
    from = end + 2
  }
  return lines
}

/** The value of the first line of a name. */
export const valueOf = (message: Msg, name: string): Uint8Array | undefined => {
  if (!isSized(message)) return byClient(message).find(([each]) => each === name)?.[1]
  const bytes = bytesOf(message)
  if (bytes === undefined) return undefined
  const mark = `\r\n${name}:`
  const at = bytes.indexOf(mark, 0, "latin1")
  return at < 0 ? undefined : trimmed(bytes, at + mark.length, endOf(bytes, at + mark.length))
}
