import type { DescField, DescMessage } from "@bufbuild/protobuf"
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire"

const childOf = (field: DescField | undefined): DescMessage | undefined =>
  field?.fieldKind === "message" || (field?.fieldKind === "list" && field.listKind === "message")
    ? field.message
    : undefined

/**
 * Tells whether a body has more fields than `most`, before anything is made of them: two bytes of an empty message become an
 * object with all its fields.
 */
export const countOver = (desc: DescMessage, bytes: Uint8Array, most: number, depth: number): boolean => {
  const reader = new BinaryReader(bytes)
  const fields = new Map<DescMessage, Map<number, DescField>>()
  const fieldsOf = (type: DescMessage) => {
    const known = fields.get(type)
    if (known !== undefined) return known
    const made = new Map(type.fields.map((field) => [field.number, field]))
    fields.set(type, made)
    return made
  }
  let left = most
  const walk = (type: DescMessage | undefined, end: number, deep: number, group: number | undefined): void => {
    const known = type === undefined ? undefined : fieldsOf(type)
    while (reader.pos < end && left >= 0) {
      const [number, wireType] = reader.tag()
      if (wireType === WireType.EndGroup) {
        if (number !== group) throw new RangeError("invalid end group tag")
        return
      }
      left--
      const field = known?.get(number)
      const child = childOf(field)
      if (
        deep > 0 && field?.fieldKind === "map" && field.message !== undefined && wireType === WireType.LengthDelimited
      ) {
        entry(field.message, reader.uint32() + reader.pos, deep)
      } else if (deep > 0 && child !== undefined && wireType === WireType.LengthDelimited) {
        walk(child, reader.uint32() + reader.pos, deep - 1, undefined)
      } else if (deep > 0 && wireType === WireType.StartGroup) {
        walk(child, end, deep - 1, number)
      } else {
        reader.skip(wireType, number, Math.max(deep, 1))
      }
    }
  }
  const entry = (value: DescMessage, end: number, deep: number): void => {
    while (reader.pos < end && left >= 0) {
      const [number, wireType] = reader.tag()
      left--
      if (number === 2 && wireType === WireType.LengthDelimited) {
        walk(value, reader.uint32() + reader.pos, deep - 1, undefined)
      } else {
        reader.skip(wireType, number, Math.max(deep, 1))
      }
    }
  }
  try {
    walk(desc, bytes.length, depth, undefined)
  } catch {
    // malformed, or too deep: the library says where
    return false
  }
  return left < 0
}
