/** Confluent's wire formats: the id of a schema before the body, or its GUID in a header. */

/** The header of a value's schema. */
export const valueHeader = "__value_schema_id"

/** The id or GUID of the schema that wrote a body, and where the body begins. */
export interface Framed {
  readonly id: number | string
  /** The place of a Protobuf message in its schema, e.g. `0` or `1.0`; empty for other schemas. */
  readonly place: string
  /** The offset of the value in the body. */
  readonly at: number
}

/** The most levels of messages inside messages. */
const mostIndexes = 64

const hex = (bytes: Uint8Array, from: number, to: number): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset + from, to - from).toString("hex")

const guidAt = (bytes: Uint8Array, at: number): string =>
  `${hex(bytes, at, at + 4)}-${hex(bytes, at + 4, at + 6)}-${hex(bytes, at + 6, at + 8)}-${
    hex(bytes, at + 8, at + 10)
  }-${hex(bytes, at + 10, at + 16)}`

/** Reads the indexes of a message: zig-zag varints, their count first; a count of 0 stands for the first message. */
const indexesAt = (bytes: Uint8Array, start: number): { readonly place: string; readonly at: number } | undefined => {
  let at = start
  const next = (): number | undefined => {
    let bits = 0
    for (let shift = 0; shift < 28; shift += 7) {
      const byte = bytes[at++]
      if (byte === undefined) return undefined
      bits |= (byte & 0x7f) << shift
      // a negative count or index is odd here
      if (byte < 128) return bits % 2 === 0 ? bits / 2 : undefined
    }
    return undefined
  }
  const count = next()
  if (count === undefined || count > mostIndexes) return undefined
  if (count === 0) return { place: "0", at }
  const indexes: Array<number> = []
  while (indexes.length < count) {
    const index = next()
    if (index === undefined) return undefined
    indexes.push(index)
  }
  return { place: indexes.join("."), at }
}

/** Reads the id or GUID at the beginning of bytes, with the indexes of a Protobuf message behind it. */
export const frameAt = (bytes: Uint8Array, hasIndexes: boolean): Framed | undefined => {
  const magic = bytes[0]
  let id: number | string
  let at: number
  if (magic === 0 && bytes.length >= 5) {
    id = ((bytes[1]! << 24) | (bytes[2]! << 16) | (bytes[3]! << 8) | bytes[4]!) >>> 0
    at = 5
  } else if (magic === 1 && bytes.length >= 17) {
    id = guidAt(bytes, 1)
    at = 17
  } else {
    return undefined
  }
  if (!hasIndexes) return { id, place: "", at }
  const indexes = indexesAt(bytes, at)
  return indexes === undefined ? undefined : { id, ...indexes }
}

/** Reads the frame in the value of the header; it must fill the header. */
export const frameIn = (header: Uint8Array, hasIndexes: boolean): Framed | undefined => {
  const frame = frameAt(header, hasIndexes)
  return frame?.at === header.length ? { ...frame, at: 0 } : undefined
}

/** Writes the indexes of a message. */
export const indexBytes = (indexes: ReadonlyArray<number>): Uint8Array => {
  // the short form of the first message
  if (indexes.length === 1 && indexes[0] === 0) return new Uint8Array([0])
  const bytes: Array<number> = []
  for (const value of [indexes.length, ...indexes]) {
    let bits = value * 2
    for (; bits > 127; bits = Math.floor(bits / 128)) bytes.push((bits % 128) | 0x80)
    bytes.push(bits)
  }
  return new Uint8Array(bytes)
}

/** Writes the prefix with an id. */
export const prefixOf = (id: number, indexes: Uint8Array): Uint8Array => {
  const prefix = Buffer.allocUnsafeSlow(5 + indexes.length)
  prefix[0] = 0
  prefix.writeUInt32BE(id, 1)
  prefix.set(indexes, 5)
  return prefix
}

/** Writes the value of the header with a GUID. */
export const headerOf = (guid: string, indexes: Uint8Array): Uint8Array =>
  Buffer.concat([Buffer.from([1]), Buffer.from(guid.replaceAll("-", ""), "hex"), indexes])
