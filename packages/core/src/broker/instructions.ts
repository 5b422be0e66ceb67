/**
 * Headers that give the broker instructions for one message: expiry, retain, further recipients, a deduplication id. A copy
 * of a consumed message (a dead letter, a delayed retry, a replay) carries them under another name, which no broker obeys.
 */
import type * as Headers from "../message/Headers.ts"
import { type NativeParts, Outgoing } from "../message/Message.ts"

/** The prefix of an instruction's name in a copy. */
export const prefix = "transport-instruction-"

/** Whether a driver lists the header as an instruction: lower-case names, where a `*` at the end matches any ending. */
const isInstruction = (instructions: ReadonlyArray<string>, name: string): boolean => {
  const lower = name.toLowerCase()
  return instructions.some((each) => each.endsWith("*") ? lower.startsWith(each.slice(0, -1)) : lower === each)
}

/** Renames the instructions in the fields of a copy, so that they are information. */
const kept = (
  fields: ReadonlyArray<Headers.Field>,
  instructions: ReadonlyArray<string>
): ReadonlyArray<Headers.Field> =>
  fields.map((field) => isInstruction(instructions, field[0]) ? [prefix + field[0], field[1]] : field)

const withNative = (outgoing: Outgoing<Uint8Array>, native: NativeParts): Outgoing<Uint8Array> =>
  new Outgoing(outgoing.channel, outgoing.payload, outgoing.key, outgoing.headers, { ...outgoing.native, ...native })

/** Prepares a copy of a consumed message for its publish: its instructions become information, and the driver adds none. */
export const keep = (
  instructions: ReadonlyArray<string> | undefined,
  outgoing: Outgoing<Uint8Array>
): Outgoing<Uint8Array> => {
  if (instructions === undefined || instructions.length === 0) return outgoing
  const fields = outgoing.native?.fields
  return withNative(outgoing, {
    isCopy: true,
    ...(fields === undefined ? {} : { fields: kept(fields, instructions) })
  })
}

const isKept = ([name]: Headers.Field): boolean => name.toLowerCase().startsWith(prefix)

/** Restores the fields that the message had before it was copied. */
export const restore = (fields: ReadonlyArray<Headers.Field>): ReadonlyArray<Headers.Field> =>
  fields.some(isKept)
    ? fields.map((field) => isKept(field) ? [field[0].slice(prefix.length), field[1]] : field)
    : fields

/** Restores the instructions of a copy, so that the broker obeys them again. */
export const obey = (outgoing: Outgoing<Uint8Array>): Outgoing<Uint8Array> => {
  const fields = outgoing.native?.fields
  return fields === undefined ? outgoing : withNative(outgoing, { fields: restore(fields) })
}
