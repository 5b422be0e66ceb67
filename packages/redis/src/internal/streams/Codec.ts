/**
 * Encodes messages as stream entries and decodes them, so that `redis-cli` shows them and any program can write them.
 *
 * | field         | holds                                                          |
 * | ------------- | -------------------------------------------------------------- |
 * | `body`        | the body                                                       |
 * | `key`         | the key, where there is one                                    |
 * | `:tombstone`  | nothing; in place of `body`: the body is null                  |
 * | `:=NAME`      | the header NAME, where NAME is `body` or `key` or begins with `:` |
 * | `:0NAME`      | nothing: the header NAME, whose value is null                  |
 * | anything else | the header of that name                                        |
 *
 * Fields of an entry may repeat, keep their order and their case, and hold any bytes, so headers lose nothing.
 */
import { Headers, type Outgoing, type Reader } from "@millrace/core"

/** A raw entry from Redis: its id, and alternating names and values. */
export type Entry = readonly [id: Buffer, fields: ReadonlyArray<Buffer>]

const words = { body: Buffer.from("body"), key: Buffer.from("key"), tombstone: Buffer.from(":tombstone") }

const colon = 58
const zero = 48
const equals = 61

/** The index of the value of the first field with this name, or -1. */
const find = (fields: ReadonlyArray<Buffer>, word: Buffer): number => {
  for (let i = 0; i + 1 < fields.length; i += 2) if (word.equals(fields[i]!)) return i + 1
  return -1
}

const none = Buffer.alloc(0)

/** The body, or null for a tombstone. An entry of another program without `body` has an empty one. */
export const bodyOf = (fields: ReadonlyArray<Buffer>): Buffer | null => {
  // fast path: this driver writes the body first
  if (fields.length > 1 && words.body.equals(fields[0]!)) return fields[1]!
  const at = find(fields, words.body)
  if (at >= 0) return fields[at]!
  return find(fields, words.tombstone) >= 0 ? null : none
}

const keyOf = (fields: ReadonlyArray<Buffer>): Buffer | undefined => {
  const at = find(fields, words.key)
  return at < 0 ? undefined : fields[at]
}

const fieldsOf = (fields: ReadonlyArray<Buffer>): Array<Headers.Field> => {
  const found: Array<Headers.Field> = []
  let isBodyRead = false
  let isKeyRead = false
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const name = fields[i]!
    const value = fields[i + 1]!
    if (!isBodyRead && words.body.equals(name)) isBodyRead = true
    else if (!isKeyRead && words.key.equals(name)) isKeyRead = true
    else if (name[0] !== colon) found.push([name.toString(), value])
    else if (name[1] === equals) found.push([name.toString("utf8", 2), value])
    else if (name[1] === zero) found.push([name.toString("utf8", 2), null])
    else if (!words.tombstone.equals(name)) found.push([name.toString(), value])
  }
  return found
}

/** Milliseconds since 1970 in an id: the digits before its hyphen. */
const timeOf = (id: Buffer): number => {
  let time = 0
  for (let i = 0; i < id.length && id[i] !== 45; i++) time = time * 10 + id[i]! - zero
  return time
}

const sequenceOf = (id: Buffer): number => {
  let sequence = 0
  for (let i = id.indexOf(45) + 1; i < id.length; i++) sequence = sequence * 10 + id[i]! - zero
  return sequence
}

/** Reads keys, headers and bodies of entries; fields are decoded on first use. */
export const reader: Reader<Entry> = {
  // equal bytes give equal text even if they are not UTF-8, which is enough for order by key
  key: ([, fields]) => keyOf(fields)?.toString(),
  keyBytes: ([, fields]) => keyOf(fields),
  headers: ([, fields]) => {
    const found = fieldsOf(fields)
    return found.length === 0 ? Headers.empty : Headers.fromFields(found)
  },
  fields: ([, fields]) => fieldsOf(fields),
  timestamp: ([id]) => {
    const time = timeOf(id)
    return Number.isSafeInteger(time) ? time : undefined
  }
}

// The number of entries of one millisecond with distinct positions. Redis writes some hundred a millisecond, and times up to the
// year 2109 (2^42 ms) stay below 2^53.
const each = 2048

/**
 * The position of an entry: `ms * 2048 + seq` of its id `ms-seq`. An id that a publisher chose may not fit; its entry gets
 * the nearest position, so positions never fall. The driver settles by id, not by position.
 */
export const positionOf = (id: Buffer): number => {
  const position = timeOf(id) * each + Math.min(sequenceOf(id), each - 1)
  return Number.isSafeInteger(position) ? position : Number.MAX_SAFE_INTEGER
}

/**
 * The id of the entry at a position that a dead letter or a log shows: for `XRANGE`, `XCLAIM` and the like.
 *
 * **Example** (look a message up)
 *
 * ```ts
 * import { RedisStreams } from "@millrace/redis"
 *
 * console.log(RedisStreams.idAt(3_584_000_000_003)) // => 1750000000-3
 * ```
 */
export const idAt = (position: number): string => `${Math.floor(position / each)}-${position % each}`

const buffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

const reserved = (name: string): boolean => name === "body" || name === "key" || name.startsWith(":")

/** Encodes a message as the fields of an entry. */
export const toFields = (outgoing: Outgoing<Uint8Array>): Array<string | Buffer> => {
  const { key, native } = outgoing
  const fields: Array<string | Buffer> = native?.tombstone === true
    ? [":tombstone", ""]
    : ["body", buffer(outgoing.payload)]
  if (native?.keyBytes !== undefined) fields.push("key", buffer(native.keyBytes))
  else if (key !== undefined) fields.push("key", key)
  if (native?.fields === undefined || native.fields.length === 0) {
    for (const name in outgoing.headers) fields.push(reserved(name) ? `:=${name}` : name, outgoing.headers[name]!)
    return fields
  }
  for (const [name, value] of outgoing.fields) {
    if (value === null) fields.push(`:0${name}`, "")
    else fields.push(reserved(name) ? `:=${name}` : name, buffer(value))
  }
  return fields
}
